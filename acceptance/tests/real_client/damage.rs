//! Damaged and lost files, as an operator or a customer meets them: each is named with what is wrong
//! and what to do, nothing takes its place in silence, and what is advised works.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use acceptance::{Backend, Binaries, Cli, Environment, Failure, Outcome, Workspace};

use crate::ids_in_state;

const MACHINE: &str = r#"
resource "fairmazon_instance" "it" {
  name   = "one"
  flavor = "tiny"
  image  = "alpine-3.22"
}
"#;

/// What becomes of a file.
enum Damage {
    Gone,
    Content(&'static str),
    /// Only so much of it is left, in percent.
    Cut(usize),
    /// Other bytes from a third of it on.
    Middle,
    /// That of another file.
    Swapped(&'static str),
}

/// A file operation of the test's own.
fn file<T>(done: std::io::Result<T>) -> Outcome<T> {
    done.map_err(|error| Failure::Unexpected(format!("a file of the test: {error}")))
}

impl Damage {
    fn on(&self, data: &Path, path: &Path) -> Outcome {
        let mut bytes = file(fs::read(path))?;
        match self {
            Self::Gone => return file(fs::remove_file(path)),
            Self::Content(text) => bytes = text.as_bytes().to_vec(),
            Self::Cut(percent) => bytes.truncate(bytes.len() * percent / 100),
            Self::Middle => {
                let from = bytes.len() / 3;
                let until = from + bytes.len() / 10;
                bytes[from..until].fill(0xa5);
            }
            Self::Swapped(other) => bytes = file(fs::read(data.join(other)))?,
        }
        file(fs::write(path, bytes))
    }
}

/// Puts a file back as it was, for its owner alone.
fn restore(path: &Path, bytes: Vec<u8>) -> Outcome {
    file(fs::write(path, bytes))?;
    file(fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
}

/// Runs `fairmazon dev` over the folder, which must end by itself; what it said.
fn refused(data: &Path) -> Outcome<String> {
    let program = &Binaries::find()?.fairmazon;
    let output = Command::new("timeout")
        .arg("60")
        .arg(program)
        .args(["dev", "--hypervisor", "simulated", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .env_clear()
        .output()
        .map_err(|source| Failure::Start { program: program.clone(), source })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "it ends by itself, without a panic: {said}");
    Ok(said)
}

/// A state of the agent that a later version has written.
fn newer_state() -> Outcome<String> {
    let script = r"printf '\000\000\000\011{}' | sha256sum | cut -d ' ' -f 1";
    let output = file(Command::new("sh").args(["-c", script]).output())?;
    let sum = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(format!("fairmazon-host-state 9 {sum} 2\n{{}}"))
}

#[test]
fn what_is_damaged_is_named_and_left_and_enough_when_it_is_put_back() -> Outcome {
    use Damage::{Content, Cut, Gone, Middle, Swapped};
    let cli = Cli::chosen()?;
    let mut backend = Backend::start()?;
    let workspace = Workspace::inline(MACHINE, &cli, backend.environment())?;
    workspace.apply(&[])?;
    backend.interrupt()?;
    let data = backend.data().to_owned();
    let newer = newer_state()?.leak();
    let cases = [
        ("fairmazon.db", Gone, "restore the last backup"),
        ("fairmazon.db", Content(""), "restore the last backup"),
        ("fairmazon.db", Content("no database at all"), "restore the last backup"),
        ("fairmazon.db", Cut(50), "restore the last backup"),
        ("fairmazon.db", Cut(99), "restore the last backup"),
        ("fairmazon.db", Middle, "restore the last backup"),
        ("tls/ca.key", Gone, "put the right file back"),
        ("tls/ca.key", Content(""), "put the right file back"),
        ("tls/ca.key", Swapped("tls/server.key"), "put the right file back"),
        ("tls/ca.pem", Cut(50), "put the right file back"),
        ("tls/ca.pem", Swapped("tls/server.pem"), "put the right file back"),
        ("tls/server.key", Content("garbage"), "delete `server.key` and `server.pem`"),
        ("tls/server.key", Swapped("tls/ca.key"), "delete `server.key` and `server.pem`"),
        ("tls/server.pem", Content(""), "delete `server.key` and `server.pem`"),
        ("secrets.json", Cut(50), "restore it"),
        ("customer.key", Gone, "fairmazon key init"),
        ("hosts/fra1-01/host.key", Gone, "have the host join anew"),
        ("hosts/fra1-01/host.key", Cut(50), "put the right file back"),
        ("hosts/fra1-01/host.key", Swapped("hosts/ams1-01/host.key"), "host.key"),
        ("hosts/fra1-01/sealing.key", Gone, "put it back"),
        ("hosts/fra1-01/sealing.key", Content(""), "put the right file back"),
        ("hosts/fra1-01/sealing.key", Swapped("hosts/ams1-01/sealing.key"), "sealing.key"),
        ("hosts/fra1-01/host.pem", Content("garbage"), "or delete it"),
        ("hosts/fra1-01/state", Content(newer), "start the version that wrote it"),
    ];
    for (name, damage, advice) in cases {
        let path = data.join(name);
        let good = file(fs::read(&path))?;
        damage.on(&data, &path)?;
        let damaged = fs::read(&path).ok();
        let said = refused(&data)?;
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(said.contains(&file_name) && said.contains(advice), "{name}: {said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
        assert!(fs::read(&path).ok() == damaged, "{name} is left as it is");
        restore(&path, good)?;
    }
    backend.again()?;
    workspace.expect_no_changes()?;
    backend.interrupt()
}

/// Starts the platform after something was done about its files: the machine is found again, and
/// another one can be made.
fn goes_on(backend: &mut Backend, cli: &Cli, workspace: &mut Workspace) -> Outcome {
    backend.again()?;
    for (name, value) in backend.environment() {
        workspace.set(name, value);
    }
    workspace.expect_no_changes()?;
    let another = Workspace::inline(MACHINE, cli, backend.environment())?;
    another.apply(&[])?;
    another.destroy()?;
    backend.interrupt()
}

#[test]
fn what_is_advised_about_damage_works() -> Outcome {
    let cli = Cli::chosen()?;
    let mut backend = Backend::start()?;
    let mut workspace = Workspace::inline(MACHINE, &cli, backend.environment())?;
    workspace.apply(&[])?;
    backend.interrupt()?;
    let data = backend.data().to_owned();
    let at = |name: &str| data.join(name);
    let copy = workspace.beside().join("copy.db");
    let backup = |to: &Path| {
        let (data, to) = (data.display().to_string(), to.display().to_string());
        backend.ask("env", &["backup", "--data-dir", &data, "--to", &to])
    };
    backup(&copy)?;

    Damage::Middle.on(&data, &at("fairmazon.db"))?;
    refused(&data)?;
    let aside = workspace.beside().join("damaged.db");
    file(fs::rename(at("fairmazon.db"), aside))?;
    file(fs::copy(&copy, at("fairmazon.db")))?;
    goes_on(&mut backend, &cli, &mut workspace)?;

    // Each of these has another made.
    for all in [
        &["tls/server.key", "tls/server.pem"][..],
        &["tls/ca.key", "tls/ca.pem"],
        &["tls/ca.pem"],
        &["hosts/fra1-01/host.key", "hosts/fra1-01/host.pem"],
        &["secrets.json"],
    ] {
        for name in all {
            file(fs::remove_file(at(name)))?;
        }
        goes_on(&mut backend, &cli, &mut workspace)?;
    }

    // An agent puts what it can't read aside by itself, and asks its broker.
    let damages = [Damage::Content(""), Damage::Content("garbage"), Damage::Cut(50)];
    let hosts: Vec<_> = file(fs::read_dir(at("hosts")))?.flatten().collect();
    for (host, damage) in hosts.iter().zip(damages.iter().cycle()) {
        damage.on(&data, &host.path().join("state"))?;
    }
    goes_on(&mut backend, &cli, &mut workspace)?;
    for host in hosts {
        assert!(host.path().join("state.damaged-1").exists(), "{}", host.path().display());
    }

    file(fs::remove_file(at("customer.key")))?;
    refused(&data)?;
    backend.ask("env", &["key", "init", &at("customer.key").display().to_string()])?;
    goes_on(&mut backend, &cli, &mut workspace)
}

/// The known hosts beside an identity.
fn known_hosts(identity: &Path) -> PathBuf {
    let mut path = identity.as_os_str().to_owned();
    path.push(".hosts");
    path.into()
}

#[test]
fn a_customers_own_files_are_checked_before_anything_is_done_with_them() -> Outcome {
    let cli = Cli::chosen()?;
    let mut backend = Backend::start()?;
    let environment: Environment = backend.environment().clone();
    let identity = PathBuf::from(&environment["FAIRMAZON_KEY_FILE"]);
    let hosts = known_hosts(&identity);
    let workspace = Workspace::inline(MACHINE, &cli, &environment)?;
    workspace.apply(&[])?;
    let before = ids_in_state(&workspace)?;
    if !hosts.exists() {
        // Simulated hosts ask for no keys.
        let line = "hst-01m82bpb1hxghp5zbsq4rxe3b8 \
                    SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU\n";
        restore(&hosts, line.into())?;
    }

    let cases: [(&Path, Damage, &[&str]); 7] = [
        (&identity, Damage::Gone, &["customer.key", "put it back from a copy"]),
        (&identity, Damage::Content(""), &["customer.key", "no age identity", "copy"]),
        (&identity, Damage::Content("\u{1}\u{2}"), &["line 1", "not an age identity", "copy"]),
        (&identity, Damage::Cut(80), &["customer.key", "not an age identity", "copy"]),
        (&hosts, Damage::Content(""), &["customer.key.hosts", "it is empty", "copy"]),
        (&hosts, Damage::Cut(70), &["customer.key.hosts", "line 1", "copy"]),
        (&hosts, Damage::Content("garbage\n"), &["customer.key.hosts", "line 1", "copy"]),
    ];
    for (path, damage, words) in cases {
        let good = file(fs::read(path))?;
        damage.on(backend.data(), path)?;
        let damaged = fs::read(path).ok();
        workspace.try_plan(&[])?.fails_saying(words)?;
        assert!(fs::read(path).ok() == damaged, "{} is left as it is", path.display());
        restore(path, good)?;
    }
    let modes: [(&Path, u32); 3] = [(&identity, 0o644), (&identity, 0o660), (&hosts, 0o666)];
    for (path, mode) in modes {
        let set = |mode| file(fs::set_permissions(path, fs::Permissions::from_mode(mode)));
        set(mode)?;
        let advice = format!("chmod 600 {}", path.display());
        workspace.try_plan(&[])?.fails_saying(&[&format!("({mode:o})"), &advice])?;
        set(0o600)?;
    }
    // What can't be read at all.
    let good = file(fs::read(&identity))?;
    file(fs::remove_file(&identity))?;
    file(fs::create_dir(&identity))?;
    workspace.try_plan(&[])?.fails_saying(&["customer.key", "can't be read", "copy"])?;
    file(fs::remove_dir(&identity))?;
    restore(&identity, good)?;

    workspace.expect_no_changes()?;
    assert_eq!(ids_in_state(&workspace)?, before);
    workspace.destroy()?;
    backend.interrupt()
}
