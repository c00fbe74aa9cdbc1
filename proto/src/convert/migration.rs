//! Live migration: what its two hosts are told and tell.

use fairmazon_model::{
    DomainError,
    key::{Blob, FIRST_KEY_VERSION, GivenKey, VolumeHostKey},
    migration::{Arrival, Departure, Handover, KeyWanted},
    units::Epoch,
};

use super::{id, known};
use crate::host::v1;

impl From<&Departure> for v1::Departure {
    fn from(departure: &Departure) -> Self {
        let wanted = |key: &KeyWanted| v1::KeyWanted {
            volume_id: key.volume.to_string(),
            version: key.version,
        };
        Self {
            host_id: departure.to.to_string(),
            epoch: departure.epoch.0,
            address: departure.address.clone(),
            certificate: departure.certificate.clone(),
            keys_wanted: departure.keys_wanted.iter().map(wanted).collect(),
            shows: departure.shows.iter().cloned().collect(),
        }
    }
}

impl TryFrom<v1::Departure> for Departure {
    type Error = DomainError;

    fn try_from(message: v1::Departure) -> Result<Self, DomainError> {
        let wanted = |key: v1::KeyWanted| {
            Ok(KeyWanted { volume: id("volume_id", &key.volume_id)?, version: key.version })
        };
        let keys_wanted = message.keys_wanted.into_iter().map(wanted);
        Ok(Self {
            to: id("host_id", &message.host_id)?,
            epoch: Epoch(message.epoch),
            address: message.address,
            certificate: message.certificate,
            keys_wanted: keys_wanted.collect::<Result<_, DomainError>>()?,
            shows: message.shows.into_iter().collect(),
        })
    }
}

impl From<&Arrival> for v1::Arrival {
    fn from(arrival: &Arrival) -> Self {
        Self {
            host_id: arrival.from.to_string(),
            open: arrival.open,
            shows: arrival.shows.iter().cloned().collect(),
        }
    }
}

impl TryFrom<v1::Arrival> for Arrival {
    type Error = DomainError;

    fn try_from(message: v1::Arrival) -> Result<Self, DomainError> {
        Ok(Self {
            from: id("host_id", &message.host_id)?,
            open: message.open,
            shows: message.shows.into_iter().collect(),
        })
    }
}

impl From<&GivenKey> for v1::MadeKey {
    fn from(made: &GivenKey) -> Self {
        Self {
            volume_id: made.volume.to_string(),
            host_id: made.host.to_string(),
            version: made.key.version,
            fingerprint: made.key.fingerprint.clone(),
            sealed: made.key.sealed.0.clone(),
            wrapped: made.key.wrapped.0.clone(),
        }
    }
}

impl TryFrom<v1::MadeKey> for GivenKey {
    type Error = DomainError;

    fn try_from(message: v1::MadeKey) -> Result<Self, DomainError> {
        Ok(Self {
            volume: id("volume_id", &message.volume_id)?,
            host: id("host_id", &message.host_id)?,
            key: VolumeHostKey {
                version: message.version,
                // What it was made for the host does not know: the broker does.
                made_for: FIRST_KEY_VERSION,
                fingerprint: message.fingerprint,
                sealed: Blob(message.sealed),
                wrapped: Blob(message.wrapped),
            },
        })
    }
}

impl From<Handover> for v1::Handover {
    fn from(handover: Handover) -> Self {
        match handover {
            Handover::Awaited => Self::Awaited,
            Handover::Arrived => Self::Arrived,
            Handover::Left => Self::Left,
        }
    }
}

/// How far a migration is; none when there is none.
pub(super) fn handover(value: i32) -> Result<Option<Handover>, DomainError> {
    Ok(match known("handover", v1::Handover::try_from(value))? {
        v1::Handover::Unspecified => None,
        v1::Handover::Awaited => Some(Handover::Awaited),
        v1::Handover::Arrived => Some(Handover::Arrived),
        v1::Handover::Left => Some(Handover::Left),
    })
}
