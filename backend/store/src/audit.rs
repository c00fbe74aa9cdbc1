//! The audit log: who did what to what, chained by hashes so that no entry can be changed,
//! removed from the middle or put in later without being noticed.
//!
//! Owns the form of an entry, its canonical serialisation and the chain's arithmetic. What
//! goes into `before` and `after` is the broker's choice: secrets (user data above all) must
//! be replaced by their hashes before they get here, because nothing here ever forgets.

use std::fmt;

use fairmazon_model::{
    id::{AccountId, TokenId},
    units::UnixMs,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Goes into every hash first, so that no other use of SHA-256 can be passed off as an entry.
const DOMAIN: &[u8] = b"fairmazon audit 1\0";

/// Who made a change. Neither field is set when the platform did it by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Actor {
    /// The credential that was shown.
    pub credential: Option<TokenId>,
    /// The account that it belongs to.
    pub account: Option<AccountId>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: UnixMs,
    /// Who.
    pub actor: Actor,
    /// What was done (`instance.create`).
    pub verb: String,
    /// The id of what it was done to.
    pub target: String,
    /// How it was; none for what is new.
    pub before: Option<Value>,
    /// How it is; none for what is gone.
    pub after: Option<Value>,
}

/// A hash of the chain, written in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AuditHash(pub [u8; 32]);

/// The end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditHead {
    /// The sequence of the last entry; 0 without any.
    pub sequence: u64,
    /// Its hash; zeros without any.
    pub hash: AuditHash,
}

/// An entry in its place of the chain; one line of the export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// 1 for the first, then without gaps.
    pub sequence: u64,
    /// What happened.
    pub entry: AuditEntry,
    /// The hash of the entry before; zeros for the first.
    pub previous: AuditHash,
    /// SHA-256 over the domain, `previous`, the sequence (8 bytes, big end first) and the
    /// entry as JSON without spaces and with sorted keys.
    pub hash: AuditHash,
}

/// What checking the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditVerdict {
    /// The end of the part that is whole.
    pub whole: AuditHead,
    /// The first entry that is not as it was written, where there is one.
    pub broken: Option<BrokenAudit>,
}

/// An entry that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the audit log is broken at entry {sequence}: {reason}")]
pub struct BrokenAudit {
    /// Where the chain breaks.
    pub sequence: u64,
    /// How it was noticed.
    pub reason: &'static str,
}

