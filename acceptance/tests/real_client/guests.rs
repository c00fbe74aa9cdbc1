//! Real guests under QEMU, used as a customer does: what they say, that their data survives, and
//! that nothing of it can be read. Needs root, QEMU and libvirt's daemon.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use acceptance::{Backend, BackendOptions, Binaries, Cli, Failure, Outcome, Workspace};
use serde_json::Value;

use crate::capture::Capture;

/// What may take a while under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The folder of the tiny guest.
pub(crate) fn tiny_guest() -> Outcome<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/guest/build");
    let output = Command::new(script)
        .output()
        .map_err(|error| Failure::Unexpected(format!("{script} can't be run: {error}")))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(PathBuf::from(said));
    }
    Err(Failure::Unexpected(format!("{script}: {}", String::from_utf8_lossy(&output.stderr))))
}

fn backend() -> Outcome<Backend> {
    let guest = tiny_guest()?.display().to_string();
    let more = vec!["--guest".into(), guest];
    Backend::start_with(BackendOptions { hypervisor: "qemu", more, data: None })
}

/// All that the consoles of the platform's guests hold now.
fn consoles(data: &Path) -> String {
    let mut said = String::new();
    for host in fs::read_dir(data.join("hosts")).into_iter().flatten().flatten() {
        said += &consoles_in(&host.path().join("consoles"));
    }
    said
}

/// All that the consoles in a host's folder hold now.
pub(crate) fn consoles_in(folder: &Path) -> String {
    let mut said = String::new();
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.file_name().to_string_lossy().starts_with("ins-") {
            said += &String::from_utf8_lossy(&fs::read(file.path()).unwrap_or_default());
        }
    }
    said
}

