//! The broker as a process of its own, and the people who use the platform.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use acceptance::{Binaries, Environment, Failure, Outcome, Running};
use rustix::process::Signal;

use super::{
    host::Image,
    namespaces::{Namespaces, run},
};
use crate::guests::file;

/// Where it is on the wire.
pub(super) const ADDRESS: &str = "10.99.0.1";
/// How long hosts may be without it: longer than an agent takes to start on a busy machine.
const LEASE_SECONDS: &str = "60";
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running broker.
pub(super) struct Platform {
    pub(super) data: PathBuf,
    machine: Namespaces,
    broker: Running,
}

impl Platform {
    /// Starts one on a machine of its own.
    pub(super) fn start(folder: &Path, switch: &Namespaces, image: &Image) -> Outcome<Self> {
        let machine = Namespaces::start("", &[])?;
        machine.plug_into(switch, "platform", ADDRESS)?;
        let data = folder.join("platform");
        let mut command = machine.in_network(&Binaries::find()?.fairmazon);
        command
            .args(["broker", "--listen", &format!("{ADDRESS}:8443")])
            .args(["--own-authority-for", ADDRESS, "--lease-seconds", LEASE_SECONDS])
            .arg("--images-dir")
            .arg(&image.all)
            .arg("--image-key")
            .arg(&image.key)
            .arg("--data-dir")
            .arg(&data);
        let mut broker = Running::start(&mut command)?;
        broker.line("that it listens", START_LIMIT, |line| line.starts_with("listening on"))?;
        Ok(Self { data, machine, broker })
    }

    pub(super) fn endpoint() -> String {
        format!("https://{ADDRESS}:8443")
    }

    /// The certificate of its authority.
    pub(super) fn authority(&self) -> PathBuf {
        self.data.join("tls/ca.pem")
    }

    /// The person who installed it.
    pub(super) fn own_person(&self) -> Outcome<Environment> {
        let token = file(fs::read_to_string(self.data.join("platform-token")))?;
        Ok(self.person(token.trim()))
    }

    /// What somebody needs who has this token.
    pub(super) fn person(&self, token: &str) -> Environment {
        [
            ("FAIRMAZON_ENDPOINT", Self::endpoint()),
            ("FAIRMAZON_CA_CERTIFICATE", self.authority().display().to_string()),
            ("FAIRMAZON_TOKEN", token.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// What a person is told who runs `fairmazon` with these arguments.
    pub(super) fn ask(&self, person: &Environment, arguments: &[&str]) -> Outcome<String> {
        run(self.command(person)?.args(arguments))
    }

    /// `fairmazon` for a person.
    pub(super) fn command(&self, person: &Environment) -> Outcome<Command> {
        let mut command = self.machine.in_network(&Binaries::find()?.fairmazon);
        command.envs(person);
        Ok(command)
    }

    /// A script that runs a program where the platform can be reached.
    pub(super) fn here(&self, program: &Path, script: &Path) -> Outcome {
        let enter = self.machine.in_network(program);
        let words: Vec<_> = enter.get_args().map(|word| word.to_string_lossy()).collect();
        file(fs::write(script, format!("#!/bin/sh\nexec nsenter {} \"$@\"\n", words.join(" "))))?;
        run(Command::new("chmod").arg("755").arg(script)).map(drop)
    }

    /// The key of a volume in hex digits, as its customer gets it through the file `wrapped`.
    pub(super) fn passphrase(
        &self,
        customer: &Environment,
        volume: &str,
        wrapped: &Path,
    ) -> Outcome<String> {
        let wrapped = wrapped.display().to_string();
        self.ask(customer, &["key", "fetch", volume, &wrapped])?;
        let hex = self.ask(customer, &["key", "passphrase", volume, &wrapped])?;
        Ok(hex.trim().to_owned())
    }

    /// The broker does nothing from here on, until it goes on.
    pub(super) fn stands_still(&self) {
        self.broker.signal(Signal::STOP);
    }

    pub(super) fn goes_on(&self) {
        self.broker.signal(Signal::CONT);
    }

    /// The broker's process.
    pub(super) fn process(&self) -> u32 {
        self.broker.pid()
    }

    /// What the broker has said.
    pub(super) fn said(&mut self) -> String {
        self.broker.said()
    }

    /// Ends it as an operator does.
    pub(super) fn stop(mut self) -> Outcome {
        self.broker.signal(Signal::TERM);
        let status = self.broker.end(START_LIMIT)?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::Unexpected(format!("the broker ended with {status}: {}", self.broker.said())))
    }
}

/// A line of `NAME: VALUE`.
pub(super) fn told(said: &str, name: &str) -> Outcome<String> {
    let found = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.map(str::to_owned).ok_or_else(|| Failure::Unexpected(format!("no {name} in {said:?}")))
}
