//! The collector over the files of another system: each fault is there once.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use fairmazon_host::standard::{CHECKS, Collector, Location, Report, StateFolder, Status, collect};
use tempfile::TempDir;

use crate::{finding, hypervisor};

const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:30 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
29 27 0:31 / /var/lib/libvirt/qemu rw - tmpfs tmpfs rw,mode=750
30 27 0:33 / /mnt/with\\040blank rw - nfs4 far:/logs rw
31 27 0:34 / /srv/crypt rw - ext4 /dev/mapper/crypt rw
";
const LIMITS: &str = "\
Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    unlimited            bytes
Max locked memory         unlimited            unlimited            bytes
";
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue
   0: 00000000:0016 00000000:0000 0A 00000000:00000000
   1: 0100007F:407D 0100007F:1F90 01 00000000:00000000
";
/// It was started by root.
const STATUS: &str = "Name:\tcheck\nUid:\t0\t998\t998\t998\nCapEff:\t0000000000000000\n";
const USERS: &str = "\
root:x:0:0:root:/root:/bin/bash
agents:x:997:997::/:/bin/false
agent:x:998:998:,,,:/:/bin/false
1000:x:999:999::/:/bin/false
libvirt-qemu:x:64055:109:Libvirt Qemu,,,:/var/lib/libvirt:/usr/sbin/nologin
";
const SWAPS: &str = "Filename\tType\tSize\tUsed\tPriority\n";

/// A system that keeps the whole standard, in a folder.
struct System(TempDir);

