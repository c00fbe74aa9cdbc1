//! What libvirt's configuration, files and sockets say.

use std::fs;

use super::{Root, missing, system::core_limit, unread};
use crate::standard::facts::{Fact, Limit, Settings, User};

/// libvirt's ports for TCP and TLS.
const PORTS: [(&str, u16); 2] = [("tcp_port", 16_509), ("tls_port", 16_514)];
/// The daemons that may answer on the network.
const DAEMONS: [&str; 2] = ["etc/libvirt/libvirtd.conf", "etc/libvirt/virtproxyd.conf"];

/// The daemons that have secrets of guests in their memory: one for everything, or one for QEMU and
/// one for secrets.
const SECRET_DAEMONS: [&str; 3] = ["libvirtd", "virtqemud", "virtsecretd"];

/// The settings of a file; none are set where it is missing.
pub(super) fn settings(root: Root<'_>, path: &str) -> Fact<Settings> {
    Ok(Settings::parse(&root.text_if_there(path)?.unwrap_or_default()))
}

/// The largest core dumps of those of libvirt's daemons that run and have secrets.
pub(super) fn core_limits(root: Root<'_>) -> Fact<Vec<(String, Limit)>> {
    let entries = fs::read_dir(root.path("proc")).map_err(|error| unread("proc", &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let process = entry.map_err(|error| unread("proc", &error))?.file_name();
        let Some(process) = process.to_str().filter(|name| name.parse::<u32>().is_ok()) else {
            continue;
        };
        // One that has ended meanwhile has none.
        let name = root.text(&format!("proc/{process}/comm")).unwrap_or_default();
        let name = name.trim();
        if !SECRET_DAEMONS.contains(&name) {
            continue;
        }
        match core_limit(root, process) {
            Ok(limit) => found.push((name.to_owned(), limit)),
            Err(_) if !root.path(format!("proc/{process}")).exists() => {}
            Err(why) => return Err(why),
        }
    }
    found.sort();
    Ok(found)
}

/// Whom QEMU is set to run as; none where nothing is set. As libvirt reads it: `+` comes before a
/// number, and what is the name of a user is no number.
pub(super) fn qemu_user(root: Root<'_>, settings: &Fact<Settings>) -> Fact<Option<User>> {
    let settings = settings.as_ref().map_err(Clone::clone)?;
    let Some(name) = settings.get("user") else { return Ok(None) };
    let named = |id| Ok(Some(User { name: name.to_owned(), id }));
    if let Some(id) = name.strip_prefix('+').and_then(|number| number.parse().ok()) {
        return named(id);
    }
    let users = root.text_if_there("etc/passwd")?.unwrap_or_default();
    let of_name = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    // Its password, which is elsewhere, then its number.
    let id = of_name.and_then(|rest| rest.split(':').nth(1)).unwrap_or(name);
    match id.parse() {
        Ok(id) => named(id),
        Err(_) => Err(format!("qemu.conf sets the user {name}, who is not in /etc/passwd")),
    }
}

/// What libvirt-guests does on shutdown; none where it is not installed.
pub(super) fn guests_on_shutdown(root: Root<'_>) -> Fact<Option<String>> {
    let places = ["usr/lib/libvirt/libvirt-guests.sh", "usr/libexec/libvirt-guests.sh"];
    let mut script = None;
    for place in places {
        script = script.or(root.text_if_there(place)?);
    }
    let Some(script) = script else { return Ok(None) };
    let mut action = None;
    for file in ["etc/default/libvirt-guests", "etc/sysconfig/libvirt-guests"] {
        let found = settings(root, file)?;
        action = action.or_else(|| found.get("ON_SHUTDOWN").map(str::to_owned));
    }
    // What it does when nothing is said is in the script, and differs between versions.
    let usual = || {
        let value = script.lines().find_map(|line| line.strip_prefix("ON_SHUTDOWN="));
        value.unwrap_or("suspend").trim().trim_matches('"').to_owned()
    };
    Ok(Some(action.unwrap_or_else(usual)))
}

/// The files with the memory of guests.
pub(super) fn saved_guests(root: Root<'_>) -> Fact<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["/var/lib/libvirt/qemu/save", "/var/lib/libvirt/qemu/dump"] {
        let entries = match fs::read_dir(root.path(folder)) {
            Ok(entries) => entries,
            Err(error) if missing(&error) => continue,
            Err(error) => return Err(unread(folder, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| unread(folder, &error))?;
            found.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    found.sort();
    Ok(found)
}

/// Why libvirt answers on the network, or would.
pub(super) fn listeners(root: Root<'_>) -> Fact<Vec<String>> {
    let mut found = Vec::new();
    let mut ports: Vec<u16> = PORTS.iter().map(|(_, port)| *port).collect();
    for file in DAEMONS {
        let settings = settings(root, file)?;
        if settings.get("listen_tcp").is_some_and(|value| value != "0") {
            found.push(format!("/{file} sets listen_tcp"));
        }
        ports.extend(PORTS.iter().filter_map(|(name, _)| settings.get(name)?.parse::<u16>().ok()));
    }
    ports.sort_unstable();
    ports.dedup();
    let mut open = listening(&root.text("proc/net/tcp")?);
    // A kernel without IPv6 has no such file.
    open.extend(listening(&root.text_if_there("proc/net/tcp6")?.unwrap_or_default()));
    let open = ports.iter().filter(|port| open.contains(port));
    found.extend(open.map(|port| format!("something listens on TCP port {port}")));
    Ok(found)
}

/// The ports that something listens on, of a table as `/proc/net/tcp`.
fn listening(table: &str) -> Vec<u16> {
    const LISTEN: &str = "0A";
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(3) == Some(&LISTEN))
        .filter_map(|row| u16::from_str_radix(row.get(1)?.rsplit(':').next()?, 16).ok())
        .collect()
}
