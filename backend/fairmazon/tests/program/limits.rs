//! How many files `fairmazon broker` may have open.

use std::fs;

use crate::process::{Running, own_broker};

/// The soft and the hard limit of a process's open files, as the kernel writes them.
fn limits(process: u32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn a_broker_opens_as_many_files_as_it_may_and_says_when_that_is_too_few() {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let arguments = own_broker(&data);
    let mut broker = Running::start_limited("-Sn 200", &arguments, &log);
    broker.told("listening on ");
    let (soft, hard) = limits(broker.id());
    assert_eq!(soft, hard);
    assert_ne!(soft, "200");
    assert!(broker.end().success());

    let mut broker = Running::start_limited("-n 600", &arguments, &log);
    broker.told("listening on ");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("at most 344 connections"), "{said}");
    assert!(said.contains("LimitNOFILE=20256"), "{said}");
    assert!(broker.end().success());
}
