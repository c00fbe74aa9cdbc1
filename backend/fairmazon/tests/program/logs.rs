//! The log in JSON, as a collector reads it: whole objects, and nothing that is secret.

use std::{collections::BTreeMap, fs, net::TcpListener, path::Path};

use serde_json::Value;

use crate::process::{Dev, Environment, Running, ask, exported, own_broker, run};

/// All that any part of the program says.
const EVERYTHING: &str = "trace";

/// The lines of a log file.
fn lines(log: &Path) -> Vec<Value> {
    read(&fs::read_to_string(log).unwrap())
}

/// The lines of a log: each is an object that says when, how grave, from where, and what.
fn read(text: &str) -> Vec<Value> {
    let read = |line: &str| {
        let read: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let level = read["level"].as_str().unwrap_or_default();
        assert!(["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level), "{line}");
        for name in ["timestamp", "target"] {
            assert!(read[name].is_string(), "{name}: {line}");
        }
        let of_ours = read["target"].as_str().unwrap().starts_with("fairmazon");
        assert!(read["fields"]["message"].is_string() || !of_ours, "{line}");
        read
    };
    text.lines().map(read).collect()
}

/// The fields of the first line with this message.
fn said<'a>(lines: &'a [Value], message: &str) -> &'a Value {
    let found = lines.iter().find(|line| line["fields"]["message"] == message);
    &found.unwrap_or_else(|| panic!("nobody said {message:?}"))["fields"]
}

/// That no line has any of the secrets; of a file each line is one, but for what frames them.
fn keeps(log: &Path, secrets: &BTreeMap<&str, String>) {
    let text = fs::read_to_string(log).unwrap();
    for (name, secret) in secrets {
        let parts = secret.lines().map(str::trim).filter(|part| !part.starts_with("-----"));
        let parts: Vec<_> = parts.filter(|part| part.len() > 8).collect();
        assert!(!parts.is_empty(), "{name} is no secret");
        assert!(parts.iter().all(|part| !text.contains(part)), "{name} is in the log");
    }
}

#[test]
fn a_broker_logs_objects_of_json_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let logging = ["--log", EVERYTHING, "--log-format", "json"];
    let arguments = [&logging[..], &own_broker(&data)].concat();
    let mut broker = Running::start(&arguments, &Environment::new(), &log);
    let endpoint = broker.told("listening on ");
    let read = |file: &str| fs::read_to_string(data.join(file)).unwrap().trim().to_owned();
    let token = read("platform-token");
    let platform = Environment::from([
        ("FAIRMAZON_ENDPOINT".into(), endpoint),
        ("FAIRMAZON_TOKEN".into(), token.clone()),
        ("FAIRMAZON_CA_CERTIFICATE".into(), data.join("tls/ca.pem").to_str().unwrap().into()),
    ]);
    let opened = ask(&["account", "create", "--name", "new"], &platform);
    let made = opened.split_whitespace().find(|word| word.starts_with("fmz_")).unwrap();
    let secrets = [
        ("the platform's token", token),
        ("the customer's token", made.to_owned()),
        ("the authority's key", read("tls/ca.key")),
        ("the broker's key", read("tls/server.key")),
    ];
    assert!(broker.end().success());

    let lines = lines(&log);
    assert_eq!(said(&lines, "migrated the store's schema")["version"], 1);
    let call = said(&lines, "call");
    assert_eq!(call["method"], "/fairmazon.v1.AccountsService/CreateAccount");
    assert!(call["request_id"].is_string() && call["milliseconds"].is_f64(), "{call}");
    keeps(&log, &secrets.into());
}

#[test]
fn refusals_are_logged_with_their_id_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // As the operator's guide says it.
    for (more, is_logged) in
        [(&[][..], false), (&["--log", "warn,fairmazon_broker::api=debug"], true)]
    {
        let log = folder.path().join(if is_logged { "more" } else { "less" });
        let arguments = [&["--log-format", "json"], more, &own_broker(&data)].concat();
        let mut broker = Running::start(&arguments, &Environment::new(), &log);
        let client = Environment::from([
            ("FAIRMAZON_ENDPOINT".into(), broker.told("listening on ")),
            ("FAIRMAZON_TOKEN".into(), "fmz_nobodys".into()),
            ("FAIRMAZON_CA_CERTIFICATE".into(), data.join("tls/ca.pem").to_str().unwrap().into()),
        ]);
        refused(&["token", "list"], &client);
        assert!(broker.end().success());
        let lines = lines(&log);
        let mut refusals = lines.iter().filter(|line| line["fields"]["kind"] == "unauthenticated");
        let with_id = refusals.any(|line| line["fields"]["request_id"].is_string());
        assert_eq!(with_id, is_logged, "{lines:?}");
    }
}

