//! `fairmazon dev`: a machine comes to run, and everything survives an end of any kind.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, process::Stdio};

use fairmazon_proto::v1::{
    self, BootVolume, CreateInstanceRequest, GetInstanceRequest, InstanceSpec, InstanceState,
    ListInstancesRequest, OperationState, WaitOperationRequest,
    instances_service_client::InstancesServiceClient,
    operations_service_client::OperationsServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

use crate::process::{Client, Dev, Environment, Running, ask, exported, fairmazon, run};

pub(crate) fn request(name: &str) -> CreateInstanceRequest {
    let spec = InstanceSpec {
        name: name.into(),
        flavor: "tiny".into(),
        image: "alpine-3.22".into(),
        boot_volume: Some(BootVolume {
            size_gib: 5,
            class: "standard".into(),
            delete_with_instance: true,
        }),
        on_user_data_change: v1::OnUserDataChange::NextBoot.into(),
        power_state: v1::PowerState::Running.into(),
        restart_policy: v1::RestartPolicy::Always.into(),
        ..InstanceSpec::default()
    };
    CreateInstanceRequest { spec: Some(spec), idempotency_key: name.into() }
}

pub(crate) async fn create_and_wait(client: &Client, name: &str) -> v1::Instance {
    create(client, request(name)).await
}

/// Makes a machine and waits for it.
pub(crate) async fn create(client: &Client, asked: CreateInstanceRequest) -> v1::Instance {
    let mut instances = InstancesServiceClient::new(client.clone());
    let created = instances.create_instance(asked).await.unwrap().into_inner();
    let id = created.operation.unwrap().id;
    let mut operations = OperationsServiceClient::new(client.clone());
    let mut states =
        operations.wait_operation(WaitOperationRequest { id }).await.unwrap().into_inner();
    let mut last = None;
    while let Some(operation) = states.message().await.unwrap() {
        last = Some(operation);
    }
    assert_eq!(last.unwrap().state(), OperationState::Done);
    let id = created.instance.unwrap().id;
    instances.get_instance(GetInstanceRequest { id }).await.unwrap().into_inner()
}

async fn ids(client: &Client) -> BTreeSet<String> {
    let mut instances = InstancesServiceClient::new(client.clone());
    let listed = instances.list_instances(ListInstancesRequest::default()).await.unwrap();
    listed.into_inner().instances.into_iter().map(|instance| instance.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_runs_and_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a folder with spaces");
    let dev = Dev::start(&data);
    let environment = dev.environment.clone();
    let machine = create_and_wait(&dev.client().await, "first").await;
    assert_eq!(machine.state(), InstanceState::Running);
    assert!(!machine.site.is_empty() && !machine.placement_reason.is_empty());
    for signal in [Signal::INT, Signal::TERM] {
        let dev = Dev::start(&folder.path().join(format!("{signal:?}").replace('/', "")));
        assert!(dev.end(signal).success(), "{signal:?}");
    }
    assert!(dev.end(Signal::INT).success());
    for secret in ["env", "env.hosts", "env.platform", "secrets.json", "tls/ca.key"] {
        let mode = std::fs::metadata(data.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }

    let again = Dev::start(&data);
    assert_eq!(again.environment["FAIRMAZON_TOKEN"], environment["FAIRMAZON_TOKEN"]);
    let client = again.client().await;
    assert_eq!(ids(&client).await, BTreeSet::from([machine.id.clone()]));
    let repeated = create_and_wait(&client, "first").await;
    assert_eq!(repeated.id, machine.id, "the key still answers with the first machine");
    assert!(again.end(Signal::TERM).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_runs_on_the_most_real_hypervisor() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_on(folder.path(), "auto");
    let machine = create_and_wait(&dev.client().await, "first").await;
    assert_eq!(machine.state(), InstanceState::Running);
    assert!(dev.end(Signal::INT).success());
    // The test driver forgets its machines with the process: the agent makes them again.
    let again = Dev::start_on(folder.path(), "auto");
    let machine = create_and_wait(&again.client().await, "second").await;
    assert_eq!(machine.state(), InstanceState::Running);
    assert!(again.end(Signal::INT).success());
}

#[test]
fn the_most_real_hypervisor_is_the_default_and_another_may_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // What it says that it runs machines with, and where.
    let ready = |name: &str, asked: &[&str]| {
        let data = folder.path().join(name);
        let arguments = ["dev", "--hosts", "1", "--data-dir", data.to_str().unwrap()];
        let arguments = [&arguments[..], asked].concat();
        let mut dev = Running::start(&arguments, &Environment::new(), &log);
        let ready = dev.told("ready in ");
        assert!(dev.end().success());
        let (_, hosts) = ready.split_once(" ms: ").unwrap();
        hosts.split_once(", data in ").unwrap().0.to_owned()
    };
    let auto = ready("auto", &["--hypervisor", "auto"]);
    assert_eq!(ready("default", &[]), auto);
    assert_eq!(
        ready("simulated", &["--hypervisor", "simulated"]),
        "7 hosts at 7 sites (simulated)"
    );
}

#[test]
fn a_printed_token_that_was_revoked_is_replaced_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let customer = dev.environment.clone();
    let operator = exported(&folder.path().join("env.hosts"));
    for environment in [&customer, &operator] {
        let listed = ask(&["token", "list"], environment);
        for line in listed.lines().filter(|line| line.contains("\tvalid\t")) {
            // The one that is shown may be revoked before the others are through.
            run(&["token", "revoke", line.split('\t').next().unwrap()], environment);
        }
        assert!(!run(&["token", "list"], environment).status.success());
    }
    assert!(dev.end(Signal::INT).success());
    let again = Dev::start(folder.path());
    assert_ne!(again.environment["FAIRMAZON_TOKEN"], customer["FAIRMAZON_TOKEN"]);
    ask(&["token", "list"], &again.environment);
    assert!(again.end(Signal::INT).success());
}

#[test]
fn it_ends_when_asked_before_it_is_ready_and_at_once_when_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut starting = fairmazon()
        .args(["dev", "--hypervisor", "simulated", "--hosts", "100", "--data-dir"])
        .arg(folder.path())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The store is there once signals are listened to.
    while !folder.path().join("fairmazon.db").exists() {
        std::thread::yield_now();
    }
    let pid = Pid::from_child(&starting);
    for _ in 0..2 {
        kill_process(pid, Signal::INT).unwrap();
    }
    assert!(starting.wait().unwrap().code().is_some(), "it ended by itself, in either state");
    let again = Dev::start(folder.path());
    assert!(again.end(Signal::INT).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let dev = Dev::start(folder.path());
        let client = dev.client().await;
        assert!(ids(&client).await.is_superset(&acknowledged), "before round {round}");
        let mut tasks = JoinSet::new();
        for task in 0..8 {
            let mut instances = InstancesServiceClient::new(client.clone());
            tasks.spawn(async move {
                let mut made = Vec::new();
                loop {
                    let name = format!("r{round}-t{task}-{}", made.len());
                    match instances.create_instance(request(&name)).await {
                        Ok(answer) => made.push(answer.into_inner().instance.unwrap().id),
                        Err(_) => return made,
                    }
                }
            });
        }
        // Killed in the middle: when a good number of them have been seen in a list.
        while ids(&client).await.len() < acknowledged.len() + 30 {}
        assert!(!dev.end(Signal::KILL).success());
        while let Some(made) = tasks.join_next().await {
            acknowledged.extend(made.unwrap());
        }
    }
    let dev = Dev::start(folder.path());
    let there = ids(&dev.client().await).await;
    assert!(there.is_superset(&acknowledged), "{:?}", acknowledged.difference(&there));
    assert!(dev.end(Signal::INT).success());
}

/// Windows end with an agent and are told by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_metered_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start_on(folder.path(), "simulated");
    let machine = create_and_wait(&dev.client().await, "metered").await;
    loop {
        let said = ask(&["usage", "--json", "--subject", &machine.id], &dev.environment);
        if let Some(line) = said.lines().next() {
            let sum: serde_json::Value = serde_json::from_str(line).unwrap();
            if sum["vcpu_ms"].as_u64().unwrap() > 0 {
                assert_eq!(sum["subject_id"], machine.id);
                break;
            }
        }
        assert!(dev.end(Signal::INT).success());
        dev = Dev::start_on(folder.path(), "simulated");
    }
    let table = ask(&["usage"], &dev.environment);
    assert!(table.starts_with("ID\t") && table.contains(&machine.id), "{table}");
    let none = ask(&["usage", "--json", "--until", "2020-01-01T00:00:00Z"], &dev.environment);
    assert_eq!(none, "");
    let wrong = run(&["usage", "--from", "yesterday"], &dev.environment);
    assert!(!wrong.status.success());
}
