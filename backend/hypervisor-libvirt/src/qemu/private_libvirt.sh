# A function for the first process of namespaces of their own: everything that libvirt's daemon
# needs to run in them beside another one of the same machine, with a bridge `guests` for its
# machines. Starts nothing.
private_libvirt() { # private_libvirt FOLDER LOGGING: libvirt's files, its socket in FOLDER/socket
  local folder="$1" logging="$2" part
  mount --make-rprivate /
  mount -t proc proc /proc
  mount -t tmpfs tmpfs /run
  mkdir -p "$folder"/{etc,lib,cache,log,socket} /run/lock /etc/libvirt /var/{lib,cache,log}/libvirt
  mount --bind "$folder/etc" /etc/libvirt
  for part in lib cache log; do mount --bind "$folder/$part" "/var/$part/libvirt"; done
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
unix_sock_dir = "$folder/socket"
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
