//! A provider with faults on demand, driven through the harness: what the server makes of
//! everything that an author may do, right or wrong.

mod crud;
mod lab;
mod life;
mod nests;
mod others;
mod transfer;
mod vault;
mod wrong;
