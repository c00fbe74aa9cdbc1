//! The operators' and customers' commands against a running platform.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use rustix::process::Signal;

use crate::process::{Dev, ask, exported, fairmazon, run};

#[test]
fn tokens_hosts_audit_and_backup() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let dev = Dev::start(&data);
    let customer = dev.environment.clone();

    let made = ask(&["token", "create", "--name", "second", "--role", "customer"], &customer);
    assert!(made.starts_with("fmz_"));
    let listed = ask(&["token", "list"], &customer);
    let line = listed.lines().find(|line| line.ends_with("\tsecond")).unwrap();
    assert!(!listed.contains(made.trim()), "a secret is shown once");
    let id = line.split('\t').next().unwrap();
    ask(&["token", "revoke", id], &customer);
    let mut revoked = customer.clone();
    revoked.insert("FAIRMAZON_TOKEN".into(), made.trim().into());
    let refused = run(&["token", "list"], &revoked);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("revoked"));
    let more = ["token", "create", "--name", "more", "--role", "platform-operator"];
    assert!(!run(&more, &customer).status.success());

    let operator = exported(&data.join("env.hosts"));
    let hosts = ask(&["host", "list"], &operator);
    assert!(hosts.lines().count() >= 6 && hosts.lines().all(|line| line.contains("connected")));
    let of_dev = ask(&["host", "show", hosts.split('\t').next().unwrap()], &operator);
    assert!(of_dev.contains("nothing is proven: it is a host of `fairmazon dev`"), "{of_dev}");
    let register = [
        "host",
        "register",
        "--name",
        "mine",
        "--site",
        "muc1",
        "--town",
        "München",
        "--country",
        "DE",
        "--region",
        "eu-central",
        "--latitude",
        "48.1",
        "--longitude",
        "11.6",
        "--vcpus",
        "8",
        "--memory-mib",
        "16384",
        "--storage",
        "fast=500",
    ];
    let registered = ask(&register, &operator);
    let id = registered.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    assert!(ask(&["host", "list"], &operator).contains("silent"));
    let old = registered.lines().find_map(|line| line.strip_prefix("token: ")).unwrap();
    let rotated = ask(&["host", "rotate-token", id], &operator);
    let new = rotated.trim().strip_prefix("token: ").unwrap();
    assert!(new.starts_with("fmz_") && new != old);
    let odd = run(&["host", "drain", id, "--deadline", "30"], &operator);
    assert!(String::from_utf8_lossy(&odd.stderr).contains("as in 30m"));
    assert!(ask(&["host", "drain", id], &operator).contains(&format!("{id} is empty")));
    let json = ask(&["host", "drain", id, "--deadline", "1h", "--json"], &operator);
    assert!(json.contains("\"empty\": true"), "{json}");
    let emptied = "being emptied: its operator asked for it";
    assert!(ask(&["host", "list"], &operator).contains(emptied));
    let shown = ask(&["host", "show", id], &operator);
    assert!(shown.contains(emptied) && shown.contains("(offered: level 0)"), "{shown}");
    let none = run(&["console", "ins-01hf7yat000000000000000001"], &customer);
    let said = String::from_utf8_lossy(&none.stderr);
    assert!(!none.status.success() && said.contains("unable to read the console"), "{said}");
    ask(&["host", "drain", id, "--cancel"], &operator);
    assert!(!ask(&["host", "list"], &operator).contains("being emptied"));
    ask(&["host", "remove", id], &operator);

    let platform = exported(&data.join("env.platform"));
    let opened = ask(&["account", "create", "--name", "new customer"], &platform);
    let id = opened.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let token = opened.lines().find_map(|line| line.strip_prefix("token: ")).unwrap();
    assert!(ask(&["account", "list"], &platform).contains(&format!("{id}\tnew customer")));
    let mut stranger = customer.clone();
    stranger.insert("FAIRMAZON_TOKEN".into(), token.into());
    ask(&["token", "list"], &stranger);
    assert!(!run(&["account", "list"], &stranger).status.success());
    stranger.remove("FAIRMAZON_CA_CERTIFICATE");
    let untrusted = run(&["token", "list"], &stranger);
    let said = String::from_utf8_lossy(&untrusted.stderr);
    assert!(said.contains("unable to reach"), "this system's authorities are asked: {said}");
    assert!(ask(&["audit", "verify"], &platform).contains("as they were written"));
    let export = ask(&["audit", "export"], &platform);
    assert!(!export.contains("fmz_"), "no secret is in the audit log");
    let file = folder.path().join("audit.jsonl");
    std::fs::write(&file, &export).unwrap();
    let file_name = file.to_str().unwrap();
    ask(&["audit", "verify-file", file_name], &platform);
    std::fs::write(&file, export.replacen("host.remove", "host.rescue", 1)).unwrap();
    let broken = run(&["audit", "verify-file", file_name], &platform);
    assert!(String::from_utf8_lossy(&broken.stderr).contains("broken at entry"));

    let copy = folder.path().join("copy.db");
    let backup = ["backup", "--data-dir", data.to_str().unwrap(), "--to", copy.to_str().unwrap()];
    ask(&backup, &customer);
    let before = std::fs::read(&copy).unwrap();
    let again = run(&backup, &customer);
    assert!(!again.status.success(), "a backup takes nothing's place");
    assert_eq!(std::fs::read(&copy).unwrap(), before);
    // The broker has noticed nothing of it.
    ask(&["account", "create", "--name", "after the backup"], &platform);
    assert!(dev.end(Signal::INT).success());
    std::fs::remove_file(&copy).unwrap();
    ask(&backup, &customer);
    assert!(copy.exists());
}

#[test]
fn the_help_of_every_command_is_there() {
    let none = Default::default();
    for command in
        ["dev", "broker", "host", "account", "token", "audit", "backup", "bench", "console"]
    {
        assert!(ask(&[command, "--help"], &none).contains("Usage: fairmazon"), "{command}");
    }
}

#[test]
fn an_agent_takes_few_threads_of_a_large_machine() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("data"));
    let token = folder.path().join("token");
    std::fs::write(&token, "fmz_none").unwrap();
    let mut agent = fairmazon()
        .args(["host", "--hypervisor", "simulated", "--host-id", "hst-01hf7yat000000000000000001"])
        .args(["--broker", &dev.environment["FAIRMAZON_ENDPOINT"]])
        .args(["--ca", &dev.environment["FAIRMAZON_CA_CERTIFICATE"]])
        .arg("--token-file")
        .arg(&token)
        .arg("--state-dir")
        .arg(folder.path().join("agent"))
        // As many as there would be for so many processors.
        .env("TOKIO_WORKER_THREADS", "64")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(agent.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let threads = std::fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap().count();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(said.contains("runs"), "{said}");
    assert!(threads < 16, "{threads} threads");
}