impl System {
    fn new() -> Self {
        let system = Self(TempDir::new().unwrap());
        for (file, text) in [
            ("proc/self/mountinfo", MOUNTS),
            ("proc/self/limits", LIMITS),
            ("proc/self/status", STATUS),
            ("proc/77/comm", "libvirtd\n"),
            ("proc/77/limits", LIMITS),
            ("proc/78/comm", "postgres\n"),
            ("proc/78/limits", "Max core file size        unlimited            unlimited\n"),
            ("proc/sys/kernel/core_pattern", "core\n"),
            ("proc/swaps", SWAPS),
            ("proc/cmdline", "root=/dev/vda ro quiet\n"),
            ("proc/net/tcp", TCP),
            ("proc/1/environ", "HOME=/\0TERM=linux\0"),
            ("sys/power/resume", "0:0\n"),
            ("sys/power/state", "freeze mem disk\n"),
            ("etc/libvirt/qemu.conf", "max_core = 0\nuser = \"agent\"\n"),
            ("etc/passwd", USERS),
            ("etc/libvirt/libvirtd.conf", "#listen_tcp = 1\nlisten_tls = 0\n"),
        ] {
            system.write(file, text);
        }
        fs::create_dir_all(system.path("srv/volumes")).unwrap();
        fs::create_dir_all(system.path("state")).unwrap();
        fs::set_permissions(system.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
        system
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, file: &str, to: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    /// What the collector is told of it. Disk and network are left out: they are measured.
    fn collector(&self) -> Collector {
        Collector {
            root: self.0.path().to_owned(),
            runtime: vec!["/run/fairmazon".into(), "/run/fairmazon/seeds".into()],
            state: Some(self.path("state")),
            location: Some(Location { country: "DE".into(), latitude: 48.1, longitude: 11.6 }),
            ..Collector::default()
        }
    }

    fn report(&self) -> Report {
        Report::new(&collect(&self.collector(), hypervisor(), None), 1)
    }
}

/// What is measured, and so never passes where it is left out.
const MEASURED: [&str; 4] = ["disk-room", "disk-throughput", "disk-sync", "broker-round-trip"];

#[track_caller]
fn only(system: &System, name: &str, status: Status, text: &str) {
    let report = system.report();
    for other in &report.findings {
        let name_of = other.check.name;
        if name_of != name && !MEASURED.contains(&name_of) {
            assert_eq!(other.status, Status::Pass, "{name_of}: {}", other.found);
        }
    }
    let found = finding(&report, name);
    assert_eq!(found.status, status, "{name}: {}", found.found);
    assert!(found.found.contains(text), "{name}: {}", found.found);
}

#[track_caller]
fn fails(name: &str, text: &str, change: impl FnOnce(&System)) {
    let system = System::new();
    change(&system);
    only(&system, name, Status::Fail, text);
}

#[track_caller]
fn passes(name: &str, text: &str, change: impl FnOnce(&System)) {
    let system = System::new();
    change(&system);
    only(&system, name, Status::Pass, text);
}

#[test]
fn a_good_system_passes_and_what_was_not_stated_is_unknown() {
    let system = System::new();
    let report = system.report();
    for found in &report.findings {
        let measured = MEASURED.contains(&found.check.name);
        let expected = if measured { Status::Unknown } else { Status::Pass };
        assert_eq!(found.status, expected, "{}: {}", found.check.name, found.found);
    }
    let nothing = Collector { root: system.0.path().to_owned(), ..Collector::default() };
    let report = Report::new(&collect(&nothing, hypervisor(), None), 1);
    for (name, option) in [
        ("consoles-in-memory", "--runtime-dir"),
        ("agent-state-private", "--state-dir"),
        ("disk-room", "--storage-dir"),
        ("broker-round-trip", "--broker"),
        ("location-stated", "--country"),
    ] {
        let found = finding(&report, name);
        assert_eq!(found.status, Status::Unknown);
        assert!(found.found.contains(option), "{}", found.found);
    }
}

#[test]
fn an_empty_system_is_known_to_nobody() {
    let folder = TempDir::new().unwrap();
    let nothing = Collector { root: folder.path().to_owned(), ..Collector::default() };
    let report = Report::new(&collect(&nothing, hypervisor(), None), 0);
    assert!(report.level.is_none());
    assert_eq!(report.findings.len(), CHECKS.len());
    for name in ["keys-in-memory", "core-dumps-off", "libvirt-local", "memory-locking"] {
        let found = finding(&report, name);
        assert_eq!(found.status, Status::Unknown, "{name}");
        assert!(found.found.contains("/proc/"), "{}", found.found);
    }
}

#[test]
fn folders_are_looked_up_in_the_mounts() {
    let without = MOUNTS.lines().filter(|line| !line.contains("/var/lib")).collect::<Vec<_>>();
    let without = without.join("\n");
    fails("keys-in-memory", "/var/lib/libvirt/qemu is on ext4", |system| {
        system.write("proc/self/mountinfo", &without);
    });
    // The last mount over a folder is the one that is seen.
    fails("keys-in-memory", "xfs", |system| {
        let more = format!("{MOUNTS}40 27 8:1 / /var/lib/libvirt/qemu rw - xfs /dev/sda1 rw\n");
        system.write("proc/self/mountinfo", &more);
    });
    passes("keys-in-memory", "tmpfs", |system| {
        system.write("proc/self/mountinfo", &without);
        fs::create_dir_all(system.path("run/keys")).unwrap();
        fs::create_dir_all(system.path("var/lib/libvirt")).unwrap();
        system.link("var/lib/libvirt/qemu", "../../../run/keys");
    });
    fails("logs-stay", "nfs4", |system| {
        fs::create_dir_all(system.path("mnt/with blank/qemu")).unwrap();
        fs::create_dir_all(system.path("var/log/libvirt")).unwrap();
        system.link("var/log/libvirt/qemu", "../../../mnt/with blank/qemu");
    });
    let system = System::new();
    let runtime = vec!["/srv/runtime".into(), "/run/fairmazon".into()];
    let facts = collect(&Collector { runtime, ..system.collector() }, hypervisor(), None);
    let report = Report::new(&facts, 1);
    assert_eq!(finding(&report, "consoles-in-memory").found, "/srv/runtime is on ext4");
}

#[test]
fn each_folder_in_the_run_folder_is_looked_up() {
    let check = "consoles-in-memory";
    // Those that are not there yet are on what they will be on.
    let both = "/run/fairmazon is on tmpfs, /run/fairmazon/seeds is on tmpfs";
    passes(check, both, |_| ());
    fails(check, "/run/fairmazon/seeds is on xfs", |system| {
        fs::create_dir_all(system.path("run/fairmazon/seeds")).unwrap();
        let more = format!("{MOUNTS}40 28 8:1 / /run/fairmazon/seeds rw - xfs /dev/sda1 rw\n");
        system.write("proc/self/mountinfo", &more);
    });
    fails(check, "/run/fairmazon/seeds is on ext4", |system| {
        system.link("run/fairmazon/seeds", "../../srv/volumes");
    });
}

#[test]
fn swap_is_found_with_what_it_is_on() {
    let use_swap = |system: &System, row: &str| {
        system.write("proc/swaps", &format!("{SWAPS}{row}\t1024\t0\t-2\n"));
    };
    fails("no-swap", "/dev/sda2", |system| use_swap(system, "/dev/sda2 partition"));
    fails("no-swap", "/swap file", |system| use_swap(system, "/swap\\040file file"));
    passes("no-swap", "zram", |system| {
        use_swap(system, "/dev/zram0 partition");
        system.write("sys/class/block/zram0/backing_dev", "none\n");
    });
    fails("no-swap", "/dev/zram0", |system| {
        use_swap(system, "/dev/zram0 partition");
        system.write("sys/class/block/zram0/backing_dev", "/dev/sdb\n");
    });
    passes("no-swap", "dm-crypt", |system| {
        use_swap(system, "/dev/dm-1 partition");
        system.write("sys/class/block/dm-1/dm/uuid", "CRYPT-PLAIN-swap\n");
    });
    let lvm = |system: &System, below: &str| {
        use_swap(system, "/dev/dm-2 partition");
        system.write("sys/class/block/dm-2/dm/uuid", "LVM-abc\n");
        system.write(&format!("sys/class/block/dm-2/slaves/{below}/dev"), "");
        system.write("sys/class/block/dm-1/dm/uuid", "CRYPT-LUKS2-root\n");
    };
    passes("no-swap", "dm-crypt", |system| lvm(system, "dm-1"));
    fails("no-swap", "/dev/dm-2", |system| lvm(system, "sda3"));
    fails("no-swap", "/dev/dm-2", |system| lvm(system, "dm-2"));
    passes("no-swap", "dm-crypt", |system| {
        let mounts = MOUNTS.replace("0:34", "253:1");
        system.write("proc/self/mountinfo", &mounts);
        use_swap(system, "/srv/crypt/swap file");
        system.write("sys/class/block/dm-1/dm/uuid", "CRYPT-LUKS2-data\n");
        system.link("sys/dev/block/253:1", "../../class/block/dm-1");
    });
    passes("no-swap", "none", |system| fs::remove_file(system.path("proc/swaps")).unwrap());
}

#[test]
fn core_dumps_are_found() {
    fails("core-dumps-off", "apport", |system| {
        system.write("proc/sys/kernel/core_pattern", "|/usr/share/apport/apport -p%p\n");
    });
    fails("core-dumps-off", "without a limit", |system| {
        system.write(
            "proc/self/limits",
            &LIMITS.replace("size        0        ", "size        unlimited"),
        );
    });
    let large = LIMITS.replace("size        0   ", "size        4096");
    for daemon in ["libvirtd", "virtqemud", "virtsecretd"] {
        fails("core-dumps-off", &format!("of {daemon} up to 4096 bytes"), |system| {
            system.write("proc/99/comm", &format!("{daemon}\n"));
            system.write("proc/99/limits", &large);
        });
    }
    let system = System::new();
    fs::remove_file(system.path("proc/77/limits")).unwrap();
    only(&system, "core-dumps-off", Status::Unknown, "/proc/77/limits can't be read");
    fs::remove_dir_all(system.path("proc/77")).unwrap();
    only(&system, "core-dumps-off", Status::Unknown, "no daemon of libvirt is seen");
    // Whatever its limit is: nothing keeps it.
    system.write("proc/sys/kernel/core_pattern", "|/bin/false\n");
    only(&system, "core-dumps-off", Status::Pass, "the kernel keeps none");
    fails("guest-core-dumps-off", "max_core", |system| {
        system.write("etc/libvirt/qemu.conf", "user = \"agent\"\nmax_core = \"unlimited\"\n");
    });
    fails("guest-core-dumps-off", "max_core", |system| {
        system.write("etc/libvirt/qemu.conf", "user = \"agent\"\n");
    });
}

#[test]
fn the_user_of_qemu_is_found_by_name_and_by_number() {
    let check = "qemu-user";
    let set = |user: &str| {
        let text = format!("max_core = 0\nuser = {user}\ngroup = \"root\"\n");
        move |system: &System| system.write("etc/libvirt/qemu.conf", &text)
    };
    for own in ["\"agent\"", "\"998\"", "\"+998\"", "'+998' # the agent"] {
        passes(check, "who the agent is", set(own));
    }
    for (other, number) in
        [("libvirt-qemu", 64_055), ("agents", 997), ("+0", 0), ("root", 0), ("1000", 999)]
    {
        let found = format!("user = {other} (number {number}), and the agent is number 998");
        fails(check, &found, set(&format!("\"{other}\"")));
    }
    fails(check, "does not set `user`", |system| {
        system.write("etc/libvirt/qemu.conf", "max_core = 0\n#user = \"agent\"\n");
    });
    for (text, why) in [("\"agen\"", "agen, who is not in /etc/passwd"), ("\"\"", "passwd")] {
        let system = System::new();
        set(text)(&system);
        only(&system, check, Status::Unknown, why);
    }
    let system = System::new();
    fs::remove_file(system.path("etc/passwd")).unwrap();
    only(&system, check, Status::Unknown, "passwd");
    set("\"+998\"")(&system);
    only(&system, check, Status::Pass, "+998");
    system.write("proc/self/status", "CapEff:\t0000000000000000\n");
    only(&system, check, Status::Unknown, "/proc/self/status does not say `Uid`");
}

#[test]
fn ways_to_save_memory_are_found() {
    let check = "no-hibernation";
    fails(check, "8:2", |system| system.write("sys/power/resume", "8:2\n"));
    fails(check, "/dev/sda2", |system| system.write("proc/cmdline", "quiet resume=/dev/sda2"));
    passes(check, "", |system| system.write("proc/cmdline", "quiet resume=/dev/sda2 noresume"));
    passes(check, "", |system| system.write("proc/cmdline", "quiet -- resume=/dev/sda2"));
    passes(check, "", |system| {
        system.write("proc/cmdline", "nohibernate");
        system.write("sys/power/resume", "8:2\n");
    });
    passes(check, "", |system| {
        system.write("sys/power/state", "freeze mem\n");
        system.write("sys/power/resume", "8:2\n");
    });

    let check = "no-saved-memory";
    fails(check, "auto_dump_path", |system| {
        let text = "user = \"agent\"\nmax_core = 0\nauto_dump_path = \"/var/lib/dump\"\n";
        system.write("etc/libvirt/qemu.conf", text);
    });
    let script = "usr/lib/libvirt/libvirt-guests.sh";
    fails(check, "ON_SHUTDOWN=suspend", |system| {
        system.write(script, "");
        system.write("etc/default/libvirt-guests", "#ON_SHUTDOWN=shutdown\n");
    });
    passes(check, "shuts guests down", |system| {
        let text = "ON_SHUTDOWN=\"shutdown\"\nif x; then\n    ON_SHUTDOWN=suspend\nfi\n";
        system.write(script, text);
    });
    passes(check, "shuts guests down", |system| {
        system.write(script, "");
        system.write("etc/default/libvirt-guests", "ON_SHUTDOWN=shutdown\n");
    });
    fails(check, "/var/lib/libvirt/qemu/save/one.save", |system| {
        system.write("var/lib/libvirt/qemu/save/one.save", "memory");
    });
    fails(check, "/var/lib/libvirt/qemu/dump/two", |system| {
        system.write("var/lib/libvirt/qemu/dump/two", "memory");
    });
}

#[test]
fn listeners_of_libvirt_are_found() {
    let check = "libvirt-local";
    let open = |port: &str| format!("{TCP}   2: 00000000:{port} 00000000:0000 0A 0:0\n");
    fails(check, "16509", |system| system.write("proc/net/tcp", &open("407D")));
    fails(check, "16514", |system| system.write("proc/net/tcp6", &open("4082")));
    fails(check, "listen_tcp", |system| {
        system.write("etc/libvirt/virtproxyd.conf", "listen_tcp = 1\n");
    });
    fails(check, "16600", |system| {
        system.write("etc/libvirt/libvirtd.conf", "tls_port = \"16600\"\n");
        system.write("proc/net/tcp", &open("40D8"));
    });
}

#[test]
fn the_agents_folder_is_walked() {
    let check = "agent-state-private";
    let mode = |system: &System, file: &str, mode| {
        fs::set_permissions(system.path(file), fs::Permissions::from_mode(mode)).unwrap();
    };
    fails(check, "the folder has 0755", |system| mode(system, "state", 0o755));
    fails(check, "keys/host.key has 0640", |system| {
        system.write("state/keys/host.key", "secret");
        mode(system, "state/keys", 0o700);
        mode(system, "state/keys/host.key", 0o640);
    });
    passes(check, "0700", |system| {
        system.write("state/host.key", "secret");
        mode(system, "state/host.key", 0o600);
        // A link has no permissions of its own.
        system.link("state/link", "host.key");
    });
    passes(check, "the agent makes it", |system| fs::remove_dir(system.path("state")).unwrap());
    let system = System::new();
    system.write("file", "");
    let state = Some(system.path("file"));
    let facts = collect(&Collector { state, ..system.collector() }, hypervisor(), None);
    assert!(facts.state_folder.unwrap_err().contains("is no folder"));
    let state = Some(system.path("state"));
    let facts = collect(&Collector { state, ..system.collector() }, hypervisor(), None);
    assert!(matches!(facts.state_folder, Ok(StateFolder::There { mode: 0o700, .. })));
}

#[test]
fn limits_and_capabilities_are_found() {
    let little = LIMITS.replace("memory         unlimited", "memory         8388608  ");
    fails("memory-locking", "8192 KiB", |system| system.write("proc/self/limits", &little));
    passes("memory-locking", "without a limit", |system| {
        system.write("proc/self/limits", &little);
        system.write("proc/self/status", &STATUS.replace("0000\n", "4000\n"));
    });
}

#[test]
fn a_container_does_not_know_the_clock() {
    for mark in [".dockerenv", "run/.containerenv", "run/systemd/container"] {
        let system = System::new();
        system.write(mark, "");
        only(&system, "clock-synchronised", Status::Unknown, mark);
    }
    let system = System::new();
    system.write("proc/1/environ", "HOME=/\0container=lxc\0");
    only(&system, "clock-synchronised", Status::Unknown, "container");
}

#[test]
fn disk_and_round_trip_are_measured_and_nothing_stays() {
    let system = System::new();
    let storage = system.path("srv/volumes");
    fs::create_dir(storage.join("fast")).unwrap();
    fs::write(storage.join("fast/vol.qcow2"), vec![1; 1 << 20]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = Collector {
        storage: Some(storage.clone()),
        offered: vec![("fast".into(), 1), ("standard".into(), 1), ("slow".into(), 1 << 40)],
        broker: Some(format!("https://{}", listener.local_addr().unwrap())),
        ..system.collector()
    };
    let facts = collect(&collector, hypervisor(), None);
    let classes = facts.storage.as_ref().unwrap();
    assert!(classes[0].used >= 1 << 20 && classes[1].used == 0);
    assert!(classes[0].folder.ends_with("/fast") && classes[1].folder.ends_with("/volumes"));
    for class in classes {
        let speed = class.speed.as_ref().unwrap();
        assert!(speed.megabytes_per_second > 0 && !speed.sync.is_zero(), "{class:?}");
    }
    assert_eq!(names(&storage), ["fast"]);
    assert_eq!(names(&storage.join("fast")), ["vol.qcow2"]);
    assert!(!facts.round_trip.as_ref().unwrap().is_zero());
    let report = Report::new(&facts, 0);
    let room = finding(&report, "disk-room");
    assert_eq!(room.status, Status::Fail, "{}", room.found);
    for name in ["disk-throughput", "disk-sync", "broker-round-trip"] {
        assert_ne!(finding(&report, name).status, Status::Unknown, "{name}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_can_not_be_measured_is_unknown_and_says_why() {
    let system = System::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (broker, text) in [
        (format!("https://{closed}"), "can't be reached"),
        ("/nowhere".into(), "names no host"),
        ("https://a b".into(), "is no URL"),
    ] {
        let facts =
            collect(&Collector { broker: Some(broker), ..system.collector() }, hypervisor(), None);
        let why = facts.round_trip.unwrap_err();
        assert!(why.contains(text), "{why}");
    }
    let storage = Some(system.path("srv/missing"));
    let offered = vec![("fast".into(), 1)];
    let facts = collect(&Collector { storage, offered, ..system.collector() }, hypervisor(), None);
    let why = facts.storage.unwrap_err();
    assert!(why.contains("srv/missing can't be read"), "{why}");
}
