//! The plugin as a process: how it starts, whom it lets in, and how it ends. The other end is a
//! client of go-plugin's protocol, written for these tests.

mod broker;
mod calls;
mod client;
mod ending;
mod logs;
mod sizes;
mod starting;
