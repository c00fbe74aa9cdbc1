//! Exports of the audit log: of a part of it, and forged.

use std::{fs, process::Output};

use serde_json::Value;

use crate::process::{Dev, Environment, ask, exported, run};

#[test]
fn a_part_of_the_log_is_checked_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let dev = Dev::start(&data);
    let customer = dev.environment.clone();
    let platform = exported(&data.join("env.platform"));
    let make = |name: &str, by: &Environment| {
        ask(&["token", "create", "--name", name, "--role", "customer"], by);
    };
    make("first", &customer);
    make("second", &customer);
    ask(&["account", "create", "--name", "between"], &platform);
    make("third", &customer);

    let file = folder.path().join("audit.jsonl");
    let check = |export: &str, more: &[&str]| -> Output {
        fs::write(&file, export).unwrap();
        let command = ["audit", "verify-file", file.to_str().unwrap()];
        run(&[&command, more].concat(), &Environment::new())
    };
    let whole = ask(&["audit", "export"], &platform);
    let lines: Vec<&str> = whole.lines().collect();
    let last = lines.len();
    let own = ask(&["audit", "export"], &customer);
    let from = ask(&["audit", "export", "--from", &last.to_string()], &platform);
    assert!(from.lines().eq([lines[last - 1]]), "an entry is exported as in the whole log");
    assert!(own.lines().count() >= 3 && own.lines().all(|line| lines.contains(&line)));

    for part in [&own, &from] {
        let entries = part.lines().count();
        let refused = check(part, &[]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("check it with --part"), "{said}");
        let shown = check(part, &["--part"]);
        let said = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.status.success(), "{shown:?}");
        assert!(said.contains(&format!("a part of the log: {entries} entries")), "{said}");
        assert!(said.contains(&format!("{} entries are missing", last - entries)), "{said}");
    }
    let found = |export: &str, more: &[&str], reason: &str| {
        let refused = check(export, more);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(reason), "{reason}: {said}");
    };
    // What an entry says is changed; and so is the hash that it names, where it has a neighbour.
    let other = own.replacen("token.create", "token.revoke", 1);
    found(&other, &["--part"], "its content does not fit its hash");
    let mut entry: Value = serde_json::from_str(lines[last - 1]).unwrap();
    entry["previous"] = "0".repeat(64).into();
    found(&format!("{entry}\n"), &["--part"], "its content does not fit its hash");
    let two = format!("{}\n{entry}\n", lines[last - 2]);
    found(&two, &["--part"], "it does not name the hash of the entry before");
    found(&format!("{own}{own}"), &["--part"], "it is not in its place");

    found("no entry\n", &[], "line 1 is no entry of the audit log");
    let refused = check(&format!("{}\n{{}}\n", lines[0]), &[]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("line 2 is no entry") && !said.contains("data folder"), "{said}");

    for more in [&[][..], &["--part"]] {
        let shown = check(&whole, more);
        let said = String::from_utf8_lossy(&shown.stdout);
        assert!(said.contains(&format!("{last} entries are as they were written")), "{shown:?}");
    }
    let cut = [&lines[..1], &lines[2..]].concat().join("\n");
    found(&cut, &[], "otherwise entries were taken out of it");
}
