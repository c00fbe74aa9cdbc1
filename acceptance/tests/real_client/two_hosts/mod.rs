//! A platform as operators run it: a broker and two hosts, each on a machine of its own, joined by
//! a wire, and every program a process of its own that was started by the operator's guide. A
//! customer's guest moves from one host to the other while it runs, and outlives the end of agents,
//! also on its way, and of a whole host; nobody else learns of its keys. Needs root, QEMU and
//! libvirt's daemon.

mod host;
mod keys;
mod killed;
mod namespaces;
mod platform;

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use acceptance::{Cli, Environment, Failure, Outcome, Workspace};
use serde_json::json;

use self::{
    host::{Host, Image},
    keys::Keys,
    killed::moves_whoever_is_killed,
    namespaces::Namespaces,
    platform::{Platform, told},
};
use crate::{
    capture::Capture,
    guests::{file, files_with, tiny_guest},
};

/// What may take a while under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the hosts' wires end in.
const SWITCH: &str = "ip link add switch type bridge; ip link set switch up";
/// The guest counts on its data volume, and says each number once it is on the disk there.
const MAIN: &str = r#"
data "fairmazon_images" "all" {}
output "version" {
  value = data.fairmazon_images.all.images[0].sha256
}
resource "fairmazon_volume" "data" {
  name     = "data"
  size_gib = 1
}
resource "fairmazon_instance" "counting" {
  name        = "counting"
  flavor      = "tiny"
  image       = "alpine-3.22"
  boot_volume = { size_gib = 1 }
  volumes     = { data = { volume_id = fairmazon_volume.data.id } }
  user_data   = <<-EOT
    #!/bin/sh
    who=itself
    ticks="$(cat /data/vdb/ticks 2>/dev/null || echo 0)"
    while :; do
      ticks=$((ticks + 1))
      echo "$ticks" | dd of=/data/vdb/ticks conv=fsync 2>/dev/null
      echo "GUEST-TICK $(cat /data/vdb/ticks) said by the machine $who"
      sleep 0.5
    done
  EOT
}
"#;
/// What nobody but the guest and its customer may read: of its memory, its console and its disks,
/// and nowhere in what the platform was told.
const WORDS: [&str; 3] =
    ["GUEST-COUNTER", "said by the machine itself", "written by the guest in plain text"];

/// Says how long each step took.
struct Steps(Instant);

