//! What is said to the agent in a guest, and what of its answers is believed. The guest is a
//! stranger: each question has its time, each answer its length, and one that is not understood is
//! none.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fairmazon_model::{limits, machine::CloudInit};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use virt::domain::Domain;

use crate::{
    guests::{Outcome, Question, Size},
    qemu::growth::Growth,
};

/// What one command may take, in seconds. libvirt waits as long for the agent to wake up first.
const PATIENCE: i32 = 5;
/// A command that took as long has kept its thread waiting.
const LATE: Duration = Duration::from_secs(2);
/// What an answer has at most, in bytes.
const LONGEST: usize = 256 * 1024;
/// What the file that says how cloud-init went has at most, in bytes: some errors, a line each.
const RESULT_LONGEST: u64 = 64 * 1024;
/// Written when cloud-init is done, at each boot.
const RESULT: &str = "/run/cloud-init/result.json";

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// There is no agent, or it does not know the command or may not do it.
    No,
    /// It took its time for it.
    Late,
}

type Said<T> = Result<T, Silence>;
/// What a command returns that returns nothing.
type Empty = serde_json::Map<String, serde_json::Value>;

#[derive(Deserialize)]
struct Reply<T> {
    #[serde(rename = "return")]
    said: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Card {
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Address {
    ip_address: String,
}

#[derive(Deserialize)]
struct Piece {
    #[serde(rename = "buf-b64")]
    data: String,
}

/// What cloud-init writes when it is done.
#[derive(Deserialize)]
struct CloudInitResult {
    v1: CloudInitRun,
}

#[derive(Deserialize)]
struct CloudInitRun {
    errors: Vec<serde_json::Value>,
}

/// A processor as its guest has it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Vcpu {
    logical_id: u64,
    online: bool,
}

/// A part of the memory as its guest has it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Block {
    phys_index: u64,
    online: bool,
}

/// How large the parts are, in bytes.
#[derive(Deserialize)]
struct BlockSize {
    size: u64,
}

/// Asks a guest; `size` is what its machine has, `mac` that of its card.
pub(super) fn ask(domain: &Domain, question: Question, size: Size, mac: &str) -> Outcome {
    let asked = || {
        if question.thaw {
            thaw_what_was_left(domain)?;
        }
        let cards = say::<Vec<Card>>(domain, "guest-network-get-interfaces", None);
        let addresses = match cards {
            Ok(cards) => Some(addresses(cards, mac)),
            Err(Silence::Late) => return Err(Silence::Late),
            Err(Silence::No) => {
                // An agent may be told not to say that.
                say::<Empty>(domain, "guest-ping", None)?;
                None
            }
        };
        let cloud_init = match question.cloud_init.then(|| cloud_init(domain)) {
            Some(Err(Silence::Late)) => return Err(Silence::Late),
            Some(Ok(seen)) => seen,
            None | Some(Err(Silence::No)) => CloudInit::Unknown,
        };
        let uses = (question.uses != Some(size)).then(|| use_all(domain, size));
        let uses = match uses {
            Some(Err(Silence::Late)) => return Err(Silence::Late),
            // One that does not know how is not asked each time.
            Some(Ok(true) | Err(Silence::No)) => Some(size),
            None | Some(Ok(false)) => None,
        };
        Ok(Outcome::Answered { addresses, cloud_init, uses })
    };
    asked().unwrap_or_else(|silence| match silence {
        Silence::No => Outcome::Silent,
        Silence::Late => Outcome::Late,
    })
}

