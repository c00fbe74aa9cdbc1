//! Interruption: the capacity of a spot machine is taken back, after a notice.
//!
//! The notice begins when its host takes it over: the host asks the guest to shut down and ends
//! it no sooner than the notice is over, both by its own clock. An interruption is never taken
//! back, as its guest may be shutting down already; a machine that is off starts again when it
//! may.

use serde::{Deserialize, Serialize};

use crate::{id::InstanceId, units::UnixMs};

/// A spot machine's interruption, as the broker keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    /// Why.
    pub cause: InterruptionCause,
    /// When it was decided.
    pub at: UnixMs,
    /// What its guest has from the time that it is asked to shut down, in ms.
    pub notice_ms: u64,
    /// Since when its host has shown that it is off: from then on it holds no room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off_since: Option<UnixMs>,
    /// It is deleted, now that it is off. Decided when that is seen, and not again: what is asked
    /// of it later is asked of a machine that was kept.
    #[serde(default)]
    pub deletes: bool,
}

/// Why a spot machine is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterruptionCause {
    /// This machine, which is not spot, needs its room.
    Capacity(InstanceId),
    /// The spot price is above the most that its customer pays.
    Price,
    /// Its host, which sells more memory than it has, had none left for it and has ended it.
    Memory,
}

impl Interruption {
    /// When the notice is over at the earliest, by the broker's clock.
    pub fn ends_at(&self) -> UnixMs {
        UnixMs(self.at.0.saturating_add_unsigned(self.notice_ms))
    }

    /// What its guest has, in whole seconds.
    pub fn notice_seconds(&self) -> u32 {
        u32::try_from(self.notice_ms.div_ceil(1_000)).unwrap_or(u32::MAX)
    }

    /// Whether it may still run.
    pub const fn holds_room(&self) -> bool {
        self.off_since.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_its_room_until_it_is_off() {
        let for_whom = InstanceId::from_parts(1, 1);
        let mut interruption = Interruption {
            cause: InterruptionCause::Capacity(for_whom),
            at: UnixMs(1_000),
            notice_ms: 30_000,
            off_since: None,
            deletes: false,
        };
        assert_eq!(interruption.ends_at(), UnixMs(31_000));
        assert!(interruption.holds_room());
        interruption.off_since = Some(UnixMs(2_000));
        assert!(!interruption.holds_room());
        let text = serde_json::to_string(&interruption).unwrap();
        assert_eq!(serde_json::from_str::<Interruption>(&text).unwrap(), interruption);
    }
}
