//! Each rule by itself: what breaks it, what does not, and the level that is left.

use std::{collections::BTreeSet, time::Duration};

use fairmazon_host::standard::{
    Boots, CHECKS, ClockFacts, DaemonFacts, Facts, LEVEL_MOST, Limit, Needs, Report, Settings,
    StateFolder, Status, Swap, User,
};

use crate::{GIB, best, finding, on};

/// The best of hosts, but for this: what comes of the one check.
#[track_caller]
fn with(name: &str, change: impl FnOnce(&mut Facts)) -> (Status, Option<u8>, String) {
    let mut facts = best();
    change(&mut facts);
    let report = Report::new(&facts, 1);
    for other in report.findings.iter().filter(|finding| finding.check.name != name) {
        assert_eq!(other.status, Status::Pass, "{} {}", other.check.name, other.found);
    }
    let found = finding(&report, name);
    assert_eq!(report.level, found.allows, "the worst finding decides");
    assert_eq!(report.reached(), report.level >= Some(1));
    (found.status, found.allows, found.found.clone())
}

#[track_caller]
fn keeps(name: &str, change: impl FnOnce(&mut Facts)) {
    let (status, level, found) = with(name, change);
    assert_eq!((status, level), (Status::Pass, Some(LEVEL_MOST)), "{found}");
}

/// It fails, `level` is left, and what was found says `text`.
#[track_caller]
fn breaks(name: &str, level: Option<u8>, text: &str, change: impl FnOnce(&mut Facts)) {
    let (status, left, found) = with(name, change);
    assert_eq!((status, left), (Status::Fail, level), "{found}");
    assert!(found.contains(text), "{found}");
}

#[test]
fn the_best_of_hosts_reaches_the_highest_level() {
    for asked in 0..=LEVEL_MOST {
        let report = Report::new(&best(), asked);
        assert_eq!(report.level, Some(LEVEL_MOST));
        assert!(report.reached());
        assert_eq!(report.findings.len(), CHECKS.len());
    }
}

#[test]
fn checks_have_names_of_their_own_and_all_texts() {
    let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len());
    for check in &CHECKS {
        assert!(check.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", check.name);
        for text in [check.wants, check.why, check.remedy] {
            assert!(text.ends_with('.') && !text.contains("  "), "{}: {text}", check.name);
        }
        assert!(check.needs.lowest() <= LEVEL_MOST);
    }
}

#[test]
fn what_is_not_known_is_not_kept() {
    let unknown = || "nobody knows".to_owned();
    type Change = fn(&mut Facts, String);
    let changes: [(&str, Option<u8>, Change); 20] = [
        ("qemu-version", None, |facts, why| facts.hypervisor.qemu = Err(why)),
        ("libvirt-version", None, |facts, why| facts.hypervisor.libvirt = Err(why)),
        ("libvirt-answers", None, |facts, why| facts.hypervisor.daemon = Err(why)),
        ("volumes-encrypted", None, |facts, why| facts.hypervisor.encryption = Err(why)),
        ("keys-in-memory", None, |facts, why| facts.keys_folder = Err(why)),
        ("consoles-in-memory", None, |facts, why| facts.run_folders = Err(why)),
        ("logs-stay", None, |facts, why| facts.logs_folder = Err(why)),
        ("no-swap", None, |facts, why| facts.swaps = Err(why)),
        ("core-dumps-off", None, |facts, why| facts.core_pattern = Err(why)),
        ("no-hibernation", None, |facts, why| facts.hibernation = Err(why)),
        ("no-saved-memory", None, |facts, why| facts.guests_on_shutdown = Err(why)),
        ("no-saved-memory", None, |facts, why| facts.saved_guests = Err(why)),
        ("libvirt-local", None, |facts, why| facts.libvirt_listeners = Err(why)),
        ("qemu-user", None, |facts, why| facts.qemu_user = Err(why)),
        ("qemu-user", None, |facts, why| facts.agent_user = Err(why)),
        ("agent-state-private", None, |facts, why| facts.state_folder = Err(why)),
        ("memory-locking", Some(0), |facts, why| facts.locked_memory = Err(why)),
        ("clock-synchronised", Some(0), |facts, why| facts.hypervisor.clock = Err(why)),
        ("broker-round-trip", Some(0), |facts, why| facts.round_trip = Err(why)),
        ("location-stated", Some(0), |facts, why| facts.location = Err(why)),
    ];
    for (name, level, change) in changes {
        let (status, left, found) = with(name, |facts| change(facts, unknown()));
        assert_eq!((status, left), (Status::Unknown, level), "{name}");
        assert_eq!(found, unknown());
    }
    // These are about several checks each.
    let mut facts = best();
    facts.hypervisor.guest = Err(unknown());
    facts.storage = Err(unknown());
    facts.qemu_settings = Err(unknown());
    let report = Report::new(&facts, 0);
    let names = report.findings.iter().filter(|one| one.status == Status::Unknown);
    let names: Vec<_> = names.map(|one| one.check.name).collect();
    let about = [
        "guest-boots",
        "hardware-virtualisation",
        "guest-core-dumps-off",
        "no-saved-memory",
        "disk-room",
        "disk-throughput",
        "disk-sync",
    ];
    assert_eq!(names, about);
    assert!(report.level.is_none() && !report.reached());
}