/// Has a guest use what its machine has got since it was started; whether it uses all of it. It may
/// take a moment to find it.
fn use_all(domain: &Domain, size: Size) -> Said<bool> {
    let live = domain.xml_desc(0).map_err(|_| Silence::No)?;
    let growth = Growth::read(&live).ok().flatten();
    // What it was started with it uses as it likes.
    if !growth.is_some_and(|growth| growth.has_grown(size)) {
        return Ok(true);
    }
    let vcpus: Vec<Vcpu> = say(domain, "guest-get-vcpus", None)?;
    let off = vcpus.iter().filter(|vcpu| !vcpu.online).map(|vcpu| vcpu.logical_id);
    let off: Vec<_> = off.map(|id| json!({ "logical-id": id, "online": true })).collect();
    let block: BlockSize = say(domain, "guest-get-memory-block-info", None)?;
    let blocks: Vec<Block> = say(domain, "guest-get-memory-blocks", None)?;
    let out = blocks.iter().filter(|block| !block.online).map(|block| block.phys_index);
    let out: Vec<_> = out.map(|index| json!({ "phys-index": index, "online": true })).collect();
    let has = (blocks.len() as u64).saturating_mul(block.size);
    if off.is_empty() && out.is_empty() {
        return Ok(vcpus.len() as u64 >= size.0.0.into() && has >= size.1.0 << 20);
    }
    if !off.is_empty() {
        say::<u64>(domain, "guest-set-vcpus", Some(json!({ "vcpus": off })))?;
    }
    if !out.is_empty() {
        let out = json!({ "mem-blks": out });
        say::<Vec<serde_json::Value>>(domain, "guest-set-memory-blocks", Some(out))?;
    }
    Ok(false)
}

/// Holds a guest's file systems still; whether all of them are.
pub(super) fn freeze(domain: &Domain) -> bool {
    say::<u64>(domain, "guest-fsfreeze-freeze", None).is_ok_and(|count| count > 0)
}

/// Lets them go on; whether they do.
pub(super) fn thaw(domain: &Domain) -> bool {
    say::<u64>(domain, "guest-fsfreeze-thaw", None).is_ok()
}

/// Thaws what a process that has ended held still. A guest that knows no such thing is none.
fn thaw_what_was_left(domain: &Domain) -> Said<()> {
    match say::<String>(domain, "guest-fsfreeze-status", None) {
        Ok(status) if status == "frozen" => {
            tracing::warn!("the file systems of a guest were left held still; thawing them");
            say::<u64>(domain, "guest-fsfreeze-thaw", None).map(drop)
        }
        Ok(_) | Err(Silence::No) => Ok(()),
        Err(Silence::Late) => Err(Silence::Late),
    }
}

fn cloud_init(domain: &Domain) -> Said<CloudInit> {
    let open = json!({ "path": RESULT, "mode": "r" });
    let handle: i64 = say(domain, "guest-file-open", Some(open))?;
    let file = json!({ "handle": handle, "count": RESULT_LONGEST });
    let piece = say::<Piece>(domain, "guest-file-read", Some(file));
    // Also when it was not read: an agent keeps its open files as long as it runs.
    let closed = say::<Empty>(domain, "guest-file-close", Some(json!({ "handle": handle })));
    let data = BASE64_STANDARD.decode(piece?.data).map_err(|_| Silence::No)?;
    if closed.err() == Some(Silence::Late) { Err(Silence::Late) } else { Ok(result(&data)) }
}

/// How cloud-init went, by what it wrote.
fn result(data: &[u8]) -> CloudInit {
    match serde_json::from_slice::<CloudInitResult>(data) {
        Ok(result) if result.v1.errors.is_empty() => CloudInit::Done,
        Ok(_) => CloudInit::Failed,
        Err(_) => CloudInit::Unknown,
    }
}

/// The addresses that others may reach a guest at, those of the card that the platform gave it
/// first.
fn addresses(mut cards: Vec<Card>, mac: &str) -> Vec<String> {
    let is_other = |card: &Card| {
        !card.hardware_address.as_deref().is_some_and(|its| its.eq_ignore_ascii_case(mac))
    };
    cards.sort_by_key(is_other);
    let mut found: Vec<IpAddr> = Vec::new();
    for card in cards {
        let mut own: Vec<IpAddr> =
            card.ip_addresses.iter().filter_map(|each| each.ip_address.parse().ok()).collect();
        own.retain(|address| is_reachable(address) && !found.contains(address));
        own.sort_unstable();
        own.dedup();
        found.append(&mut own);
    }
    found.iter().take(limits::ADDRESSES_MAX).map(ToString::to_string).collect()
}

