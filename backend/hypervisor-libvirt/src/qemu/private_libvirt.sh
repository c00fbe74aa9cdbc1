# A function for the first process of namespaces of their own: everything that libvirt's daemon
# needs to run in them beside another one of the same machine, with a bridge `guests` for its
# machines. Starts nothing.
#
# private_libvirt FOLDER LOGGING: libvirt's files are in FOLDER, its socket in FOLDER/socket, and the
# sockets that its guests move through in FOLDER/moves
private_libvirt() {
  local folder="$1" logging="$2" part uuid
  mount --make-rprivate /
  mount -t proc proc /proc
  mount -t tmpfs tmpfs /run
  mkdir -p "$folder"/{etc,lib,cache,log,socket} /run/lock /etc/libvirt /var/{lib,cache,log}/libvirt
  mkdir -p -m 700 "$folder/moves" /run/fairmazon/moves
  mount --bind "$folder/moves" /run/fairmazon/moves
  mount --bind "$folder/etc" /etc/libvirt
  for part in lib cache log; do mount --bind "$folder/$part" "/var/$part/libvirt"; done
  # Keys that encrypt the keys of running guests are here: never on a disk.
  mkdir -p /var/lib/libvirt/qemu
  mount -t tmpfs -o mode=0750 tmpfs /var/lib/libvirt/qemu
  # No machine moves to a host with the name or the UUID of its own.
  uuid="$(cat /proc/sys/kernel/random/uuid)"
  hostname "fairmazon-${uuid%%-*}"
  ip link set lo up
  ip link add guests type bridge
  ip addr add 10.77.0.1/24 dev guests
  ip link set guests up
  cat >/etc/libvirt/libvirtd.conf <<END
listen_tls = 0
listen_tcp = 0
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
unix_sock_dir = "$folder/socket"
host_uuid = "$uuid"
$logging
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
}
