//! The real client: which one, what it can do, and one run of it.
//!
//! Owns: the choice (`FAIRMAZON_TERRAFORM`, else the one that `scripts/setup` made, else `PATH`)
//! and a clean environment. Where OpenTofu is on `PATH`, tests run with it too.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{Failure, Outcome, text::flat};

/// Whose client it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// HashiCorp's.
    Terraform,
    /// The Linux Foundation's.
    OpenTofu,
}

/// One client on this machine.
#[derive(Debug, Clone)]
pub struct Cli {
    /// Its program.
    pub program: PathBuf,
    /// Whose it is.
    pub product: Product,
    /// Major, minor.
    pub version: (u32, u32),
}

/// What one run said.
#[derive(Debug)]
pub struct Ended {
    /// The arguments, for messages.
    pub arguments: String,
    /// Its exit status; none when a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Cli {
    /// The client that tests run with.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub fn chosen() -> Outcome<Self> {
        let candidates = env::var_os("FAIRMAZON_TERRAFORM")
            .map(|program| vec![PathBuf::from(program)])
            .unwrap_or_else(|| {
                let mut all = vec![cache().join("bin/terraform")];
                all.extend(["tofu", "terraform"].iter().filter_map(|name| on_path(name)));
                all
            });
        let program = candidates.iter().find(|program| program.is_file()).ok_or_else(|| {
            Failure::Missing(format!(
                "no Terraform: looked for {}; run scripts/setup, or set FAIRMAZON_TERRAFORM to the path of terraform or tofu",
                candidates.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ")
            ))
        })?;
        Self::at(program)
    }

    /// The chosen client, and OpenTofu beside it where it is on `PATH` and was not chosen.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub fn all() -> Outcome<Vec<Self>> {
        let chosen = Self::chosen()?;
        let mut all = Vec::new();
        if chosen.product == Product::Terraform
            && let Some(tofu) = on_path("tofu")
        {
            all.push(Self::at(&tofu)?);
        }
        all.insert(0, chosen);
        Ok(all)
    }

    fn at(program: &Path) -> Outcome<Self> {
        let output = command(program)
            .arg("version")
            .output()
            .map_err(|source| Failure::Start { program: program.into(), source })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (product, version) = parse_version(&text).ok_or_else(|| {
            Failure::Unexpected(format!("{} version said {text:?}", program.display()))
        })?;
        Ok(Self { program: program.into(), product, version })
    }

    /// Whether it knows actions and list resources (`terraform query`).
    pub fn has_actions_and_lists(&self) -> bool {
        self.product == Product::Terraform && self.version >= (1, 14)
    }

    /// A command of it with nothing of the caller's Terraform or Fairmazon settings.
    pub fn command(&self) -> Command {
        command(&self.program)
    }
}

impl Ended {
    /// From what a finished process left.
    pub(crate) fn new(arguments: &[&str], output: &Output) -> Self {
        Self {
            arguments: arguments.join(" "),
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Both outputs on one line, without boxes and wrapping.
    pub fn text(&self) -> String {
        flat(&format!("{}\n{}", self.stdout, self.stderr))
    }

    /// The run must have succeeded.
    ///
    /// # Errors
    /// `Unexpected` with everything it said.
    pub fn ok(self) -> Outcome<Self> {
        if self.status == Some(0) { Ok(self) } else { Err(self.surprise("to succeed")) }
    }

    /// The run must have failed, saying each of `words` (case does not matter).
    ///
    /// # Errors
    /// `Unexpected` with everything it said.
    pub fn fails_saying(self, words: &[&str]) -> Outcome<Self> {
        if self.status == Some(0) {
            return Err(self.surprise("to fail"));
        }
        let text = self.text().to_lowercase();
        match words.iter().find(|word| !text.contains(&word.to_lowercase())) {
            Some(word) => Err(self.surprise(&format!("to say {word:?}"))),
            None => Ok(self),
        }
    }

    fn surprise(&self, expected: &str) -> Failure {
        Failure::Unexpected(format!(
            "`{}` was expected {expected}, it ended with {:?} and said:\n{}\n{}",
            self.arguments, self.status, self.stdout, self.stderr
        ))
    }
}

/// A command with nothing of the caller's Terraform or Fairmazon settings.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["TF_", "TOFU_", "FAIRMAZON_", "PLUGIN_"].iter().any(|p| name_text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
    // The home folder's own CLI configuration must not matter either.
    command.env("TF_CLI_CONFIG_FILE", "/dev/null").env("CHECKPOINT_DISABLE", "1");
    command.env("TF_IN_AUTOMATION", "1");
    command
}

/// Where `scripts/setup` keeps the Terraform that it makes.
fn cache() -> PathBuf {
    let of = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    of("FAIRMAZON_CACHE")
        .or_else(|| of("XDG_CACHE_HOME").map(|cache| cache.join("fairmazon")))
        .or_else(|| of("HOME").map(|home| home.join(".cache/fairmazon")))
        .unwrap_or_default()
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn parse_version(text: &str) -> Option<(Product, (u32, u32))> {
    text.lines().find_map(|line| {
        let (product, version) = line
            .strip_prefix("Terraform v")
            .map(|rest| (Product::Terraform, rest))
            .or_else(|| line.strip_prefix("OpenTofu v").map(|rest| (Product::OpenTofu, rest)))?;
        let mut numbers = version.split('.').map(str::parse);
        Some((product, (numbers.next()?.ok()?, numbers.next()?.ok()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: i32, stderr: &str) -> Ended {
        Ended {
            arguments: "plan".into(),
            status: Some(status),
            stdout: String::new(),
            stderr: stderr.into(),
        }
    }

    #[test]
    fn versions_are_read() {
        let read = parse_version("Terraform v1.15.5\non linux_amd64\n");
        assert_eq!(read, Some((Product::Terraform, (1, 15))));
        let read = parse_version("OpenTofu v1.12.0-beta1\n");
        assert_eq!(read, Some((Product::OpenTofu, (1, 12))));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn endings_are_judged() {
        assert!(ended(0, "").ok().is_ok());
        assert!(ended(1, "x").ok().is_err());
        assert!(ended(1, "│ Error: the\n│ Token is wrong").fails_saying(&["the token"]).is_ok());
        assert!(ended(1, "another").fails_saying(&["token"]).is_err());
        assert!(ended(0, "token").fails_saying(&["token"]).is_err());
    }
}
