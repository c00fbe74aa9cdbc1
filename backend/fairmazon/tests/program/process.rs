//! A running `fairmazon`, and a client of the broker in it. Nothing outlives its test.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

pub(crate) type Environment = BTreeMap<String, String>;

/// The program without anything of the surroundings that would change what it does.
pub(crate) fn fairmazon() -> Command {
    alone(env!("CARGO_BIN_EXE_fairmazon"))
}

/// A program that starts it, likewise.
fn alone(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FAIRMAZON_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// What starts a broker with an authority of its own on a free port of this machine.
pub(crate) fn own_broker(data: &Path) -> [&str; 7] {
    let data = data.to_str().unwrap();
    ["broker", "--listen", "127.0.0.1:0", "--own-authority-for", "127.0.0.1", "--data-dir", data]
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str], environment: &Environment) -> Output {
    fairmazon().args(arguments).envs(environment).output().unwrap()
}

/// Runs a command that must succeed; answers what it wrote.
pub(crate) fn ask(arguments: &[&str], environment: &Environment) -> String {
    let output = run(arguments, environment);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A running `fairmazon dev`.
pub(crate) struct Dev {
    child: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) environment: Environment,
}

impl Dev {
    /// Starts it over the folder and waits until it has said what to export.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_on(data, "simulated")
    }

    /// The same with another hypervisor.
    pub(crate) fn start_on(data: &Path, hypervisor: &str) -> Self {
        let mut child = fairmazon()
            .args(["dev", "--hypervisor", hypervisor, "--hosts", "1", "--data-dir"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut dev = Self { child, lines, environment: Environment::new() };
        while dev.environment.len() < 3 {
            let mut line = String::new();
            assert_ne!(dev.lines.read_line(&mut line).unwrap(), 0, "it ended before it was ready");
            if let Some(pair) = line.trim().strip_prefix("export ") {
                let (name, value) = pair.split_once('=').unwrap();
                dev.environment.insert(name.into(), value.trim_matches('\'').into());
            }
        }
        dev
    }

    /// Asks it to end, and waits.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        self.child.wait().unwrap()
    }

    /// A client with the customer's token.
    pub(crate) async fn client(&self) -> Client {
        client(&self.environment).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the broker that the variables name.
pub(crate) async fn client(environment: &Environment) -> Client {
    let pem = std::fs::read_to_string(&environment["FAIRMAZON_CA_CERTIFICATE"]).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    let channel = Endpoint::from_shared(environment["FAIRMAZON_ENDPOINT"].clone())
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let token = format!("Bearer {}", environment["FAIRMAZON_TOKEN"]);
    InterceptedService::new(channel, Show(token))
}

/// A command that runs until it is asked to end; what it logs goes to a file.
pub(crate) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start(arguments: &[&str], environment: &Environment, log: &Path) -> Self {
        Self::spawn(fairmazon().args(arguments).envs(environment), log)
    }

    /// Starts it within limits, which `ulimit` is given.
    pub(crate) fn start_limited(limits: &str, arguments: &[&str], log: &Path) -> Self {
        let script = format!("ulimit {limits}; exec \"$@\"");
        let program = ["-c", &script, "sh", env!("CARGO_BIN_EXE_fairmazon")];
        Self::spawn(alone("sh").args(program).args(arguments), log)
    }

    fn spawn(command: &mut Command, log: &Path) -> Self {
        let log = OpenOptions::new().append(true).create(true).open(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits for a line that begins so; the rest of it.
    pub(crate) fn told(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "it ended before it said {beginning:?}");
            if let Some(rest) = line.trim().strip_prefix(beginning) {
                return rest.to_owned();
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end.
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Asks it to read its certificate again.
    pub(crate) fn reload(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// Asks it to end, and waits.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.interrupt();
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Shows the token.
#[derive(Clone)]
pub(crate) struct Show(String);

impl Interceptor for Show {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = MetadataValue::try_from(self.0.as_str()).unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

pub(crate) type Client = InterceptedService<Channel, Show>;

/// The variables of a file that `fairmazon dev` has written.
pub(crate) fn exported(file: &Path) -> Environment {
    let text = std::fs::read_to_string(file).unwrap();
    let pairs = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
    pairs.map(|(name, value)| (name.into(), value.trim_matches('\'').into())).collect()
}
