# The first process of a laboratory: libvirt's daemon of its own, in namespaces of its own. Reads
# commands from its standard input and answers each with a line; at the end of its input, whatever
# the reason, it ends everything that it started and removes its folders.
folder="$1" consoles="$2" functions="$3"
exec 3>&1 >/dev/null
finish() {
  trap '' EXIT
  kill -9 -1 2>/dev/null
  cd / && umount -l -R /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt 2>/dev/null
  umount -l "$folder/storage" 2>/dev/null
  rm -rf --one-file-system "$folder" "$consoles"
  exit 0
}
trap finish EXIT
set -e
. "$functions"
# What libvirt found out about QEMU for an earlier laboratory.
mkdir -p "$folder/cache"
cp -r "$folder/shared-cache/." "$folder/cache/" 2>/dev/null || true
# Tests read there what QEMU was asked for; what measures can do without (3).
private_libvirt "$folder" 'log_outputs = "1:file:/var/log/libvirt/libvirtd.log"
log_filters = "'"${FAIRMAZON_LAB_LOG:-1}"':qemu 1:secret 3:event 3:object 3:util 3:rpc 3:conf"'
export LIBVIRT_DEFAULT_URI="qemu+unix:///system?socket=$folder/socket/libvirt-sock"
set +e
# What a command writes without a path goes with the laboratory, and is not left in the sources.
cd "$folder" || exit 1
while read -r command; do
  eval "$command" </dev/null >"$folder/answer" 2>&1
  echo "$?" >&3
done
