//! A running `fairmazon dev`: broker and hosts in one process, on a free port.
//!
//! Owns: its start, what it tells to export, its end (graceful or like a power cut) and its start
//! again over the same data.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with,
        sockopt::set_socket_reuseaddr,
    },
    process::Signal,
};
use tempfile::TempDir;

use crate::{Binaries, Failure, Outcome, Running};

/// What a client needs to reach the backend: `FAIRMAZON_*` variables.
pub type Environment = BTreeMap<String, String>;

/// How long a start may take: it is limited to find a hang, not to measure.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a graceful end may take.
const END_LIMIT: Duration = Duration::from_secs(30);
/// The variables that a start must have told before it counts as ready.
const EXPORTS: [&str; 4] =
    ["FAIRMAZON_ENDPOINT", "FAIRMAZON_TOKEN", "FAIRMAZON_CA_CERTIFICATE", "FAIRMAZON_KEY_FILE"];

/// What a backend is started with.
#[derive(Debug, Clone)]
pub struct BackendOptions {
    /// `simulated`, `libvirt-test` or `qemu`, which needs `--guest` among the other arguments.
    pub hypervisor: &'static str,
    /// More arguments of `fairmazon dev`.
    pub more: Vec<String>,
    /// The data folder, which stays; without, one that goes with the backend.
    pub data: Option<PathBuf>,
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self { hypervisor: "simulated", more: Vec::new(), data: None }
    }
}

/// A running backend over a data folder of its own.
pub struct Backend {
    program: PathBuf,
    options: BackendOptions,
    data: PathBuf,
    port: Port,
    running: Option<Running>,
    environment: Environment,
    /// Goes after all that uses it.
    _own: Option<TempDir>,
}

impl Backend {
    /// Starts one with simulated hosts and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start or does not tell what to export.
    pub fn start() -> Outcome<Self> {
        Self::start_with(BackendOptions::default())
    }

    /// Starts one with options of the test's choice.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(options: BackendOptions) -> Outcome<Self> {
        let program = Binaries::find()?.fairmazon.clone();
        let (data, own) = match &options.data {
            Some(data) => (data.clone(), None),
            None => {
                let own = tempfile::tempdir().map_err(Failure::file("create", "a data folder"))?;
                (own.path().to_owned(), Some(own))
            }
        };
        let port = Port::free()?;
        let environment = Environment::new();
        let mut backend =
            Self { program, options, data, port, running: None, environment, _own: own };
        backend.again()?;
        Ok(backend)
    }

    /// What a client needs.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Ends it at once, without a chance to clean up.
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// Ends it as Ctrl-C does; the end must be clean.
    ///
    /// # Errors
    /// When it does not end, or not with status 0.
    pub fn interrupt(&mut self) -> Outcome {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.signal(Signal::INT);
        let status = running.end(END_LIMIT)?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::Unexpected(format!(
            "fairmazon dev ended with {status} after Ctrl-C and said:\n{}",
            running.said()
        )))
    }

    /// Starts it over the same data and port; the environment stays what it was.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn again(&mut self) -> Outcome {
        let mut command = Command::new(&self.program);
        command
            .arg("dev")
            .args(["--hypervisor", self.options.hypervisor])
            .args(["--listen", &format!("127.0.0.1:{}", self.port.number)])
            .arg("--data-dir")
            .arg(&self.data)
            .args(&self.options.more);
        let mut running = Running::start(&mut command)?;
        let mut exports = Environment::new();
        while !EXPORTS.iter().all(|name| exports.contains_key(*name)) {
            let line = running.line("its exports", START_LIMIT, |line| export(line).is_some())?;
            exports.extend(export(&line));
        }
        self.running = Some(running);
        self.environment = exports;
        Ok(())
    }

    /// Runs a command of `fairmazon` as one of the people of the data folder (`env`, `env.hosts`,
    /// `env.platform`); what it said.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ask(&self, person: &str, arguments: &[&str]) -> Outcome<String> {
        let script = format!(". '{}' && exec \"$0\" \"$@\"", self.data().join(person).display());
        let output = Command::new("sh")
            .args(["-c", &script])
            .arg(&self.program)
            .args(arguments)
            .output()
            .map_err(Failure::file("run", "sh"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(Failure::Unexpected(format!(
            "{arguments:?} ended with {}: {said}{errors}",
            output.status
        )))
    }

    /// The passphrase of a volume, as its customer fetches it through the file `wrapped`.
    ///
    /// # Errors
    /// As of [`ask`](Self::ask).
    pub fn passphrase(&self, volume: &str, wrapped: &Path) -> Outcome<String> {
        let wrapped = wrapped.display().to_string();
        self.ask("env", &["key", "fetch", volume, &wrapped])?;
        let hex = self.ask("env", &["key", "passphrase", volume, &wrapped])?;
        Ok(hex.trim().to_owned())
    }

    /// What it said so far.
    pub fn said(&mut self) -> String {
        self.running.as_mut().map(Running::said).unwrap_or_default()
    }
}

/// `export NAME=value`, the value quoted for a shell or not.
fn export(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
    let quoted = ['\'', '"']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)));
    Some((name.to_owned(), quoted.unwrap_or(value).to_owned()))
}

/// A port of this machine that nobody is given while this is there: it is bound. It is not listened
/// on, so that who asks for just it, and sets `SO_REUSEADDR`, gets it.
#[derive(Debug)]
struct Port {
    number: u16,
    _held: OwnedFd,
}

impl Port {
    fn free() -> Outcome<Self> {
        let bound = || {
            let held =
                socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            set_socket_reuseaddr(&held, true)?;
            bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
            let number = SocketAddrV4::try_from(getsockname(&held)?)?.port();
            Ok(Self { number, _held: held })
        };
        bound().map_err(|error: Errno| Failure::file("bind", "127.0.0.1")(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_as_a_shell_would() {
        let pair = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(export("export A=b=c"), pair("A", "b=c"));
        assert_eq!(export("  export A='b c'"), pair("A", "b c"));
        assert_eq!(export("export A=\"b\""), pair("A", "b"));
        assert_eq!(export("ready on port 1"), None);
    }
}
