//! What is followed instead of asked for again and again, and consoles.

use std::{path::Path, pin::pin, time::Duration};

use fairmazon_broker::core::{Caller, DrainState, InstanceState};
use fairmazon_model::{
    ErrorKind,
    console::{ConsoleRead, ReadId},
    instance::{InstanceSpec, Power},
};
use futures::{FutureExt, StreamExt};
use tokio::time::timeout;

use super::{
    kit::{Hosts, Kit, host_spec, quick, spec},
    played::{Played, register},
};

const SOON: Duration = Duration::from_secs(60);

/// A platform of one host, with machines of these names that run.
async fn full(folder: &Path, names: &[&str]) -> (Kit, Hosts) {
    let kit = Kit::open(folder, quick()).await;
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    for name in names {
        let asked = spec(name);
        let made = kit.engine.create_instance(&kit.customer, asked, &kit.key()).await.unwrap();
        kit.done(made.operation.id).await;
    }
    (kit, hosts)
}

#[tokio::test]
async fn an_instance_is_followed_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let made = engine.create_instance(customer, spec("web"), &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let mut views = pin!(engine.watch_instance(customer, id).unwrap());
    let first = views.next().await.unwrap().unwrap();
    assert_eq!(first.state, InstanceState::Pending);
    assert!(views.next().now_or_never().is_none(), "it is told once");
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    let wait = async {
        let mut told = vec![first];
        while told.last().unwrap().state != InstanceState::Running {
            told.push(views.next().await.unwrap().unwrap());
        }
        told
    };
    let told = timeout(SOON, wait).await.unwrap();
    assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "each is another one: {told:?}");
    engine.delete_instance(customer, id, &kit.key()).await.unwrap();
    let end = async {
        loop {
            if let Err(error) = views.next().await.unwrap() {
                break error;
            }
        }
    };
    assert_eq!(timeout(SOON, end).await.unwrap().kind, ErrorKind::NotFound);
    assert!(views.next().await.is_none());
    assert!(engine.watch_instance(customer, id).is_err());
    hosts.check();
    kit.stop().await;
}

#[tokio::test]
async fn a_host_that_is_emptied_is_followed_until_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (kit, hosts) = full(folder.path(), &["one", "two"]).await;
    let (engine, customer, host) = (&kit.engine, &kit.customer, hosts.hosts[0].id);
    let refused = engine.watch_drain(customer, host).err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Precondition);
    engine.drain_host(customer, host, 3_600_000, &kit.key()).await.unwrap();
    let mut reports = pin!(engine.watch_drain(customer, host).unwrap());
    // That nothing has room for them changes no row.
    let stay = async {
        loop {
            let report = reports.next().await.unwrap().unwrap();
            let stays = |state| state == DrainState::Staying;
            if report.machines.len() == 2 && report.machines.iter().all(|one| stays(one.state)) {
                break;
            }
        }
    };
    timeout(SOON, stay).await.unwrap();
    for view in kit.instances() {
        engine.delete_instance(customer, view.row.id, &kit.key()).await.unwrap();
    }
    let all: Vec<_> = timeout(SOON, reports.by_ref().collect()).await.unwrap();
    let last = all.last().unwrap().as_ref().unwrap();
    assert!(last.has_ended() && !last.is_over && last.machines.is_empty(), "{all:?}");

    let mut reports = pin!(engine.watch_drain(customer, host).unwrap());
    assert!(reports.next().await.unwrap().unwrap().has_ended(), "an empty one is told once");
    assert!(reports.next().await.is_none());
    kit.stop().await;
}

#[tokio::test]
async fn who_follows_a_host_hears_that_it_is_emptied_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (kit, hosts) = full(folder.path(), &["stays"]).await;
    let (engine, customer, host) = (&kit.engine, &kit.customer, hosts.hosts[0].id);
    engine.drain_host(customer, host, 3_600_000, &kit.key()).await.unwrap();
    let mut reports = pin!(engine.watch_drain(customer, host).unwrap());
    reports.next().await.unwrap().unwrap();
    engine.cancel_drain(customer, host, &kit.key()).await.unwrap();
    let end = async {
        loop {
            if let Err(error) = reports.next().await.unwrap() {
                break error;
            }
        }
    };
    assert_eq!(timeout(SOON, end).await.unwrap().kind, ErrorKind::Precondition);
    kit.stop().await;
}

