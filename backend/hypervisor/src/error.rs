//! Why a hypervisor refused or failed. The cause of a driver's failure is kept as the source.

use std::{error::Error, fmt::Display, time::Duration};

use crate::Damage;

/// Why a call of a hypervisor was not done.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The machine or volume is not there.
    #[error("{what} is not there")]
    NotFound {
        /// Which machine or volume, by id.
        what: String,
    },
    /// Something else uses it now; it may work later.
    #[error("{what} is busy: {why}")]
    Busy {
        /// Which machine or volume, by id.
        what: String,
        /// What it is busy with.
        why: &'static str,
    },
    /// The host has not enough left.
    #[error("the host has no {what} left for this")]
    Full {
        /// `memory` or the storage class.
        what: String,
    },
    /// This driver can't do it; repeating does not help.
    #[error("this hypervisor can't {what}")]
    Unsupported {
        /// What it can't do, as a verb phrase.
        what: &'static str,
    },
    /// The volume is encrypted and its key was not given, or was given to an earlier process.
    #[error("the key of {what} is not on this host: it has to be given again")]
    KeyMissing {
        /// Which volume, by id.
        what: String,
    },
    /// The key that was given does not open the volume: it is another one, or the keys in the volume's
    /// file are damaged in a way that does not show. Which of the two, nobody can tell.
    #[error(
        "the key that was given for {what} does not open it: give the one it was made with; where that \
         was given, the keys in its file are damaged: ask the host's operator to restore the file, or \
         import an intact export"
    )]
    KeyWrong {
        /// Which volume, by id.
        what: String,
    },
    /// The volume is there and its data can't be used; the host's operator has to look after it.
    #[error("{what} can't be used: {}", damage.for_customer())]
    Damaged {
        /// Which volume, by id.
        what: String,
        /// What is wrong with it.
        damage: Damage,
        /// What was found, for the host's operator.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The image can't be used as it is on this host; the host's operator has to import it again.
    #[error("the image {image} on this host {why}")]
    ImageDamaged {
        /// Which image, by id.
        image: String,
        /// What is wrong with it, without names of the host, to follow its id.
        why: &'static str,
        /// What was found, for the host's operator.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The key came sealed, and the seal does not open here.
    #[error("{reason}: give the key again, for this host")]
    KeySealed {
        /// Which volume, by id.
        what: String,
        /// Why it does not open.
        reason: String,
    },
    /// The file that a volume was to be made from is not used, and is not kept; the same bytes again
    /// are refused again.
    #[error("the file that came for {what} is not used: {why}")]
    BadFile {
        /// Which volume, by id.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// What the other host of a migration says can't be done here; repeating does not help.
    #[error("the other host's {what} is refused: {why}")]
    Refused {
        /// Of which machine, by id.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something that is not the platform's has the identity of this machine or volume.
    #[error("{what} has the identity of a machine or volume of the platform, and is not ours")]
    Foreign {
        /// What it is called there.
        what: String,
    },
    /// It took longer than its deadline; whether it was done is unknown.
    #[error("the hypervisor did not {attempted} within {deadline_ms} ms")]
    Timeout {
        /// The call, as a verb phrase.
        attempted: String,
        /// The deadline, in ms.
        deadline_ms: u64,
    },
    /// The hypervisor failed.
    #[error("the hypervisor failed to {attempted}")]
    Driver {
        /// The call, as a verb phrase.
        attempted: String,
        /// What it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl HypervisorError {
    /// `what` is not there.
    pub fn not_found(what: impl Display + Copy) -> Self {
        Self::NotFound { what: what.to_string() }
    }

    /// `what` can't be changed now because of `why`.
    pub fn busy(what: impl Display + Copy, why: &'static str) -> Self {
        Self::Busy { what: what.to_string(), why }
    }

    /// The file that came for `what` is not used because of `why`.
    pub fn bad_file(what: impl Display + Copy, why: impl Into<String>) -> Self {
        Self::BadFile { what: what.to_string(), why: why.into() }
    }

    /// What the other host of a migration says about `what` can't be done here because of `why`.
    pub fn refused(what: impl Display + Copy, why: impl Into<String>) -> Self {
        Self::Refused { what: what.to_string(), why: why.into() }
    }

    /// `attempted` took longer than this.
    pub fn late(attempted: impl Into<String>, deadline: Duration) -> Self {
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        Self::Timeout { attempted: attempted.into(), deadline_ms }
    }

    /// The failure as its customer may read it: without names and texts of the host.
    pub fn for_customer(&self) -> String {
        match self {
            Self::NotFound { .. }
            | Self::Busy { .. }
            | Self::Full { .. }
            | Self::KeyMissing { .. }
            | Self::KeyWrong { .. }
            | Self::Damaged { .. }
            | Self::BadFile { .. }
            | Self::KeySealed { .. } => self.to_string(),
            Self::Unsupported { what } => format!("this host can't {what}"),
            Self::ImageDamaged { .. } => format!(
                "{self}, so it is not used; choose another image or another host, or ask the \
                 host's operator to import it again"
            ),
            Self::Refused { .. } => "its next host does not take it as it is".into(),
            Self::Foreign { .. } => "the host has something else under its identity".into(),
            Self::Timeout { .. } => "the host took too long and tries again".into(),
            Self::Driver { .. } => "the host's hypervisor failed; the host tries again".into(),
        }
    }
}