fn is_reachable(address: &IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(is_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

fn say<T: DeserializeOwned>(
    domain: &Domain,
    command: &str,
    arguments: Option<serde_json::Value>,
) -> Said<T> {
    let mut message = json!({ "execute": command });
    if let Some(arguments) = arguments {
        message["arguments"] = arguments;
    }
    let begin = Instant::now();
    match domain.qemu_agent_command(&message.to_string(), PATIENCE, 0) {
        Ok(answer) => read(&answer).ok_or(Silence::No),
        Err(_) if begin.elapsed() >= LATE => Err(Silence::Late),
        Err(_) => Err(Silence::No),
    }
}

fn read<T: DeserializeOwned>(answer: &str) -> Option<T> {
    if answer.len() > LONGEST {
        return None;
    }
    serde_json::from_str::<Reply<T>>(answer).ok().map(|reply| reply.said)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: &str = "52:54:00:00:00:01";

    fn told(answer: &str) -> Option<Vec<String>> {
        read::<Vec<Card>>(answer).map(|cards| addresses(cards, MAC))
    }

    #[test]
    fn the_platforms_card_is_first_and_what_nobody_reaches_is_left_out() {
        let answer = json!({ "return": [
            { "name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [
                { "ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8 },
                { "ip-address-type": "ipv6", "ip-address": "::1", "prefix": 128 } ] },
            { "name": "docker0", "hardware-address": "02:42:00:00:00:01", "ip-addresses": [
                { "ip-address-type": "ipv4", "ip-address": "172.17.0.1", "prefix": 16 } ] },
            { "name": "eth0", "hardware-address": "52:54:00:00:00:01", "statistics": {}, "ip-addresses": [
                { "ip-address-type": "ipv6", "ip-address": "fe80::1", "prefix": 64 },
                { "ip-address-type": "ipv6", "ip-address": "FD00:0::1", "prefix": 64 },
                { "ip-address-type": "ipv4", "ip-address": "10.0.0.9", "prefix": 24 },
                { "ip-address-type": "ipv4", "ip-address": "10.0.0.9", "prefix": 24 },
                { "ip-address-type": "ipv4", "ip-address": "169.254.1.2", "prefix": 16 },
                { "ip-address-type": "ipv4", "ip-address": "$(reboot)", "prefix": 0 } ] },
            { "name": "tun0" },
        ] });
        assert_eq!(told(&answer.to_string()).unwrap(), ["10.0.0.9", "fd00::1", "172.17.0.1"]);
        let many: Vec<_> =
            (0..200).map(|n| json!({ "ip-address": format!("10.0.0.{n}") })).collect();
        let answer = json!({ "return": [{ "name": "eth0", "ip-addresses": many }] });
        assert_eq!(told(&answer.to_string()).unwrap().len(), limits::ADDRESSES_MAX);
    }

    #[test]
    fn what_is_not_understood_or_too_long_is_no_answer() {
        let long = format!("{{\"return\":[{{\"name\":\"{}\"}}]}}", "x".repeat(LONGEST));
        let deep = format!("{{\"return\":{}", "[".repeat(100_000));
        for answer in ["", "{}", "[]", "{\"return\":{}}", "{\"return\":[1]}", &long, &deep] {
            assert_eq!(told(answer), None);
        }
        assert_eq!(told("{\"return\":[]}").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn cloud_init_is_done_when_it_says_so() {
        for (text, seen) in [
            ("{\"v1\":{\"datasource\":\"NoCloud\",\"errors\":[]}}", CloudInit::Done),
            ("{\"v1\":{\"datasource\":null,\"errors\":[\"('x', E())\"]}}", CloudInit::Failed),
            ("{\"v1\":{}}", CloudInit::Unknown),
            ("{\"v1\":{\"errors\":[]}", CloudInit::Unknown),
            ("", CloudInit::Unknown),
        ] {
            assert_eq!(result(text.as_bytes()), seen, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_ignored(answer in any::<String>(), data in any::<Vec<u8>>()) {
            let _ = (told(&answer), result(&data));
        }

        #[test]
        fn any_address_that_is_told_is_one_that_can_be_reached(bytes in any::<[u8; 16]>(), v4 in any::<[u8; 4]>()) {
            let texts = [IpAddr::from(bytes).to_string(), IpAddr::from(v4).to_string()];
            let cards = json!({ "return": [{ "ip-addresses": [
                { "ip-address": texts[0] }, { "ip-address": texts[1] } ] }] });
            for address in told(&cards.to_string()).unwrap() {
                let address: IpAddr = address.parse().unwrap();
                prop_assert!(!address.is_loopback() && !address.is_unspecified());
            }
        }
    }
}
