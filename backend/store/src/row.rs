//! The rows of the store: one variant a noun of the model, and their keys.
//!
//! Owns the mapping between the model's types and the store's uniform view of them (noun,
//! id, account, revision, JSON body). Knows no database.

use std::fmt;

use fairmazon_model::{
    access::{Account, Credential},
    host::Host,
    id::{AccountId, HostId, InstanceId, OperationId, PlacementGroupId, TokenId, VolumeId},
    instance::Instance,
    operation::Operation,
    placement::PlacementGroup,
    units::Revision,
    volume::Volume,
};
use serde::{Serialize, de::DeserializeOwned};

/// A type of the model that the store keeps as rows.
pub trait Entity: Serialize + DeserializeOwned + Into<Row> + Send + Sync + 'static {
    /// Its id.
    type Id: Copy + fmt::Display + Into<Key> + Send;
    /// Which noun it is.
    const NOUN: Noun;
    /// Takes the row apart; none when it is of another noun.
    fn from_row(row: Row) -> Option<Self>;
}

macro_rules! nouns {
    ($($noun:ident($id:ty) = $name:literal, $owner:ident;)+) => {
        /// What a row is of, in the order in which rows depend on each other.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Noun {
            $(#[doc = concat!("Rows of `", stringify!($noun), "`.")] $noun,)+
        }

        impl Noun {
            /// All of them, parents before children.
            pub const ALL: &[Self] = &[$(Self::$noun),+];

            /// The noun's stable name in the store.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$noun => $name,)+ }
            }
        }

        /// One row with its body.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(clippy::large_enum_variant, reason = "rows are moved once, into the store's view")]
        pub enum Row {
            $(#[doc = concat!("A row of `", stringify!($noun), "`.")] $noun($noun),)+
        }

        impl Row {
            /// Which row it is.
            pub const fn key(&self) -> Key {
                match self { $(Self::$noun(row) => Key::$noun(row.id),)+ }
            }

            /// Whose it is; an account is its own.
            pub const fn account(&self) -> AccountId {
                match self { $(Self::$noun(row) => row.$owner,)+ }
            }

            /// The revision of its last change.
            pub const fn revision(&self) -> Revision {
                match self { $(Self::$noun(row) => row.revision,)+ }
            }

            /// The same row as of `revision`.
            #[must_use]
            pub fn at(mut self, revision: Revision) -> Self {
                match &mut self { $(Self::$noun(row) => row.revision = revision,)+ }
                self
            }

            pub(crate) fn to_body(&self) -> Result<String, serde_json::Error> {
                match self { $(Self::$noun(row) => serde_json::to_string(row),)+ }
            }

            pub(crate) fn from_body(noun: Noun, body: &str) -> Result<Self, serde_json::Error> {
                match noun { $(Noun::$noun => serde_json::from_str(body).map(Self::$noun),)+ }
            }
        }

        /// Which row.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key {
            $(#[doc = concat!("A row of `", stringify!($noun), "`.")] $noun($id),)+
        }

        impl Key {
            /// The noun of the row.
            pub const fn noun(self) -> Noun {
                match self { $(Self::$noun(_) => Noun::$noun,)+ }
            }

            pub(crate) fn parse(noun: Noun, id: &str) -> Option<Self> {
                match noun { $(Noun::$noun => id.parse().ok().map(Self::$noun),)+ }
            }
        }

        /// Prints the id, which names its noun by the prefix.
        impl fmt::Display for Key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$noun(id) => id.fmt(f),)+ }
            }
        }

        $(
            impl From<$noun> for Row {
                fn from(row: $noun) -> Self {
                    Self::$noun(row)
                }
            }

            impl From<$id> for Key {
                fn from(id: $id) -> Self {
                    Self::$noun(id)
                }
            }

            impl Entity for $noun {
                type Id = $id;
                const NOUN: Noun = Noun::$noun;

                fn from_row(row: Row) -> Option<Self> {
                    if let Row::$noun(row) = row { Some(row) } else { None }
                }
            }
        )+
    };
}

nouns! {
    Account(AccountId) = "account", id;
    Host(HostId) = "host", account;
    Credential(TokenId) = "credential", account;
    PlacementGroup(PlacementGroupId) = "placement_group", account;
    Volume(VolumeId) = "volume", account;
    Instance(InstanceId) = "instance", account;
    Operation(OperationId) = "operation", account;
}
