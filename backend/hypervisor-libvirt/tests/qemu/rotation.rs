//! The exchange of a volume's key: the old one opens the file no more, the data stays, and neither
//! key is anywhere else.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use fairmazon_hypervisor::{
    Hypervisor, HypervisorError, KeyChange, Marks, Result, VolumeKey,
    contract::{CLASS, instance, volume, wish},
};
use fairmazon_hypervisor_libvirt::qemu::QemuHost;

use crate::{
    agent_process::{self, Agent},
    gate::{Gate, Opened},
    guests::{is_off, running, seen},
    lab::{Lab, PATIENCE, files_with, key_bytes, marked, says},
    leaks::forms,
    matrix::{KILLED, Middle},
};

fn key(number: u128) -> VolumeKey {
    VolumeKey::new(&key_bytes(number))
}

/// From the key of one number to that of another.
fn exchange(old: u128, new: u128) -> KeyChange {
    KeyChange { old: key(old), new: key(new) }
}

/// Whether QEMU's own tool opens the file of volume 2 with the key of this number.
fn opens(lab: &Lab, with: u128) -> bool {
    let [file, _] = lab.files_of(2);
    let options = format!(
        "driver=qcow2,encrypt.format=luks,encrypt.key-secret=key,file.filename={}",
        file.display()
    );
    let mut child = Command::new("qemu-io")
        .args(["--object", "secret,id=key,file=/dev/stdin", "-U", "-r", "-c", "read 0 512"])
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(key(with).passphrase().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("cannot unlock any keyslot"), "{said}");
    output.status.success()
}

#[tokio::test]
async fn a_key_is_exchanged_under_a_running_guest_and_nobody_else_learns_of_it() {
    let mut lab = Lab::start();
    let host = running(&lab).await;
    says(&host, instance(1), "GUEST-COUNTER vdb 1").await;
    host.change_key(volume(2), exchange(2, 20)).await.unwrap();
    assert!(!opens(&lab, 2) && opens(&lab, 20));
    // Once more, with what QEMU was started with long gone.
    host.change_key(volume(2), exchange(20, 21)).await.unwrap();
    assert!(!opens(&lab, 20) && opens(&lab, 21));
    let secrets = [forms(&key_bytes(2)), forms(&key_bytes(20)), forms(&key_bytes(21))].concat();
    // libvirt logs all that it sends to QEMU here.
    let logged = files_with(&lab.folder.join("log"), &[b"x-blockdev-amend".to_vec()]);
    assert!(!logged.is_empty());
    assert_eq!(files_with(&lab.folder, &secrets), [] as [PathBuf; 0]);
    assert_eq!(files_with(&lab.consoles, &secrets), [] as [PathBuf; 0]);
    assert!(!lab.run("ps -eo args").contains("-key.new"));

    // It grows and is copied as before, and starts with the new key, with all that was written.
    host.grow_volume(volume(2), fairmazon_model::units::Gib(2)).await.unwrap();
    host.ask_to_stop(instance(1)).await.unwrap();
    is_off(&host).await;
    host.start(instance(1)).await.unwrap();
    says(&host, instance(1), "GUEST-COUNTER vdb 2").await;
}