#[test]
fn software_emulation_reaches_level_0_and_no_guest_none() {
    breaks("hardware-virtualisation", Some(0), "software", |facts| {
        facts.hypervisor.guest = Ok(Boots::Software);
    });
    let mut facts = best();
    facts.hypervisor.guest = Ok(Boots::Not);
    let report = Report::new(&facts, 0);
    assert_eq!(finding(&report, "guest-boots").status, Status::Fail);
    assert!(report.level.is_none() && !report.reached());
}

#[test]
fn hardware_counts_where_the_driver_runs_guests_with_it_too() {
    let check = "hardware-virtualisation";
    // Before there is an agent, what boots is all there is.
    keeps(check, |facts| facts.hypervisor.driver = None);
    breaks(check, Some(0), "the agent runs guests in software", |facts| {
        facts.hypervisor.driver = Some(Boots::Software);
    });
    breaks(check, Some(0), "boots in software only, and the agent runs guests with KVM", |facts| {
        facts.hypervisor.guest = Ok(Boots::Software);
    });
    let remedy = CHECKS.iter().find(|one| one.name == check).unwrap().remedy;
    assert!(remedy.contains("restart it when the host is quiet"), "{remedy}");
}

#[test]
fn versions_have_minima() {
    keeps("qemu-version", |facts| facts.hypervisor.qemu = Ok((7, 2)));
    breaks("qemu-version", None, "7.1", |facts| facts.hypervisor.qemu = Ok((7, 1)));
    keeps("libvirt-version", |facts| facts.hypervisor.libvirt = Ok((9, 0)));
    breaks("libvirt-version", None, "8.10", |facts| facts.hypervisor.libvirt = Ok((8, 10)));
}

/// Of a daemon that runs guests with these.
fn daemon(runs: &[Boots], qemu_user: Option<u32>) -> impl FnOnce(&mut Facts) + use<> {
    let runs = runs.to_vec();
    move |facts| {
        facts.hypervisor.daemon = Ok(Ok(DaemonFacts { runs, qemu_user, keeps_secrets: true }));
    }
}

#[test]
fn libvirt_answers_and_runs_guests_as_they_boot() {
    let check = "libvirt-answers";
    keeps(check, daemon(&[Boots::Hardware], None));
    breaks(check, None, "a guest boots with KVM, and libvirt", daemon(&[Boots::Software], None));
    breaks(check, None, "runs no guests of x86_64", daemon(&[], None));
    breaks(check, None, "refused", |facts| facts.hypervisor.daemon = Ok(Err("refused".into())));
    breaks(check, None, "no driver for secrets", |facts| {
        let runs = vec![Boots::Hardware];
        let without = DaemonFacts { runs, qemu_user: None, keeps_secrets: false };
        facts.hypervisor.daemon = Ok(Ok(without));
    });
    // What boots in software needs no more of libvirt.
    let mut facts = best();
    facts.hypervisor.guest = Ok(Boots::Software);
    daemon(&[Boots::Software], None)(&mut facts);
    assert_eq!(Report::new(&facts, 0).level, Some(0));
    daemon(&[Boots::Hardware], None)(&mut facts);
    assert_eq!(finding(&Report::new(&facts, 0), check).status, Status::Fail);
}

#[test]
fn minima_are_told_as_they_are_judged() {
    let wants = |name: &str| CHECKS.iter().find(|check| check.name == name).unwrap().wants;
    assert!(wants("qemu-version").contains("7.2") && wants("libvirt-version").contains("9.0"));
    breaks("memory-locking", Some(0), "no more than 1048576 KiB", |facts| {
        facts.locked_memory = Ok(Limit::Bytes(1 << 30));
    });
}

