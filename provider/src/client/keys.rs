//! Idempotency keys: a create repeated after a crash finds what the first one made.
//!
//! The key of a create is a hash of where the state is kept, the noun, the wished-for spec and
//! a number: equal things are numbered in the order this process makes them. So `count = 3` of
//! equal specs makes three. The broker refuses a number whose thing is confirmed, which is to
//! say in a state; then the next one is taken. So an apply that was killed finds all that it
//! made, whichever of them it could still write down, and makes the rest. Aliases count together:
//! see [`Claims`].

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::Claims;

/// Which state a process works on, as far as a provider can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope(String);

impl Scope {
    /// Reads the scope: `FAIRMAZON_STATE_SCOPE`, or working directory and backend; and the
    /// workspace.
    ///
    /// `env` answers with an environment variable's value, `read` with a file's text.
    pub fn find(
        working_directory: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        read: &dyn Fn(&Path) -> Option<String>,
    ) -> Self {
        let data = data_folder(working_directory, env);
        let workspace = env("TF_WORKSPACE")
            .or_else(|| read(&data.join("environment")))
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        if let Some(scope) = env("FAIRMAZON_STATE_SCOPE").filter(|scope| !scope.is_empty()) {
            return Self(format!("named\0{scope}\0{workspace}"));
        }
        let backend =
            read(&data.join("terraform.tfstate")).map_or_else(String::new, |text| backend(&text));
        Self(format!("found\0{}\0{workspace}\0{backend}", working_directory.display()))
    }

    /// A scope of this name.
    pub fn named(name: &str) -> Self {
        Self(format!("named\0{name}"))
    }
}

/// Where Terraform keeps what belongs to a working directory.
pub fn data_folder(working_directory: &Path, env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let data = env("TF_DATA_DIR").filter(|data| !data.is_empty());
    working_directory.join(data.unwrap_or_else(|| ".terraform".to_owned()))
}

/// The part of a data folder's state that says where the real state is. Projects that a
/// pipeline checks out into the same folder differ in it.
fn backend(text: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let part = |name: &str| parsed.as_ref()?.get("backend")?.get(name).map(ToString::to_string);
    [part("type"), part("config")].into_iter().flatten().collect()
}

/// Makes the keys of one process.
#[derive(Debug)]
pub struct Keys {
    scope: Scope,
    /// Tells this process from all others.
    process: String,
    /// Keys of the other providers of this run; nothing where there is no telling.
    claims: Option<Claims>,
    /// Whom the keys are shown to: elsewhere the same key means something else.
    party: [u8; 32],
    made: Mutex<HashMap<[u8; 32], u64>>,
    changes: AtomicU64,
}

impl Keys {
    /// Keys for a scope; `process` is different in each process.
    pub fn new(scope: Scope, process: String) -> Self {
        Self {
            scope,
            process,
            claims: None,
            party: [0; 32],
            made: Mutex::default(),
            changes: AtomicU64::new(0),
        }
    }

    /// The same, and no key that another provider of the run has used at the same `party`: an
    /// endpoint and a credential.
    #[must_use]
    pub fn claimed(self, claims: Option<Claims>, party: &[&[u8]]) -> Self {
        Self { claims, party: digest(party), ..self }
    }

    /// The next key for making a `noun` of this spec.
    pub fn for_create(&self, noun: &str, spec: &[u8]) -> String {
        let hash = digest(&[self.scope.0.as_bytes(), noun.as_bytes(), spec]);
        let mut made = self.made.lock();
        let occurrence = made.entry(hash).or_default();
        loop {
            let key = digest(&[&hash, &occurrence.to_be_bytes()]);
            *occurrence += 1;
            let name = || hex::encode(digest(&[&key, &self.party]));
            if self.claims.as_ref().is_none_or(|claims| claims.take(&name())) {
                return format!("once/{}", hex::encode(key));
            }
        }
    }

    /// The key for any other change: the same in all attempts of one call, and never again.
    pub fn for_change(&self) -> String {
        let number = self.changes.fetch_add(1, Ordering::Relaxed);
        hex::encode(digest(&[b"change", self.process.as_bytes(), &number.to_be_bytes()]))
    }
}

