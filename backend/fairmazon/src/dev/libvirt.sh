# The first process of a host of `fairmazon dev` with real guests: libvirt's daemon of its own, in
# namespaces of its own. Says `ready` on its standard output when the daemon listens. At the end of
# its standard input, which the program that started it holds open, it ends everything that it
# started: whatever ends that program, no guest is left.
#
# arguments: FOLDER  libvirt's own files, and its socket in FOLDER/socket
folder="$1" socket="$1/socket"
exec 3>&1 >/dev/null
finish() {
  trap '' EXIT
  kill -9 -1 2>/dev/null
  exit 0
}
trap finish EXIT
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p "$folder"/etc "$folder"/lib "$folder"/cache "$folder"/log "$socket" /run/lock
mkdir -p /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt
mount --bind "$folder/etc" /etc/libvirt
mount --bind "$folder/lib" /var/lib/libvirt
mount --bind "$folder/cache" /var/cache/libvirt
mount --bind "$folder/log" /var/log/libvirt
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
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
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
rm -f "$socket"/*
libvirtd --daemon 3>&-
echo ready >&3
exec 3>&-
# Nothing is ever said here; the end of it is what counts.
read -r _ || true
