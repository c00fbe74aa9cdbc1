//! What was used, as a host measures it: windows of time with integer counters.
//!
//! A window is of one instance under one epoch, or of one volume, on one host. The windows of a
//! series follow each other without a gap and without an overlap, so that what is missing shows.
//! What is signed is one sequence of bytes ([`UsageWindow::signed_bytes`]), which the comment of
//! `UsageWindow` in `fairmazon/host/v1/host.proto` writes down for others.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    DomainError,
    id::{AccountId, HostId, InstanceId, InvalidId, VolumeId},
    key::Blob,
    units::{Epoch, Gib, Mib, UnixMs, Vcpus},
};

/// The longest window in which something was used, in ms.
pub const WINDOW_MAX_MS: i64 = 60 * 60 * 1_000;
/// Most bytes that a guest can have sent in a millisecond: a terabit per second, above what any
/// network card of a host carries.
const EGRESS_MAX_PER_MS: u64 = 125_000_000;
/// Most windows of one message of a host.
pub const WINDOWS_MAX: usize = 1_000;
/// Most bytes of the name of a storage class.
const CLASS_MAX: usize = 64;
/// What every signed sequence of bytes begins with, so that it is never taken for another one.
const SIGNED_AS: &[u8] = b"fairmazon-usage-window-1";

/// Whose use is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A machine: processors, memory, what it sends.
    Instance(InstanceId),
    /// A volume: disk.
    Volume(VolumeId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(id) => id.fmt(f),
            Self::Volume(id) => id.fmt(f),
        }
    }
}

impl FromStr for Subject {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.split_once('-') {
            Some((VolumeId::PREFIX, _)) => text.parse().map(Self::Volume),
            _ => text.parse().map(Self::Instance),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// What a window is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowKind {
    /// The subject was in use: the counters say how much.
    Used,
    /// It was seen at both ends and not in use between them: nothing is counted.
    Off,
    /// Nobody looked: nothing is counted.
    Unseen,
}

impl WindowKind {
    /// The name in tables and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Off => "off",
            Self::Unseen => "unseen",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Used, Self::Off, Self::Unseen].into_iter().find(|kind| kind.name() == name)
    }
}

/// How much was used. What is counted is what was allotted for the time that it really ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amounts {
    /// Virtual processors times milliseconds.
    pub vcpu_ms: u64,
    /// MiB of memory times milliseconds.
    pub mib_ms: u64,
    /// GiB of disk times milliseconds.
    pub gib_ms: u64,
    /// Bytes that the guest has sent.
    pub egress_bytes: u64,
}

impl Amounts {
    /// The sum; each counter stays at its largest value where it does not fit.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            vcpu_ms: self.vcpu_ms.saturating_add(other.vcpu_ms),
            mib_ms: self.mib_ms.saturating_add(other.mib_ms),
            gib_ms: self.gib_ms.saturating_add(other.gib_ms),
            egress_bytes: self.egress_bytes.saturating_add(other.egress_bytes),
        }
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// What a host has measured of one subject from one moment to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageWindow {
    /// Whose use it is.
    pub subject: Subject,
    /// The run of an instance; 0 for a volume.
    pub epoch: Epoch,
    /// When the series began on this host: windows of one series follow each other. A subject
    /// that was gone, or whose earlier windows the host has lost, begins a new one.
    pub begun: UnixMs,
    /// Ascending from 1 within the series.
    pub sequence: u64,
    /// When it begins: where the one before has ended.
    pub from: UnixMs,
    /// When it ends; not a part of it.
    pub until: UnixMs,
    /// What it is about.
    pub kind: WindowKind,
    /// The storage class of a volume; empty for an instance.
    pub class: String,
    /// How much.
    pub amounts: Amounts,
}

impl UsageWindow {
    /// How long it is, in ms.
    pub const fn length_ms(&self) -> i64 {
        self.until.0.saturating_sub(self.from.0)
    }

