//! Where a running guest has its devices: all that its next host has to know of it from the host
//! that it runs on. What is read here has come from another host, so each value is of a type that
//! can say nothing else.

use std::{collections::BTreeMap, fmt};

use fairmazon_model::id::VolumeId;
use roxmltree::{Document, Node};
use serde::{Deserialize, Serialize};

use crate::qemu::growth::Growth;

/// What every version of the machine type is called before its number.
const MACHINE: &str = "pc-i440fx-";

/// The devices of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Places {
    /// The version of its machine type.
    pub(crate) machine: MachineType,
    /// Whether QEMU has booted its kernel.
    pub(crate) kernel: bool,
    /// Its volumes, boot included.
    pub(crate) disks: BTreeMap<VolumeId, DiskPlace>,
    /// The bus of its seed.
    pub(crate) scsi: Pci,
    /// Its network card.
    pub(crate) card: Option<Pci>,
    /// Its memory balloon.
    pub(crate) balloon: Pci,
    /// Whether that tells of what the guest has freed, and gives way to a guest that has no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) frees: bool,
    /// Its source of random numbers.
    pub(crate) rng: Pci,
    /// The bus of its agent's channel; none where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<Pci>,
    /// How it was started and has grown since; none where it was started without room to grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) growth: Option<Growth>,
}

/// The version of a machine type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct MachineType(String);

impl TryFrom<String> for MachineType {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        let version = text.strip_prefix(MACHINE).unwrap_or_default();
        if (1..=32).contains(&version.len()) && version.bytes().all(plain) {
            Ok(Self(text))
        } else {
            Err(format!("a machine type that is not `{MACHINE}VERSION`"))
        }
    }
}

impl From<MachineType> for String {
    fn from(machine: MachineType) -> Self {
        machine.0
    }
}

impl fmt::Display for MachineType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiskPlace {
    letters: Letters,
    /// Where it is.
    pub(crate) at: Pci,
}

impl DiskPlace {
    /// Its name to libvirt, `vda` and so on.
    pub(crate) fn device(&self) -> String {
        format!("vd{}", self.letters.0)
    }
}

/// What a disk's name ends with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Letters(String);

impl TryFrom<String> for Letters {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase()) {
            Ok(Self(text))
        } else {
            Err("a disk whose name is not `vd` and letters".into())
        }
    }
}

impl From<Letters> for String {
    fn from(letters: Letters) -> Self {
        letters.0
    }
}

/// A place on the first PCI bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub(crate) struct Pci {
    pub(crate) slot: u8,
    pub(crate) function: u8,
}

impl TryFrom<(u8, u8)> for Pci {
    type Error = String;

    fn try_from((slot, function): (u8, u8)) -> Result<Self, String> {
        if slot < 32 && function < 8 {
            Ok(Self { slot, function })
        } else {
            Err(format!("no PCI bus has a place {slot:02x}.{function:x}"))
        }
    }
}

impl From<Pci> for (u8, u8) {
    fn from(Pci { slot, function }: Pci) -> Self {
        (slot, function)
    }
}

impl Places {
    /// Reads them from libvirt's description of a domain of ours.
    pub(super) fn read(
        domain: &str,
        volume_of: impl Fn(&str) -> Option<VolumeId>,
    ) -> Result<Self, String> {
        let document = Document::parse(domain).map_err(|error| error.to_string())?;
        let root = document.root_element();
        let os = child(root, "os").ok_or("it has no <os>")?;
        let machine = child(os, "type").and_then(|kind| kind.attribute("machine"));
        let devices = child(root, "devices").ok_or("it has no <devices>")?;
        let mut disks = BTreeMap::new();
        for disk in children(devices, "disk") {
            let file = child(disk, "source").and_then(|source| source.attribute("file"));
            let device = child(disk, "target").and_then(|target| target.attribute("dev"));
            let Some(letters) = device.and_then(|device| device.strip_prefix("vd")) else {
                // The seed: on its own bus, and always at the same place there.
                continue;
            };
            let volume = file.and_then(&volume_of).ok_or("it has a disk that is not a volume's")?;
            let place =
                DiskPlace { letters: Letters::try_from(letters.to_owned())?, at: address(disk)? };
            disks.insert(volume, place);
        }
        let of_kind = |kind: &'static str| {
            children(devices, "controller").filter(move |each| each.attribute("type") == Some(kind))
        };
        let serial = match of_kind("virtio-serial").next() {
            None => None,
            Some(_) => Some(single(of_kind("virtio-serial")).and_then(address)?),
        };
        let one = |name| single(children(devices, name)).and_then(address);
        let card = match children(devices, "interface").next() {
            None => None,
            Some(_) => Some(one("interface")?),
        };
        let balloon = single(children(devices, "memballoon"))?;
        let is_on = |way| balloon.attribute(way) == Some("on");
        let frees = is_on("freePageReporting");
        if frees != is_on("autodeflate") {
            return Err("it has a memory balloon that no machine of the platform has".into());
        }
        Ok(Self {
            machine: machine.unwrap_or_default().to_owned().try_into()?,
            kernel: child(os, "kernel").is_some(),
            disks,
            scsi: single(of_kind("scsi")).and_then(address)?,
            card,
            balloon: address(balloon)?,
            frees,
            rng: one("rng")?,
            serial,
            growth: Growth::of(root)?,
        })
    }
}

