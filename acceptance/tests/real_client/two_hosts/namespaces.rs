//! A machine of the test's own: namespaces of network, processes, mounts and name, and wires
//! between such machines.
//!
//! Owns: that nothing of a machine outlives its first process, which ends with the test, in
//! whatever way that ends.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use acceptance::{Failure, Outcome};

/// What all machines have.
const BEGIN: &str = "mount -t proc proc /proc; ip link set lo up\n";
/// The machine is on until the end of the input, which the test holds open.
const END: &str = "echo ready; exec >&2; read -r _ || true\n";

/// A machine that is on.
pub(super) struct Namespaces {
    first: Child,
}

impl Namespaces {
    /// Starts one; `script` is what bash does in it before it is ready, with `arguments`. Its
    /// standard output is not for the script. Needs root.
    pub(super) fn start(script: &str, arguments: &[&Path]) -> Outcome<Self> {
        let script = format!("set -e; {BEGIN}exec 3>&1 >&2\n{script}\nexec >&3 3>&-\n{END}");
        let mut first = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"])
            .args(["bash", "-c", &script, "machine"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::Unexpected(format!("unshare can't be run: {error}")))?;
        let said = first.stdout.take().map(BufReader::new);
        let machine = Self { first };
        let mut ready = String::new();
        said.map(|mut said| said.read_line(&mut ready));
        if ready == "ready\n" {
            return Ok(machine);
        }
        Err(Failure::Unexpected("a machine of the test did not start: it needs root".into()))
    }

    /// A program in it.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // Its processes are those of its first process' children.
        let processes = format!("--pid={}", self.at("ns/pid_for_children").display());
        let mut command = self.enter(&["--net", "--mount", "--uts", "--ipc", &processes]);
        command.arg(program);
        command
    }

    /// A program of this machine in its network: it sees files and processes of this machine.
    pub(super) fn in_network(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.enter(&["--net"]);
        command.arg(program);
        command
    }

    fn enter(&self, namespaces: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.id().to_string()]).args(namespaces).arg("--");
        command
    }

    /// A file of it, as this machine sees it.
    pub(super) fn file(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.at("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    fn at(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.first.id().to_string()).join(name)
    }

    /// Lays a wire to this machine, where it is `eth0` with an address, from one whose interfaces
    /// are the ports of a switch, where it is `port`.
    pub(super) fn plug_into(&self, switch: &Self, port: &str, address: &str) -> Outcome {
        let this = self.first.id().to_string();
        let wire = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &this];
        run(switch.in_network("ip").args(wire))?;
        run(switch.in_network("ip").args(["link", "set", port, "master", "switch", "up"]))?;
        let within = format!("{address}/24");
        run(self.in_network("ip").args(["address", "add", &within, "dev", "eth0"]))?;
        run(self.in_network("ip").args(["link", "set", "eth0", "up"]))?;
        Ok(())
    }

    /// Ends it with all that runs on it, at once: nothing of it gets to do anything more.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // The kernel ends its child, and all others with that.
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a program to its end, which must be a success; what it said on its standard output.
pub(super) fn run(command: &mut Command) -> Outcome<String> {
    let (done, said, errors) = ran(command)?;
    if done {
        return Ok(said);
    }
    Err(Failure::Unexpected(format!("{command:?} failed: {said}{errors}")))
}

/// Runs a program to its end, which must be a failure; all that it said.
pub(super) fn refused(command: &mut Command) -> Outcome<String> {
    let (done, said, errors) = ran(command)?;
    if done {
        return Err(Failure::Unexpected(format!("{command:?} was not refused: {said}{errors}")));
    }
    Ok(said + &errors)
}

fn ran(command: &mut Command) -> Outcome<(bool, String, String)> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failure::Unexpected(format!("{command:?}: {error}")))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.success(), text(output.stdout), text(output.stderr)))
}
