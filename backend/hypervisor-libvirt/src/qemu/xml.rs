//! Domains, disks and secrets of QEMU in libvirt's XML, and the disks of a running domain read
//! from it.

use std::path::{Path, PathBuf};

use fairmazon_model::{
    id::VolumeId,
    machine::{Disk, MachineSpec},
};

use super::{
    Network,
    accelerator::EMULATOR,
    balloon::SAYS_EVERY,
    growth::Growth,
    image::Kernel,
    migration::{Pci, Places},
};
use crate::xml::{device_name, escape, mac, note_element, title, unescape};

/// What the usage of every secret of ours begins with.
pub(super) const SECRET_USAGE: &str = "fairmazon/";

/// The oldest processor that guests see: every x86-64 host of the last decade has it, in software
/// too, so that machines can move between hosts.
const CPU: &str = "Nehalem";

/// The machine type of guests that are started: that of the oldest QEMU that the host standard
/// allows, and not the newest that this host's knows, so that guests can move to any other host.
const MACHINE: &str = "pc-i440fx-7.2";

/// What a domain is made from beside its spec.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) domain_type: &'a str,
    pub(super) uuid: &'a str,
    pub(super) note: &'a str,
    pub(super) network: &'a Network,
    pub(super) console: &'a Path,
    pub(super) seed: &'a Path,
    pub(super) kernel: Option<&'a Kernel>,
    /// The file of each disk's volume, boot first.
    pub(super) files: Vec<PathBuf>,
    /// Where its guest has its devices, when it has them already.
    pub(super) places: Option<&'a Places>,
    /// What room it has to grow; none where it has none.
    pub(super) growth: Option<&'a Growth>,
}

/// A domain. Its memory is in no core dump.
pub(super) fn domain(spec: &MachineSpec, parts: &Parts<'_>) -> String {
    let disks: String = spec
        .all_disks()
        .zip(&parts.files)
        .enumerate()
        .map(|(index, (each, file))| {
            match parts.places.and_then(|places| places.disks.get(&each.volume)) {
                Some(place) => disk(each, file, &place.device(), Some(place.at)),
                None => disk(each, file, &device_name(index), None),
            }
        })
        .collect();
    let at = |place: fn(&Places) -> Option<Pci>| address(parts.places.and_then(place));
    let machine =
        parts.places.map_or_else(|| MACHINE.to_owned(), |places| places.machine.to_string());
    let boot = match parts.kernel {
        None => "<boot dev='hd'/>".to_owned(),
        Some(kernel) => format!(
            "<kernel>{}</kernel>{}<cmdline>{}</cmdline>",
            path(&kernel.kernel),
            kernel
                .initrd
                .as_deref()
                .map_or_else(String::new, |initrd| format!("<initrd>{}</initrd>", path(initrd))),
            escape(&kernel.cmdline),
        ),
    };
    let card = match parts.network {
        Network::None => String::new(),
        Network::Bridge(bridge) => format!(
            "<interface type='bridge'><mac address='{}'/><source bridge='{}'/>\
             <model type='virtio'/>{}</interface>",
            mac(spec),
            escape(bridge),
            at(|places| places.card),
        ),
    };
    format!(
        "<domain type='{domain_type}'><name>{name}</name><uuid>{uuid}</uuid>\
         <title>{title}</title><metadata>{note}</metadata>\
         {most}<memory unit='MiB' dumpCore='off'>{memory}</memory>{vcpus}\
         <os><type arch='x86_64' machine='{machine}'>hvm</type>{boot}</os><features><acpi/><apic/></features>\
         <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>{CPU}</model>{numa}</cpu>\
         <clock offset='utc'/><on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>\
         <on_crash>destroy</on_crash><devices><emulator>{EMULATOR}</emulator>{modules}{disks}{seed}{card}\
         <serial type='file'><source path='{console}' append='on'/><target port='0'/></serial>{agent}\
         {balloon}\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend>{rng}</rng>\
         </devices></domain>",
        domain_type = parts.domain_type,
        name = spec.instance,
        uuid = parts.uuid,
        title = title(spec),
        note = note_element(parts.note),
        memory = spec.memory.0,
        vcpus = parts.growth.map_or_else(
            || format!("<vcpu>{}</vcpu>", spec.vcpus.0),
            |growth| growth.vcpus(spec.vcpus),
        ),
        most = parts.growth.map_or_else(String::new, Growth::most),
        numa = parts.growth.map_or_else(String::new, Growth::numa),
        modules = parts.growth.map_or_else(String::new, Growth::modules),
        console = path(parts.console),
        seed = seed(parts.seed, &at(|places| Some(places.scsi))),
        agent = match parts.places {
            None => agent(""),
            // What was started before there was an agent's channel has none.
            Some(places) => places.serial.map_or_else(String::new, |it| agent(&address(Some(it)))),
        },
        balloon = balloon(parts.places),
        rng = at(|places| Some(places.rng)),
    )
}

