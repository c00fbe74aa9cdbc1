//! The rules of the checks: a verdict for each from the facts alone.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Verdict,
    facts::{Boots, ClassFacts, Fact, Facts, Limit, StateFolder},
};

/// The oldest versions with all that the platform uses.
pub(super) const QEMU_LEAST: (u32, u32) = (7, 2);
pub(super) const LIBVIRT_LEAST: (u32, u32) = (9, 0);
const GIB: u64 = 1 << 30;

/// Programs that take a core dump and keep nothing of it.
const SINKS: [&str; 4] = ["/bin/false", "/usr/bin/false", "/bin/true", "/usr/bin/true"];

/// Countries as ISO 3166-1 names them.
const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI \
    BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY \
    CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN \
    GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH \
    KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO \
    MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL \
    PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV \
    SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN \
    VU WF WS YE YT ZA ZM ZW";

fn judge<T>(fact: &Fact<T>, rule: impl FnOnce(&T) -> Verdict) -> Verdict {
    match fact {
        Ok(known) => rule(known),
        Err(why) => Verdict::Unknown(why.clone()),
    }
}

pub(super) fn guest_boots(facts: &Facts) -> Verdict {
    judge(&facts.hypervisor.guest, |boots| match boots {
        Boots::Hardware => Verdict::Kept("a guest booted with KVM".into()),
        Boots::Software => Verdict::Kept("a guest booted in software".into()),
        Boots::Not => Verdict::Broken("no guest booted, neither with KVM nor in software".into()),
    })
}

pub(super) fn hardware_virtualisation(facts: &Facts) -> Verdict {
    let driver = facts.hypervisor.driver;
    // What boots now says nothing of the guests that are there: those run as the driver has chosen.
    judge(&facts.hypervisor.guest, |boots| match (boots, driver) {
        (Boots::Hardware, None | Some(Boots::Hardware)) => Verdict::Kept("KVM".into()),
        (Boots::Hardware, Some(Boots::Software | Boots::Not)) => Verdict::Broken(
            "a guest boots with KVM, and the agent runs guests in software since its start".into(),
        ),
        (Boots::Software, Some(Boots::Hardware)) => Verdict::Broken(
            "a guest boots in software only, and the agent runs guests with KVM since its start"
                .into(),
        ),
        (Boots::Software, _) => Verdict::Broken("software emulation only".into()),
        (Boots::Not, _) => Verdict::Broken("none".into()),
    })
}

fn version(fact: &Fact<(u32, u32)>, least: (u32, u32)) -> Verdict {
    judge(fact, |&found| {
        let text = format!("{}.{}", found.0, found.1);
        if found >= least { Verdict::Kept(text) } else { Verdict::Broken(text) }
    })
}

pub(super) fn qemu_version(facts: &Facts) -> Verdict {
    version(&facts.hypervisor.qemu, QEMU_LEAST)
}

pub(super) fn libvirt_version(facts: &Facts) -> Verdict {
    version(&facts.hypervisor.libvirt, LIBVIRT_LEAST)
}

pub(super) fn libvirt_answers(facts: &Facts) -> Verdict {
    judge(&facts.hypervisor.daemon, |answer| match answer {
        Err(why) => Verdict::Broken(why.clone()),
        Ok(daemon) => {
            let named = |boots: &Boots| match boots {
                Boots::Hardware => "with KVM",
                Boots::Software => "in software",
                Boots::Not => "with nothing",
            };
            let runs = daemon.runs.iter().map(named).collect::<Vec<_>>().join(" and ");
            match &facts.hypervisor.guest {
                _ if runs.is_empty() => {
                    Verdict::Broken("libvirt says that it runs no guests of x86_64".into())
                }
                _ if !daemon.keeps_secrets => {
                    Verdict::Broken("libvirt has no driver for secrets".into())
                }
                // Where none boots or that is not known, another check says so.
                Ok(boots @ (Boots::Hardware | Boots::Software)) if !daemon.runs.contains(boots) => {
                    Verdict::Broken(format!(
                        "a guest boots {}, and libvirt says that it runs guests {runs}",
                        named(boots)
                    ))
                }
                _ => Verdict::Kept(format!("libvirt runs guests {runs}")),
            }
        }
    })
}

pub(super) fn volumes_encrypted(facts: &Facts) -> Verdict {
    judge(&facts.hypervisor.encryption, |proof| match proof {
        Ok(()) => {
            Verdict::Kept("a volume was made and opened, and its content is not in its file".into())
        }
        Err(wrong) => Verdict::Broken(wrong.clone()),
    })
}

