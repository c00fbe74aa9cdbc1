//! How a running guest gets more processors and memory: those beyond what it was started with are
//! plugged in, the memory as modules (DIMMs). A module is there or not, so that a guest never has
//! more memory than it is given, whatever it does; of a balloon or a device that gives out a part
//! of its memory it could take all.
//!
//! The room for that is made at the start. It is a part of what the guest runs on, and the same at
//! every host that the guest moves to in one run.

use std::fmt::Write;

use fairmazon_hypervisor::HypervisorError;
use fairmazon_model::{
    host::Capacity,
    machine::MachineSpec,
    units::{Mib, Vcpus},
};
use roxmltree::{Document, Node};
use serde::{Deserialize, Serialize};

use crate::guests::Size;

/// Said of a machine that has to be started anew for its size.
pub(super) const CANT_GROW: HypervisorError = HypervisorError::Unsupported {
    what: "give a machine this size while it runs: it has no room for it in this run",
};

/// What guests can grow to. Linux takes some hundred KiB for each processor that may come.
const VCPUS_MOST: Vcpus = Vcpus(16);
const MEMORY_MOST: Mib = Mib(64 * 1_024);
/// The least that a guest is started with that has room to grow. Memory that may come lies above
/// 4 GiB, and Linux keeps 64 MiB for devices that can't reach it as soon as there may be any.
const MEMORY_LEAST: Mib = Mib(2 * 1_024);
/// How often the memory of a guest grows in one run.
const SLOTS: u8 = 16;
/// What Linux takes memory into use by, so that modules are multiples of it.
const BLOCK: Mib = Mib(128);

/// What a guest was started with, what it may have, and the modules that it has got since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Growth {
    /// Processors that it was started with.
    vcpus: Vcpus,
    vcpus_most: Vcpus,
    /// Memory that it was started with.
    memory: Mib,
    memory_most: Mib,
    slots: u8,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    modules: Vec<Module>,
}

/// Memory that was plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Module {
    memory: Mib,
    slot: u8,
    /// Its address in the guest.
    base: u64,
}

impl Growth {
    /// The room of a machine that is started on a host that gives this; none where it is not worth
    /// what it costs, or the host has no more than the machine.
    pub(super) fn at_start(spec: &MachineSpec, capacity: &Capacity) -> Option<Self> {
        let memory_most = MEMORY_MOST.min(capacity.memory);
        let vcpus_most = VCPUS_MOST.min(capacity.vcpus).max(spec.vcpus);
        let has_room = spec.memory >= MEMORY_LEAST && spec.memory < memory_most;
        has_room.then(|| Self {
            vcpus: spec.vcpus,
            vcpus_most,
            memory: spec.memory,
            memory_most,
            slots: SLOTS,
            modules: Vec::new(),
        })
    }

    /// Reads it from libvirt's description of a running domain; none of one without room to grow.
    pub(super) fn read(domain: &str) -> Result<Option<Self>, String> {
        let document = Document::parse(domain).map_err(|error| error.to_string())?;
        Self::of(document.root_element())
    }

    /// As [`read`](Self::read).
    pub(super) fn of(domain: Node<'_, '_>) -> Result<Option<Self>, String> {
        let Some(most) = child(domain, "maxMemory") else { return Ok(None) };
        let strange = || "it has not the memory that machines of the platform have".to_owned();
        let read = || {
            let vcpus_most = number(child(domain, "vcpu")?.text()?)?;
            let each = child(domain, "vcpus").into_iter().flat_map(|vcpus| vcpus.children());
            let plugged = each.filter(|each| {
                each.attribute("enabled") != Some("yes")
                    || each.attribute("hotpluggable") == Some("yes")
            });
            let plugged: u32 = plugged.filter(Node::is_element).count().try_into().ok()?;
            let cell = child(child(child(domain, "cpu")?, "numa")?, "cell")?;
            let modules = child(domain, "devices")?.children();
            let modules = modules.filter(|each| each.has_tag_name("memory")).map(Module::of);
            Some(Self {
                vcpus: Vcpus(vcpus_most).saturating_sub(Vcpus(plugged)),
                vcpus_most: Vcpus(vcpus_most),
                memory: mib(number(cell.attribute("memory")?)?, cell.attribute("unit"))?,
                memory_most: mib(number(most.text()?)?, most.attribute("unit"))?,
                slots: number(most.attribute("slots")?)?,
                modules: modules.collect::<Option<_>>()?,
            })
        };
        read().map(Some).ok_or_else(strange)
    }

    /// Whether a guest of this size can be given so much.
    pub(super) fn takes(&self, has: &MachineSpec, vcpus: Vcpus, memory: Mib) -> bool {
        let more = memory.0.checked_sub(has.memory.0);
        let fits = match more {
            None => false,
            Some(0) => true,
            Some(more) => {
                more.is_multiple_of(BLOCK.0)
                    && memory <= self.memory_most
                    && self.modules.len() < usize::from(self.slots)
            }
        };
        fits && vcpus >= has.vcpus && vcpus <= self.vcpus_most
    }

