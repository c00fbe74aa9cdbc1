//! Clients of whom nothing is known yet: their connections have shown no valid credential. Those of
//! one address have so many places, so that nobody without a credential keeps others out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;

/// The bits of an address of IPv6 that tell one network from another: within it a client takes the
/// address that it likes.
const NETWORK: u128 = !0 << 64;

/// The places of strangers, by where they come from.
#[derive(Debug)]
pub(crate) struct Strangers {
    most: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

impl Strangers {
    /// So many places for each address.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Lets one in; none where all places of its address are taken.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let from = network(address);
        let mut held = self.held.lock();
        let count = held.entry(from).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { of: self.clone(), from })
    }
}

/// A stranger's place until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Strangers>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        if let Some(count) = held.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.from);
            }
        }
    }
}

/// The client at the other end of a connection, as all its requests see it.
#[derive(Debug, Clone)]
pub(crate) struct Peer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    from: IpAddr,
    certificate: Option<CertificateDer<'static>>,
    is_known: AtomicBool,
    place: Mutex<Option<Place>>,
}

impl Peer {
    /// A stranger who shows this certificate, or none.
    pub(crate) fn new(place: Place, certificate: Option<CertificateDer<'static>>) -> Self {
        let (from, is_known) = (place.from, AtomicBool::new(false));
        Self(Arc::new(Inner { from, certificate, is_known, place: Mutex::new(Some(place)) }))
    }

    /// Where it comes from: its address, or its network with IPv6.
    pub(crate) fn origin(&self) -> IpAddr {
        self.0.from
    }

    /// The certificate that it holds the key of, in DER form.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.0.certificate.as_deref()
    }

    /// It has shown a valid credential: from now on it is no stranger.
    pub(crate) fn becomes_known(&self) {
        if !self.0.is_known.swap(true, Ordering::Relaxed) {
            drop(self.0.place.lock().take());
        }
    }

    /// Whether it has ever shown one.
    pub(crate) fn is_known(&self) -> bool {
        self.0.is_known.load(Ordering::Relaxed)
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_places_and_who_is_known_gives_its_own_back() {
        let strangers = Strangers::new(2);
        let here = address("192.0.2.1");
        let first = Peer::new(strangers.admit(here).unwrap(), None);
        let second = strangers.admit(address("::ffff:192.0.2.1")).unwrap();
        assert!(strangers.admit(here).is_none());
        strangers.admit(address("192.0.2.2")).unwrap();
        first.becomes_known();
        assert!(first.is_known());
        let third = strangers.admit(here).unwrap();
        first.becomes_known();
        assert!(strangers.admit(here).is_none(), "a place is given back once");
        drop((first, second, third));
        assert!(strangers.held.lock().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let strangers = Strangers::new(1);
        let _held = strangers.admit(address("2001:db8:0:1::1")).unwrap();
        assert!(strangers.admit(address("2001:db8:0:1:ffff::2")).is_none());
        strangers.admit(address("2001:db8:0:2::1")).unwrap();
    }
}
