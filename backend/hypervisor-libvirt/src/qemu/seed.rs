//! What a guest is told when it starts: a small disk labelled `CIDATA`, which cloud-init reads as
//! its data source NoCloud. It may hold secrets, so it is in memory only, and for this user only.
//!
//! A guest is a new instance to cloud-init exactly when that was asked for: its instance id has
//! the counts of first boots and rebuilds in it.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Seek, Write},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use fairmazon_hypervisor::{HypervisorError, Marks, Result};
use fairmazon_model::{id::InstanceId, machine::MachineSpec};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use super::Network;
use crate::{private, xml::mac};

/// The label that cloud-init looks for, as FAT has it.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// Room for what a file system has beside its files.
const ROOM: usize = 256 * 1024;
const SECTOR: usize = 512;
/// What a host name and each of its parts have at most.
const LONGEST: (usize, usize) = (253, 63);

/// The seeds of a host's machines, in a folder in memory.
#[derive(Debug)]
pub(super) struct Seeds {
    folder: PathBuf,
}

impl Seeds {
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        private::make_folder(&folder)?;
        Ok(Self { folder })
    }

    /// The file of a machine's seed.
    pub(super) fn path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(instance.to_string())
    }

    /// Makes a machine's seed for its next start.
    pub(super) fn write(&self, spec: &MachineSpec, marks: Marks, network: &Network) -> Result<()> {
        let write = || {
            let files = files(spec, marks, network);
            private::replace(&self.path(spec.instance), |file| {
                // What nothing is written to takes no memory.
                file.set_len(length(&files) as u64)?;
                fill(&mut *file, &files)?;
                let last = self.made(spec.instance).unwrap_or(SystemTime::UNIX_EPOCH);
                // Also when the clock was set back meanwhile.
                file.set_modified(SystemTime::now().max(last + Duration::from_micros(1)))
            })
        };
        write().map_err(|error| HypervisorError::Driver {
            attempted: format!("make the seed of {}", spec.instance),
            source: error.into(),
        })
    }

    /// Which start of the machine the seed was made for: a number that grows with each.
    pub(super) fn incarnation(&self, instance: InstanceId) -> io::Result<u64> {
        let since = self.made(instance)?.duration_since(SystemTime::UNIX_EPOCH);
        Ok(since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)))
    }

    fn made(&self, instance: InstanceId) -> io::Result<SystemTime> {
        fs::metadata(self.path(instance))?.modified()
    }

    /// Forgets a seed.
    pub(super) fn remove(&self, instance: InstanceId) {
        // A machine that never ran has none.
        let _ = fs::remove_file(self.path(instance));
    }
}

/// The files of a seed.
fn files(spec: &MachineSpec, marks: Marks, network: &Network) -> Vec<(&'static str, String)> {
    let mut files = vec![("meta-data", meta_data(spec, marks)), ("user-data", user_data(spec))];
    if *network != Network::None {
        files.push(("network-config", network_config(spec)));
    }
    files
}

fn meta_data(spec: &MachineSpec, marks: Marks) -> String {
    let (id, host) = (spec.instance, host_name(spec));
    // The definition tells of a first boot, the marks of a rebuild that is done.
    let (first_boots, rebuilds) = (spec.first_boots, marks.done.rebuilds);
    let keys = list("public-keys", &spec.ssh_keys);
    format!("instance-id: \"{id}-{first_boots}-{rebuilds}\"\nlocal-hostname: \"{host}\"\n{keys}")
}

/// The customer's own, as it is. Without any, what lets the customer in.
fn user_data(spec: &MachineSpec) -> String {
    if spec.user_data.is_empty() {
        format!("#cloud-config\n{}", list("ssh_authorized_keys", &spec.ssh_keys))
    } else {
        spec.user_data.clone()
    }
}

fn network_config(spec: &MachineSpec) -> String {
    let mac = mac(spec);
    format!(
        "version: 2\nethernets:\n  primary:\n    match:\n      macaddress: \"{mac}\"\n    dhcp4: true\n"
    )
}

