# The first process of a laboratory: libvirt's daemon of its own, in namespaces of its own. Reads
# commands from its standard input and answers each with a line; at the end of its input, whatever
# the reason, it ends everything that it started and removes its folders.
folder="$1" consoles="$2" socket="$1/socket"
exec 3>&1 >/dev/null
finish() {
  trap '' EXIT
  kill -9 -1 2>/dev/null
  cd / && umount -l -R /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt 2>/dev/null
  rm -rf --one-file-system "$folder" "$consoles"
  exit 0
}
trap finish EXIT
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p "$folder"/{etc,lib,cache,log,socket} /run/lock /var/{lib,cache,log}/libvirt
cp -r "$folder/shared-cache/." "$folder/cache/" 2>/dev/null || true
for pair in etc:/etc lib:/var/lib cache:/var/cache log:/var/log; do
  mount --bind "$folder/${pair%%:*}" "${pair##*:}/libvirt"
done
# Keys that encrypt the keys of running guests are here: never on a disk.
mkdir -p /var/lib/libvirt/qemu
mount -t tmpfs -o mode=0750 tmpfs /var/lib/libvirt/qemu
ip link set lo up
ip link add guests type bridge
ip addr add 10.77.0.1/24 dev guests
ip link set guests up
cat >/etc/libvirt/libvirtd.conf <<END
listen_tls = 0
listen_tcp = 0
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
unix_sock_dir = "$socket"
log_outputs = "1:file:/var/log/libvirt/libvirtd.log"
log_filters = "1:qemu 1:secret 3:event 3:object 3:util 3:rpc 3:conf"
END
cat >/etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
max_core = 0
END
export LIBVIRT_DEFAULT_URI="qemu+unix:///system?socket=$socket/libvirt-sock"
set +e
while read -r command; do
  eval "$command" </dev/null >"$folder/answer" 2>&1
  echo "$?" >&3
done