#[test]
fn metrics_that_others_reach_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for (address, is_warned) in [("127.0.0.1:0", false), ("0.0.0.0:0", true)] {
        let log = folder.path().join(address);
        let more = ["--log-format", "json", "--metrics", address];
        let arguments = [&own_broker(&data)[..], &more].concat();
        let mut broker = Running::start(&arguments, &Environment::new(), &log);
        broker.told("metrics: http://");
        assert!(broker.end().success());
        let lines = lines(&log);
        let of_metrics = |line: &&Value| {
            line["level"] == "WARN" && line["fields"]["message"].to_string().contains("plain HTTP")
        };
        assert_eq!(lines.iter().filter(of_metrics).count(), usize::from(is_warned), "{lines:?}");
    }
}

#[test]
fn an_agent_logs_objects_of_json_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("dev"));
    let operator = exported(&folder.path().join("dev/env.hosts"));
    let register = "host register --name mine --site muc1 --town Munich --country DE \
                    --region eu-central --latitude 48.1 --longitude 11.6 --vcpus 8 \
                    --memory-mib 16384 --storage fast=500";
    let registered = ask(&register.split_whitespace().collect::<Vec<_>>(), &operator);
    let told = |name: &str| registered.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let (id, token) = (told("id: "), told("token: "));
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("token"), token).unwrap();
    let arguments = ["host", "--host-id", id, "--hypervisor", "simulated"];
    let environment = Environment::from([
        ("FAIRMAZON_BROKER".into(), operator["FAIRMAZON_ENDPOINT"].clone()),
        ("FAIRMAZON_CA_CERTIFICATE".into(), operator["FAIRMAZON_CA_CERTIFICATE"].clone()),
        ("FAIRMAZON_HOST_TOKEN_FILE".into(), path("token")),
        ("FAIRMAZON_HOST_STATE".into(), path("state")),
        ("FAIRMAZON_LOG".into(), EVERYTHING.into()),
        ("FAIRMAZON_LOG_FORMAT".into(), "json".into()),
    ]);
    let log = folder.path().join("log");
    let mut agent = Running::start(&arguments, &environment, &log);
    agent.told("the agent of ");
    let is_connected = |line: &str| line.contains(id) && line.contains("connected");
    while !ask(&["host", "list"], &operator).lines().any(is_connected) {}
    assert!(agent.end().success());
    assert!(dev.end(rustix::process::Signal::INT).success());

    let lines = lines(&log);
    assert_eq!(said(&lines, "the host agent ends; its machines go on")["host"], id);
    let driver = fs::read_to_string(folder.path().join("state/driver")).unwrap();
    assert_eq!(driver, "simulated\n", "noted at the first start of an agent that joins by itself");
    let key = fs::read_to_string(folder.path().join("state/host.key")).unwrap();
    keeps(&log, &[("the token", token.to_owned()), ("the host's key", key)].into());
}

/// Runs a command that must fail; answers what it said.
fn refused(arguments: &[&str], environment: &Environment) -> String {
    let output = run(arguments, environment);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_server_that_does_not_start_says_why_as_an_object_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (name, text) in [("file", "x"), ("cert.pem", "no chain"), ("key.pem", "very secret")] {
        fs::write(path(name), text).unwrap();
    }
    let (data, below, certificate, key) =
        (path("data"), path("file/data"), path("cert.pem"), path("key.pem"));
    let own = ["broker", "--own-authority-for", "127.0.0.1"];
    let made_elsewhere = ["broker", "--certificate", &certificate, "--key", &key];
    let cases = [
        ([&own[..], &["--data-dir", &data, "--listen", &address]].concat(), address.as_str()),
        ([&own[..], &["--data-dir", &below]].concat(), &below),
        ([&made_elsewhere[..], &["--data-dir", &data]].concat(), &certificate),
        (vec!["dev", "--hypervisor", "simulated", "--data-dir", &below], &below),
        (vec!["host"], "--ca"),
    ];
    for format in ["text", "json"] {
        // Nothing else is logged, and what is not to be missed is said all the same.
        let environment = Environment::from([
            ("FAIRMAZON_LOG".into(), "off".into()),
            ("FAIRMAZON_LOG_FORMAT".into(), format.into()),
        ]);
        for (arguments, word) in &cases {
            let said = refused(arguments, &environment);
            assert!(said.contains(word) && !said.contains("secret"), "{arguments:?}: {said}");
            if format == "text" {
                assert!(said.starts_with("error: "), "{said}");
                continue;
            }
            let [line] = &read(&said)[..] else { panic!("not one line: {said}") };
            assert_eq!(line["level"], "ERROR", "{line}");
        }
        // Who has typed a command reads its error.
        let list = ["host", "list", "--endpoint", "nowhere", "--token", "fmz_x"];
        for command in [&["audit", "verify-file", &below][..], &list] {
            assert!(refused(command, &environment).starts_with("error: "), "{command:?}");
        }
    }
}
