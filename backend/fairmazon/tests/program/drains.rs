//! `fairmazon host drain` beside a platform that goes away and comes back.

use fairmazon_proto::v1::{
    self, DeleteInstanceRequest, instances_service_client::InstancesServiceClient,
};
use rustix::process::Signal;

use crate::{
    dev::{create, request},
    process::{Dev, Running, ask, exported, run},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_followed_over_a_broker_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let dev = Dev::start(&data);
    let operator = exported(&data.join("env.hosts"));
    // No other host is there.
    let mut asked = request("stays");
    let placement = v1::Placement { countries: vec!["PL".into()], ..Default::default() };
    asked.spec.as_mut().unwrap().placement = Some(placement);
    let machine = create(&dev.client().await, asked).await;
    let hosts = ask(&["host", "list"], &operator);
    let host = hosts.lines().find(|line| line.contains("\tPL\t")).unwrap();
    let host = host.split('\t').next().unwrap();

    let tried = run(&["host", "drain", host, "--deadline", "1s"], &operator);
    let said = String::from_utf8_lossy(&tried.stderr);
    assert_eq!(tried.status.code(), Some(1), "{said}");
    let left = format!("1 machines and 1 volumes are still on the host {host}");
    assert!(said.contains(&left), "{said}");
    assert!(said.contains("has to be stopped, copied or deleted by its customers"), "{said}");

    let follow = ["host", "drain", host, "--deadline", "2h"];
    let mut following = Running::start(&follow, &operator, &log);
    let stays = format!("stays ({}): staying: ", machine.id);
    following.told(&stays);
    assert!(!dev.end(Signal::KILL).success());
    let dev = Dev::start(&data);
    let delete = DeleteInstanceRequest { id: machine.id, idempotency_key: "delete".into() };
    InstancesServiceClient::new(dev.client().await).delete_instance(delete).await.unwrap();
    following.told(&format!("{host} is empty"));
    assert!(dev.end(Signal::INT).success());
}
