//! The table of the host standard. The guide page is written from it.

use super::{Check, Needs, judge};

const VIRTUALISATION: &str = "Virtualisation";
const DATA: &str = "Data and keys";
const AGENT: &str = "The host's own parts";
const MEASURED: &str = "Disk and network";
const PLACE: &str = "Place";

/// Every rule, in the order in which it is shown.
pub const CHECKS: [Check; 24] = [
    Check {
        name: "guest-boots",
        about: VIRTUALISATION,
        wants: "A guest really boots, with KVM or in software.",
        why: "`/dev/kvm` may be there and hang, and QEMU may be there and lack a part.",
        remedy: "Install `qemu-system-x86` and `qemu-utils`, and run `qemu-system-x86_64 -accel \
                 tcg -display none` to see what QEMU says.",
        needs: Needs::From(0),
        judge: judge::guest_boots,
    },
    Check {
        name: "hardware-virtualisation",
        about: VIRTUALISATION,
        wants: "That guest boots with KVM, and the agent runs guests with it.",
        why: "Guests in software are slower by an order of magnitude, and QEMU does not regard its \
              software emulation as a wall between a guest and the host: faults that let a guest \
              out are not handled as security faults there.",
        remedy: "Turn on virtualisation (VT-x, AMD-V) in the firmware, load `kvm_intel` or \
                 `kvm_amd`, and let the agent's user open `/dev/kvm`; inside a virtual machine, \
                 its host has to allow nesting. The agent chooses at its start: where it runs \
                 guests otherwise than they boot, restart it when the host is quiet; machines that \
                 run have what it chose from their next start.",
        needs: Needs::From(1),
        judge: judge::hardware_virtualisation,
    },
    Check {
        name: "qemu-version",
        about: VIRTUALISATION,
        wants: "QEMU is 7.2 or newer.",
        why: "It is the oldest that the platform is built for.",
        remedy: "Install a newer QEMU, on Debian 12 from backports where stable's is too old.",
        needs: Needs::From(0),
        judge: judge::qemu_version,
    },
    Check {
        name: "libvirt-version",
        about: VIRTUALISATION,
        wants: "libvirt is 9.0 or newer.",
        why: "It is the oldest with all calls that the platform makes.",
        remedy: "Install libvirt in a newer version, from the same release as QEMU: the packages \
                 are those that the operators' guide names.",
        needs: Needs::From(0),
        judge: judge::libvirt_version,
    },
    Check {
        name: "libvirt-answers",
        about: VIRTUALISATION,
        wants: "libvirt's daemon answers at the agent's `--libvirt`, says that it runs guests of \
                x86_64 with what a guest has booted with, and keeps secrets.",
        why: "The agent runs guests by it alone, and hands it the keys of volumes as secrets. A \
              daemon that is not there, that hangs, or that lacks a driver or the right for QEMU \
              runs none.",
        remedy: "Give `--libvirt`, as to the agent. Start `libvirtd` or `virtqemud`, see what it \
                 says in its log, and run this command as the agent's user. Where libvirt does \
                 not name KVM, let its own user open `/dev/kvm`, and restart it. Where it has no \
                 driver for secrets, install `libvirt-daemon-driver-secret` and restart it.",
        needs: Needs::From(0),
        judge: judge::libvirt_answers,
    },
    Check {
        name: "volumes-encrypted",
        about: DATA,
        wants: "A volume (qcow2 with LUKS) can be made, written and opened with its key and with \
                no other, and neither its content nor the key can be read in its file.",
        why: "A disk that leaves the host, by theft or by repair, must be of no use to anybody.",
        remedy: "Give `--storage-dir`, a folder that the agent may write to with 10 MiB free; \
                 install `qemu-utils` with LUKS (Debian's has it).",
        needs: Needs::From(0),
        judge: judge::volumes_encrypted,
    },
    Check {
        name: "keys-in-memory",
        about: DATA,
        wants: "libvirt's folder of running guests, `/var/lib/libvirt/qemu`, is on tmpfs or ramfs.",
        why: "Its `master-key.aes` opens, together with QEMU's log, the keys of volumes, and it \
              stays on the disk when the host loses power.",
        remedy: "With libvirt stopped, mount it: `tmpfs /var/lib/libvirt/qemu tmpfs \
                 mode=0750 0 0` in `/etc/fstab`.",
        needs: Needs::From(0),
        judge: judge::keys_in_memory,
    },
    Check {
        name: "consoles-in-memory",
        about: DATA,
        wants: "The agent's run folder, `--runtime-dir`, is on tmpfs or ramfs, with the folders in \
                it.",
        why: "Guests print what they like to their consoles there, secrets too; their user data is \
              there, and for moments the keys that are exchanged while a guest runs. None of it is \
              for a disk.",
        remedy: "Give the agent a folder under `/run`, and this command the same by \
                 `--runtime-dir`. On another file system the agent writes no key to it: the key of \
                 a volume that is in use is then not exchanged.",
        needs: Needs::From(0),
        judge: judge::consoles_in_memory,
    },
    Check {
        name: "logs-stay",
        about: DATA,
        wants: "QEMU's logs, `/var/log/libvirt/qemu`, are on a filesystem of this host.",
        why: "They hold one half of what opens a volume's key; the other half must not meet them.",
        remedy: "Put the folder on a local disk or on tmpfs, and ship it nowhere.",
        needs: Needs::From(0),
        judge: judge::logs_stay,
    },
    Check {
        name: "no-swap",
        about: DATA,
        wants: "No swap is in use. Accepted are zram without a backing device, and swap on \
                dm-crypt.",
        why: "Memory of guests, keys and what is on tmpfs would be written to a disk in plain \
              text.",
        remedy: "`swapoff -a`, and remove swap from `/etc/fstab`; or use zram, or put it on \
                 dm-crypt with a random key.",
        needs: Needs::From(0),
        judge: judge::no_swap,
    },
    Check {
        name: "core-dumps-off",
        about: DATA,
        wants: "The kernel writes no core dumps: `kernel.core_pattern` leads to nothing \
                (`|/bin/false`), or to a file with a limit of 0 for the agent and for libvirt's \
                daemons that run.",
        why: "A core dump of the agent, of libvirt or of QEMU holds keys. A program that takes \
              core dumps gets them whatever the limit is.",
        remedy: "`kernel.core_pattern=|/bin/false` in `/etc/sysctl.d/`, then `sysctl --system`; or \
                 `LimitCORE=0` in the units of the agent and of `libvirtd` (or `virtqemud` and \
                 `virtsecretd`), which are then started again.",
        needs: Needs::From(0),
        judge: judge::core_dumps_off,
    },
    Check {
        name: "guest-core-dumps-off",
        about: DATA,
        wants: "`/etc/libvirt/qemu.conf` sets `max_core = 0` (or `kernel.core_pattern` leads to \
                nothing), and does not turn `dump_guest_core` on.",
        why: "A core dump of QEMU holds keys, and with `dump_guest_core` the guest's memory. \
              libvirt gives QEMU a limit of its own, without bounds unless it is set.",
        remedy: "Set both to 0 and restart libvirt. The file is readable for root only.",
        needs: Needs::From(0),
        judge: judge::guest_core_dumps_off,
    },
    Check {
        name: "no-hibernation",
        about: DATA,
        wants: "The kernel has no device to hibernate to.",
        why: "Hibernation writes the whole memory to a disk.",
        remedy: "Remove `resume=` from the kernel's command line and add `nohibernate`.",
        needs: Needs::From(0),
        judge: judge::no_hibernation,
    },
    Check {
        name: "no-saved-memory",
        about: DATA,
        wants: "Guests are neither saved nor dumped: nothing about it in `qemu.conf` \
                (`auto_dump_path`, `auto_shutdown_try_save`, image formats), libvirt-guests is \
                absent or has `ON_SHUTDOWN=shutdown`, and no saved guest lies about.",
        why: "A saved guest is its memory in plain text. libvirt-guests, in many \
              versions, suspends guests to disk unless told otherwise.",
        remedy: "Remove the settings, set `ON_SHUTDOWN=shutdown` in `/etc/default/libvirt-guests` \
                 (or `/etc/sysconfig/libvirt-guests`), delete what is in \
                 `/var/lib/libvirt/qemu/save` and `dump`.",
        needs: Needs::From(0),
        judge: judge::no_saved_memory,
    },
    Check {
        name: "libvirt-local",
        about: AGENT,
        wants: "libvirt does not answer on the network: nothing listens on its TCP and TLS ports, \
                and `listen_tcp` is not set.",
        why: "Whoever reaches it is root over the guests. Only the agent speaks to it, over the \
              local socket.",
        remedy: "Start libvirt without `--listen`; `systemctl mask libvirtd-tcp.socket \
                 libvirtd-tls.socket virtproxyd-tcp.socket virtproxyd-tls.socket`; remove \
                 `listen_tcp` from its configuration.",
        needs: Needs::From(0),
        judge: judge::libvirt_local,
    },
    Check {
        name: "qemu-user",
        about: AGENT,
        wants: "QEMU runs as the agent's own user: `user` in `/etc/libvirt/qemu.conf`, and what \
                libvirt says of itself.",
        why: "What guests open and move through is in folders for the agent's user alone: as \
              another user QEMU says `Permission denied`, and no guest starts.",
        remedy: "Set `user` and `group` to those of the agent (`\"root\"` where it runs as root), \
                 and restart libvirt. Run this command as the agent's user.",
        needs: Needs::From(0),
        judge: judge::qemu_user,
    },
    Check {
        name: "agent-state-private",
        about: AGENT,
        wants: "The agent's state folder has mode 0700 and files in it 0600, or less.",
        why: "The agent's keys and the machines' specifications are in it, with their user data. \
              They are not encrypted: these permissions are what protects them.",
        remedy: "Give `--state-dir`; `chmod -R go= FOLDER`.",
        needs: Needs::From(0),
        judge: judge::agent_state_private,
    },
    Check {
        name: "memory-locking",
        about: AGENT,
        wants: "The agent may lock all of its memory: no limit of locked memory, or `CAP_IPC_LOCK`.",
        why: "Keys are to stay where no later swap reaches them. Within a limit an agent locks nothing.",
        remedy: "`LimitMEMLOCK=infinity` in the agent's unit, `memlock` in \
                 `/etc/security/limits.conf`, or `--ulimit memlock=-1` of a container.",
        needs: Needs::From(1),
        judge: judge::memory_locking,
    },
    Check {
        name: "clock-synchronised",
        about: AGENT,
        wants: "Something keeps the clock right, and the kernel knows. In a container it is not \
                known: check on the machine itself.",
        why: "Certificates end and invoices begin by it. Leases do not: they count on a clock that \
              nobody sets.",
        remedy: "Install `chrony` or turn on `systemd-timesyncd`, and wait a minute.",
        needs: Needs::From(1),
        judge: judge::clock_synchronised,
    },
    Check {
        name: "disk-room",
        about: MEASURED,
        wants: "There is room for all that is offered, together with what volumes take already; \
                classes on one filesystem share its room.",
        why: "Volumes take their room as they are written to. A disk that is full stops every \
              machine on it.",
        remedy: "Offer less (`--storage CLASS=GIB`), or make room.",
        needs: Needs::From(0),
        judge: judge::disk_room,
    },
    Check {
        name: "disk-throughput",
        about: MEASURED,
        wants: "64 MiB are written in one go and are on the disk, in each class.",
        why: "Machines start from images that are copied, and standby copies are written at this \
              rate.",
        remedy: "Use another disk for that class, or ask for a lower level. Measure again while \
                 nothing else uses the disk.",
        needs: Needs::AtLeast([50, 200, 500], "MB/s"),
        judge: judge::disk_throughput,
    },
    Check {
        name: "disk-sync",
        about: MEASURED,
        wants: "Half of 64 small writes (4 KiB), each by itself, are on the disk after this time, \
                in each class.",
        why: "Databases wait for this time at every commit.",
        remedy: "Use a disk with protection against power loss for that class, or ask for a lower \
                 level.",
        needs: Needs::AtMost([50_000, 10_000, 2_000], "µs"),
        judge: judge::disk_sync,
    },
    Check {
        name: "broker-round-trip",
        about: MEASURED,
        wants: "A connection to the broker is open after this time: half of five tries. Nothing \
                else of the network can be measured from here alone.",
        why: "Leases are renewed, and machines started and stopped, over it.",
        remedy: "Give `--broker URL`; see that TCP to it is allowed; use a wire in place of radio.",
        needs: Needs::AtMost([500, 100, 30], "ms"),
        judge: judge::broker_round_trip,
    },
    Check {
        name: "location-stated",
        about: PLACE,
        wants: "Country (ISO 3166-1, two capital letters) and coordinates are stated, and are \
                somewhere on earth.",
        why: "Customers choose countries by law, and standby copies are kept apart by distance.",
        remedy: "Give `--country`, `--latitude` and `--longitude` of where the host stands.",
        needs: Needs::From(1),
        judge: judge::location_stated,
    },
];
