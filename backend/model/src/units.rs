//! Units: integers with their meaning in the type, so that MiB never meet GiB by accident.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty), $suffix:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $suffix), self.0)
            }
        }

        impl $name {
            /// The sum, or the type's largest value where it does not fit.
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference, or the type's smallest value where it does not fit.
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }
    };
}

unit!(/** Memory in mebibytes (2^20 bytes). */ Mib(u64), " MiB");
unit!(/** Disk in gibibytes (2^30 bytes). */ Gib(u64), " GiB");
unit!(/** Virtual processors. */ Vcpus(u32), " vCPU");
unit!(/** Counts the runs of one machine: each decision to run it somewhere has the next epoch. */ Epoch(u64), "");
unit!(/** Counts the versions of a host's whole desired set. */ Generation(u64), "");
unit!(/** Counts the durable changes of the store; every change of a row gives it a new one. */ Revision(u64), "");
unit!(/** A point in time: milliseconds since the Unix epoch, UTC. */ UnixMs(i64), " ms");

impl Epoch {
    /// The epoch after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Generation {
    /// The generation after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
