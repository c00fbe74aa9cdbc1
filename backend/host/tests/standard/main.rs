//! The host standard: each rule, what is collected for it, and the page that tells of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "../best_host/mod.rs"]
mod best_host;
mod collected;
mod page;
mod rules;

use best_host::{GIB, best, hypervisor, on};
use fairmazon_host::standard::{Finding, Report};

fn finding<'a>(report: &'a Report, name: &str) -> &'a Finding {
    report.findings.iter().find(|finding| finding.check.name == name).unwrap()
}