pub(super) fn keys_in_memory(facts: &Facts) -> Verdict {
    judge(&facts.keys_folder, |folder| {
        let text = folder.to_string();
        if folder.is_in_memory() { Verdict::Kept(text) } else { Verdict::Broken(text) }
    })
}

pub(super) fn consoles_in_memory(facts: &Facts) -> Verdict {
    judge(&facts.run_folders, |folders| match folders.iter().find(|it| !it.is_in_memory()) {
        Some(other) => Verdict::Broken(other.to_string()),
        None => {
            let texts: Vec<_> = folders.iter().map(ToString::to_string).collect();
            Verdict::Kept(texts.join(", "))
        }
    })
}

pub(super) fn logs_stay(facts: &Facts) -> Verdict {
    const AWAY: [&str; 16] = [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "9p",
        "afs",
        "lustre",
        "ocfs2",
        "gfs2",
        "glusterfs",
        "beegfs",
        "virtiofs",
        "coda",
        "pvfs2",
    ];
    judge(&facts.logs_folder, |mounted| {
        let kind = mounted.filesystem.as_str();
        let text = mounted.to_string();
        // What a program of its own serves may be anywhere.
        let away = AWAY.contains(&kind) || kind.starts_with("fuse");
        if away { Verdict::Broken(text) } else { Verdict::Kept(text) }
    })
}

pub(super) fn no_swap(facts: &Facts) -> Verdict {
    judge(&facts.swaps, |swaps| {
        let open: Vec<_> =
            swaps.iter().filter(|swap| swap.sealed.is_none()).map(|swap| &*swap.name).collect();
        if !open.is_empty() {
            return Verdict::Broken(format!("swap that can be read later: {}", open.join(", ")));
        }
        let sealed: Vec<_> = swaps
            .iter()
            .filter_map(|swap| Some(format!("{} ({})", swap.name, swap.sealed?)))
            .collect();
        Verdict::Kept(if sealed.is_empty() { "none".into() } else { sealed.join(", ") })
    })
}

pub(super) fn core_dumps_off(facts: &Facts) -> Verdict {
    judge(&facts.core_pattern, |pattern| {
        if leads_nowhere(pattern) {
            return Verdict::Kept(format!("the kernel keeps none: core_pattern is `{pattern}`"));
        }
        if let Some(command) = pattern.strip_prefix('|') {
            let program = command.split_whitespace().next().unwrap_or_default();
            let found = format!("the kernel hands them to {program}, whatever limits say");
            return Verdict::Broken(found);
        }
        let of = |name: &str, limit: &Limit| match limit {
            Limit::Bytes(0) => Verdict::Kept(format!("the limit of {name} is 0")),
            Limit::Bytes(bytes) => Verdict::Broken(format!(
                "the kernel writes them to `{pattern}`, of {name} up to {bytes} bytes"
            )),
            Limit::Unlimited => Verdict::Broken(format!(
                "the kernel writes them to `{pattern}`, of {name} without a limit"
            )),
        };
        let own = judge(&facts.core_limit, |limit| of("this process", limit));
        let daemons = judge(&facts.libvirt_core_limits, |daemons| {
            if daemons.is_empty() {
                let why = "no daemon of libvirt is seen to run, so its limit is not known";
                return Verdict::Unknown(why.into());
            }
            all(daemons.iter().map(|(name, limit)| of(name, limit)))
        });
        all([own, daemons])
    })
}

fn leads_nowhere(pattern: &str) -> bool {
    let program = pattern.strip_prefix('|').and_then(|command| command.split_whitespace().next());
    pattern == "/dev/null" || program.is_some_and(|program| SINKS.contains(&program))
}