fn list(name: &str, texts: &[String]) -> String {
    if texts.is_empty() {
        return String::new();
    }
    let items: String = texts.iter().map(|text| format!("  - {}\n", quoted(text))).collect();
    format!("{name}:\n{items}")
}

/// The text as YAML in double quotes, which can hold any.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' => quoted.push(character),
            // Infallible: a String takes all that is written to it.
            other => drop(write!(quoted, "\\U{:08x}", u32::from(other))),
        }
    }
    quoted.push('"');
    quoted
}

/// The machine's name as far as a host may have it, else its id.
fn host_name(spec: &MachineSpec) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let mut name = String::new();
    for part in spec.name.split('.') {
        let part: String = part.chars().map(plain).take(LONGEST.1).collect();
        let part = part.trim_matches('-');
        let dot = usize::from(!name.is_empty());
        if part.is_empty() || name.len() + dot + part.len() > LONGEST.0 {
            continue;
        }
        name.extend((dot == 1).then_some('.'));
        name.push_str(part);
    }
    if name.is_empty() { spec.instance.to_string().to_lowercase() } else { name }
}

/// How large a disk is that holds these files, in bytes.
fn length(files: &[(&str, String)]) -> usize {
    let content: usize = files.iter().map(|(_, text)| text.len()).sum();
    // A file system of this kind takes some parts in a thousand for itself.
    (ROOM + content + content / 64).next_multiple_of(SECTOR)
}