impl AuditEntry {
    /// The one text that stands for this entry: JSON without spaces, keys sorted by bytes.
    ///
    /// # Errors
    /// When the entry can't be written as JSON.
    pub fn canonical(&self) -> Result<String, serde_json::Error> {
        let mut text = String::with_capacity(1_024);
        // Member by member and not through a `Value` of the whole: that would copy `before`
        // and `after`, which are whole rows.
        text.push_str(r#"{"actor":"#);
        write_canonical(&serde_json::to_value(self.actor)?, &mut text);
        text.push_str(r#","after":"#);
        write_canonical(self.after.as_ref().unwrap_or(&Value::Null), &mut text);
        text.push_str(r#","at":"#);
        write_scalar(&self.at, &mut text);
        text.push_str(r#","before":"#);
        write_canonical(self.before.as_ref().unwrap_or(&Value::Null), &mut text);
        text.push_str(r#","target":"#);
        write_scalar(&self.target, &mut text);
        text.push_str(r#","verb":"#);
        write_scalar(&self.verb, &mut text);
        text.push('}');
        Ok(text)
    }
}

impl AuditHead {
    /// The head after one more entry, given by its canonical text.
    #[must_use]
    pub fn next(self, canonical: &str) -> Self {
        let sequence = self.sequence + 1;
        let mut hasher = Sha256::new();
        hasher.update(DOMAIN);
        hasher.update(self.hash.0);
        hasher.update(sequence.to_be_bytes());
        hasher.update(canonical.as_bytes());
        Self { sequence, hash: AuditHash(hasher.finalize().into()) }
    }
}

/// Checks records one after the other, as they are read from a store or from an export.
#[derive(Debug, Clone, Default)]
pub struct ChainChecker {
    head: AuditHead,
}

impl ChainChecker {
    /// A checker that goes on behind `head`, which is trusted.
    pub const fn after(head: AuditHead) -> Self {
        Self { head }
    }

    /// The end of what has been checked.
    pub const fn head(&self) -> AuditHead {
        self.head
    }

    /// Checks the next record.
    ///
    /// # Errors
    /// When it is not the one that follows; the checker stays where it was.
    pub fn check(&mut self, record: &AuditRecord) -> Result<(), BrokenAudit> {
        if record.previous != self.head.hash {
            return Err(self.broken("it does not name the hash of the entry before"));
        }
        let canonical = record
            .entry
            .canonical()
            .map_err(|_| self.broken("its content can't be written as JSON"))?;
        self.check_text(record.sequence, &canonical, record.hash)
    }

    /// Checks the next entry by its canonical text.
    ///
    /// # Errors
    /// When it is not the one that follows; the checker stays where it was.
    pub(crate) fn check_text(
        &mut self,
        sequence: u64,
        canonical: &str,
        hash: AuditHash,
    ) -> Result<(), BrokenAudit> {
        if sequence != self.head.sequence + 1 {
            return Err(self.broken("it is missing"));
        }
        let next = self.head.next(canonical);
        if next.hash != hash {
            return Err(self.broken("its content does not fit its hash"));
        }
        self.head = next;
        Ok(())
    }

    pub(crate) const fn broken(&self, reason: &'static str) -> BrokenAudit {
        BrokenAudit { sequence: self.head.sequence + 1, reason }
    }
}

/// Checks records of which others may be missing: those that a customer may see, or those from
/// one on.
///
/// Each must fit its own hash, and each that follows the one before it must name that one's. Who
/// changes a record and hashes it anew is found out by its neighbours, so not where they are
/// missing.
#[derive(Debug, Clone, Default)]
pub struct PartChecker {
    first: Option<u64>,
    head: AuditHead,
    entries: u64,
}

impl PartChecker {
    /// The sequence of the first record; none before one was checked.
    pub const fn first(&self) -> Option<u64> {
        self.first
    }

    /// The last record that was checked.
    pub const fn head(&self) -> AuditHead {
        self.head
    }

    /// How many were checked.
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How many are missing before the last one.
    pub const fn missing(&self) -> u64 {
        self.head.sequence - self.entries
    }

    /// Checks the next record.
    ///
    /// # Errors
    /// When it is not as it was written; the checker stays where it was.
    pub fn check(&mut self, record: &AuditRecord) -> Result<(), BrokenAudit> {
        let broken = |reason| BrokenAudit { sequence: record.sequence, reason };
        let sequence = match record.sequence.checked_sub(1) {
            Some(before) if before >= self.head.sequence => before,
            _ => return Err(broken("it is not in its place")),
        };
        // The first of the log names zeros, which is what a head without entries has.
        if sequence == self.head.sequence && record.previous != self.head.hash {
            return Err(broken("it does not name the hash of the entry before"));
        }
        // Goes on from the record itself, which says what was before it.
        let mut chain = ChainChecker::after(AuditHead { sequence, hash: record.previous });
        chain.check(record)?;
        self.first = self.first.or(Some(record.sequence));
        self.head = chain.head();
        self.entries += 1;
        Ok(())
    }
}

/// Sorting is done here and not left to the JSON library, whose maps keep the order of
/// insertion when any crate of the build asks for that.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (index, (key, item)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_scalar(key.as_str(), text);
                text.push(':');
                write_canonical(item, text);
            }
            text.push('}');
        }
        scalar => write_scalar(scalar, text),
    }
}

fn write_scalar<T: Serialize + ?Sized>(scalar: &T, text: &mut String) {
    text.push_str(&serde_json::to_string(scalar).expect("a scalar always has a JSON text"));
}

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for AuditHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AuditHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(&text, &mut hash).map_err(serde::de::Error::custom)?;
        Ok(Self(hash))
    }
}
