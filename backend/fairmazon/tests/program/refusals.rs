//! What can't work is told: what, where, why, and what to do.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::process::{Dev, Environment, Running, ask, own_broker, run};

/// Runs a command that must fail; answers what it said.
fn fail(arguments: &[&str]) -> String {
    let output = run(arguments, &Environment::new());
    assert!(!output.status.success(), "{arguments:?} must fail");
    assert!(output.stdout.is_empty(), "an error is on standard error alone");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_taken_port_is_told_and_the_platform_ends() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let said =
        fail(&["dev", "--hypervisor", "simulated", "--listen", &address, "--data-dir", data]);
    assert!(said.contains(&address) && said.contains("another"), "{said}");
    assert!(Dev::start(folder.path()).end(Signal::INT).success(), "nothing was left locked");
}

#[test]
fn a_folder_that_can_not_be_used_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let below = file.join("data");
    let below = below.to_str().unwrap();
    let said = fail(&["dev", "--data-dir", below]);
    assert!(said.contains(below), "{said}");
}

#[test]
fn a_second_platform_over_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let said = fail(&["dev", "--data-dir", folder.path().to_str().unwrap()]);
    assert!(said.contains("fairmazon.db"), "{said}");
    assert!(dev.end(Signal::INT).success(), "the first one goes on");
}

#[test]
fn damaged_secrets_are_told_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets.json");
    std::fs::write(&file, "{").unwrap();
    let said = fail(&["dev", "--data-dir", folder.path().to_str().unwrap()]);
    assert!(said.contains("secrets.json"), "{said}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "{");
}

#[test]
fn only_files_of_the_data_folder_are_to_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["ca.pem", "token"] {
        std::fs::write(path(name), "two words").unwrap();
    }
    let join = ["host", "join", "--broker", "https://127.0.0.1:1", "--ca", &path("ca.pem")];
    let said = fail(&[&join[..], &["--token-file", &path("token"), "--state-dir", "x"]].concat());
    for part in [&path("token"), "must hold one token", "`fairmazon host register`"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("backup") && !said.contains("data folder"), "{said}");

    let data = folder.path().join("data");
    let own = own_broker(&data);
    let log = folder.path().join("log");
    let mut broker = Running::start(&own, &Environment::new(), &log);
    broker.told("listening on ");
    assert!(broker.end().success());
    std::fs::write(data.join("platform-token"), "two words").unwrap();
    let said = fail(&own);
    assert!(said.contains("platform-token") && said.contains("restore it from a backup"), "{said}");
}

#[test]
fn a_broker_needs_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let said = fail(&["broker", "--data-dir", data]);
    assert!(said.contains("--certificate") || said.contains("--own-authority-for"), "{said}");
    let missing = ["--certificate", "/nowhere/cert.pem", "--key", "/nowhere/key.pem"];
    let said = fail(&[&["broker", "--data-dir", data], &missing[..]].concat());
    assert!(said.contains("/nowhere/cert.pem"), "{said}");
}

#[test]
fn an_agent_without_a_driver_runs_real_guests_and_keeps_its_driver() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, state) = (path("ca.pem"), path("state"));
    std::fs::write(&ca, "").unwrap();
    std::fs::write(path("token"), "fmz_none").unwrap();
    let agent = ["host", "--host-id", "hst-01hf7yat000000000000000001", "--ca", &ca];
    let token = path("token");
    let places = ["--broker", "https://127.0.0.1:1", "--state-dir", &state, "--token-file", &token];
    let start = |more: &[&str]| fail(&[&agent[..], &places, more].concat());
    let note = folder.path().join("state/driver");

    // Nothing is pretended where nothing was named, nor chosen by what works here.
    assert!(start(&[]).contains("--image-key"));
    assert!(start(&["--hypervisor", "auto"]).contains("qemu"));
    // What it can't begin with says what is wrong, and proposes no other driver.
    let (key, public) = (path("key"), path("key.pub"));
    let said = start(&["--image-key", &public]);
    assert!(said.contains(&public) && !said.contains("simulated"), "{said}");
    ask(&["image", "key", "--to", &key], &Environment::new());
    let (volumes, images, memory) = (path("volumes"), path("images"), path("memory"));
    let folders = ["--storage-dir", &volumes, "--images-dir", &images, "--runtime-dir", &memory];
    let nowhere = ["--image-key", &public, "--libvirt", "qemu+unix:///system?socket=/nowhere"];
    let said = start(&[&folders[..], &nowhere].concat());
    assert!(said.contains("daemon") && !said.contains("simulated"), "{said}");
    assert!(!note.exists(), "none has worked yet");

    std::fs::write(&note, "qemu\n").unwrap();
    let said = start(&["--hypervisor", "simulated"]);
    assert!(said.contains("--hypervisor qemu`") && said.contains("register it anew"), "{said}");
    let join = ["host", "join", "--hypervisor", "simulated", "--ca", &ca];
    let said = fail(&[&join[..], &places].concat());
    assert!(said.contains("--hypervisor qemu`"), "{said}");
    assert_eq!(std::fs::read_to_string(note).unwrap(), "qemu\n");
}

#[test]
fn an_agent_says_what_it_lacks() {
    assert!(fail(&["host"]).contains("--ca"));
    let said = fail(&["token", "list"]);
    assert!(said.contains("endpoint"), "{said}");
}
