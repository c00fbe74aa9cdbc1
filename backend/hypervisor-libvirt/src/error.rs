//! libvirt's errors as those of a hypervisor.

use fairmazon_hypervisor::HypervisorError;
use virt::error::{Error, ErrorNumber};

/// Why libvirt can't be used at all.
#[derive(Debug, thiserror::Error)]
pub enum LibvirtError {
    /// The event loop could not be set up.
    #[error("libvirt's event loop could not be started")]
    Events(#[source] Error),
    /// The connection did not open.
    #[error("libvirt refuses the connection {uri}: is the package libvirt0 installed?")]
    Connect {
        /// What was to be opened.
        uri: String,
        /// What libvirt said.
        #[source]
        source: Error,
    },
    /// The host could not be described to libvirt.
    #[error("the description of the simulated host could not be written")]
    Describe(#[source] std::io::Error),
    /// Threads for libvirt's calls could not be started.
    #[error("threads for libvirt's calls could not be started")]
    Threads(#[source] std::io::Error),
    /// libvirt's daemon could not be reached.
    #[error("libvirt's daemon does not answer at {uri}: does libvirtd run on this host?")]
    Daemon {
        /// What was to be opened.
        uri: String,
        /// What libvirt said.
        #[source]
        source: Box<HypervisorError>,
    },
    /// A folder could not be made.
    #[error("the folder {path} could not be made: check that its parent is there and writable")]
    Folder {
        /// Which one.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The folder of a storage class is not the one that this host had.
    #[error(
        "{} is not the folder that this host had: is its disk mounted? Where that is lost for good, \
         with the volumes on it, delete {} and start the agent again", path.display(), known.display()
    )]
    NotMounted {
        /// Which one.
        path: std::path::PathBuf,
        /// Where this host keeps which folder it had.
        known: std::path::PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A storage pool could not be set up.
    #[error("the storage pool {pool} could not be set up")]
    Pool {
        /// Its name.
        pool: String,
        /// What libvirt said.
        #[source]
        source: Error,
    },
}

/// `attempted` failed.
pub(crate) fn failed(attempted: impl Into<String>) -> impl FnOnce(Error) -> HypervisorError {
    let attempted = attempted.into();
    move |source| HypervisorError::Driver { attempted, source: source.into() }
}

/// Whether the thing is not there.
pub(crate) fn is_missing(error: &Error) -> bool {
    error.code().is_any(vec![
        ErrorNumber::NoDomain,
        ErrorNumber::NoStorageVolume,
        ErrorNumber::NoDomainMetadata,
    ])
}

/// Whether libvirt has no such call for this driver.
pub(crate) fn is_unsupported(error: &Error) -> bool {
    error.code().is(ErrorNumber::NoSupport)
}