#[test]
fn a_volume_that_is_not_encrypted_fails() {
    breaks("volumes-encrypted", None, "can be read", |facts| {
        facts.hypervisor.encryption = Ok(Err("it can be read".into()));
    });
}

#[test]
fn keys_and_consoles_are_in_memory_and_logs_on_this_host() {
    keeps("keys-in-memory", |facts| facts.keys_folder = Ok(on("/keys", "ramfs")));
    breaks("keys-in-memory", None, "ext4", |facts| facts.keys_folder = Ok(on("/keys", "ext4")));
    for folders in [[("/c", "xfs"), ("/c/seeds", "tmpfs")], [("/r", "tmpfs"), ("/r/seeds", "xfs")]]
    {
        breaks("consoles-in-memory", None, "is on xfs", |facts| {
            let folders = folders.map(|(folder, filesystem)| on(folder, filesystem));
            facts.run_folders = Ok(folders.to_vec());
        });
    }
    for local in ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay"] {
        keeps("logs-stay", |facts| facts.logs_folder = Ok(on("/logs", local)));
    }
    for away in ["nfs4", "cifs", "ceph", "9p", "fuse.sshfs", "virtiofs"] {
        breaks("logs-stay", None, away, |facts| facts.logs_folder = Ok(on("/logs", away)));
    }
}

#[test]
fn swap_is_off_or_sealed() {
    let swap = |name: &str, sealed| Swap { name: name.into(), sealed };
    keeps("no-swap", |facts| facts.swaps = Ok(vec![swap("/dev/zram0", Some("zram"))]));
    breaks("no-swap", None, "/dev/sda2", |facts| {
        facts.swaps = Ok(vec![swap("/dev/dm-0", Some("on dm-crypt")), swap("/dev/sda2", None)]);
    });
}

#[test]
fn core_dumps_go_nowhere() {
    let pattern = |text: &str, limit| {
        let text = text.to_owned();
        move |facts: &mut Facts| {
            facts.core_pattern = Ok(text);
            facts.core_limit = Ok(limit);
            facts.libvirt_core_limits = Ok(vec![("libvirtd".into(), Limit::Bytes(0))]);
        }
    };
    let check = "core-dumps-off";
    keeps(check, pattern("core", Limit::Bytes(0)));
    keeps(check, pattern("/dev/null", Limit::Unlimited));
    keeps(check, pattern("|/usr/bin/false %p", Limit::Unlimited));
    breaks(check, None, "core", pattern("core", Limit::Unlimited));
    let daemons = |limits: &[(&str, Limit)]| {
        let limits = limits.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect();
        move |facts: &mut Facts| {
            pattern("core", Limit::Bytes(0))(facts);
            facts.libvirt_core_limits = Ok(limits);
        }
    };
    let zero = Limit::Bytes(0);
    keeps(check, daemons(&[("virtqemud", zero), ("virtsecretd", zero)]));
    let unlimited = daemons(&[("virtqemud", zero), ("virtsecretd", Limit::Unlimited)]);
    breaks(check, None, "of virtsecretd without a limit", unlimited);
    let (status, level, found) = with(check, daemons(&[]));
    assert_eq!((status, level), (Status::Unknown, None), "{found}");
    assert!(found.contains("no daemon of libvirt"), "{found}");
    keeps(check, |facts| facts.libvirt_core_limits = Err("nothing is written".into()));
    breaks(check, None, "4096", pattern("/var/crash/%p", Limit::Bytes(4_096)));
    let takes = "|/usr/lib/systemd/systemd-coredump %P";
    breaks(check, None, "systemd-coredump", pattern(takes, Limit::Bytes(0)));

    let set = |text: &'static str| {
        move |facts: &mut Facts| {
            facts.qemu_settings = Ok(settings(text));
            pattern("core", Limit::Bytes(0))(facts);
        }
    };
    let check = "guest-core-dumps-off";
    keeps(check, set("max_core = 0\ndump_guest_core=0"));
    breaks(check, None, "does not set max_core", set("#max_core = 0"));
    breaks(check, None, "max_core = unlimited", set("max_core = \"unlimited\""));
    breaks(check, None, "dump_guest_core = 1", set("max_core = 0\ndump_guest_core = 1"));
    // Whatever QEMU may write: nothing keeps it.
    keeps(check, |facts| facts.qemu_settings = Ok(settings("max_core = \"unlimited\"")));
    breaks(check, None, "dump_guest_core = 1", |facts| {
        facts.qemu_settings = Ok(settings("dump_guest_core = 1"));
    });
}

