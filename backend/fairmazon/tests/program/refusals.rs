//! What can't work is told: what, where, why, and what to do.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::process::{Dev, Environment, run};

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
fn an_agent_says_what_it_lacks() {
    assert!(fail(&["host"]).contains("--ca"));
    let said = fail(&["token", "list"]);
    assert!(said.contains("endpoint"), "{said}");
}