#[tokio::test]
async fn an_exchange_that_is_ended_anywhere_is_finished_and_one_key_opens_all_along() {
    let lab = Lab::start();
    let host = running(&lab).await;
    let (mut had, mut new) = (2, 20);
    for runs in [true, false] {
        if !runs {
            host.force_stop(instance(1)).await.unwrap();
        }
        for ms in [20, 60, 120, 200, 300, 450, 700, 1_000] {
            let change = host.change_key(volume(2), exchange(had, new));
            let ended = tokio::time::timeout(Duration::from_millis(ms), change).await;
            assert!(opens(&lab, had) || opens(&lab, new), "{runs} {ms}");
            // Another process, which knows nothing of the first.
            let again = lab.host();
            let begin = std::time::Instant::now();
            while let Err(error) = again.change_key(volume(2), exchange(had, new)).await {
                assert!(begin.elapsed() < PATIENCE, "{error:?} {ended:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(!opens(&lab, had) && opens(&lab, new), "{runs} {ms}");
            (had, new) = (new, new + 1);
        }
    }
}

/// The test below, which is also what the agent's process is.
const THIS: &str = "rotation::one_key_opens_and_none_is_left_behind_whoever_is_killed_when";

/// When in the exchange of a running machine's key somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The agent is about to write a key to a file in memory.
    Lent,
    /// QEMU is about to read the old one there.
    OldRead,
    /// QEMU is about to read the new one there.
    NewRead,
    /// Both open the volume, and a power cut could take that back.
    Added,
    /// The new one alone does, and a power cut could take that back.
    Removed,
}

const MOMENTS: [Moment; 5] =
    [Moment::Lent, Moment::OldRead, Moment::NewRead, Moment::Added, Moment::Removed];

impl Moment {
    /// Who opens what at this moment.
    fn is_it(self, lab: &Lab, agent: &Agent) -> impl FnMut(&Opened) -> bool + use<> {
        let (is_agent, [file, _]) = (agent.is(), lab.files_of(2));
        let key = |name: &str| lab.consoles.join(format!("{}.{name}", volume(2)));
        let (new, old_key, new_key) =
            (key("new"), key("fairmazon-old-key"), key("fairmazon-new-key"));
        let (mut lent, mut synced) = (false, 0);
        move |opened| {
            let is_read = |key: &PathBuf| opened.path == *key && opened.is_by("qemu-system");
            lent |= is_read(&new_key);
            // Once QEMU has both keys the agent opens the volume for that only.
            let syncs = opened.path == file && is_agent(opened) && lent;
            synced += usize::from(syncs);
            match self {
                Self::Lent => opened.path == new && is_agent(opened),
                Self::OldRead => is_read(&old_key),
                Self::NewRead => is_read(&new_key),
                Self::Added => syncs && synced == 1,
                Self::Removed => syncs && synced == 2,
            }
        }
    }
}

/// What an agent does for each word, which names keys by their numbers.
async fn act(host: &QemuHost, words: &str) -> Result<()> {
    let mut words = words.split(' ');
    let word = words.next();
    let keys: Vec<u128> = words.map(|number| number.parse().unwrap()).collect();
    match (word, &keys[..]) {
        (Some("Look"), []) => host.inventory().await.map(drop),
        (Some("Exchange"), [old, new]) => host.change_key(volume(2), exchange(*old, *new)).await,
        (Some("Start"), [now]) => {
            host.give_key(volume(2), key(*now)).await?;
            host.start(instance(1)).await
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_key_opens_and_none_is_left_behind_whoever_is_killed_when() {
    if let Some(folder) = agent_process::folder() {
        return agent_process::serve(&folder, act).await;
    }
    let mut lab = Lab::start();
    drop(running(&lab).await);
    let mut agent = Agent::start(&lab, THIS);
    let (mut had, mut new) = (2, 20);
    for (killed, moment) in KILLED.iter().flat_map(|killed| MOMENTS.map(|at| (*killed, at))) {
        let case = format!("{killed:?} is killed at {moment:?}");
        // Where a test that is ended from outside was.
        eprintln!("{case}");
        agent.does("Look");
        let folders = [lab.consoles.clone(), lab.pool().join(CLASS)];
        let gate = Gate::over(&folders, moment.is_it(&lab, &agent));
        let words = format!("Exchange {had} {new}");
        agent.tell(&words);
        let middle = Middle::Held(gate.held(&case).await);
        agent = killed.strikes(&mut lab, agent, middle, THIS);
        agent.does("Look");
        assert!(opens(&lab, had) || opens(&lab, new), "{case}");
        let keys = [forms(&key_bytes(had)), forms(&key_bytes(new))].concat();
        for folder in [&lab.folder, &lab.consoles] {
            assert_eq!(files_with(folder, &keys), [] as [PathBuf; 0], "{case}");
        }
        assert_eq!(lab.run("find $consoles -name 'vol-*'"), "", "{case}");
        agent.does(&words);
        assert!(!opens(&lab, had) && opens(&lab, new), "{case}");
        agent.does(&format!("Start {new}"));
        (had, new) = (new, new + 1);
    }
    drop(agent);
    // What it has written is there with the last of them.
    let host = lab.host();
    crate::lab::give_keys(&host).await;
    host.give_key(volume(2), key(had)).await.unwrap();
    let definition = seen(&host).await.definition;
    host.force_stop(instance(1)).await.unwrap();
    // With a console that has said nothing yet.
    host.undefine(instance(1)).await.unwrap();
    host.define(&definition, Marks::default()).await.unwrap();
    host.start(instance(1)).await.unwrap();
    let counter = "GUEST-COUNTER vdb ";
    let said = says(&host, instance(1), counter).await;
    let counted: Vec<u64> = marked(&said, counter).map(|count| count.parse().unwrap()).collect();
    assert!(counted[0] > 1, "{said}");
}

#[tokio::test]
async fn what_can_t_be_exchanged_stays_as_it_is() {
    let lab = Lab::start();
    let host = running(&lab).await;
    let wrong = host.change_key(volume(2), exchange(3, 20)).await;
    assert!(matches!(wrong, Err(HypervisorError::KeyWrong { .. })), "{wrong:?}");
    let missing = host.change_key(volume(5), exchange(5, 20)).await;
    assert!(matches!(missing, Err(HypervisorError::NotFound { .. })), "{missing:?}");
    assert!(opens(&lab, 2) && !opens(&lab, 20));
    host.create_volume(&wish(3)).await.unwrap();
    let disk =
        fairmazon_model::machine::Disk { name: "read".into(), volume: volume(3), read_only: true };
    host.attach(instance(1), &disk).await.unwrap();
    let read = host.change_key(volume(3), exchange(3, 20)).await;
    assert!(matches!(read, Err(HypervisorError::Busy { .. })), "{read:?}");
    host.detach(instance(1), "read").await.unwrap();
    host.change_key(volume(3), exchange(3, 20)).await.unwrap();
}
