//! libvirt's XML, built with every text escaped.

use std::fmt::Write;

use fairmazon_model::{
    host::Capacity,
    id::InstanceId,
    machine::{Disk, MachineSpec},
    units::Gib,
};
use ulid::Ulid;

/// The namespace of the note that marks a domain as the platform's.
pub(crate) const NOTE_URI: &str = "https://fairmazon.dev/xmlns/machine/1";
/// The prefix of that namespace.
pub(crate) const NOTE_KEY: &str = "fairmazon";

/// The storage pool of a storage class.
pub(crate) fn pool_name(class: &str) -> String {
    format!("fairmazon-{class}")
}

/// An id in the form of a UUID: both are 128 bits.
pub(crate) fn uuid(id: Ulid) -> String {
    let hex = format!("{:032x}", id.0);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A machine's name, which libvirt takes without line breaks.
pub(crate) fn title(spec: &MachineSpec) -> String {
    escape(&spec.name.replace(['\n', '\r'], " "))
}

/// The text as character data or as an attribute's value. Characters that XML 1.0 does not know
/// become U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\t' | '\n' | '\r' => {
                // Infallible: a String takes all that is written to it.
                let _ = write!(escaped, "&#{};", u32::from(character));
            }
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// The character data that [`escape`] made, also as libvirt writes it again.
pub(crate) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        plain.push_str(&rest[..start]);
        let Some(length) = rest[start..].find(';') else { break };
        let name = &rest[start + 1..start + length];
        let numbered = || {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        };
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => numbered().unwrap_or('\u{fffd}'),
        });
        rest = &rest[start + length + 1..];
    }
    plain.push_str(rest);
    plain
}

/// The element that holds the note, without its namespace: libvirt adds that when it is set.
pub(crate) fn bare_note_element(note: &str) -> String {
    format!("<machine>{}</machine>", escape(note))
}

/// The element that holds the note, as part of a domain.
pub(crate) fn note_element(note: &str) -> String {
    let note = escape(note);
    format!("<{NOTE_KEY}:machine xmlns:{NOTE_KEY}=\"{NOTE_URI}\">{note}</{NOTE_KEY}:machine>")
}

/// The note within its element.
pub(crate) fn note_of(element: &str) -> Option<String> {
    let start = element.find('>')? + 1;
    let end = element.rfind("</")?;
    Some(unescape(element.get(start..end)?))
}

/// A domain of the test driver. `pool_of` gives the pool of each disk's volume.
pub(crate) fn domain(
    uuid: &str,
    spec: &MachineSpec,
    note: &str,
    pool_of: impl Fn(&Disk) -> String,
) -> String {
    let disks: String = spec
        .all_disks()
        .enumerate()
        .map(|(index, each)| disk(each, &device_name(index), &pool_of(each)))
        .collect();
    format!(
        "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid>\
         <title>{title}</title><metadata>{note}</metadata>\
         <memory unit='MiB'>{memory}</memory><vcpu>{vcpus}</vcpu>\
         <os><type>hvm</type></os><on_poweroff>destroy</on_poweroff>\
         <on_reboot>restart</on_reboot><on_crash>destroy</on_crash><devices>{disks}\
         <interface type='network'><mac address='{mac}'/><source network='default'/></interface>\
         </devices></domain>",
        name = spec.instance,
        title = title(spec),
        note = note_element(note),
        memory = spec.memory.0,
        vcpus = spec.vcpus.0,
        mac = mac(spec),
    )
}

/// A locally administered address of the instance's random bits: the same at every definition.
pub(crate) fn mac(spec: &MachineSpec) -> String {
    mac_of(spec.instance)
}

/// As [`mac`].
pub(crate) fn mac_of(instance: InstanceId) -> String {
    let [.., a, b, c] = instance.ulid().random().to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

fn disk(disk: &Disk, device: &str, pool: &str) -> String {
    let read_only = if disk.read_only { "<readonly/>" } else { "" };
    format!(
        "<disk type='volume' device='disk'><source pool='{pool}' volume='{volume}'/>\
         <target dev='{device}' bus='virtio'/>{read_only}</disk>",
        pool = escape(pool),
        volume = disk.volume,
    )
}

/// `vda` to `vdz`, then `vdaa`, and so on.
pub(crate) fn device_name(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(b'a' + u8::try_from(rest % 26).unwrap_or(0));
        rest /= 26;
    }
    let letters: String = letters.iter().rev().map(|&letter| char::from(letter)).collect();
    format!("vd{letters}")
}

/// A volume that takes its room as it is written to.
pub(crate) fn volume(name: &str, size: Gib) -> String {
    format!(
        "<volume><name>{name}</name><capacity unit='GiB'>{}</capacity><allocation>0</allocation>\
         <target><format type='raw'/></target></volume>",
        size.0
    )
}

/// A pool that is a folder.
pub(crate) fn pool(name: &str, folder: &str) -> String {
    format!(
        "<pool type='dir'><name>{}</name><target><path>{}</path></target></pool>",
        escape(name),
        escape(folder)
    )
}

/// A host of the test driver: no domains, one network, this much memory and processors.
pub(crate) fn test_node(capacity: &Capacity) -> String {
    format!(
        "<node><cpu><mhz>2000</mhz><model>x86_64</model><active>{cpus}</active><nodes>1</nodes>\
         <sockets>1</sockets><cores>{cpus}</cores><threads>1</threads></cpu>\
         <memory>{kib}</memory><network type='test'><name>default</name><bridge name='virbr0'/>\
         <forward/><ip address='192.168.122.1' netmask='255.255.255.0'><dhcp>\
         <range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network></node>",
        cpus = capacity.vcpus.0,
        kib = capacity.memory.0.saturating_mul(1_024),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_without_control_characters_survives(text in "[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\u{fffe}\u{ffff}]*") {
            prop_assert_eq!(unescape(&escape(&text)), text);
        }

        #[test]
        fn escaped_text_can_end_nothing(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'', '\0', '\n']));
        }

        #[test]
        fn any_text_is_unescaped_to_something(text in any::<String>()) {
            unescape(&text);
        }
    }

    #[test]
    fn devices_have_names_of_their_own() {
        let names: Vec<_> = [0, 1, 25, 26, 27, 701, 702].map(device_name).into();
        assert_eq!(names, ["vda", "vdb", "vdz", "vdaa", "vdab", "vdzz", "vdaaa"]);
    }
}