fn settings(text: &str) -> Settings {
    Settings::parse(text)
}

#[test]
fn memory_is_never_saved() {
    breaks("no-hibernation", None, "8:2", |facts| {
        facts.hibernation = Ok(Some("to the device 8:2".into()));
    });
    let check = "no-saved-memory";
    let set =
        |text: &'static str| move |facts: &mut Facts| facts.qemu_settings = Ok(settings(text));
    keeps(check, set("auto_shutdown_try_save = \"none\"\n#save_image_format = \"raw\""));
    breaks(check, None, "auto_dump_path", set("auto_dump_path = '/srv/dump' # here"));
    breaks(check, None, "save_image_format", set("save_image_format = \"zstd\""));
    breaks(check, None, "auto_shutdown_try_save", set("auto_shutdown_try_save = \"persistent\""));
    keeps(check, |facts| facts.guests_on_shutdown = Ok(Some("shutdown".into())));
    breaks(check, None, "ON_SHUTDOWN=suspend", |facts| {
        facts.guests_on_shutdown = Ok(Some("suspend".into()));
    });
    breaks(check, None, "a.save", |facts| facts.saved_guests = Ok(vec!["/q/save/a.save".into()]));
    // What is wrong counts for more than what is not known.
    breaks(check, None, "a.save", |facts| {
        facts.saved_guests = Ok(vec!["/q/save/a.save".into()]);
        facts.guests_on_shutdown = Err("unreadable".into());
    });
}

#[test]
fn libvirt_is_local_and_the_agents_folder_private() {
    breaks("libvirt-local", None, "16509", |facts| {
        facts.libvirt_listeners = Ok(vec!["something listens on TCP port 16509".into()]);
    });
    let check = "agent-state-private";
    let folder = |mode, open: &[(&str, u32)]| {
        let open = open.iter().map(|(name, mode)| ((*name).to_owned(), *mode)).collect();
        move |facts: &mut Facts| facts.state_folder = Ok(StateFolder::There { mode, open })
    };
    keeps(check, |facts| facts.state_folder = Ok(StateFolder::Missing));
    keeps(check, folder(0o500, &[]));
    breaks(check, None, "0750", folder(0o750, &[]));
    breaks(check, None, "host.key has 0640", folder(0o700, &[("host.key", 0o640)]));
}

#[test]
fn qemu_runs_as_the_agents_user() {
    let check = "qemu-user";
    let set = |name: &str, id, agent| {
        let user = Some(User { name: name.into(), id });
        move |facts: &mut Facts| (facts.qemu_user, facts.agent_user) = (Ok(user), Ok(agent))
    };
    keeps(check, set("root", 0, 0));
    keeps(check, set("+1000", 1_000, 1_000));
    let other = "user = libvirt-qemu (number 64055), and the agent is number 0";
    breaks(check, None, other, set("libvirt-qemu", 64_055, 0));
    breaks(check, None, "number 1000", set("root", 0, 1_000));
    breaks(check, None, "does not set `user`", |facts| facts.qemu_user = Ok(None));

    // What libvirt says counts as well: it may have been started with other settings, or built so.
    let runs = [Boots::Hardware];
    keeps(check, daemon(&runs, Some(0)));
    keeps(check, |facts| {
        facts.qemu_user = Ok(None);
        daemon(&runs, Some(0))(facts);
    });
    breaks(check, None, "libvirt runs QEMU as number 64055", daemon(&runs, Some(64_055)));
    breaks(check, None, "libvirt runs QEMU as number 107", |facts| {
        facts.qemu_user = Ok(None);
        daemon(&runs, Some(107))(facts);
    });
}

#[test]
fn the_clock_is_kept_right() {
    breaks("clock-synchronised", Some(0), "nothing keeps it right", |facts| {
        let error_most = Duration::from_secs(16);
        facts.hypervisor.clock = Ok(ClockFacts { synchronised: false, error_most });
    });
}