    /// The bytes that the host signs.
    pub fn signed_bytes(&self, host: HostId) -> Vec<u8> {
        let mut bytes = SIGNED_AS.to_vec();
        for text in [&host.to_string(), &self.subject.to_string(), &self.class] {
            // Longer ones are refused where windows are checked.
            bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.push(match self.kind {
            WindowKind::Used => 1,
            WindowKind::Off => 2,
            WindowKind::Unseen => 3,
        });
        let Amounts { vcpu_ms, mib_ms, gib_ms, egress_bytes } = self.amounts;
        for number in [self.epoch.0, self.sequence, vcpu_ms, mib_ms, gib_ms, egress_bytes] {
            bytes.extend(number.to_be_bytes());
        }
        for time in [self.begun, self.from, self.until] {
            bytes.extend(time.0.to_be_bytes());
        }
        bytes
    }

    /// Checks all that needs nothing but the window.
    ///
    /// # Errors
    /// `Invalid` with the field.
    pub fn check(&self) -> Result<(), DomainError> {
        let wrong = |field: &str, why: &str| Err(DomainError::invalid(field, why));
        if self.until <= self.from {
            return wrong("until", "it has to be after `from`");
        }
        if self.begun > self.from || self.begun.0 < 0 {
            return wrong("begun", "a series begins with its first window");
        }
        if self.sequence == 0 || self.sequence == 1 && self.begun != self.from {
            return wrong(
                "sequence",
                "it is counted from 1, which is the window that begins a series",
            );
        }
        match self.kind {
            WindowKind::Used if self.length_ms() > WINDOW_MAX_MS => {
                return wrong("until", "a window is an hour long at most");
            }
            WindowKind::Off | WindowKind::Unseen if !self.amounts.is_zero() => {
                return wrong("amounts", "nothing is counted where nothing was seen in use");
            }
            _ => {}
        }
        if self.class.len() > CLASS_MAX {
            return wrong("class", "the name is too long");
        }
        let Amounts { vcpu_ms, mib_ms, gib_ms, egress_bytes } = self.amounts;
        match self.subject {
            Subject::Instance(_) if gib_ms > 0 || !self.class.is_empty() => {
                wrong("amounts", "disk is counted for volumes")
            }
            Subject::Volume(_) if vcpu_ms > 0 || mib_ms > 0 || egress_bytes > 0 => {
                wrong("amounts", "of a volume only disk is counted")
            }
            Subject::Volume(_) if self.epoch != Epoch(0) => wrong("epoch", "a volume has none"),
            _ => Ok(()),
        }
    }
}

/// A window with the host's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedWindow {
    /// The window.
    pub window: UsageWindow,
    /// ECDSA with P-256 and SHA-256 over [`UsageWindow::signed_bytes`], ASN.1 DER, by the key of
    /// the host's certificate.
    pub signature: Blob,
}

/// Windows as a host tells them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WindowBatch {
    /// Ascending within the session of the agent.
    pub number: u64,
    /// The host's certificate with its chain, PEM: its key has signed.
    pub certificate: String,
    /// The windows, the oldest first.
    pub windows: Vec<SignedWindow>,
}

/// A window that is refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedWindow {
    /// Whose use.
    pub subject: Subject,
    /// The run of an instance.
    pub epoch: Epoch,
    /// When its series began.
    pub begun: UnixMs,
    /// Its place in the series.
    pub sequence: u64,
    /// Why, for the host's operator.
    pub reason: String,
}

/// A signed window that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Which host has measured it.
    pub host: HostId,
    /// Whose use it is.
    pub account: AccountId,
    /// The window with its signature.
    pub signed: SignedWindow,
    /// SHA-256 of the certificate that says whose signature it is, in hex.
    pub signer: String,
    /// When it was accepted.
    pub accepted_at: UnixMs,
}