#[tokio::test]
async fn that_the_deadline_has_passed_is_told_though_it_changes_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let (kit, hosts) = full(folder.path(), &["stays"]).await;
    let (engine, customer, host) = (&kit.engine, &kit.customer, hosts.hosts[0].id);
    engine.drain_host(customer, host, 60_000, &kit.key()).await.unwrap();
    let mut reports = pin!(engine.watch_drain(customer, host).unwrap());
    assert!(!reports.next().await.unwrap().unwrap().is_over);
    kit.clock.forward(60_000);
    let all: Vec<_> = timeout(SOON, reports.by_ref().collect()).await.unwrap();
    let last = all.last().unwrap().as_ref().unwrap();
    assert!(last.is_over && last.machines.len() == 1, "{all:?}");
    kit.stop().await;
}

#[tokio::test]
async fn a_console_is_read_from_its_host_when_somebody_asks() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let made = engine.create_instance(customer, spec("web"), &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    let error = engine.console(customer, id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition, "it has no host: {error}");
    kit.start();
    let hosts = Hosts::start(&kit, 1).await;
    kit.done(made.operation.id).await;
    assert_eq!(engine.console(customer, id).await.unwrap(), "");
    hosts.hosts[0].sim.say(id, "\x1b[2Jbooting\r\n\r\n  \x1b[1mlogin:\x1b[0m ");
    assert_eq!(engine.console(customer, id).await.unwrap(), "booting\n  login:");
    let at_once = (0..10).map(|_| engine.console(customer, id));
    for read in futures::future::join_all(at_once).await {
        assert_eq!(read.unwrap(), "booting\n  login:", "each is answered");
    }
    let (other, _) = engine.create_account(&Caller::platform(), "other", &kit.key()).await.unwrap();
    let stranger = Caller { account: Some(other.id), ..*customer };
    assert_eq!(engine.console(&stranger, id).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(engine.watch_instance(&stranger, id).is_err());
    hosts.cut(0);
    kit.until("it is silent", || engine.hosts_connected() == 0).await;
    let error = engine.console(customer, id).await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains("silent"), "{error}");
    kit.stop().await;
}

#[tokio::test]
async fn a_host_that_does_not_answer_or_can_t_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let kit = Kit::open(folder.path(), quick()).await;
    kit.start();
    let host = register(&kit, host_spec(0, "DE")).await;
    let mut played = Played::open_by(&kit, host, "first:1", "tcg").await;
    let (engine, customer) = (&kit.engine, &kit.customer);
    let off = InstanceSpec { power: Power::Stopped, ..spec("off") };
    let made = engine.create_instance(customer, off, &kit.key()).await.unwrap();
    let id = made.instance.row.id;
    played.told("it comes", |set| set.machines.len() == 1).await;
    tokio::time::pause();
    let error = engine.console(customer, id).await.unwrap_err();
    tokio::time::resume();
    played.asked().await;
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains("did not answer"));
    let (read, ()) = tokio::join!(engine.console(customer, id), async {
        let asked = played.asked().await;
        assert_eq!(asked.instance, id);
        let last = Ok(b"an answer to nobody".to_vec());
        played.answers(ConsoleRead { read: ReadId([0; 16]), last }).await;
        let last = Err("the host\u{2019}s disk is gone".into());
        played.answers(ConsoleRead { read: asked.read, last }).await;
    });
    let error = read.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    assert!(error.message.contains("disk is gone"), "{error}");
    // It knows no such question, and is not asked.
    let _old = Played::open(&kit, host, "first:1").await;
    let error = engine.console(customer, id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    assert!(error.message.contains("too old"), "{error}");
    kit.stop().await;
}
