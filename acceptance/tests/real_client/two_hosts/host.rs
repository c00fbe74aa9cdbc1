//! A host as its operator sets it up and runs it: a machine with libvirt's daemon and, as a
//! process of its own, the agent.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use acceptance::{Binaries, Environment, Failure, Outcome, Running, repository};
use rustix::process::Signal;

use super::{
    namespaces::{Namespaces, refused, run},
    platform::{Platform, told},
};
use crate::guests::{consoles_in, emulators_in, file};

/// What begins each machine: libvirt's files are in memory and of this machine alone.
const LIBVIRT: &str = "\
    ulimit -c 0\n\
    . \"$1\"\n\
    private_libvirt \"$2\" 'log_outputs = \"3:file:/var/log/libvirt/libvirtd.log\"'\n\
    rm -f \"$2\"/socket/*\n\
    libvirtd --daemon 3>&-";
/// In memory, as private_libvirt makes it.
const RUNTIME: &str = "/run/fairmazon";
/// Where agents take machines from each other.
const MOVES_PORT: u16 = 7_443;
/// Nobody listens there.
const DISCARD_PORT: u16 = 9;
/// The agent's folder.
const STATE: &str = "agent";
const STORAGE: &str = "standard=8";
const PLACE: [&str; 6] = ["--country", "LU", "--latitude", "49.6", "--longitude", "6.1"];
/// An agent tries the machine before it says that it runs.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Whose images the platform sells and hosts use, and the one that there is.
pub(super) struct Image {
    /// Where the broker looks for images.
    pub(super) all: PathBuf,
    folder: PathBuf,
    pub(super) key: PathBuf,
}

impl Image {
    /// Packs the tiny guest, as one who makes images does.
    pub(super) fn pack(guest: &Path, folder: &Path) -> Outcome<Self> {
        let fairmazon = &Binaries::find()?.fairmazon;
        let (all, key) = (folder.join("images"), folder.join("maker.key"));
        let made = all.join("alpine");
        file(fs::create_dir_all(&made))?;
        for part in ["kernel", "initrd", "cmdline"] {
            file(fs::copy(guest.join(part), made.join(part)))?;
        }
        run(Command::new(fairmazon).args(["image", "key", "--to"]).arg(&key))?;
        let pack = ["image", "pack", "--id", "img-alpine-3.22", "--name", "alpine-3.22", "--key"];
        run(Command::new(fairmazon).args(pack).arg(&key).arg(&made))?;
        Ok(Self { all, folder: made, key: folder.join("maker.key.pub") })
    }

    /// Its version, as whoever has its manifest computes it.
    pub(super) fn version(&self) -> Outcome<String> {
        let said = run(Command::new("sha256sum").arg(self.folder.join("image.json")))?;
        Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
    }
}

/// A host that is registered; on or off.
pub(super) struct Host {
    pub(super) id: String,
    pub(super) name: &'static str,
    address: String,
    folder: PathBuf,
    endpoint: String,
    authority: PathBuf,
    image_key: PathBuf,
    token: PathBuf,
    machine: Option<Namespaces>,
    agent: Option<Running>,
}

impl Host {
    /// Registers a host, and turns its machine on.
    pub(super) fn register(
        name: &'static str,
        address: &str,
        folder: &Path,
        platform: &Platform,
        operator: &Environment,
        image: &Image,
        switch: &Namespaces,
    ) -> Outcome<Self> {
        let offer = [
            "host",
            "register",
            "--name",
            name,
            "--site",
            name,
            "--town",
            "Town",
            "--region",
            "eu-central",
            "--vcpus",
            "4",
            "--memory-mib",
            "8192",
            "--storage",
            STORAGE,
        ];
        let said = platform.ask(operator, &[&offer[..], &PLACE].concat())?;
        let folder = folder.join(name);
        file(fs::create_dir_all(folder.join("storage/standard")))?;
        let token = folder.join("token");
        file(fs::write(&token, told(&said, "token")?))?;
        run(Command::new("chmod").arg("600").arg(&token))?;
        let mut host = Self {
            id: told(&said, "id")?,
            name,
            address: address.into(),
            folder,
            endpoint: Platform::endpoint(),
            authority: platform.authority(),
            image_key: image.key.clone(),
            token,
            machine: None,
            agent: None,
        };
        host.turn_on(switch)?;
        Ok(host)
    }

    /// Turns its machine on: libvirt runs, and no agent yet.
    pub(super) fn turn_on(&mut self, switch: &Namespaces) -> Outcome {
        let functions = repository().join("backend/hypervisor-libvirt/src/qemu/private_libvirt.sh");
        let machine = Namespaces::start(LIBVIRT, &[&functions, &self.folder.join("libvirt")])?;
        machine.plug_into(switch, self.name, &self.address)?;
        self.machine = Some(machine);
        Ok(())
    }

    /// As its operator sets it up: it is proven that it may run machines, it joins, gets an image,
    /// and its agent is started.
    pub(super) fn set_up_and_start(&mut self, image: &Image) -> Outcome {
        let checked =
            run(self.fairmazon()?.args(["host", "check", "--level", "0"]).args(self.own(STATE)))?;
        assert!(checked.contains("level reached: 0"), "{checked}");
        let joined = run(&mut self.join(STATE)?)?;
        assert!(joined.contains("the host has joined"), "{joined}");
        let mut add = self.fairmazon()?;
        add.args(["image", "add", "--from"]).arg(&image.folder);
        add.arg("--to").arg(self.folder.join("images")).arg("--trust").arg(&self.image_key);
        run(&mut add)?;
        self.start_agent()
    }