/// Puts these files onto an empty disk.
fn fill(mut disk: impl Read + Write + Seek, files: &[(&str, String)]) -> io::Result<()> {
    fatfs::format_volume(&mut disk, FormatVolumeOptions::new().volume_label(LABEL))?;
    let file_system = FileSystem::new(&mut disk, FsOptions::new())?;
    for (name, text) in files {
        file_system.root_dir().create_file(name)?.write_all(text.as_bytes())?;
    }
    file_system.unmount()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Cursor,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use fairmazon_hypervisor::{
        Counters,
        contract::{instance, spec},
    };
    use proptest::prelude::*;

    use super::*;

    fn bridge() -> Network {
        Network::Bridge("guests".into())
    }

    fn with_name(name: &str) -> MachineSpec {
        MachineSpec { name: name.into(), ..spec(1) }
    }

    fn disk(files: &[(&str, String)]) -> io::Result<Vec<u8>> {
        let mut disk = Cursor::new(vec![0; length(files)]);
        fill(&mut disk, files)?;
        Ok(disk.into_inner())
    }

    fn read(disk: Vec<u8>) -> (String, Vec<(String, String)>) {
        let file_system = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
        let label = file_system.read_volume_label_from_root_dir().unwrap().unwrap();
        let root = file_system.root_dir();
        let texts = root.iter().map(|entry| {
            let entry = entry.unwrap();
            let mut text = String::new();
            entry.to_file().read_to_string(&mut text).unwrap();
            (entry.file_name(), text)
        });
        (label, texts.collect())
    }

    #[test]
    fn a_seed_has_what_cloud_init_reads() {
        let mut spec = with_name("Web Server_1.example.com");
        spec.user_data = "#!/bin/sh\necho \"it's \u{1f980}\"\n".into();
        spec.ssh_keys = vec!["ssh-ed25519 AAAA me@\"home\"".into(), "ssh-rsa B\\\u{7f}".into()];
        let disk = disk(&files(&spec, Marks::default(), &bridge())).unwrap();
        let (label, files) = read(disk);
        assert_eq!(label, "CIDATA");
        let [(_, meta), (_, user), (_, network)] = &files[..] else { panic!("{files:?}") };
        assert_eq!(
            *meta,
            format!(
                "instance-id: \"{}-0-0\"\nlocal-hostname: \"web-server-1.example.com\"\n\
                 public-keys:\n  - \"ssh-ed25519 AAAA me@\\\"home\\\"\"\n  - \"ssh-rsa B\\\\\\U0000007f\"\n",
                instance(1)
            )
        );
        assert_eq!(*user, spec.user_data);
        assert!(network.contains(&format!("macaddress: \"{}\"", mac(&spec))), "{network}");
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["meta-data", "user-data", "network-config"]);
    }

    #[test]
    fn a_machine_without_user_data_lets_its_customer_in() {
        let spec = MachineSpec { ssh_keys: vec!["ssh-ed25519 A".into()], ..spec(1) };
        let files = files(&spec, Marks::default(), &Network::None);
        let keys = "#cloud-config\nssh_authorized_keys:\n  - \"ssh-ed25519 A\"\n";
        assert_eq!(files[1], ("user-data", keys.into()));
        assert_eq!(files.len(), 2, "and one without a card has no network");
        let none = MachineSpec { ssh_keys: Vec::new(), ..spec };
        assert_eq!(user_data(&none), "#cloud-config\n");
    }

    #[test]
    fn an_instance_is_new_when_that_is_asked_for() {
        let id = |first_boots, rebuilds, others| {
            let spec = MachineSpec { first_boots, reboots: others, ..spec(1) };
            let done = Counters { rebuilds, reboots: others, ..Counters::default() };
            let marks = Marks { done, spec_version: others, ..Marks::default() };
            meta_data(&spec, marks).lines().next().unwrap().to_owned()
        };
        assert_eq!(id(1, 2, 0), id(1, 2, 9));
        assert!(id(1, 2, 0) != id(2, 2, 0) && id(1, 2, 0) != id(1, 3, 0));
    }

    #[test]
    fn names_become_names_of_hosts() {
        let id = instance(1).to_string().to_lowercase();
        let long = "x".repeat(70);
        for (name, host) in [
            ("machine-1", "machine-1"),
            ("Ümlaut_a b", "mlaut-a-b"),
            ("..a..b..", "a.b"),
            ("-", &id),
            ("", &id),
            (&long, &long[..63]),
        ] {
            assert_eq!(host_name(&with_name(name)), host, "{name:?}");
        }
    }

    #[test]
    fn a_seed_is_for_this_user_only_small_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let seeds = Seeds::open(folder.path().join("seeds")).unwrap();
        let path = seeds.path(instance(1));
        for _ in 0..2 {
            seeds.write(&spec(1), Marks::default(), &bridge()).unwrap();
            let data = fs::metadata(&path).unwrap();
            assert_eq!(data.permissions().mode() & 0o777, 0o600);
            assert!(data.blocks() * 512 <= 64 * 1024 && data.len().is_multiple_of(512), "{data:?}");
            assert_eq!(read(fs::read(&path).unwrap()).0, "CIDATA");
        }
        // Its number grows with each start, also when the clock was set back.
        let later = SystemTime::now() + Duration::from_secs(3_600);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        let before = seeds.incarnation(instance(1)).unwrap();
        seeds.write(&spec(1), Marks::default(), &bridge()).unwrap();
        assert!(seeds.incarnation(instance(1)).unwrap() > before);
        seeds.remove(instance(1));
        assert_eq!(fs::read_dir(&seeds.folder).unwrap().count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_user_data_arrives_as_it_is(user_data in "\\PC{1,2000}", times in 1_usize..300) {
            let spec = MachineSpec { user_data: user_data.repeat(times), ..spec(1) };
            let (_, files) = read(disk(&files(&spec, Marks::default(), &bridge())).unwrap());
            prop_assert_eq!(&files[1].1, &spec.user_data);
        }

        #[test]
        fn any_name_becomes_one_of_a_host(name in any::<String>()) {
            let host = host_name(&with_name(&name));
            let part = |part: &str| {
                let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                (1..=63).contains(&part.len()) && part.chars().all(plain)
                    && !part.starts_with('-') && !part.ends_with('-')
            };
            prop_assert!(host.len() <= 253 && host.split('.').all(part), "{host}");
        }

        #[test]
        fn any_text_is_one_line_of_printable_yaml(text in any::<String>()) {
            let quoted = quoted(&text);
            prop_assert!(!quoted.chars().any(char::is_control));
            prop_assert!(quoted.starts_with('"') && quoted.ends_with('"'));
        }
    }
}