/// A disk: always encrypted. Where what it is on is full, its guest stands still and has lost
/// nothing; of any other error the guest is told.
pub(super) fn disk(disk: &Disk, file: &Path, device: &str, at: Option<Pci>) -> String {
    let read_only = if disk.read_only { "<readonly/>" } else { "" };
    format!(
        "<disk type='file' device='disk'>\
         <driver name='qemu' type='qcow2' cache='none' discard='unmap' \
         error_policy='enospace' rerror_policy='report'/>\
         <source file='{file}'><encryption format='luks'>\
         <secret type='passphrase' uuid='{uuid}'/></encryption></source>\
         <target dev='{device}' bus='virtio'/>{read_only}{at}</disk>",
        file = path(file),
        at = address(at),
        uuid = secret_uuid(disk.volume),
    )
}

/// What the guest reads its user data from: on a bus of its own, so that volumes have the names
/// `vda` and so on, and on one that every image for clouds has a driver for.
fn seed(file: &Path, at: &str) -> String {
    format!(
        "<controller type='scsi' index='0' model='virtio-scsi'>{at}</controller><disk type='file' device='disk'>\
         <driver name='qemu' type='raw'/><source file='{}'/><target dev='sda' bus='scsi'/>\
         <readonly/></disk>",
        path(file)
    )
}

/// The channel of the guest's agent. libvirt puts its socket where only this user looks.
fn agent(at: &str) -> String {
    format!(
        "<controller type='virtio-serial' index='0'>{at}</controller>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/>\
         <address type='virtio-serial' controller='0' bus='0' port='1'/></channel>"
    )
}

/// The device through which memory is taken back, which the guest also tells of what it has freed:
/// the host has that again at once. A guest that runs out of memory takes back from it by itself.
/// Memory is neither locked nor taken beforehand.
fn balloon(places: Option<&Places>) -> String {
    let ways = match places {
        // What was started before had one that does neither.
        Some(places) if !places.frees => "",
        _ => " autodeflate='on' freePageReporting='on'",
    };
    let at = address(places.map(|places| places.balloon));
    format!("<memballoon model='virtio'{ways}><stats period='{SAYS_EVERY}'/>{at}</memballoon>")
}

/// A backup of one disk of a running domain into the file of a volume that is there: encrypted by
/// QEMU, as the volume is.
pub(super) fn backup(device: &str, (volume, file): (VolumeId, &Path)) -> String {
    format!(
        "<domainbackup mode='push'><disks><disk name='{}' backup='yes' type='file'>\
         <driver type='qcow2'/><target file='{}'><encryption format='luks'>\
         <secret type='passphrase' uuid='{}'/></encryption></target></disk></disks></domainbackup>",
        escape(device),
        path(file),
        secret_uuid(volume)
    )
}

/// Where a device is; libvirt chooses where that is not said.
fn address(at: Option<Pci>) -> String {
    let Some(Pci { slot, function }) = at else { return String::new() };
    format!(
        "<address type='pci' domain='0x0000' bus='0x00' slot='0x{slot:02x}' \
         function='0x{function:x}'/>"
    )
}

/// The secret of a volume's key: never on a disk, never given out.
pub(super) fn secret(volume: VolumeId) -> String {
    format!(
        "<secret ephemeral='yes' private='yes'><uuid>{}</uuid>\
         <usage type='volume'>{}</usage></secret>",
        secret_uuid(volume),
        secret_usage(volume)
    )
}

/// What the secret of a volume is for.
pub(super) fn secret_usage(volume: VolumeId) -> String {
    format!("<volume>{SECRET_USAGE}{volume}</volume>")
}

/// The volume's id in the form of a UUID: both are 128 bits.
fn secret_uuid(volume: VolumeId) -> String {
    crate::xml::uuid(volume.ulid())
}

fn path(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

/// A volume's disk of a running domain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LiveDisk {
    /// The file behind it.
    pub(super) file: PathBuf,
    /// Its name in the domain, `vda` and so on.
    pub(super) device: String,
    /// Its whole element.
    pub(super) element: String,
}

