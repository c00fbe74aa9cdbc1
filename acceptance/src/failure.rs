//! What can go wrong in the harness, told so that the reader of a test's output need not guess.

use std::{fmt, io, path::PathBuf};

/// What a test returns.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a test could not go on.
#[derive(thiserror::Error)]
pub enum Failure {
    /// A program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {verb} {path}")]
    File {
        /// What was attempted (`read`, `write`, `copy`).
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something needed is not there.
    #[error("{0}")]
    Missing(String),
    /// An event did not come.
    #[error("waited {seconds} s for {what}, it did not come; what was said until then:\n{said}")]
    TooLate {
        /// The event.
        what: String,
        /// How long it was waited for.
        seconds: u64,
        /// The program's output so far.
        said: String,
    },
    /// A program did something else than the test expects.
    #[error("{0}")]
    Unexpected(String),
    /// An answer in JSON could not be read.
    #[error("cannot read the JSON of {what}")]
    Json {
        /// Which answer.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Failure {
    /// For `map_err` on file operations.
    pub(crate) fn file(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }
}

/// A test's runner prints the `Debug` form: the text with its causes, not the fields.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