impl Steps {
    #[allow(clippy::print_stdout, reason = "it is for whoever reads what the test says")]
    fn done(&mut self, what: &str) {
        println!("{:7.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// Waits until this is there.
fn awaited<T>(what: &str, mut look: impl FnMut() -> Outcome<Option<T>>) -> Outcome<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begin.elapsed() > PATIENCE {
            return Err(Failure::Unexpected(format!("waited in vain: {what}")));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The numbers that a console holds, in order.
fn ticks(console: &str) -> Vec<u64> {
    let numbers = console.lines().filter_map(|line| {
        let (_, rest) = line.split_once("GUEST-TICK ")?;
        rest.split(' ').next()?.parse().ok()
    });
    numbers.collect()
}

/// Waits for a number above this one, on a host's console; that number.
fn counts_on(host: &Host, above: u64) -> Outcome<u64> {
    let what = format!("a number above {above} on {}", host.name);
    awaited(&what, || Ok(ticks(&host.consoles()).last().copied().filter(|tick| *tick > above)))
}

/// What the platform says of a host: its state, how many machines it has, and its level.
fn listed(platform: &Platform, operator: &Environment, host: &Host) -> Outcome<[String; 3]> {
    let said = platform.ask(operator, &["host", "list"])?;
    let line = said.lines().find(|line| line.starts_with(&host.id)).unwrap_or_default();
    let columns: Vec<_> = line.split('\t').map(str::to_owned).collect();
    match &columns[..] {
        [_, _, _, _, state, machines, _, level] => {
            Ok([state.clone(), machines.clone(), level.clone()])
        }
        _ => Err(Failure::Unexpected(format!("{} is not in {said}", host.id))),
    }
}

fn awaits(platform: &Platform, operator: &Environment, host: &Host, state: &str) -> Outcome {
    awaited(&format!("{} is {state}", host.name), || {
        let [now, _, level] = listed(platform, operator, host)?;
        Ok((now.starts_with(state) && level == "level 0").then_some(()))
    })
}

/// The files of volumes on a host, also of those that are being made; not what its agent makes to prove
/// again and again that it encrypts.
fn volumes(host: &Host) -> Vec<PathBuf> {
    let mut found = files_with(&host.storage(), b"LUKS");
    found.retain(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vol-"))
    });
    found
}

#[test]
fn a_guest_moves_between_hosts_of_their_own_and_outlives_agent_and_host() -> Outcome {
    let mut steps = Steps(Instant::now());
    let folder = file(tempfile::tempdir())?;
    let folder = folder.path();
    let image = Image::pack(&tiny_guest()?, folder)?;
    let switch = Namespaces::start(SWITCH, &[])?;
    let mut platform = Platform::start(folder, &switch, &image)?;
    steps.done("the broker listens");

    // The people, as the operator's guide and the guide for customers have it.
    let first = platform.own_person()?;
    let account = platform.ask(&first, &["account", "create", "--name", "Hosts"])?;
    let account = told(&account, "id")?;
    let role = ["token", "create", "--name", "rack", "--role", "host-operator", "--account"];
    let token = platform.ask(&first, &[&role[..], &[&account]].concat())?;
    let operator = platform.person(token.trim());
    let account = platform.ask(&first, &["account", "create", "--name", "Customer"])?;
    let mut customer = platform.person(&told(&account, "token")?);
    let identity = folder.join("customer.key").display().to_string();
    platform.ask(&customer, &["key", "init", &identity])?;
    customer.insert("FAIRMAZON_KEY_FILE".into(), identity);

    let registered = |name, address| {
        Host::register(name, address, folder, &platform, &operator, &image, &switch)
    };
    let mut hosts = [registered("east", "10.99.0.11")?, registered("west", "10.99.0.12")?];
    steps.done("two hosts are registered, and their machines are on");
    thread::scope(|scope| {
        let set_up = |host| scope.spawn(|| Host::set_up_and_start(host, &image));
        let operators = hosts.each_mut().map(set_up);
        operators.into_iter().try_for_each(|operator| match operator.join() {
            Ok(done) => done,
            Err(surprise) => std::panic::resume_unwind(surprise),
        })
    })?;
    for host in &hosts {
        awaits(&platform, &operator, host, "connected")?;
    }
    let again = hosts[0].joins_no_more()?;
    assert!(again.contains("token"), "{again}");
    steps.done("both have joined, and their agents have proven them");

    let chosen = Cli::chosen()?;
    let program = folder.join("terraform");
    platform.here(&chosen.program, &program)?;
    let cli = Cli { program, ..chosen };
    let mut workspace = Workspace::inline(MAIN, &cli, &customer)?;
    let wrapped = folder.join("wrapped");
    file(fs::create_dir(&wrapped))?;
    let mut keys = Keys::watch(&mut workspace, wrapped);
    keys.shown(workspace.apply(&[])?.text());
    let before = workspace.state()?.resource("fairmazon_instance.counting")?.clone();
    let instance = before["id"].as_str().unwrap_or_default();
    let data = workspace.state()?.resource("fairmazon_volume.data")?["id"].clone();
    let ids =
        [&data, &before["boot_volume_id"]].map(|id| id.as_str().unwrap_or_default().to_owned());
    keys.take(&platform, &customer, &ids)?;
    if before["site"] == "west" {
        hosts.reverse();
    }
    let [from, to] = &mut hosts;
    assert_eq!(before["site"], from.name);
    // What it was made from is what the maker of the image has signed.
    assert_eq!(*workspace.state()?.output("version"), json!(image.version()?));
    let shown = platform.ask(&operator, &["host", "show", &from.id])?;
    assert!(shown.contains("images: img-alpine-3.22\n"), "{shown}");
    steps.done("the customer's configuration is applied");
    let last = counts_on(from, 2)?;
    assert_eq!(volumes(from).len(), 2, "{:?}", volumes(from));
    steps.done("the guest counts on its volume");

    // Its host is emptied.
    let python = switch.in_network("python3");
    let capture = Capture::start(python, from.name, folder.join("wire"), from.sender(to)?)?;
    let emptied = platform.ask(&operator, &["host", "drain", &from.id, "--deadline", "10m"])?;
    assert!(emptied.contains(&format!("{} is empty", from.id)), "{emptied}");
    let moved = counts_on(to, last)?;
    let traffic = capture.end()?;
    steps.done("the guest has moved while it ran");
    assert!(traffic.bytes() > 4 << 20, "{} bytes", traffic.bytes());
    for word in WORDS {
        assert!(!traffic.holds(word)?, "{word:?} went over the wire");
        assert_eq!(files_with(to.folder(), word.as_bytes()), Vec::<PathBuf>::new(), "{word:?}");
    }
    // It was never started there: it has gone on with what it had in memory.
    let said = to.consoles();
    assert!(!said.contains("GUEST-COUNTER") && !said.contains("GUEST-READY"), "{said}");
    let there = ticks(&said);
    assert!(there.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{there:?}");
    assert!(there[0] > last, "{there:?} goes on from {last}");
    assert_eq!((from.emulators(instance).len(), to.emulators(instance).len()), (0, 1));
    assert_eq!(volumes(from), Vec::<PathBuf>::new(), "nothing of it is left where it was");
    workspace.expect_no_changes()?;
    workspace.run(&["refresh", "-no-color"])?.ok()?;
    let after = workspace.state()?.resource("fairmazon_instance.counting")?.clone();
    assert_eq!((&after["id"], &after["state"]), (&before["id"], &"running".into()));
    assert_eq!(after["site"], to.name);
    steps.done("nothing of it could be read, and its customer has nothing to do");

    // The key of its volume is exchanged while it runs; nobody else has learnt of any.
    keys.take(&platform, &customer, &ids)?;
    let exchanged = MAIN.replace("size_gib = 1\n}", "size_gib = 1\n  key_version = 2\n}");
    workspace.write("main.tf", &exchanged)?;
    keys.shown(workspace.plan(&[])?.document().to_string());
    keys.shown(workspace.apply_saved()?.text());
    keys.take(&platform, &customer, &ids[..1])?;
    let moved = counts_on(to, moved)?;
    keys.are_nowhere(&workspace, &mut platform, [&mut *from, &mut *to], &ids)?;
    steps.done("the key of its volume was exchanged, and no key was anywhere else");

    // The agent ends in the middle of its work: its guests do not notice.
    let runs = to.emulators(instance);
    to.kill_agent();
    awaits(&platform, &operator, to, "silent")?;
    let alone = counts_on(to, moved)?;
    to.start_agent()?;
    awaits(&platform, &operator, to, "connected")?;
    counts_on(to, alone)?;
    assert_eq!(to.emulators(instance), runs, "it is the same run");
    steps.done("the agent was killed, and its next one has taken over");

    // And back, with agents that are killed at each phase.
    let ways = [&mut *to, &mut *from];
    let last = moves_whoever_is_killed(&platform, &operator, ways, instance, &mut steps)?;
    let [to, from] = [from, to];

    // The whole host ends, and begins again without its customer.
    to.kill();
    awaits(&platform, &operator, to, "silent")?;
    assert_eq!(from.emulators(instance), Vec::<String>::new(), "its data is not there");
    to.turn_on(&switch)?;
    to.start_agent()?;
    counts_on(to, last)?;
    let said = to.consoles();
    assert!(said.contains("GUEST-COUNTER vdb 2"), "{said}");
    let there = ticks(&said);
    assert!(there[0] > last, "{there:?} goes on from {last}: it was on the disk");
    assert!(there.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{there:?}");
    workspace.expect_no_changes()?;
    steps.done("the host was lost, and its guest is back with its data");

    workspace.destroy()?;
    for host in [&mut *from, &mut *to] {
        assert_eq!(host.emulators(instance), Vec::<String>::new());
        awaited("its volumes are gone", || Ok(volumes(host).is_empty().then_some(())))?;
        for word in WORDS {
            assert_eq!(files_with(host.folder(), word.as_bytes()), Vec::<PathBuf>::new());
        }
        let [_, machines, _] = listed(&platform, &operator, host)?;
        assert_eq!(machines, "0 machines");
        host.stop_agent()?;
        platform.ask(&operator, &["host", "remove", &host.id])?;
        host.kill();
    }
    platform.stop()?;
    steps.done("nothing is left");
    Ok(())
}