    /// What `fairmazon host join` is refused with, once its token has been used.
    pub(super) fn joins_no_more(&self) -> Outcome<String> {
        refused(&mut self.join("another")?)
    }

    fn join(&self, state: &str) -> Outcome<Command> {
        let mut command = self.fairmazon()?;
        command.args(["host", "join", "--token-file"]).arg(&self.token);
        command.arg("--ca").arg(&self.authority);
        command.args(self.own(state));
        Ok(command)
    }

    /// What all commands on the host are told of it.
    fn own(&self, state: &str) -> Vec<OsString> {
        let mut words: Vec<OsString> = PLACE.iter().map(Into::into).collect();
        let libvirt = self.folder.join("libvirt/socket/libvirt-sock");
        let libvirt = format!("qemu+unix:///system?socket={}", libvirt.display());
        for (option, value) in [
            ("--broker", self.endpoint.clone().into()),
            ("--state-dir", self.folder.join(state).into_os_string()),
            ("--storage-dir", self.folder.join("storage").into_os_string()),
            ("--runtime-dir", RUNTIME.into()),
            ("--libvirt", libvirt.into()),
            ("--storage", STORAGE.into()),
        ] {
            words.extend([option.into(), value]);
        }
        words
    }

    /// Starts its agent, as a service manager does after each of its ends.
    pub(super) fn start_agent(&mut self) -> Outcome {
        let mut command = self.fairmazon()?;
        command.args(["host", "--host-id", &self.id, "--hypervisor", "qemu"]);
        command.arg("--ca").arg(&self.authority);
        command.args(self.own(STATE));
        command.arg("--images-dir").arg(self.folder.join("images"));
        command.arg("--image-key").arg(&self.image_key);
        command.args(["--bridge", "guests"]);
        command.args(["--migration-listen", &format!("0.0.0.0:{MOVES_PORT}")]);
        command.args(["--migration-address", &format!("{}:{MOVES_PORT}", self.address)]);
        let mut agent = Running::start(&mut command)?;
        agent.line("that the agent runs", START_LIMIT, |line| line.starts_with("the agent of"))?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Ends its agent as `kill -9` does.
    pub(super) fn kill_agent(&mut self) {
        drop(self.agent.take());
    }

    /// Signals a process on it, by its own counting.
    pub(super) fn signal(&self, signal: &str, process: &str) -> Outcome {
        run(self.machine()?.command("kill").args([signal, process])).map(drop)
    }

    /// What its agent has said.
    pub(super) fn said(&mut self) -> String {
        self.agent.as_mut().map(Running::said).unwrap_or_default()
    }

    /// Ends the machine with all that runs on it, as a loss of power does.
    pub(super) fn kill(&mut self) {
        if let Some(machine) = self.machine.take() {
            machine.kill();
        }
        self.kill_agent();
    }

    /// Ends its agent as a service manager does; what it said.
    pub(super) fn stop_agent(&mut self) -> Outcome<String> {
        let mut agent = self.agent.take().ok_or_else(|| Failure::Unexpected("off".into()))?;
        agent.signal_group(Signal::TERM);
        agent.end(START_LIMIT)?;
        Ok(agent.said())
    }

    /// `fairmazon` on this host.
    fn fairmazon(&self) -> Outcome<Command> {
        Ok(self.machine()?.command(&Binaries::find()?.fairmazon))
    }

    pub(super) fn machine(&self) -> Outcome<&Namespaces> {
        self.machine.as_ref().ok_or_else(|| Failure::Unexpected(format!("{} is off", self.name)))
    }

    /// Sends a text to another host, as it is.
    pub(super) fn sender(&self, to: &Self) -> Outcome<impl Fn(&str) -> Outcome + 'static> {
        let script = format!("printf %s \"$1\" >/dev/udp/{}/{DISCARD_PORT}", to.address);
        let bash = |machine: &Namespaces| {
            let mut command = machine.command("bash");
            command.args(["-c", &script, "bash"]);
            command
        };
        let words: Vec<_> = bash(self.machine()?).get_args().map(ToOwned::to_owned).collect();
        Ok(move |text: &str| run(Command::new("nsenter").args(&words).arg(text)).map(drop))
    }

    /// All that the consoles of its guests hold.
    pub(super) fn consoles(&self) -> String {
        self.machine().map(|machine| consoles_in(&machine.file(RUNTIME))).unwrap_or_default()
    }

    /// The processes on it that run the guest of a machine, by its own counting.
    pub(super) fn emulators(&self, instance: &str) -> Vec<String> {
        let processes = self.machine().map(|machine| machine.file("/proc"));
        processes.map(|processes| emulators_in(&processes, instance)).unwrap_or_default()
    }

    /// The folder of its volumes' files.
    pub(super) fn storage(&self) -> PathBuf {
        self.folder.join("storage")
    }

    /// All of its files.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}