/// What was allotted to a subject on a host: the most that the host can have measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotment {
    /// To whom.
    pub subject: Subject,
    /// The run of an instance; 0 for a volume.
    pub epoch: Epoch,
    /// Where.
    pub host: HostId,
    /// Who has asked for it.
    pub account: AccountId,
    /// Processors, the most while it was allotted.
    pub vcpus: Vcpus,
    /// Memory, the most while it was allotted.
    pub memory: Mib,
    /// Disk, the most while it was allotted.
    pub size: Gib,
    /// The storage class of a volume; empty for an instance.
    pub class: String,
    /// Since when.
    pub from: UnixMs,
    /// Until when; none while it holds.
    pub until: Option<UnixMs>,
}

impl Allotment {
    /// Whether the window counts no more than what was allotted for all of its time, up to
    /// `grace_ms` after the end of the allotment: so long its host may not know of that. What a
    /// guest sends is not allotted: that is bounded by what is possible at all.
    pub fn covers(&self, window: &UsageWindow, grace_ms: i64) -> bool {
        let counts_until = |ended: UnixMs| window.until.0.min(ended.0.saturating_add(grace_ms));
        let until_ms = self.until.map_or(window.until.0, counts_until);
        let length_ms = u128::try_from(until_ms.saturating_sub(window.from.0)).unwrap_or(0);
        let fits = |counted: u64, allotted: u64| {
            u128::from(counted) <= u128::from(allotted).saturating_mul(length_ms)
        };
        let Amounts { vcpu_ms, mib_ms, gib_ms, egress_bytes } = window.amounts;
        fits(vcpu_ms, self.vcpus.0.into())
            && fits(mib_ms, self.memory.0)
            && fits(gib_ms, self.size.0)
            && fits(egress_bytes, EGRESS_MAX_PER_MS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window() -> UsageWindow {
        UsageWindow {
            subject: Subject::Instance(InstanceId::from_parts(1, 1)),
            epoch: Epoch(3),
            begun: UnixMs(1_000),
            sequence: 2,
            from: UnixMs(2_000),
            until: UnixMs(3_000),
            kind: WindowKind::Used,
            class: String::new(),
            amounts: Amounts { vcpu_ms: 2_000, mib_ms: 512_000, gib_ms: 0, egress_bytes: 7 },
        }
    }

    fn allotment() -> Allotment {
        Allotment {
            subject: window().subject,
            epoch: Epoch(3),
            host: HostId::from_parts(1, 1),
            account: AccountId::from_parts(1, 1),
            vcpus: Vcpus(2),
            memory: Mib(512),
            size: Gib(0),
            class: String::new(),
            from: UnixMs(0),
            until: None,
        }
    }

    #[test]
    fn subjects_are_written_as_ids() {
        let volume = Subject::Volume(VolumeId::from_parts(1, 2));
        for subject in [window().subject, volume] {
            assert_eq!(subject.to_string().parse(), Ok(subject));
            let json = serde_json::to_string(&subject).unwrap();
            assert_eq!(serde_json::from_str::<Subject>(&json).unwrap(), subject);
        }
        for odd in ["", "vol", "ins-", "host-1", "vol-1"] {
            assert!(odd.parse::<Subject>().is_err(), "{odd}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_field() {
        window().check().unwrap();
        let field = |change: &dyn Fn(&mut UsageWindow)| {
            let mut odd = window();
            change(&mut odd);
            odd.check().unwrap_err().field.unwrap()
        };
        assert_eq!(field(&|w| w.until = w.from), "until");
        assert_eq!(field(&|w| w.until = UnixMs(w.from.0 + WINDOW_MAX_MS + 1)), "until");
        assert_eq!(field(&|w| w.begun = UnixMs(2_001)), "begun");
        assert_eq!(field(&|w| w.sequence = 0), "sequence");
        assert_eq!(field(&|w| w.sequence = 1), "sequence");
        assert_eq!(field(&|w| w.kind = WindowKind::Off), "amounts");
        assert_eq!(field(&|w| w.kind = WindowKind::Unseen), "amounts");
        assert_eq!(field(&|w| w.amounts.gib_ms = 1), "amounts");
        assert_eq!(field(&|w| w.class = "x".repeat(65)), "class");
        let volume = Subject::Volume(VolumeId::from_parts(1, 1));
        assert_eq!(field(&|w| w.subject = volume), "amounts");
        let empty = |w: &mut UsageWindow| (w.subject, w.amounts) = (volume, Amounts::default());
        assert_eq!(field(&empty), "epoch");
    }

    #[test]
    fn what_was_not_seen_may_last_longer_than_an_hour() {
        let until = UnixMs(100 * WINDOW_MAX_MS);
        for kind in [WindowKind::Off, WindowKind::Unseen] {
            UsageWindow { kind, until, amounts: Amounts::default(), ..window() }.check().unwrap();
        }
    }

    #[test]
    fn an_allotment_bounds_each_counter_by_the_time() {
        assert!(allotment().covers(&window(), 0));
        let more = |change: &dyn Fn(&mut Amounts)| {
            let mut window = window();
            change(&mut window.amounts);
            allotment().covers(&window, 0)
        };
        assert!(!more(&|amounts| amounts.vcpu_ms += 1));
        assert!(!more(&|amounts| amounts.mib_ms += 1));
        assert!(!more(&|amounts| amounts.gib_ms += 1));
        assert!(more(&|amounts| amounts.egress_bytes = 1 << 30));
        assert!(!more(&|amounts| amounts.egress_bytes = u64::MAX));
        assert!(!more(&|amounts| amounts.mib_ms = u64::MAX));
    }

    #[test]
    fn an_allotment_that_has_ended_bounds_each_counter_by_the_time_until_then() {
        let full = window();
        let Amounts { vcpu_ms, mib_ms, .. } = full.amounts;
        let half = Amounts { vcpu_ms: vcpu_ms / 2, mib_ms: mib_ms / 2, ..full.amounts };
        let half = UsageWindow { amounts: half, ..window() };
        let covers = |ended: i64, window: &UsageWindow, grace_ms: i64| {
            Allotment { until: Some(UnixMs(ended)), ..allotment() }.covers(window, grace_ms)
        };
        assert!(covers(3_000, &full, 0) && covers(2_900, &full, 100) && covers(5_000, &full, 0));
        assert!(!covers(2_999, &full, 0) && !covers(2_900, &full, 99));
        assert!(covers(2_500, &half, 0) && covers(2_400, &half, 100));
        assert!(!covers(2_499, &half, 0));
        // One that counts nothing may last longer.
        let nothing = UsageWindow { amounts: Amounts::default(), ..window() };
        assert!(covers(1_000, &nothing, 0) && !covers(1_000, &half, 0));
    }

    /// Written down here a second time, as a verifier by somebody else would do it.
    #[test]
    fn the_signed_bytes_are_those_that_are_written_down() {
        let host = HostId::from_parts(1, 9);
        let (host_text, subject) = (host.to_string(), window().subject.to_string());
        let mut expected = b"fairmazon-usage-window-1".to_vec();
        expected.extend((host_text.len() as u16).to_be_bytes());
        expected.extend(host_text.as_bytes());
        expected.extend((subject.len() as u16).to_be_bytes());
        expected.extend(subject.as_bytes());
        expected.extend([0, 0, 1]);
        for number in [3_u64, 2, 2_000, 512_000, 0, 7, 1_000, 2_000, 3_000] {
            expected.extend(number.to_be_bytes());
        }
        assert_eq!(window().signed_bytes(host), expected);
    }

    proptest! {
        #[test]
        fn another_window_has_other_signed_bytes(
            class in "[a-z]{0,8}", other in "[a-z]{0,8}", sequence in 1_u64..9, next in 1_u64..9,
        ) {
            let host = HostId::from_parts(1, 9);
            let one = UsageWindow { class, sequence, ..window() };
            let two = UsageWindow { class: other, sequence: next, ..window() };
            prop_assert_eq!(one == two, one.signed_bytes(host) == two.signed_bytes(host));
        }
    }
}
