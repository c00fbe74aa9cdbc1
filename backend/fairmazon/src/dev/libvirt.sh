# The first process of a host of `fairmazon dev` with real guests: libvirt's daemon of its own, in
# namespaces of its own. Says `ready` on its standard output when the daemon listens. At the end of
# its standard input, which the program that started it holds open, it ends everything that it
# started: whatever ends that program, no guest is left.
#
# arguments: FOLDER  libvirt's own files, and its socket in FOLDER/socket
folder="$1"
exec 3>&1 >/dev/null
finish() {
  trap '' EXIT
  kill -9 -1 2>/dev/null
  exit 0
}
trap finish EXIT
set -e
private_libvirt "$folder" 'log_outputs = "3:file:/var/log/libvirt/libvirtd.log"'
rm -f "$folder"/socket/*
libvirtd --daemon 3>&-
echo ready >&3
exec 3>&-
# Nothing is ever said here; the end of it is what counts.
read -r _ || true