    /// Whether it is that of a machine of this size. Another host has said it.
    pub(super) fn is_of(&self, spec: &MachineSpec) -> bool {
        let mut modules = self.modules.iter().map(|module| module.memory.0);
        let memory = modules.try_fold(self.memory.0, u64::checked_add);
        memory == Some(spec.memory.0)
            && (Vcpus(1)..=spec.vcpus).contains(&self.vcpus)
            && (spec.vcpus..=VCPUS_MOST.max(spec.vcpus)).contains(&self.vcpus_most)
            && (spec.memory..=MEMORY_MOST.max(spec.memory)).contains(&self.memory_most)
            && self.slots <= SLOTS
            && self.modules.len() <= usize::from(self.slots)
    }

    /// Whether a guest of this size has more than it was started with.
    pub(super) fn has_grown(&self, (vcpus, memory): Size) -> bool {
        vcpus > self.vcpus || memory > self.memory
    }

    /// What it may have at most.
    pub(super) fn most(&self) -> String {
        let (slots, most) = (self.slots, self.memory_most.0);
        format!("<maxMemory slots='{slots}' unit='MiB'>{most}</maxMemory>")
    }

    /// Its processors, of which it has `now`.
    pub(super) fn vcpus(&self, now: Vcpus) -> String {
        let most = self.vcpus_most.0;
        let mut vcpus = format!("<vcpu current='{}'>{most}</vcpu><vcpus>", now.0);
        for id in 0..most {
            let is = |yes: bool| if yes { "yes" } else { "no" };
            let (enabled, plugged) = (is(id < now.0), is(id >= self.vcpus.0));
            let order = if id < now.0 { format!(" order='{}'", id + 1) } else { String::new() };
            // Infallible: a String takes all that is written to it.
            let _ = write!(
                vcpus,
                "<vcpu id='{id}' enabled='{enabled}' hotpluggable='{plugged}'{order}/>"
            );
        }
        vcpus + "</vcpus>"
    }

    /// What it was started with, as the one part of its memory that modules go to.
    pub(super) fn numa(&self) -> String {
        let (last, memory) = (self.vcpus_most.0.saturating_sub(1), self.memory.0);
        format!("<numa><cell id='0' cpus='0-{last}' memory='{memory}' unit='MiB'/></numa>")
    }

    /// Its modules.
    pub(super) fn modules(&self) -> String {
        let each = |each: &Module| module(each.memory, Some((each.slot, each.base)));
        self.modules.iter().map(each).collect()
    }
}

impl Module {
    fn of(device: Node<'_, '_>) -> Option<Self> {
        let size = child(child(device, "target")?, "size")?;
        let address = child(device, "address")?;
        let base = address.attribute("base")?.strip_prefix("0x")?;
        (device.attribute("model") == Some("dimm")).then_some(())?;
        Some(Self {
            memory: mib(number(size.text()?)?, size.attribute("unit"))?,
            slot: number(address.attribute("slot")?)?,
            base: u64::from_str_radix(base, 16).ok()?,
        })
    }
}

/// A module of memory; its slot and its address where it has them already.
pub(super) fn module(memory: Mib, at: Option<(u8, u64)>) -> String {
    let address = at.map_or_else(String::new, |(slot, base)| {
        format!("<address type='dimm' slot='{slot}' base='{base:#x}'/>")
    });
    format!(
        "<memory model='dimm'><target><size unit='MiB'>{}</size><node>0</node></target>{address}</memory>",
        memory.0
    )
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|each| each.has_tag_name(name))
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