/// Waits until a guest has said this.
fn says(data: &Path, text: &str) -> Outcome<String> {
    let begin = Instant::now();
    loop {
        let said = consoles(data);
        if said.contains(text) {
            return Ok(said);
        }
        if begin.elapsed() > PATIENCE {
            return Err(Failure::Unexpected(format!("no guest has said {text:?}: {said}")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the hosts have no volume any more: a host removes the file of one after the machine
/// that it was of is known to be gone.
fn no_volume_is_left(hosts: &Path) {
    let begin = Instant::now();
    loop {
        let left = files_with(hosts, b"LUKS");
        if left.is_empty() {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "they stay: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The files below a folder that hold this.
pub(crate) fn files_with(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() {
            found.extend(files_with(&path, needle));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes.windows(needle.len()).any(|part| part == needle) {
                found.push(path);
            }
        }
    }
    found
}

/// The processes that run the guest of a machine.
fn emulators(instance: &str) -> Vec<String> {
    emulators_in(Path::new("/proc"), instance)
}

/// Those of them that are in this folder of processes.
pub(crate) fn emulators_in(processes: &Path, instance: &str) -> Vec<String> {
    let processes = fs::read_dir(processes).into_iter().flatten().flatten();
    let runs = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split('\0');
        words.next().is_some_and(|program| program.contains("qemu-system"))
            && words.any(|word| word.split(',').any(|part| part == format!("guest={instance}")))
    };
    let mut found: Vec<_> = processes
        .filter(runs)
        .map(|process| process.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn a_guest_runs_the_users_script_and_keeps_its_data_through_a_stop_and_a_restart() -> Outcome {
    let cli = Cli::chosen()?;
    let mut backend = backend()?;
    let data = backend.data().to_owned();
    let workspace = Workspace::example("first-boot", &cli, backend.environment())?;
    workspace.apply(&[])?;
    says(&data, "first boot of web, said by the machine itself")?;
    says(&data, "GUEST-COUNTER vdb 1")?;
    workspace.expect_no_changes()?;

    // What the guest has written is on the host's disk, and nobody can read it there; nor is the
    // user's script anywhere but where the platform keeps what was asked for.
    let hosts = data.join("hosts");
    let volumes: Vec<_> = files_with(&hosts, b"LUKS");
    assert!(volumes.len() >= 2, "the volumes are there: {volumes:?}");
    assert_eq!(files_with(&hosts, b"written by the guest in plain text"), Vec::<PathBuf>::new());

    let id = workspace.state()?.resource("fairmazon_instance.web")?["id"].clone();
    let shown = backend.ask("env", &["console", id.as_str().unwrap_or_default()])?;
    assert!(shown.contains("first boot of web, said by the machine itself"), "{shown}");
    let main = workspace.read("main.tf")?;
    let runs = emulators(id.as_str().unwrap_or_default());
    assert_eq!(runs.len(), 1, "{id}");
    let larger = main.replace("flavor = \"small\"", "flavor = \"medium\"");
    workspace.write("main.tf", &larger)?;
    let planned = workspace.try_plan(&[])?.ok()?.text();
    assert!(planned.contains("This change may restart the running machine"), "{planned}");
    workspace.apply_saved()?;
    assert_eq!(emulators(id.as_str().unwrap_or_default()), runs, "it grows while it runs");
    workspace.expect_no_changes()?;

    let off = main.replace("flavor = \"small\"", "flavor = \"small\"\n  power_state = \"stopped\"");
    workspace.write("main.tf", &off)?;
    workspace.apply(&[])?;
    workspace.write("main.tf", &main)?;
    workspace.apply(&[])?;
    says(&data, "GUEST-COUNTER vdb 2")?;

    // The whole host machine ends, with libvirt and all guests; no customer is there when it is
    // back, and the keys that were sealed for it are all that it needs.
    backend.kill();
    backend.again()?;
    says(&data, "GUEST-COUNTER vdb 3")?;
    assert_eq!(workspace.state()?.resource("fairmazon_instance.web")?["id"], id);
    workspace.destroy()?;
    no_volume_is_left(&hosts);
    backend.interrupt()
}

/// A guest without cloud-init is waited for in vain: the user sees what it did instead.
#[test]
fn what_a_guest_wrote_is_shown_where_it_does_not_bring_what_is_waited_for() -> Outcome {
    let cli = Cli::chosen()?;
    let mut backend = backend()?;
    let workspace = Workspace::example("first-boot", &cli, backend.environment())?;
    let main = workspace.read("main.tf")?;
    let waits = "image  = \"debian-13\"\n  wait_for = [\"cloud_init\"]\n  \
                 timeouts = { create = \"20s\" }\n";
    let versions = "\ndata \"fairmazon_images\" \"all\" {}\noutput \"versions\" {\n  value = \
                    data.fairmazon_images.all.images[*].sha256\n}\n";
    let main = main.replace("image  = \"debian-13\"\n", waits) + versions;
    workspace.write("main.tf", &main)?;
    workspace.try_apply(&[])?.fails_saying(&[
        "has not brought what",
        "serial console:",
        "first boot of web, said by the machine itself",
        "terraform untaint",
    ])?;
    // What it boots was made for this platform, whose catalogue knows it by its manifest.
    let versions = workspace.state()?.output("versions").clone();
    let is_version = |version: &Value| version.as_str().is_some_and(|text| text.len() == 64);
    let known = versions.as_array().is_some_and(|all| all.len() > 1 && all.iter().all(is_version));
    assert!(known, "{versions}");
    workspace.destroy()?;
    backend.interrupt()
}

/// A file operation of the test's own.
pub(crate) fn file<T>(done: std::io::Result<T>) -> Outcome<T> {
    done.map_err(|error| Failure::Unexpected(format!("a file of the test: {error}")))
}

/// Runs a command of the platform; what it says, and whether it succeeds.
fn fairmazon(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome<(bool, String)> {
    let mut command = Command::new(&Binaries::find()?.fairmazon);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = command.envs(environment.iter().copied()).output();
    let output = output.map_err(|error| Failure::Unexpected(format!("{arguments:?}: {error}")))?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn a_volume_is_exported_while_its_guest_runs_comes_back_and_opens_without_the_platform() -> Outcome
{
    const TEXT: &[u8] = b"written by the guest in plain text";
    let cli = Cli::chosen()?;
    let mut backend = backend()?;
    let data = backend.data().to_owned();
    let workspace = Workspace::example("first-boot", &cli, backend.environment())?;
    workspace.apply(&[])?;
    says(&data, "GUEST-COUNTER vdb 1")?;
    let state = workspace.state()?;
    let volume = state.resource("fairmazon_volume.data")?["id"].as_str().unwrap_or_default();

    let own = file(tempfile::tempdir())?;
    let at = |name: &str| own.path().join(name).display().to_string();
    let environment: Vec<_> =
        backend.environment().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let (done, said) = fairmazon(&["volume", "export", volume, "--to", &at("file")], &environment)?;
    assert!(done, "{said}");
    let (_, listed) = fairmazon(&["volume", "list"], &environment)?;
    assert_eq!(listed.lines().count(), 1, "the snapshot is gone: {listed}");
    file(fs::copy(&backend.environment()["FAIRMAZON_KEY_FILE"], at("identity")))?;
    workspace.destroy()?;
    let hosts = data.join("hosts");
    no_volume_is_left(&hosts);
    comes_back(&workspace, &data, &at("file"), &environment)?;
    no_volume_is_left(&hosts);
    assert_eq!(files_with(&hosts, TEXT), Vec::<PathBuf>::new());
    backend.interrupt()?;

    // Nothing of the platform is left but what was taken away from it.
    assert_eq!(files_with(own.path(), TEXT), Vec::<PathBuf>::new());
    let identity = at("identity");
    let alone = [("FAIRMAZON_KEY_FILE", identity.as_str())];
    let exported = at("file");
    let to = at("opened");
    let open = ["volume", "open", &exported, "--to", &to, "--format", "qcow2"];
    let (done, said) = fairmazon(&open, &alone)?;
    assert!(done, "{said}");
    assert_eq!(files_with(own.path(), TEXT), [PathBuf::from(&to)]);

    let mut key = file(fs::read(at("file.key")))?;
    if let Some(last) = key.last_mut() {
        *last ^= 1;
    }
    file(fs::write(at("file.key"), key))?;
    let other = at("other");
    let (done, said) = fairmazon(&["volume", "open", &exported, "--to", &other], &alone)?;
    assert!(!done && said.contains("does not open with this identity"), "{said}");
    assert!(!Path::new(&other).exists());
    Ok(())
}

/// An exported file becomes a snapshot, and a volume that is made of it has the guest's data.
fn comes_back(
    workspace: &Workspace,
    data: &Path,
    exported: &str,
    environment: &[(&str, &str)],
) -> Outcome {
    let import = ["volume", "import", exported, "--name", "back", "--label", "from=file"];
    let (refused, said) = fairmazon(&[&import[..], &["--country", "AQ"]].concat(), environment)?;
    assert!(!refused && said.contains("not in AQ"), "{said}");
    let (done, said) = fairmazon(&import, environment)?;
    assert!(done, "{said}");
    let (_, listed) = fairmazon(&["volume", "list"], environment)?;
    let snapshot = listed.split('\t').next().unwrap_or_default();
    assert!(listed.contains("ready\t1 GiB\tstandard\timported"), "{listed}");
    assert_eq!(listed.lines().count(), 1, "{listed}");

    let main = workspace.read("main.tf")?;
    let source = format!("size_gib = 1\n  source = {{ snapshot_id = \"{snapshot}\" }}");
    workspace.write("main.tf", &main.replace("size_gib = 1", &source))?;
    workspace.apply(&[])?;
    says(data, "GUEST-COUNTER vdb 2")?;
    workspace.expect_no_changes()?;
    workspace.destroy()?;
    workspace.write("main.tf", &main)?;
    let (done, said) = fairmazon(&["volume", "delete", snapshot], environment)?;
    assert!(done, "{said}");
    Ok(())
}

/// Everything that goes over the machine's loopback, where all hosts of `fairmazon dev` meet.
fn loopback(file: PathBuf) -> Outcome<Capture> {
    let send = |text: &str| {
        let discard = (Ipv4Addr::LOCALHOST, 9);
        let sent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|socket| socket.send_to(text.as_bytes(), discard));
        self::file(sent.map(drop))
    };
    Capture::start(Command::new("python3"), "lo", file, send)
}

#[test]
fn a_guest_goes_on_at_another_host_while_its_own_is_emptied() -> Outcome {
    const WRITTEN: &str = "written by the guest in plain text";
    let cli = Cli::chosen()?;
    let mut backend = backend()?;
    let data = backend.data().to_owned();
    let workspace = Workspace::example("first-boot", &cli, backend.environment())?;
    workspace.apply(&[])?;
    says(&data, "first boot of web, said by the machine itself")?;
    says(&data, "GUEST-COUNTER vdb 1")?;
    let before = workspace.state()?.resource("fairmazon_instance.web")?.clone();

    let listed = backend.ask("env.hosts", &["host", "list"])?;
    let line = listed.lines().find(|line| line.contains("\t1 machines\t"));
    let host = line.and_then(|line| line.split('\t').next()).unwrap_or_default();
    let capture = loopback(workspace.beside().join("capture"))?;
    let emptied = backend.ask("env.hosts", &["host", "drain", host, "--deadline", "10m"])?;
    let traffic = capture.end()?;
    assert!(emptied.contains(&format!("{host} is empty")), "{emptied}");

    // All of the guest went over the wire, and nobody on the way could read it.
    assert!(traffic.bytes() > 4 << 20, "{} bytes", traffic.bytes());
    for text in [WRITTEN, "first boot of web", "GUEST-"] {
        assert!(!traffic.holds(text)?, "{text:?} went over the wire");
    }
    let hosts = data.join("hosts");
    assert_eq!(files_with(&hosts, WRITTEN.as_bytes()), Vec::<PathBuf>::new());

    // To its customer it is the same machine, and nothing is to be done about it.
    workspace.expect_no_changes()?;
    workspace.run(&["refresh", "-no-color"])?.ok()?;
    let after = workspace.state()?.resource("fairmazon_instance.web")?.clone();
    assert_eq!(after["id"], before["id"]);
    assert_ne!(after["site"], before["site"], "its host was emptied");
    assert_eq!(after["state"], "running");
    let said = consoles(&data);
    assert!(!said.contains("GUEST-COUNTER vdb 2"), "it was not started again: {said}");

    // What is known of its keys is in no file of the customer's but the identity.
    for name in ["terraform.tfstate", "terraform.tfstate.backup"] {
        let state = workspace.read(name)?;
        assert!(!state.contains("AGE-SECRET-KEY") && !state.contains("age-encryption.org"));
    }

    let main = workspace.read("main.tf")?;
    let off = main.replace("flavor = \"small\"", "flavor = \"small\"\n  power_state = \"stopped\"");
    workspace.write("main.tf", &off)?;
    workspace.apply(&[])?;
    // Asked to stop, it answers: it runs there.
    says(&data, "GUEST-POWER-BUTTON")?;
    workspace.write("main.tf", &main)?;
    workspace.apply(&[])?;
    says(&data, "GUEST-COUNTER vdb 2")?;
    workspace.destroy()?;
    no_volume_is_left(&hosts);
    backend.interrupt()
}

/// Whether this passphrase opens the data of a volume's file.
fn opens(path: &Path, passphrase: &str) -> Outcome<bool> {
    let image = format!(
        "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.filename={}",
        path.display()
    );
    let secret = format!("secret,id=key,data={passphrase}");
    let output = Command::new("qemu-img")
        .args(["check", "--object", &secret, "--image-opts", &image])
        .output()
        .map_err(|error| Failure::Unexpected(format!("qemu-img can't be run: {error}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("Invalid password"), "{said}");
    Ok(output.status.success())
}

#[test]
fn a_key_is_exchanged_while_the_guest_runs_and_the_old_one_opens_nothing() -> Outcome {
    let cli = Cli::chosen()?;
    let mut backend = backend()?;
    let data = backend.data().to_owned();
    let workspace = Workspace::example("first-boot", &cli, backend.environment())?;
    workspace.apply(&[])?;
    says(&data, "GUEST-COUNTER vdb 1")?;
    let before = workspace.state()?.resource("fairmazon_volume.data")?.clone();
    let volume = before["id"].as_str().unwrap_or_default();
    let old = backend.passphrase(volume, &workspace.beside().join("old.age"))?;

    let main = workspace.read("main.tf")?;
    let next = main.replace("size_gib = 1", "size_gib = 1\n  key_version = 2");
    workspace.write("main.tf", &next)?;
    let plan = workspace.plan(&[])?.actions();
    assert_eq!(plan["fairmazon_volume.data"], ["update"], "{plan:?}");
    workspace.apply(&[])?;
    workspace.expect_no_changes()?;
    let after = workspace.state()?.resource("fairmazon_volume.data")?.clone();
    assert_eq!((&after["id"], after["key_version"].as_u64()), (&before["id"], Some(2)));
    assert_ne!(after["key_fingerprint"], before["key_fingerprint"]);
    let new = backend.passphrase(volume, &workspace.beside().join("new.age"))?;
    assert_ne!(new, old);
    let said = consoles(&data);
    assert!(!said.contains("GUEST-COUNTER vdb 2"), "it was not started again: {said}");

    let stopped = "flavor = \"small\"\n  power_state = \"stopped\"";
    workspace.write("main.tf", &next.replace("flavor = \"small\"", stopped))?;
    workspace.apply(&[])?;
    let luks = files_with(&data.join("hosts"), b"LUKS");
    let file = luks.iter().find(|path| path.display().to_string().contains(volume));
    let file = file.ok_or_else(|| Failure::Unexpected(format!("{volume} is not in {luks:?}")))?;
    assert!(opens(file, &new)?, "the new key opens it");
    assert!(!opens(file, &old)?, "the old key does not");
    workspace.write("main.tf", &next)?;
    workspace.apply(&[])?;
    says(&data, "GUEST-COUNTER vdb 2")?;

    workspace.write("main.tf", &main)?;
    workspace.try_plan(&[])?.fails_saying(&["exchanged does not come back"])?;
    workspace.write("main.tf", &next)?;
    workspace.destroy()?;
    no_volume_is_left(&data.join("hosts"));
    backend.interrupt()
}