pub(super) fn qemu_user(facts: &Facts) -> Verdict {
    let daemon = facts.hypervisor.daemon.as_ref().ok().and_then(|answer| answer.as_ref().ok());
    let runs_as = daemon.and_then(|daemon| daemon.qemu_user);
    judge(&facts.agent_user, |&agent| {
        let set = judge(&facts.qemu_user, |user| match user {
            Some(user) if user.id == agent => {
                Verdict::Kept(format!("qemu.conf sets user = {}, who the agent is", user.name))
            }
            Some(user) => Verdict::Broken(format!(
                "qemu.conf sets user = {} (number {}), and the agent is number {agent}",
                user.name, user.id
            )),
            // It was built with one, which it may say.
            None if runs_as.is_some() => Verdict::Kept("qemu.conf does not set `user`".into()),
            None => Verdict::Broken(
                "qemu.conf does not set `user`: it is the one that libvirt was built with".into(),
            ),
        });
        let used = runs_as.map(|user| match user {
            user if user == agent => Verdict::Kept("libvirt runs QEMU as the agent's user".into()),
            user => Verdict::Broken(format!(
                "libvirt runs QEMU as number {user}, and the agent is number {agent}"
            )),
        });
        all([Some(set), used].into_iter().flatten())
    })
}

pub(super) fn guest_core_dumps_off(facts: &Facts) -> Verdict {
    judge(&facts.qemu_settings, |settings| {
        // Without this setting the guest's memory is left out, but not QEMU's own, with keys.
        if let Some(on) = settings.get("dump_guest_core").filter(|on| *on != "0") {
            return Verdict::Broken(format!("qemu.conf sets dump_guest_core = {on}"));
        }
        if facts.core_pattern.as_ref().is_ok_and(|pattern| leads_nowhere(pattern)) {
            return Verdict::Kept("the kernel keeps none, whatever QEMU may".into());
        }
        match settings.get("max_core") {
            Some("0") => Verdict::Kept("max_core is 0".into()),
            Some(most) => Verdict::Broken(format!("qemu.conf sets max_core = {most}")),
            // The default was 0 once, and is `unlimited` in newer versions.
            None => Verdict::Broken("qemu.conf does not set max_core to 0".into()),
        }
    })
}

pub(super) fn no_hibernation(facts: &Facts) -> Verdict {
    judge(&facts.hibernation, |way| match way {
        None => Verdict::Kept("it is not set up".into()),
        Some(way) => Verdict::Broken(way.clone()),
    })
}

pub(super) fn no_saved_memory(facts: &Facts) -> Verdict {
    let settings = judge(&facts.qemu_settings, |settings| {
        let unwanted: Vec<_> = [
            "auto_dump_path",
            "save_image_format",
            "dump_image_format",
            "snapshot_image_format",
            "auto_shutdown_try_save",
        ]
        .into_iter()
        .filter(|name| !matches!(settings.get(name), None | Some("none")))
        .collect();
        if unwanted.is_empty() {
            Verdict::Kept("qemu.conf sets up neither saving nor dumping".into())
        } else {
            Verdict::Broken(format!("qemu.conf sets {}", unwanted.join(", ")))
        }
    });
    let service = judge(&facts.guests_on_shutdown, |action| match action.as_deref() {
        None => Verdict::Kept("libvirt-guests is not installed".into()),
        Some("shutdown") => Verdict::Kept("libvirt-guests shuts guests down".into()),
        Some(other) => Verdict::Broken(format!("libvirt-guests has ON_SHUTDOWN={other}")),
    });
    let files = judge(&facts.saved_guests, |files| {
        if files.is_empty() {
            Verdict::Kept("no guest was saved".into())
        } else {
            Verdict::Broken(format!("the memory of guests is in {}", files.join(", ")))
        }
    });
    all([settings, service, files])
}