/// The volumes' disks in libvirt's description of a domain; the seed is none.
pub(super) fn live_disks(domain: &str) -> Vec<LiveDisk> {
    let mut disks = Vec::new();
    let mut rest = domain;
    while let Some(start) = rest.find("<disk ") {
        let Some(length) = rest[start..].find("</disk>") else { break };
        let end = start + length + "</disk>".len();
        let element = &rest[start..end];
        let file = attribute(element, "<source ", "file");
        let device = attribute(element, "<target ", "dev");
        if let (Some(file), Some(device)) = (file, device)
            && device.starts_with("vd")
        {
            disks.push(LiveDisk { file: file.into(), device, element: element.into() });
        }
        rest = &rest[end..];
    }
    disks
}

/// The network cards in libvirt's description of a running domain, as the host knows them.
pub(super) fn live_cards(domain: &str) -> Vec<String> {
    let mut cards = Vec::new();
    let mut rest = domain;
    while let Some(start) = rest.find("<interface ") {
        let Some(length) = rest[start..].find("</interface>") else { break };
        cards.extend(attribute(&rest[start..start + length], "<target ", "dev"));
        rest = &rest[start + length..];
    }
    cards
}

fn attribute(element: &str, tag: &str, name: &str) -> Option<String> {
    let tag = &element[element.find(tag)?..];
    let tag = &tag[..tag.find('>')?];
    let from = tag.find(&format!(" {name}='"))? + name.len() + 3;
    let value = &tag[from..];
    Some(unescape(&value[..value.find('\'')?]))
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::{spec, volume};

    use super::*;

    fn disks(files: &[&str]) -> String {
        let mut spec = spec(1);
        let data = |file: &&str| Disk { name: (*file).into(), ..spec.boot.clone() };
        spec.disks = files[1..].iter().map(data).collect();
        let parts = Parts {
            domain_type: "qemu",
            uuid: "u",
            note: "<disk ><source file='x'><target dev='y'></disk>",
            network: &Network::None,
            console: Path::new("/c"),
            seed: Path::new("/seed"),
            kernel: None,
            files: files.iter().map(PathBuf::from).collect(),
            places: None,
            growth: None,
        };
        domain(&spec, &parts)
    }

    #[test]
    fn disks_are_found_again() {
        let files = ["/a b/<&>.qcow2", "/it's", "/c"];
        let found: Vec<_> = live_disks(&disks(&files))
            .into_iter()
            .map(|disk| (disk.file.display().to_string(), disk.device))
            .collect();
        let wanted = [(files[0], "vda"), (files[1], "vdb"), (files[2], "vdc")];
        assert_eq!(found, wanted.map(|(file, device)| (file.to_owned(), device.to_owned())));
    }

    #[test]
    fn the_processor_is_the_same_on_every_host() {
        let domain = disks(&["/a"]);
        let model = "<cpu mode='custom' match='exact' check='none'>\
                     <model fallback='forbid'>Nehalem</model>";
        assert!(domain.contains(model), "{domain}");
        assert_eq!(domain.matches("<cpu ").count(), 1, "{domain}");
    }

    #[test]
    fn every_disk_but_the_seed_is_encrypted() {
        let domain = disks(&["/a", "/b"]);
        let count = |text: &str| domain.matches(text).count();
        assert_eq!(count("<disk type="), 3);
        assert_eq!(count("<encryption format='luks'>"), 2);
        assert_eq!(count(" error_policy='enospace' rerror_policy='report'/>"), 2);
        assert_eq!(count("<source file='/seed'/><target dev='sda' bus='scsi'/><readonly/>"), 1);
    }

    #[test]
    fn a_guest_starts_on_a_machine_that_the_oldest_host_knows() {
        assert_eq!(disks(&["/a"]).matches("machine='pc-i440fx-7.2'>").count(), 1);
    }

    #[test]
    fn the_agents_channel_is_a_socket_that_libvirt_makes_its_own_place_for() {
        let domain = disks(&["/a"]);
        let channel = &domain[domain.find("<channel type='unix'>").unwrap()..];
        let channel = &channel[..channel.find("</channel>").unwrap()];
        assert!(channel.contains("org.qemu.guest_agent.0") && !channel.contains("<source"));
    }

    #[test]
    fn cards_are_found() {
        let card = "<interface type='bridge'><mac address='a'/><source bridge='b'/><target dev='vnet3'/></interface>";
        let domain =
            format!("<devices>{card}<interface type='x'></interface>{}", card.replace('3', "4"));
        assert_eq!(live_cards(&domain), ["vnet3", "vnet4"]);
    }

    #[test]
    fn secrets_are_ephemeral_and_private() {
        assert!(secret(volume(1)).starts_with("<secret ephemeral='yes' private='yes'>"));
    }
}
