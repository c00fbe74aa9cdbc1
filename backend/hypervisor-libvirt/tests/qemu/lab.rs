//! A laboratory: libvirt's daemon with folders, sockets and processes of its own, and the tiny
//! guest as an image. Nothing of it is left when the test ends, also when the test is killed.

use std::{
    cell::RefCell,
    env, fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use fairmazon_hypervisor::{
    Hypervisor, VolumeKey,
    contract::{CLASS, volume},
};
use fairmazon_hypervisor_libvirt::qemu::{Accelerator, MEMORY_INFO, Network, QemuConfig, QemuHost};
use fairmazon_image::{About, key_pair};
use fairmazon_model::{
    host::Capacity,
    id::InstanceId,
    units::{Gib, Mib, Vcpus},
};
use rustix::process::Pid;

/// The image whose guests boot the tiny guest.
pub(crate) const IMAGE: &str = "img-alpine-3.22";
/// How its disk begins.
pub(crate) const IMAGE_TEXT: &str = "text-of-the-image";
/// What may take a while under emulation on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Lab {
    pub(crate) folder: PathBuf,
    pub(crate) consoles: PathBuf,
    init: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Lab {
    /// With the tiny guest as its image.
    pub(crate) fn start() -> Self {
        Self::start_on(|_| ())
    }

    /// As [`start`](Self::start), with something mounted at the folder of its volumes.
    pub(crate) fn start_on(mount: impl FnOnce(&Path)) -> Self {
        let guest = built("build");
        Self::with(&guest, mount, |made| {
            for part in ["kernel", "initrd", "cmdline"] {
                symlink(guest.join(part), made.join(part)).unwrap();
            }
            let mut disk = format!("{IMAGE_TEXT}\n").into_bytes();
            disk.resize(1 << 20, 0);
            fs::write(made.join("disk.raw"), disk).unwrap();
        })
    }

    /// With a Debian as its image, which brings its own kernel, and somebody who gives guests
    /// addresses.
    pub(crate) fn with_debian() -> Self {
        let guest = built("debian");
        let mut lab = Self::with(
            &guest,
            |_| (),
            |made| {
                symlink(guest.join("disk.qcow2"), made.join("disk.qcow2")).unwrap();
            },
        );
        lab.run(
            "printf '%s\\n' 'interface guests' 'start 10.77.0.100' 'end 10.77.0.200' \
             'lease_file /run/leases' 'pidfile /run/udhcpd.pid' 'option subnet 255.255.255.0' \
             >/run/udhcpd.conf && touch /run/leases && busybox udhcpd /run/udhcpd.conf",
        );
        lab
    }

    fn with(guest: &Path, mount: impl FnOnce(&Path), make: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("fairmazon-lab-").tempdir().unwrap().keep();
        let consoles = consoles(&folder);
        let made = folder.join("made");
        fs::create_dir_all(&made).unwrap();
        make(&made);
        publish(&folder);
        mount(&pool(&folder));
        // What libvirt finds out about QEMU, for the next laboratory.
        let shared = guest.with_file_name("libvirt-capabilities");
        symlink(&shared, folder.join("shared-cache")).unwrap();
        let mut init = Command::new("unshare")
            .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"])
            .args(["bash", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qemu/lab.sh")])
            .args([&folder, &consoles])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/qemu/private_libvirt.sh"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("errors")).unwrap())
            .spawn()
            .expect("unshare is a part of Debian's util-linux");
        let commands = init.stdin.take();
        let answers = BufReader::new(init.stdout.take().unwrap());
        let mut lab = Self { folder, consoles, init, commands, answers };
        lab.start_libvirt();
        if !shared.exists() {
            lab.run("virsh domcapabilities >/dev/null");
            // Renamed as a whole: another laboratory may do the same now, and either is right.
            let new = tempfile::tempdir_in(shared.parent().unwrap()).unwrap().keep();
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(lab.folder.join("cache/.")).arg(&new);
            assert!(copy.status().unwrap().success());
            if fs::rename(&new, &shared).is_err() {
                fs::remove_dir_all(&new).unwrap();
            }
        }
        lab
    }

    /// Does a shell command in the laboratory, as root of its processes; what it said.
    pub(crate) fn run(&mut self, command: &str) -> String {
        let sent = writeln!(self.commands.as_ref().unwrap(), "{command}");
        let mut status = String::new();
        self.answers.read_line(&mut status).unwrap();
        let said = fs::read_to_string(self.folder.join("answer")).unwrap_or_default();
        if sent.is_err() || status.trim() != "0" {
            let errors = fs::read_to_string(self.folder.join("errors")).unwrap_or_default();
            panic!(
                "`{command}` in the laboratory: {status:?} {said} {errors}\n(needs root, and `scripts/setup --for test`)"
            );
        }
        said
    }

    pub(crate) fn start_libvirt(&mut self) {
        self.run("libvirtd --daemon");
    }

    pub(crate) fn kill_libvirt(&mut self) {
        // Until it has ended it holds its PID file, and the next one does not start.
        self.end("/run/libvirtd.pid");
    }

    /// Kills the process of this PID file, and waits until it has ended.
    fn end(&mut self, pid_file: &str) {
        // A process whose first thread has ended holds its files until its others have.
        self.run(&format!(
            "pid=$(cat {pid_file}) && kill -9 $pid && \
             while grep -q 'State:.[^Z]' /proc/$pid/task/*/status; do sleep 0.01; done",
        ));
    }

    /// The host loses power, and is up again: libvirt is there.
    pub(crate) fn lose_power(&mut self) {
        self.power_off();
        self.start_libvirt();
    }

    /// The host loses power: everything in the laboratory ends at once, and with it what was in memory
    /// and not on a disk.
    pub(crate) fn power_off(&mut self) {
        self.run("kill -9 -1");
        self.run("umount -l /var/lib/libvirt/qemu && mount -t tmpfs -o mode=0750 tmpfs /var/lib/libvirt/qemu");
        self.run("rm -rf /run/libvirt /run/libvirtd.pid");
        let _ = fs::remove_dir_all(&self.consoles);
    }

    pub(crate) fn kill_guest(&mut self, instance: InstanceId) {
        self.end(&format!("/run/libvirt/qemu/{instance}.pid"));
    }

    /// Waits until libvirt, which runs, knows that a machine that was killed is off. Until then it
    /// says that it is on, and a start is nothing to do.
    pub(crate) fn guest_is_seen_off(&mut self, instance: InstanceId) {
        self.run(&format!(
            "until [ \"$(virsh -q domstate {instance})\" = 'shut off' ]; do sleep 0.05; done"
        ));
    }

    /// The QEMU of a machine does nothing more, and does not end.
    pub(crate) fn stop_guest(&mut self, instance: InstanceId) {
        // Until the last of its threads has stopped it may take another signal.
        self.run(&format!(
            "pid=$(cat /run/libvirt/qemu/{instance}.pid) && kill -STOP $pid && \
             while grep -q 'State:.[^T]' /proc/$pid/task/*/status; do sleep 0.01; done",
        ));
    }

    /// How often QEMU was asked for this.
    pub(crate) fn asked(&self, command: &str) -> usize {
        asked(&self.folder, command)
    }

    /// Whether QEMU is asked for this from now on.
    pub(crate) fn asking(&self, command: &'static str) -> impl Fn() -> bool + Send + use<> {
        let (folder, before) = (self.folder.clone(), self.asked(command));
        move || asked(&folder, command) > before
    }

    /// Waits until QEMU has been asked for this more often than before.
    pub(crate) async fn is_asked(&self, command: &str, before: usize) {
        let begin = Instant::now();
        while self.asked(command) == before {
            assert!(begin.elapsed() < PATIENCE, "QEMU is never asked for {command}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The QEMU of a machine, as it is called outside of the laboratory: to be ended at a moment that
    /// a command would miss.
    pub(crate) fn guest_process(&mut self, instance: InstanceId) -> Pid {
        let inside = self.run(&format!("cat /run/libvirt/qemu/{instance}.pid"));
        let namespace = |of: String| fs::read_link(format!("/proc/{of}")).ok();
        let ours = namespace(format!("{}/ns/pid_for_children", self.init.id()));
        assert!(ours.is_some(), "the laboratory has ended");
        let mut all = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: i32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
            Some(pid)
        });
        let found = all.find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.and_then(|numbers| numbers.split_whitespace().last()) == Some(inside.trim())
                && namespace(format!("{pid}/ns/pid")) == ours
        });
        Pid::from_raw(found.expect("the guest runs")).unwrap()
    }

    /// A host on the laboratory's libvirt. Knows no keys.
    pub(crate) fn host(&self) -> QemuHost {
        self.host_with_memory(Path::new(MEMORY_INFO))
    }

    /// A host whose guests run by this.
    pub(crate) fn host_by(&self, accelerator: Accelerator) -> QemuHost {
        open_host_by(accelerator, &self.folder, Path::new("/proc/meminfo"))
    }

    /// A host that reads there how much memory it has left.
    pub(crate) fn host_with_memory(&self, memory_info: &Path) -> QemuHost {
        open_host(&self.folder, memory_info)
    }

    /// Makes the image of what is in the folder `made`.
    pub(crate) fn publish(&self) {
        publish(&self.folder);
    }

    /// A file of the image.
    pub(crate) fn image_file(&self, name: &str) -> PathBuf {
        self.folder.join("images").join(IMAGE).join(name)
    }

    pub(crate) fn pool(&self) -> PathBuf {
        pool(&self.folder)
    }

    /// The names of the files of volumes, whole or not, in their order.
    pub(crate) fn volume_files(&self) -> Vec<String> {
        let found = fs::read_dir(self.pool().join(CLASS)).unwrap();
        let names = found.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// The file of a volume, and what it is called while it is made.
    pub(crate) fn files_of(&self, number: u128) -> [PathBuf; 2] {
        let name = |suffix: &str| format!("{}.{suffix}", volume(number));
        ["qcow2", "new"].map(|suffix| self.pool().join(CLASS).join(name(suffix)))
    }

    /// A folder of the laboratory, from outside.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init.id()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.init.wait();
    }
}

fn asked(folder: &Path, command: &str) -> usize {
    let log = fs::read(folder.join("log/libvirtd.log")).unwrap_or_default();
    String::from_utf8_lossy(&log).matches(&format!("\"execute\":\"{command}\"")).count()
}

/// Where the consoles of a laboratory are: in memory.
fn consoles(folder: &Path) -> PathBuf {
    Path::new("/dev/shm").join(folder.file_name().unwrap())
}

/// How the libvirt of a laboratory is connected to.
pub(crate) fn uri(folder: &Path) -> String {
    format!("qemu+unix:///system?socket={}/socket/libvirt-sock", folder.display())
}

/// A host on the libvirt of the laboratory in this folder. Knows no keys.
pub(crate) fn open_host(folder: &Path, memory_info: &Path) -> QemuHost {
    // Not probed each time: the tests are the same with either.
    open_host_by(Accelerator::Tcg, folder, memory_info)
}

/// The same, whose guests run by this.
pub(crate) fn open_host_by(
    accelerator: Accelerator,
    folder: &Path,
    memory_info: &Path,
) -> QemuHost {
    let storage = [(CLASS.to_owned(), Gib(40))].into();
    let config = QemuConfig {
        uri: uri(folder),
        storage: pool(folder),
        state: folder.join("state"),
        images: folder.join("images"),
        trusted_keys: vec![key_pair(folder).unwrap().1],
        consoles: consoles(folder),
        moves: folder.join("moves"),
        network: Network::Bridge("guests".into()),
        accelerator,
        capacity: Capacity { vcpus: Vcpus(8), memory: Mib(8_192), storage },
        memory_info: memory_info.into(),
    };
    QemuHost::open(config).unwrap()
}

fn pool(folder: &Path) -> PathBuf {
    folder.join("storage")
}

fn publish(folder: &Path) {
    let about = About {
        id: IMAGE.into(),
        name: "A guest of the tests".into(),
        architecture: "x86_64".into(),
        min_disk_gib: 1,
        ..About::default()
    };
    let (key, _) = key_pair(folder).unwrap();
    fairmazon_image::publish(&folder.join("made"), &folder.join("images"), &about, &key).unwrap();
}

/// The folder of a guest that a script builds, when it is not there.
fn built(script: &str) -> PathBuf {
    let script =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/guest")).join(script);
    let output = Command::new(&script).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", script.display());
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// The key of the volume of that number.
pub(crate) fn key_bytes(number: u128) -> [u8; 32] {
    let mut bytes = *b"\x9d\x3a\xf1\x07\xc4\x58\xee\x61\x8b\x12\xd9\x90\x4f\xa7\x33\x05\x7c\xb6\x20\xe8\x51\xcd\x19\xf4\x6e\x82\x0b\xda\x95\x40\x3c\x00";
    bytes[31] = u8::try_from(number).unwrap();
    bytes
}

pub(crate) async fn give_keys(host: &QemuHost) {
    for number in 1..=9 {
        host.give_key(volume(number), VolumeKey::new(&key_bytes(number))).await.unwrap();
    }
}

/// Waits until the console says this in a line that is whole; all that it has said.
pub(crate) async fn says(host: &QemuHost, instance: InstanceId, text: &str) -> String {
    says_within(PATIENCE, host, instance, text).await
}

/// As [`says`], for what takes longer.
pub(crate) async fn says_within(
    patience: Duration,
    host: &QemuHost,
    instance: InstanceId,
    text: &str,
) -> String {
    let begin = Instant::now();
    loop {
        let said = host.console(instance).await.unwrap();
        let said = String::from_utf8_lossy(&said).into_owned();
        if whole_lines(&said).contains(text) {
            return said;
        }
        assert!(begin.elapsed() < patience, "the console never said {text:?}:\n{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What follows this mark on the lines that are whole.
pub(crate) fn marked<'a>(said: &'a str, mark: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
    whole_lines(said).lines().filter_map(move |line| line.trim().strip_prefix(mark))
}

/// Without the last line, which may be under way.
fn whole_lines(said: &str) -> &str {
    said.rsplit_once('\n').map_or("", |(whole, _)| whole)
}

thread_local! {
    static OF_THIS_TEST: RefCell<Option<Lab>> = const { RefCell::new(None) };
}

/// A host with the keys of volumes 1 to 9, whose laboratory ends with the test's thread.
pub(crate) async fn subject() -> std::sync::Arc<dyn Hypervisor> {
    let lab = Lab::start();
    let host = lab.host();
    give_keys(&host).await;
    OF_THIS_TEST.with(|of_this_test| *of_this_test.borrow_mut() = Some(lab));
    std::sync::Arc::new(host)
}

/// Every file under the folder that holds one of these, none of which is shorter than two bytes.
pub(crate) fn files_with(folder: &Path, needles: &[Vec<u8>]) -> Vec<PathBuf> {
    let mut begins = vec![false; 1 << 16];
    needles.iter().for_each(|needle| begins[pair(needle, 0)] = true);
    let mut found = Vec::new();
    search(folder, needles, &begins, &mut found);
    found
}

fn search(folder: &Path, needles: &[Vec<u8>], begins: &[bool], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // What is there for a moment only may be gone by now.
        let kind = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found.unwrap().file_type(),
        };
        if kind.is_dir() {
            search(&path, needles, begins, found);
        } else if kind.is_file() {
            let data = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                data => data.unwrap(),
            };
            if contains(&data, needles, begins) {
                found.push(path);
            }
        }
    }
}

/// Whether one of them is in there, in one pass for all. A loop, as this is most of what a search
/// takes, and tests are not optimised.
fn contains(data: &[u8], needles: &[Vec<u8>], begins: &[bool]) -> bool {
    let mut at = 0;
    while at + 1 < data.len() {
        if begins[pair(data, at)] && needles.iter().any(|needle| data[at..].starts_with(needle)) {
            return true;
        }
        at += 1;
    }
    false
}

fn pair(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

#[test]
fn what_a_command_writes_goes_with_the_laboratory() {
    let mut lab = Lab::start();
    lab.run("echo written >left");
    let folder = lab.folder.clone();
    assert!(folder.join("left").exists() && !Path::new("left").exists());
    drop(lab);
    assert!(!folder.exists());
}