/// Broken when one is, unknown when one is not known.
fn all(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let (mut kept, mut broken, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for verdict in verdicts {
        match verdict {
            Verdict::Kept(found) | Verdict::Measured(_, found) => kept.push(found),
            Verdict::Broken(found) => broken.push(found),
            Verdict::Unknown(why) => unknown.push(why),
        }
    }
    if !broken.is_empty() {
        Verdict::Broken(broken.join("; "))
    } else if !unknown.is_empty() {
        Verdict::Unknown(unknown.join("; "))
    } else {
        Verdict::Kept(kept.join("; "))
    }
}

pub(super) fn libvirt_local(facts: &Facts) -> Verdict {
    judge(&facts.libvirt_listeners, |listeners| {
        if listeners.is_empty() {
            Verdict::Kept("nothing listens on libvirt's ports".into())
        } else {
            Verdict::Broken(listeners.join("; "))
        }
    })
}

pub(super) fn clock_synchronised(facts: &Facts) -> Verdict {
    judge(&facts.hypervisor.clock, |clock| {
        let most = clock.error_most.as_millis();
        if clock.synchronised {
            Verdict::Kept(format!("it is kept right, to {most} ms at worst"))
        } else {
            Verdict::Broken("the kernel says that nothing keeps it right".into())
        }
    })
}

pub(super) fn memory_locking(facts: &Facts) -> Verdict {
    judge(&facts.locked_memory, |limit| match limit {
        Limit::Unlimited => Verdict::Kept("without a limit".into()),
        Limit::Bytes(bytes) => Verdict::Broken(format!("no more than {} KiB", bytes >> 10)),
    })
}

pub(super) fn agent_state_private(facts: &Facts) -> Verdict {
    judge(&facts.state_folder, |folder| match folder {
        StateFolder::Missing => {
            Verdict::Kept("not there yet; the agent makes it for its owner only".into())
        }
        StateFolder::There { mode, open } => {
            let mut wrong: Vec<_> =
                open.iter().map(|(name, mode)| format!("{name} has {mode:04o}")).collect();
            if mode & 0o077 != 0 {
                wrong.insert(0, format!("the folder has {mode:04o}"));
            }
            if wrong.is_empty() {
                Verdict::Kept(format!("{mode:04o}, and nothing in it is for others"))
            } else {
                Verdict::Broken(wrong.join(", "))
            }
        }
    })
}

pub(super) fn disk_room(facts: &Facts) -> Verdict {
    judge(&facts.storage, |classes| {
        if classes.is_empty() {
            return Verdict::Unknown("no storage class is offered".into());
        }
        // Classes on one filesystem share its room.
        let mut disks: BTreeMap<u64, Vec<&ClassFacts>> = BTreeMap::new();
        for class in classes {
            disks.entry(class.device).or_default().push(class);
        }
        all(disks.values().map(|classes| {
            let names: Vec<_> = classes.iter().map(|class| &*class.class).collect();
            let offered = classes.iter().fold(0, |sum: u64, c| sum.saturating_add(c.offered_gib));
            let free = classes.iter().map(|class| class.free).min().unwrap_or(0);
            let used = classes.iter().fold(free, |sum, class| sum.saturating_add(class.used));
            let room = used / GIB;
            let text = format!("{}: {offered} GiB offered, room for {room}", names.join(" and "));
            if room >= offered { Verdict::Kept(text) } else { Verdict::Broken(text) }
        }))
    })
}

/// What the slowest class has.
fn slowest(
    facts: &Facts,
    measure: fn(&super::DiskSpeed) -> u64,
    worst: fn(u64, u64) -> u64,
    unit: &str,
) -> Verdict {
    judge(&facts.storage, |classes| {
        let mut value = None;
        let mut texts = Vec::new();
        for class in classes {
            match &class.speed {
                Ok(speed) => {
                    let one = measure(speed);
                    value = Some(value.map_or(one, |other| worst(one, other)));
                    texts.push(format!("{}: {one} {unit}", class.class));
                }
                Err(why) => return Verdict::Unknown(format!("{}: {why}", class.class)),
            }
        }
        match value {
            Some(value) => Verdict::Measured(value, texts.join(", ")),
            None => Verdict::Unknown("no storage class is offered".into()),
        }
    })
}

pub(super) fn disk_throughput(facts: &Facts) -> Verdict {
    slowest(facts, |speed| speed.megabytes_per_second, u64::min, "MB/s")
}

pub(super) fn disk_sync(facts: &Facts) -> Verdict {
    slowest(facts, |speed| micros(speed.sync), u64::max, "µs")
}

pub(super) fn broker_round_trip(facts: &Facts) -> Verdict {
    judge(&facts.round_trip, |time| {
        let text = format!("{:.1} ms", time.as_secs_f64() * 1e3);
        Verdict::Measured(micros(*time).div_ceil(1_000), text)
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn location_stated(facts: &Facts) -> Verdict {
    judge(&facts.location, |place| {
        let (north, east) = (place.latitude, place.longitude);
        let text = format!("{}, {north} north, {east} east", place.country);
        let wrong = if !COUNTRIES.split_whitespace().any(|country| country == place.country) {
            "is no country of ISO 3166-1"
        } else if !(-90.0..=90.0).contains(&north) || !(-180.0..=180.0).contains(&east) {
            "is nowhere on earth"
        } else if north.abs() < 0.01 && east.abs() < 0.01 {
            "is in the sea, where coordinates that were not filled in are"
        } else {
            return Verdict::Kept(text);
        };
        Verdict::Broken(format!("{text}: {wrong}"))
    })
}