fn children<'a, 'i>(
    node: Node<'a, 'i>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
    node.children().filter(move |each| each.has_tag_name(name))
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Option<Node<'a, 'i>> {
    children(node, name).next()
}

fn single<'a, 'i>(mut nodes: impl Iterator<Item = Node<'a, 'i>>) -> Result<Node<'a, 'i>, String> {
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => Ok(node),
        _ => Err("it has not the devices that machines of the platform have".into()),
    }
}

fn address(device: Node<'_, '_>) -> Result<Pci, String> {
    let address = child(device, "address");
    let value = |name| {
        let hex = address?.attribute(name)?.strip_prefix("0x")?;
        u8::from_str_radix(hex, 16).ok()
    };
    let bus = (value("domain"), value("bus"));
    match (value("slot"), value("function")) {
        (Some(slot), Some(function)) if bus == (Some(0), Some(0)) => (slot, function).try_into(),
        _ => Err("it has a device that is not on the first PCI bus".into()),
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::volume;
    use proptest::prelude::*;

    use super::*;

    const DOMAIN: &str = "<domain><os><type machine='pc-i440fx-10.0'>hvm</type><kernel>/k</kernel></os><devices>\
        <disk><source file='/2'/><target dev='vda'/><address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/></disk>\
        <disk><source file='/seed'/><target dev='sda'/><address type='drive' controller='0'/></disk>\
        <controller type='usb'/>\
        <controller type='scsi'><address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/></controller>\
        <memballoon><address type='pci' domain='0x0000' bus='0x00' slot='0x1f' function='0x7'/></memballoon>\
        <rng><address type='pci' domain='0x0000' bus='0x00' slot='0x07' function='0x0'/></rng></devices></domain>";

    fn read(domain: &str) -> Result<Places, String> {
        Places::read(domain, |file| file.strip_prefix('/')?.parse().ok().map(volume))
    }

    #[test]
    fn places_are_read_and_survive_the_way_to_the_other_host() {
        let places = read(DOMAIN).unwrap();
        assert_eq!(places.disks[&volume(2)].device(), "vda");
        assert_eq!(places.balloon, Pci { slot: 31, function: 7 });
        assert!(places.kernel && places.card.is_none());
        let sent = serde_json::to_vec(&places).unwrap();
        assert_eq!(serde_json::from_slice::<Places>(&sent).unwrap(), places);
    }

    #[test]
    fn a_channel_for_an_agent_is_there_or_not() {
        let controller = "<controller type='virtio-serial'><address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/></controller>";
        let with = DOMAIN.replacen("<rng>", &format!("{controller}<rng>"), 1);
        let places = read(&with).unwrap();
        assert_eq!(places.serial, Some(Pci { slot: 5, function: 0 }));
        let sent = serde_json::to_string(&places).unwrap();
        assert_eq!(serde_json::from_str::<Places>(&sent).unwrap(), places);
        // One from before is described as it was then, which hosts of then read too.
        let before = serde_json::to_string(&read(DOMAIN).unwrap()).unwrap();
        assert!(!before.contains("serial") && sent.contains("serial"));
        let twice = with.replacen("<rng>", &format!("{controller}<rng>"), 1);
        assert!(read(&twice).is_err());
    }

    #[test]
    fn a_balloon_is_as_it_was_when_its_machine_was_started() {
        let with = DOMAIN.replacen(
            "<memballoon>",
            "<memballoon model='virtio' autodeflate='on' freePageReporting='on'>",
            1,
        );
        let places = read(&with).unwrap();
        assert!(places.frees && !read(DOMAIN).unwrap().frees);
        let sent = serde_json::to_string(&places).unwrap();
        assert_eq!(serde_json::from_str::<Places>(&sent).unwrap(), places);
        let before = serde_json::to_string(&read(DOMAIN).unwrap()).unwrap();
        assert!(!before.contains("frees"), "hosts of then read it too: {before}");
        assert!(read(&with.replacen(" autodeflate='on'", "", 1)).is_err());
    }

    #[test]
    fn what_is_no_machine_of_ours_has_none() {
        for (had, has) in [
            ("bus='0x00' slot='0x04'", "bus='0x01' slot='0x04'"),
            ("/2", "/other"),
            ("pc-i440fx-10.0", "pc-i440fx-10.0' x='"),
            ("<rng>", "<rng/><rng>"),
            ("slot='0x1f'", "slot='0x20'"),
        ] {
            assert_ne!(DOMAIN, DOMAIN.replacen(had, has, 1));
            let wrong = DOMAIN.replacen(had, has, 1);
            assert!(had.starts_with("pc") || read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_but_places_can_be_said() {
        let sent = serde_json::to_string(&read(DOMAIN).unwrap()).unwrap();
        for (had, has) in [
            ("pc-i440fx-10.0", "pc-i440fx-10.0'/><x y='"),
            ("pc-i440fx-10.0", "pc"),
            ("\"letters\":\"a\"", "\"letters\":\"a'/>\""),
            ("[4,0]", "[32,0]"),
            ("[4,0]", "[4,0,\"'\"]"),
            ("\"kernel\":true", "\"kernel\":\"/etc/shadow\""),
            ("\"kernel\":true", "\"kernel\":true,\"emulator\":\"/bin/sh\""),
        ] {
            let wrong = sent.replacen(had, has, 1);
            assert_ne!(sent, wrong);
            assert!(serde_json::from_str::<Places>(&wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_places_or_an_error(text in any::<String>()) {
            let _ = (read(&text), serde_json::from_str::<Places>(&text));
        }
    }
}
