//! Identifiers: one newtype a noun, so that a volume id can never be passed as an instance id.
//!
//! An id is `PREFIX-ULID` in lower case (`ins-01j9x3…`). It is made by the platform, never
//! changes, and holds neither a host nor a site, so a migration never looks like a replacement.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Why a text is not an id of the expected noun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {article} id: it must be `{prefix}-` and 26 characters of a ULID")]
pub struct InvalidId {
    /// What was given, cut to 64 characters.
    pub text: String,
    /// The prefix that the noun's ids have.
    pub prefix: &'static str,
    /// The noun with its article, for the message.
    pub article: &'static str,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $article:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// What every id of this noun begins with, without the dash.
            pub const PREFIX: &'static str = $prefix;

            /// Makes the id from a ULID; the caller owns the clock and the randomness.
            pub const fn from_ulid(ulid: Ulid) -> Self {
                Self(ulid)
            }

            /// Makes the id from milliseconds since the Unix epoch and 80 random bits.
            pub const fn from_parts(unix_ms: u64, random: u128) -> Self {
                Self(Ulid::from_parts(unix_ms, random))
            }

            /// The ULID inside.
            pub const fn ulid(self) -> Ulid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                let text = self.0.array_to_str(&mut buffer);
                text.make_ascii_lowercase();
                f.write_str(concat!($prefix, "-"))?;
                f.write_str(text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let error = || InvalidId {
                    text: text.chars().take(64).collect(),
                    prefix: $prefix,
                    article: $article,
                };
                let ulid = text.strip_prefix(concat!($prefix, "-")).ok_or_else(error)?;
                if ulid.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(error());
                }
                let id = Self(Ulid::from_string(ulid).map_err(|_| error())?);
                // A ULID text may overflow 128 bits or use look-alike letters and still parse:
                // only the canonical spelling is an id, so equal ids are equal texts.
                if id.to_string() == text { Ok(id) } else { Err(error()) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type!(/** A customer's or operator's account. */ AccountId, "acc", "an account");
id_type!(/** A credential: token or client certificate. */ TokenId, "tok", "a token");
id_type!(/** A machine. */ InstanceId, "ins", "an instance");
id_type!(/** A volume: data or boot. */ VolumeId, "vol", "a volume");
id_type!(/** A placement group. */ PlacementGroupId, "pgr", "a placement group");
id_type!(/** A long-running operation. */ OperationId, "opn", "an operation");
id_type!(/** A provider host. */ HostId, "hst", "a host");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_json() {
        let id = InstanceId::from_parts(1_700_000_000_000, 42);
        let text = id.to_string();
        assert!(text.starts_with("ins-") && text.len() == 30, "{text}");
        assert_eq!(text.parse::<InstanceId>().unwrap(), id);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<InstanceId>(&json).unwrap(), id);
    }

    #[test]
    fn other_nouns_and_other_spellings_are_refused() {
        let id = InstanceId::from_parts(1_700_000_000_000, 42).to_string();
        assert!(id.parse::<VolumeId>().is_err());
        assert!(id.to_uppercase().parse::<InstanceId>().is_err());
        for bad in ["", "ins-", "ins-zzzzzzzzzzzzzzzzzzzzzzzzzz", "ins-01j", &format!("{id} ")] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }
}
