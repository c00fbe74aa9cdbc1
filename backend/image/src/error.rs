//! Why an image is not made, taken or used.

use std::{io, path::PathBuf};

/// Why an image is not made, taken or used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or folder can't be used.
    #[error("unable to {verb} {path}", path = path.display())]
    File {
        /// What was attempted.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is not a key of minisign.
    #[error("{path} holds no key that can be used: {reason}; make a pair with `fairmazon image key` or with `minisign -G`", path = path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder does not hold what makes an image, or is described wrongly.
    #[error("{path} makes no image: {reason}", path = path.display())]
    Parts {
        /// Which folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// There is no signature.
    #[error("{path} is not signed: there is no `image.json.minisig` beside it; sign it with `fairmazon image pack` or with `minisign -S`", path = path.display())]
    Unsigned {
        /// Which manifest.
        path: PathBuf,
    },
    /// No trusted key has signed the manifest as it is.
    #[error("{path} is not signed by a key that is trusted here, or was changed after that; take the image from its maker again, or trust the maker's public key", path = path.display())]
    Untrusted {
        /// Which manifest.
        path: PathBuf,
    },
    /// The manifest is signed, and can't be used.
    #[error("{path} can't be used: {reason}; pack the image again with this version of fairmazon", path = path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Of images that are to be told apart, one can't be.
    #[error("{path} can't be in one catalogue with {other}: both are the image {text}; take one of them away", path = path.display(), other = other.display())]
    Twice {
        /// The folder of one.
        path: PathBuf,
        /// That of the other.
        other: PathBuf,
        /// The id or name that both have.
        text: String,
    },
    /// There is no image.
    #[error("{path} has no folder with an `image.json`: put one there for each image, with its `image.json.minisig`", path = path.display())]
    Empty {
        /// In which folder.
        path: PathBuf,
    },
    /// A file is not what was signed.
    #[error("{path} is not what its image's maker signed: {reason}; take the image from its maker again, and check the disk that it is on", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
}

impl ImageError {
    pub(crate) fn file(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }

    /// What is wrong with the image, without names and texts of the host.
    pub const fn why(&self) -> &'static str {
        match self {
            Self::File { .. } => "can't be read",
            Self::Key { .. } => "can't be verified, since a key can't be used",
            Self::Parts { .. } => "is not complete",
            Self::Unsigned { .. } => "is not signed",
            Self::Untrusted { .. } => "is not signed by a key that the host trusts",
            Self::Twice { .. } => "is not the only one of its name",
            Self::Empty { .. } => "is missing",
            Self::Manifest { .. } => "is described in a form that the host does not know",
            Self::Damaged { .. } => "is damaged: it is not what its maker signed",
        }
    }
}