/// Each part is preceded by its length, so that no two lists of parts are the same bytes.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    fn keys(scope: &str, process: &str) -> Keys {
        Keys::new(Scope::named(scope), process.to_owned())
    }

    #[test]
    fn a_repeated_process_makes_the_same_keys_in_order() {
        let (first, again) = (keys("s", "1"), keys("s", "2"));
        let one = [first.for_create("instance", b"x"), first.for_create("instance", b"x")];
        assert_ne!(one[0], one[1], "equal specs are two things");
        let two = [again.for_create("instance", b"x"), again.for_create("instance", b"x")];
        assert_eq!(one, two, "a repeated apply finds both");
    }

    #[test]
    fn aliases_of_one_run_share_no_key_and_the_next_run_finds_all() {
        let data = tempfile::tempdir().unwrap();
        let session = Session::of_parent().unwrap();
        let alias = |process: &str, party: &[u8]| {
            let claims = Claims::of(&session, data.path());
            keys("s", process).claimed(Some(claims), &[party])
        };
        let make = |keys: &Keys| keys.for_create("instance", b"x");
        let (one, other, elsewhere) = (alias("1", b"p"), alias("2", b"p"), alias("3", b"q"));
        let made = [make(&one), make(&other), make(&one)];
        assert!(made[0] != made[1] && made[1] != made[2] && made[0] != made[2], "{made:?}");
        assert_eq!(make(&elsewhere), made[0], "another account counts by itself");
        let again = keys("s", "4");
        assert_eq!([make(&again), make(&again), make(&again)], made);
    }

    #[test]
    fn scope_noun_and_spec_all_count() {
        let base = keys("s", "1").for_create("instance", b"x");
        assert_ne!(base, keys("t", "1").for_create("instance", b"x"));
        assert_ne!(base, keys("s", "1").for_create("volume", b"x"));
        assert_ne!(base, keys("s", "1").for_create("instance", b"y"));
        assert!(base.len() <= fairmazon_model::limits::IDEMPOTENCY_KEY_MAX);
    }

    #[test]
    fn changes_never_share_a_key() {
        let (one, two) = (keys("s", "1"), keys("s", "2"));
        let made = [one.for_change(), one.for_change(), two.for_change()];
        assert!(made[0] != made[1] && made[0] != made[2], "{made:?}");
    }

    #[test]
    fn the_scope_knows_folder_workspace_and_backend() {
        let folder = Path::new("/project");
        let none = |_: &str| None;
        let nothing = |_: &Path| None;
        let plain = Scope::find(folder, &none, &nothing);
        assert_ne!(plain, Scope::find(Path::new("/other"), &none, &nothing));
        let staging = |name: &str| (name == "TF_WORKSPACE").then(|| "staging".to_owned());
        assert_ne!(plain, Scope::find(folder, &staging, &nothing));
        let chosen =
            |path: &Path| path.ends_with(".terraform/environment").then(|| "staging\n".into());
        assert_eq!(Scope::find(folder, &staging, &nothing), Scope::find(folder, &none, &chosen));
        let backend = |key: &'static str| {
            move |path: &Path| {
                path.ends_with("terraform.tfstate").then(|| {
                    format!(
                        r#"{{"lineage":"{key}","backend":{{"type":"s3","config":{{"key":"a"}}}}}}"#
                    )
                })
            }
        };
        let kept = Scope::find(folder, &none, &backend("one"));
        assert_ne!(plain, kept);
        assert_eq!(kept, Scope::find(folder, &none, &backend("two")), "a new init is no new state");
        let named = |name: &str| (name == "FAIRMAZON_STATE_SCOPE").then(|| "mine".to_owned());
        assert_eq!(
            Scope::find(folder, &named, &nothing),
            Scope::find(Path::new("/other"), &named, &nothing)
        );
        let both = |name: &str| named(name).or_else(|| staging(name));
        assert_ne!(Scope::find(folder, &named, &nothing), Scope::find(folder, &both, &nothing));
    }
}
