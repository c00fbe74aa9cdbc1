//! The calls of a migration in libvirt's protocol.

use super::rpc::Xdr;

/// What a call of a migration has at most: a description of a domain is some kilobytes.
pub(super) const LONGEST_CALL: usize = 1 << 20;
/// What libvirt's messages have at most.
pub(super) const LONGEST_ANSWER: usize = 32 << 20;

/// The numbers of the calls, which never change there.
pub(super) mod procedure {
    pub(in super::super) const CONNECT_OPEN: u32 = 1;
    pub(in super::super) const CONNECT_CLOSE: u32 = 2;
    pub(in super::super) const CONNECT_SUPPORTS_FEATURE: u32 = 60;
    pub(in super::super) const AUTH_LIST: u32 = 66;
    pub(in super::super) const MIGRATE_PREPARE: u32 = 303;
    pub(in super::super) const MIGRATE_FINISH: u32 = 306;
    pub(in super::super) const CONNECT_REGISTER_CLOSE_CALLBACK: u32 = 360;
    pub(in super::super) const CONNECT_UNREGISTER_CLOSE_CALLBACK: u32 = 361;
    /// Of the program of signs of life.
    pub(in super::super) const PING: u32 = 1;
    pub(in super::super) const PONG: u32 = 2;
}

/// The arguments of a migration's beginning or end.
#[derive(Debug)]
pub(super) struct Arguments<'a> {
    /// Its parameters that are texts, which are all that it has here.
    pub(super) texts: Vec<(&'a str, &'a str)>,
    /// What libvirts tell each other.
    pub(super) cookie: &'a [u8],
    /// How the machine moves.
    pub(super) flags: u32,
    /// At the end: other than 0 where it does not move after all.
    pub(super) cancelled: Option<u32>,
}

impl<'a> Arguments<'a> {
    pub(super) fn of_prepare(body: &'a [u8]) -> Option<Self> {
        let mut xdr = Xdr::new(body);
        let read = Self::of_both(&mut xdr)?;
        xdr.is_empty().then_some(read)
    }

    pub(super) fn of_finish(body: &'a [u8]) -> Option<Self> {
        let mut xdr = Xdr::new(body);
        let read = Self::of_both(&mut xdr)?;
        let read = Self { cancelled: Some(xdr.number()?), ..read };
        xdr.is_empty().then_some(read)
    }

    fn of_both(xdr: &mut Xdr<'a>) -> Option<Self> {
        let (texts, cookie, flags) = (xdr.texts()?, xdr.bytes()?, xdr.number()?);
        Some(Self { texts, cookie, flags, cancelled: None })
    }
}
