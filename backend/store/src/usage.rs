//! What the store keeps of metering: what was allotted, the windows that were accepted, and who
//! has signed them. Windows are only ever added, and go when they are old.

use fairmazon_model::{
    id::{AccountId, HostId},
    units::{Epoch, UnixMs},
    usage::{Allotment, Amounts, Subject, UsageRecord},
};

/// What a commit keeps of metering.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeteringWrites {
    /// What is allotted from now on.
    pub allotments: Vec<AllotmentChange>,
    /// Windows that are accepted. One that is there already stays as it is.
    pub windows: Vec<UsageRecord>,
    /// Who has signed them. One that is there already stays as it is.
    pub signers: Vec<SignerRecord>,
}

/// Where a subject is from now on: what was allotted to it elsewhere or under another epoch ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllotmentChange {
    /// Whose.
    pub subject: Subject,
    /// When.
    pub at: UnixMs,
    /// What is allotted to it then; none when nothing is. Of one that is known, the most of what
    /// was ever allotted stays, as nobody knows when its host has brought a change about.
    pub now: Option<Allotment>,
}

/// A certificate that windows were signed with, kept as long as the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerRecord {
    /// SHA-256 of the certificate, in hex.
    pub sha256: String,
    /// Whose it is.
    pub host: HostId,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

/// Which window, among those of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WindowKey {
    /// Whose use.
    pub subject: Subject,
    /// The run of an instance.
    pub epoch: Epoch,
    /// When its series began.
    pub begun: UnixMs,
    /// Its place in the series.
    pub sequence: u64,
    /// When it begins.
    pub from: UnixMs,
    /// When it ends.
    pub until: UnixMs,
}

/// What is known that bears on a window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WindowContext {
    /// The window of the same key that was accepted.
    pub known: Option<UsageRecord>,
    /// The last window that was accepted of the same subject, epoch and host.
    pub last: Option<WindowEnd>,
    /// What was allotted to the subject under this epoch on this host.
    pub allotment: Option<Allotment>,
    /// Whether the subject was in use at the same time elsewhere or under another epoch.
    pub elsewhere: bool,
}

/// Where a series has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowEnd {
    /// When it began.
    pub begun: UnixMs,
    /// Its last window.
    pub sequence: u64,
    /// When that ends.
    pub until: UnixMs,
}

/// Which sums are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// Whose; everybody's without.
    pub account: Option<AccountId>,
    /// Of one subject only.
    pub subject: Option<Subject>,
    /// Of windows that begin then or later,
    pub from: UnixMs,
    /// and before this.
    pub until: UnixMs,
    /// Subjects after this one, in the order of their texts.
    pub after: Option<Subject>,
    /// At most this many.
    pub limit: u32,
}

/// What was used of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSum {
    /// Whose use.
    pub subject: Subject,
    /// Who has asked for it.
    pub account: AccountId,
    /// The storage class of a volume; empty for an instance.
    pub class: String,
    /// When the first window begins.
    pub from: UnixMs,
    /// When the last window ends.
    pub until: UnixMs,
    /// How many windows there are.
    pub windows: u64,
    /// How long it was in use.
    pub used_ms: u64,
    /// How long nobody looked.
    pub unseen_ms: u64,
    /// How much was used.
    pub amounts: Amounts,
}
