//! `fairmazon host check`, over the files of a system that keeps the standard and over this one.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Output};

use crate::process::{Environment, run};

/// The files of a system on which nothing leaks.
const FILES: [(&str, &str); 7] = [
    ("proc/self/mountinfo", "27 1 0:30 / / rw - tmpfs tmpfs rw\n"),
    ("proc/self/limits", "Max locked memory         unlimited            unlimited   bytes\n"),
    ("proc/self/status", "Uid:\t7\t7\t7\t7\nCapEff:\t0000000000000000\n"),
    ("proc/sys/kernel/core_pattern", "|/bin/false\n"),
    ("proc/cmdline", "quiet\n"),
    ("etc/libvirt/qemu.conf", "user = \"+7\"\n"),
    ("proc/net/tcp", "  sl  local_address rem_address   st\n"),
];

/// Writes those files, and an empty folder for volumes.
fn make_system(folder: &Path) {
    for (file, text) in FILES {
        let path = folder.join("root").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::create_dir_all(folder.join("storage")).unwrap();
}

/// A daemon that answers, as the agent asks it, and runs no guests: what else runs on this machine
/// does not count.
const LIBVIRT: [&str; 2] = ["--libvirt", "test:///default"];

fn check(folder: &Path, more: &[&str]) -> Output {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    make_system(folder);
    fs::create_dir_all(folder.join("state")).unwrap();
    fs::set_permissions(folder.join("state"), fs::Permissions::from_mode(0o700)).unwrap();
    let (root, storage, state) = (path("root"), path("storage"), path("state"));
    let all = ["host", "check", "--storage-dir", &storage, "--storage", "fast=1"];
    let all = [&all[..], &["--state-dir", &state, "--runtime-dir", "/run/fairmazon"]].concat();
    let output = if more.contains(&"--root") {
        run(&[&all, more].concat(), &Environment::new())
    } else {
        run(&[&all, &["--root", &root][..], more].concat(), &Environment::new())
    };
    assert_eq!(fs::read_dir(storage).unwrap().count(), 0, "nothing that was measured stays");
    output
}

#[test]
fn of_this_machine_all_of_level_0_is_kept_but_that_its_libvirt_runs_guests() {
    let folder = tempfile::tempdir().unwrap();
    let findings = |libvirt: &[&str]| {
        let output = check(folder.path(), &[&["--json", "--level", "0"], libvirt].concat());
        assert_eq!(output.status.code(), Some(1));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(said["level"].is_null(), "{said}");
        said["findings"].as_array().unwrap().clone()
    };
    let missing = format!("qemu+unix:///system?socket={}/libvirt", folder.path().display());
    for (libvirt, status, text) in [
        (&LIBVIRT[..], "fail", "libvirt says that it runs no guests of x86_64"),
        (&["--libvirt", &missing], "fail", missing.as_str()),
        (&[], "unknown", "not asked: give --libvirt"),
    ] {
        for found in findings(libvirt) {
            if found["name"] == "libvirt-answers" {
                assert_eq!(found["status"], status, "{found}");
                assert!(found["found"].as_str().unwrap().contains(text), "{found}");
            } else if found["needs"] == "from level 0" {
                assert_eq!(found["status"], "pass", "{found}");
            }
        }
    }
}

#[test]
fn a_fault_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    make_system(folder.path());

    let swaps = folder.path().join("root/proc/swaps");
    fs::write(swaps, "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n").unwrap();
    let output = check(folder.path(), &["--level", "0"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let mut lines = said.lines().skip_while(|line| !line.starts_with("FAIL     no-swap "));
    assert!(lines.next().unwrap().ends_with("/dev/sda2"), "{said}");
    assert!(lines.next().unwrap().contains("wanted from level 0: No swap"), "{said}");
    assert!(lines.next().unwrap().contains("to do: `swapoff -a`"), "{said}");
    assert!(said.trim_end().ends_with("(asked for: 0; the highest is 3)"), "{said}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("does not reach level 0") && error.contains("none"), "{error}");
    assert!(
        error.contains("no other host reaches this one: without --migration-listen"),
        "{error}"
    );
}

#[test]
fn this_machine_boots_guests_and_encrypts_volumes() {
    let folder = tempfile::tempdir().unwrap();
    // Without coordinates no machine reaches level 1, whatever it is.
    let listen = ["--migration-listen", "0.0.0.0:7443"];
    let output = check(folder.path(), &[&["--json", "--root", "/"], &listen[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["reached"], &said["asked"]), (&false.into(), &1.into()));
    let alone = said["out_of_reach"].as_str().unwrap();
    assert!(alone.contains("give --migration-address"), "{alone}");
    let findings = said["findings"].as_array().unwrap();
    let one = |name: &str| findings.iter().find(|one| one["name"] == name).unwrap();
    for name in ["guest-boots", "qemu-version", "libvirt-version", "volumes-encrypted"] {
        let found = one(name);
        assert_eq!(found["status"], "pass", "{found}");
        assert_eq!(found["allows"], 3);
    }
    for name in ["disk-throughput", "disk-sync"] {
        assert_ne!(one(name)["status"], "unknown");
        assert!(one(name)["found"].as_str().unwrap().starts_with("fast: "));
    }
    let place = one("location-stated");
    assert_eq!((&place["status"], &place["allows"]), (&"unknown".into(), &0.into()));
    for text in ["wants", "why", "remedy", "needs", "about"] {
        assert!(!place[text].as_str().unwrap().is_empty(), "{text}");
    }
}

#[test]
fn a_host_that_fails_does_not_join_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    make_system(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let swaps = path("root/proc/swaps");
    fs::write(&swaps, "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n").unwrap();
    fs::write(path("ca.pem"), "no certificate").unwrap();
    fs::write(path("token"), "fmz_none").unwrap();
    // There is no broker: what is refused before does not ask it.
    let (root, storage, state) = (path("root"), path("storage"), path("state"));
    let (ca, token) = (path("ca.pem"), path("token"));
    let join = ["host", "join", "--broker", "https://127.0.0.1:1", "--ca", &ca];
    let join = [&join[..], &["--token-file", &token, "--state-dir", &state]].concat();
    let proves = ["--root", &root, "--storage-dir", &storage, "--storage", "fast=1"];
    let join = [&join[..], &proves, &["--runtime-dir", "/run/consoles"], &LIBVIRT].concat();
    let output = run(&join, &Environment::new());
    let (said, error) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{said} {error}");
    assert!(error.contains("has not joined") && error.contains("level 0"), "{error}");
    let mut lines = said.lines().skip_while(|line| !line.starts_with("FAIL     no-swap "));
    assert!(lines.nth(2).unwrap().contains("to do: `swapoff -a`"), "{said}");
    assert!(!Path::new(&state).exists(), "nothing is made");

    // Nor for what libvirt says, alone.
    fs::remove_file(swaps).unwrap();
    let output = run(&join, &Environment::new());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().any(|line| line.starts_with("FAIL     libvirt-answers ")), "{said}");
    assert!(said.lines().any(|line| line.starts_with("pass     no-swap ")), "{said}");
    assert!(!Path::new(&state).exists(), "nothing is made");
}

#[test]
fn a_level_that_there_is_not_is_refused() {
    let output = run(&["host", "check", "--level", "4"], &Environment::new());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("0..=3"));
}