#[test]
fn classes_on_one_disk_share_its_room() {
    let offer = |fast: u64, standard: u64, device: u64| {
        move |facts: &mut Facts| {
            let classes = facts.storage.as_mut().unwrap();
            classes[0].offered_gib = fast;
            classes[1].offered_gib = standard;
            classes[1].device = device;
        }
    };
    // Each has 150 GiB that are free, and 50 that its volumes have.
    keeps("disk-room", offer(200, 200, 2));
    breaks("disk-room", None, "201 GiB offered, room for 200", offer(201, 200, 2));
    keeps("disk-room", offer(125, 125, 1));
    let shared = "fast and standard: 251 GiB offered, room for 250";
    breaks("disk-room", None, shared, offer(126, 125, 1));
    breaks("disk-room", None, "offered", offer(u64::MAX, u64::MAX, 1));
    keeps("disk-room", |facts| {
        let class = &mut facts.storage.as_mut().unwrap()[0];
        (class.offered_gib, class.free, class.used) = (1, GIB, 0);
    });
}

/// A measure that is `value`: the level that it allows, for each that is asked for whether it is
/// called passed.
fn graded(name: &str, change: impl Fn(&mut Facts)) -> (Option<u8>, [Status; 4]) {
    let mut facts = best();
    change(&mut facts);
    let status = |asked| finding(&Report::new(&facts, asked), name).status;
    (Report::new(&facts, 1).level, [status(0), status(1), status(2), status(3)])
}

#[test]
fn measures_decide_the_level() {
    use Status::{Fail as F, Pass as P};
    let levels = [[F, F, F, F], [P, P, F, F], [P, P, P, F], [P, P, P, P]];
    let rate = |value| {
        move |facts: &mut Facts| {
            let speed = facts.storage.as_mut().unwrap()[1].speed.as_mut().unwrap();
            speed.megabytes_per_second = value;
        }
    };
    let sync = |value| {
        move |facts: &mut Facts| {
            let speed = facts.storage.as_mut().unwrap()[0].speed.as_mut().unwrap();
            speed.sync = Duration::from_micros(value);
        }
    };
    let trip = |value| move |facts: &mut Facts| facts.round_trip = Ok(Duration::from_micros(value));
    for (level, status) in (0_u8..).zip(levels) {
        let expected = (Some(level), status);
        let at = usize::from(level);
        assert_eq!(graded("disk-throughput", rate([49, 50, 200, 500][at])), expected);
        assert_eq!(graded("disk-sync", sync([50_001, 50_000, 10_000, 2_000][at])), expected);
        let micros = [500_001, 500_000, 100_000, 30_000][at];
        assert_eq!(graded("broker-round-trip", trip(micros)), expected);
    }
    // Just short of the next level.
    assert_eq!(graded("disk-throughput", rate(499)).0, Some(2));
    assert_eq!(graded("disk-sync", sync(2_001)).0, Some(2));
    assert_eq!(graded("broker-round-trip", trip(30_001)).0, Some(2));
    let mut facts = best();
    facts.storage.as_mut().unwrap()[1].speed = Err("it is read-only".into());
    let report = Report::new(&facts, 1);
    assert_eq!(finding(&report, "disk-sync").found, "standard: it is read-only");
    assert_eq!(report.level, Some(0));
}

#[test]
fn bounds_get_stricter_with_the_level() {
    for check in &CHECKS {
        match check.needs {
            Needs::From(_) => {}
            Needs::AtLeast(bounds, _) => assert!(bounds.is_sorted(), "{}", check.name),
            Needs::AtMost(bounds, _) => {
                assert!(bounds.iter().rev().is_sorted(), "{}", check.name);
            }
        }
    }
}

#[test]
fn a_place_is_somewhere_on_earth() {
    let place = |country: &str, latitude, longitude| {
        let country = country.to_owned();
        move |facts: &mut Facts| {
            let place = facts.location.as_mut().unwrap();
            (place.country, place.latitude, place.longitude) = (country, latitude, longitude);
        }
    };
    let check = "location-stated";
    keeps(check, place("NZ", -41.29, 174.78));
    keeps(check, place("GH", 5.56, 0.0));
    for country in ["de", "DEU", "XX", "UK", "", "D E", "DE AT"] {
        breaks(check, Some(0), "ISO 3166-1", place(country, 48.1, 11.6));
    }
    for (north, east) in [(91.0, 0.0), (0.0, -180.5), (f64::NAN, 8.0), (8.0, f64::INFINITY)] {
        breaks(check, Some(0), "nowhere", place("DE", north, east));
    }
    breaks(check, Some(0), "sea", place("DE", 0.0, 0.0));
}