/// What libvirt says in KiB, and this driver in MiB.
fn mib(number: u64, unit: Option<&str>) -> Option<Mib> {
    match unit {
        None | Some("KiB") => number.is_multiple_of(1_024).then_some(Mib(number / 1_024)),
        Some("MiB") => Some(Mib(number)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use fairmazon_hypervisor::contract::spec;
    use fairmazon_model::units::Gib;
    use proptest::prelude::*;

    use super::*;

    fn host(vcpus: u32, memory: u64) -> Capacity {
        let storage = [("standard".to_owned(), Gib(1))].into();
        Capacity { vcpus: Vcpus(vcpus), memory: Mib(memory), storage }
    }

    fn machine(vcpus: u32, memory: u64) -> MachineSpec {
        MachineSpec { vcpus: Vcpus(vcpus), memory: Mib(memory), ..spec(1) }
    }

    /// A machine that was started with 1 processor and 2 GiB, and has 3 and 5 GiB now.
    fn grown() -> Growth {
        let mut growth = Growth::at_start(&machine(1, 2_048), &host(8, 16_384)).unwrap();
        for (slot, memory) in [(0, 1_024), (1, 2_048)] {
            let base = 0x1_0000_0000 + (u64::from(slot) << 31);
            growth.modules.push(Module { memory: Mib(memory), slot, base });
        }
        growth
    }

    /// A domain as libvirt has it.
    fn domain(growth: &Growth, now: u32) -> String {
        let (most, vcpus, numa) = (growth.most(), growth.vcpus(Vcpus(now)), growth.numa());
        let modules = growth.modules();
        format!(
            "<domain>{most}{vcpus}<cpu>{numa}</cpu><devices><disk/>{modules}</devices></domain>"
        )
    }

    #[test]
    fn room_is_given_where_it_is_worth_it_and_never_beyond_the_host() {
        let room = |vcpus, memory, host: &Capacity| {
            let room = Growth::at_start(&machine(vcpus, memory), host);
            room.map(|room| (room.vcpus_most.0, room.memory_most.0))
        };
        assert_eq!(room(1, 2_048, &host(8, 16_384)), Some((8, 16_384)));
        assert_eq!(room(1, 2_048, &host(64, 1 << 20)), Some((16, 65_536)));
        assert_eq!(room(32, 4_096, &host(64, 1 << 20)), Some((32, 65_536)));
        assert_eq!(room(4, 4_096, &host(2, 8_192)), Some((4, 8_192)), "its processors are shared");
        assert_eq!(room(1, 1_024, &host(8, 16_384)), None, "it would cost too much of it");
        assert_eq!(room(1, 8_192, &host(8, 8_192)), None, "there is no more");
        assert_eq!(room(16, 65_536, &host(64, 1 << 20)), None);
    }

    #[test]
    fn what_a_machine_has_is_read_as_it_was_written() {
        assert_eq!(Growth::read(&domain(&grown(), 3)).unwrap().unwrap(), grown());
        assert_eq!(Growth::read("<domain><vcpu>2</vcpu></domain>").unwrap(), None);
        let in_kib = domain(&grown(), 3)
            .replace("unit='MiB'>16384<", "unit='KiB'>16777216<")
            .replace("memory='2048' unit='MiB'", "memory='2097152' unit='KiB'");
        assert_eq!(Growth::read(&in_kib).unwrap().unwrap(), grown());
        for (had, has) in [
            ("model='dimm'", "model='virtio-mem'"),
            ("base='0x", "base='"),
            ("slots='16'", "slots='999'"),
            ("<numa>", "<other>"),
            ("unit='MiB'", "unit='bytes'"),
        ] {
            let strange = domain(&grown(), 3).replace(had, has);
            assert!(Growth::read(&strange).is_err(), "{strange}");
        }
    }

    #[test]
    fn a_machine_gets_what_it_has_room_for_and_nothing_is_taken_from_it() {
        let now = machine(3, 5_120);
        for (vcpus, memory, fits) in [
            (3, 5_120, true),
            (4, 5_120, true),
            (3, 5_248, true),
            (8, 16_384, true),
            (9, 5_120, false),
            (3, 5_121, false),
            (3, 16_512, false),
            (2, 6_144, false),
            (4, 4_096, false),
        ] {
            let takes = grown().takes(&now, Vcpus(vcpus), Mib(memory));
            assert_eq!(takes, fits, "{vcpus} {memory}");
        }
        let mut full = grown();
        full.modules.resize(usize::from(SLOTS), full.modules[0]);
        assert!(!full.takes(&now, Vcpus(4), Mib(6_144)));
        assert!(full.takes(&now, Vcpus(4), Mib(5_120)), "processors need no slot");
        assert!(grown().has_grown((Vcpus(3), Mib(5_120))));
        assert!(!grown().has_grown((Vcpus(1), Mib(2_048))));
    }

    #[test]
    fn what_another_host_says_is_of_this_machine_and_within_bounds() {
        assert!(grown().is_of(&machine(3, 5_120)));
        for (vcpus, memory) in [(3, 4_096), (3, 8_192), (9, 5_120), (0, 5_120)] {
            assert!(!grown().is_of(&machine(vcpus, memory)), "{vcpus} {memory}");
        }
        let changes: [fn(&mut Growth); 6] = [
            |growth| growth.vcpus = Vcpus(0),
            |growth| growth.vcpus_most = Vcpus(u32::MAX),
            |growth| growth.memory_most = Mib(u64::MAX),
            |growth| growth.slots = u8::MAX,
            |growth| growth.slots = 1,
            |growth| growth.modules[0].memory = Mib(u64::MAX),
        ];
        for change in changes {
            let mut growth = grown();
            change(&mut growth);
            assert!(!growth.is_of(&machine(3, 5_120)), "{growth:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_an_error(text in any::<String>(), slots in any::<String>()) {
            let _ = (Growth::read(&text), Growth::read(&format!("<domain><maxMemory slots='{slots}'/></domain>")));
        }
    }
}
