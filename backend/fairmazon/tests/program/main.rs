//! The built binary as people run it: started, asked, ended, killed, started again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod process;

mod audit;
mod catalogue;
mod certificates;
mod commands;
mod dev;
mod drains;
mod host_check;
mod host_update;
mod images;
mod imports;
mod keys;
mod limits;
mod logs;
mod refusals;
mod tokens;
mod volumes;
