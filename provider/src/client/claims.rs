//! Which keys the providers of one Terraform process have used.
//!
//! Aliases of a provider are processes of their own. With equal configurations they would make
//! equal keys, and two resources would hold one machine. So each key is claimed first, by a file
//! in Terraform's data folder that only one of them can make. The claims end with the Terraform
//! process, not with the provider's: an alias that is done may be gone before another begins.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::session::Session;

/// The folder in Terraform's data folder.
const FOLDER: &str = "fairmazon";

/// The claims of one Terraform process.
#[derive(Debug)]
pub struct Claims {
    folder: PathBuf,
}

impl Claims {
    /// The claims of a session, below Terraform's data folder. Those of sessions that are over
    /// are removed: what they made is found again.
    pub fn of(session: &Session, data: &Path) -> Self {
        let all = data.join(FOLDER);
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(Session::is_over) {
                // Another provider may have been quicker.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let folder = all.join(session.name());
        if let Err(error) = fs::create_dir_all(&folder) {
            tracing::debug!(folder = %folder.display(), %error, "keys are not claimed");
        }
        Self { folder }
    }

    /// Claims a name. Answers whether nobody had it; where no file can be made, nobody has.
    pub fn take(&self, name: &str) -> bool {
        match File::create_new(self.folder.join(name)) {
            Err(error) => error.kind() != ErrorKind::AlreadyExists,
            Ok(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_claimed_once_in_a_session() {
        let data = tempfile::tempdir().unwrap();
        let session = Session::of_parent().unwrap();
        let over = data.path().join("fairmazon/1-0");
        fs::create_dir_all(&over).unwrap();
        let (one, other) = (Claims::of(&session, data.path()), Claims::of(&session, data.path()));
        assert!(one.take("a") && !other.take("a") && other.take("b") && !one.take("b"));
        assert!(!over.exists(), "a session that is over holds nothing");
    }

    #[test]
    fn without_a_folder_everything_is_free() {
        let data = tempfile::NamedTempFile::new().unwrap();
        let claims = Claims::of(&Session::of_parent().unwrap(), data.path());
        assert!(claims.take("a") && claims.take("a"));
    }
}
