//! Consoles that customers wait for: answered, and never in the way of the lease.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{Subject, machine, runs, set};
use fairmazon_host::transport::ToHost;
use fairmazon_model::console::{ReadConsole, ReadId};
use tokio::time::{Instant, timeout};

/// Far more than are read at once, and than wait.
const MANY: u8 = 100;

#[tokio::test(start_paused = true)]
async fn consoles_are_read_a_few_at_a_time_and_the_lease_goes_on() {
    let subject = Subject::start();
    let one = machine(1);
    subject.broker.desire(set(1, vec![one.clone()]));
    subject.broker.sees(|seen| runs(seen, &one)).await;
    subject.host.say(one.instance, "login:");
    let ask = |number: u8| {
        let asked = ReadConsole { read: ReadId([number; 16]), instance: one.instance };
        subject.broker.ask(ToHost::ReadConsole(asked));
    };
    let mut read = subject.broker.consoles.subscribe();
    ask(0);
    let first = timeout(Duration::from_secs(60), read.wait_for(|read| !read.is_empty())).await;
    let first = first.unwrap().unwrap()[0].clone();
    assert_eq!((first.read, first.last), (ReadId([0; 16]), Ok(b"login:".to_vec())));

    let begun = Instant::now();
    (1..=MANY).for_each(ask);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let answered = read.borrow().len();
    assert!((3..50).contains(&answered), "those beyond are dropped: {answered}");
    let ids: std::collections::HashSet<_> = read.borrow().iter().map(|read| read.read).collect();
    assert_eq!(ids.len(), answered, "each is answered once");
    let seen = subject.broker.sees(|seen| runs(seen, &one)).await;
    assert!(runs(&seen, &one) && begun.elapsed() >= Duration::from_secs(60));
    ask(MANY + 1);
    let later = read.wait_for(|read| read.len() > answered);
    timeout(Duration::from_secs(60), later).await.unwrap().unwrap();
}
