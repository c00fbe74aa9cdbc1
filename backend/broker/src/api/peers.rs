//! Who is at the other end of a connection. Clients of whom nothing is known yet, as they have shown
//! no valid credential, have so many places for each address, so that nobody without a credential
//! keeps others out. Those who have shown one have so many for each account or host, so that no
//! customer keeps out the others, nor the hosts.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{AccountId, HostId},
};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;

use crate::{
    core::Caller,
    places::{Place, Places},
};

/// The bits of an address of IPv6 that tell one network from another: within it a client takes the
/// address that it likes.
const NETWORK: u128 = !0 << 64;

/// The places of strangers, by where they come from.
#[derive(Debug)]
pub(crate) struct Strangers {
    most: usize,
    places: Arc<Places<IpAddr>>,
}

impl Strangers {
    /// So many places for each address.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, places: Places::new() }
    }

    /// Lets one in; none where all places of its address are taken.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Place<IpAddr>> {
        self.places.take(network(address), self.most)
    }
}

/// Whose connection it is. Hosts are not counted with their account, which may have thousands.
type Owner = (Option<AccountId>, Option<HostId>);

/// The places of those who are known, by whose credential they have shown first.
#[derive(Debug)]
pub(crate) struct Owners {
    per_account: usize,
    per_host: usize,
    places: Arc<Places<Owner>>,
}

impl Owners {
    /// So many places for each account, and for each host.
    pub(crate) fn new(per_account: usize, per_host: usize) -> Self {
        Self { per_account, per_host, places: Places::new() }
    }

    fn admit(&self, caller: &Caller) -> Result<Place<Owner>, DomainError> {
        let (most, noun) = match caller.host {
            Some(_) => (self.per_host, "host"),
            None => (self.per_account, "account"),
        };
        self.places.take((caller.account, caller.host), most).ok_or_else(|| {
            DomainError::new(
                ErrorKind::LimitExceeded,
                format!("one {noun} may have {most} connections open at once"),
            )
            .advise("close connections that are not needed: one carries many calls at once")
        })
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
    held: Mutex<Held>,
}

/// The place that a connection has.
#[derive(Debug)]
enum Held {
    AsStranger { _place: Place<IpAddr> },
    Known { _place: Place<Owner> },
}

impl Peer {
    /// A stranger who shows this certificate, or none.
    pub(crate) fn new(place: Place<IpAddr>, certificate: Option<CertificateDer<'static>>) -> Self {
        let (from, is_known) = (*place.holder(), AtomicBool::new(false));
        let held = Mutex::new(Held::AsStranger { _place: place });
        Self(Arc::new(Inner { from, certificate, is_known, held }))
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
    ///
    /// # Errors
    /// `LimitExceeded` when whose credential it is has all its places taken: it stays one.
    pub(crate) fn becomes_known(
        &self,
        owners: &Owners,
        caller: &Caller,
    ) -> Result<(), DomainError> {
        if self.is_known() {
            return Ok(());
        }
        let mut held = self.0.held.lock();
        // Another call may have been first.
        if let Held::AsStranger { .. } = *held {
            *held = Held::Known { _place: owners.admit(caller)? };
            self.0.is_known.store(true, Ordering::Relaxed);
        }
        Ok(())
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
    use fairmazon_model::{access::Role, limits};

    use super::*;
    use crate::config::ApiConfig;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of(account: u128, host: Option<u128>) -> Caller {
        Caller {
            account: Some(AccountId::from_parts(1, account)),
            host: host.map(|host| HostId::from_parts(1, host)),
            role: Role::Customer,
            ..Caller::platform()
        }
    }

    #[test]
    fn each_address_has_its_places_and_who_is_known_gives_its_own_back() {
        let (strangers, owners) = (Strangers::new(2), Owners::new(1, 1));
        let here = address("192.0.2.1");
        let first = Peer::new(strangers.admit(here).unwrap(), None);
        let _second = strangers.admit(address("::ffff:192.0.2.1")).unwrap();
        assert!(strangers.admit(here).is_none());
        strangers.admit(address("192.0.2.2")).unwrap();
        first.becomes_known(&owners, &of(1, None)).unwrap();
        assert!(first.is_known());
        let _third = strangers.admit(here).unwrap();
        first.becomes_known(&owners, &of(1, None)).unwrap();
        assert!(strangers.admit(here).is_none(), "a place is given back once");
    }

    #[test]
    fn each_account_and_each_host_has_its_places_and_who_finds_none_stays_a_stranger() {
        let (strangers, owners) = (Strangers::new(100), Owners::new(2, 1));
        let connect = || Peer::new(strangers.admit(address("192.0.2.1")).unwrap(), None);
        let held: Vec<_> = [of(1, None), of(1, None), of(2, None), of(1, Some(1)), of(1, Some(2))]
            .into_iter()
            .map(|caller| {
                let peer = connect();
                peer.becomes_known(&owners, &caller).unwrap();
                (caller, peer)
            })
            .collect();
        let late = connect();
        for (caller, noun) in [(of(1, None), "account"), (of(1, Some(1)), "host")] {
            let error = late.becomes_known(&owners, &caller).unwrap_err();
            assert_eq!(error.kind, ErrorKind::LimitExceeded);
            assert!(error.message.contains(noun) && !error.advice.is_empty(), "{error:?}");
            assert!(!late.is_known());
        }
        // Who is known already takes no other place.
        held[0].1.becomes_known(&owners, &held[0].0).unwrap();
        drop(held);
        late.becomes_known(&owners, &of(1, None)).unwrap();
        assert!(late.is_known());
    }

    #[test]
    fn by_default_an_account_and_a_host_have_as_many_as_is_stated() {
        let config = ApiConfig::on(([127, 0, 0, 1], 0).into());
        let owners = Owners::new(config.connections_per_account, config.connections_per_host);
        let of_account = (of(1, None), limits::CONNECTIONS_PER_ACCOUNT);
        let of_host = (of(1, Some(1)), limits::CONNECTIONS_PER_HOST);
        for (caller, most) in [of_account, of_host] {
            let _held: Vec<_> = (0..most).map(|_| owners.admit(&caller).unwrap()).collect();
            let error = owners.admit(&caller).unwrap_err();
            assert!(error.message.contains(&most.to_string()), "{error}");
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let strangers = Strangers::new(1);
        let _held = strangers.admit(address("2001:db8:0:1::1")).unwrap();
        assert!(strangers.admit(address("2001:db8:0:1:ffff::2")).is_none());
        strangers.admit(address("2001:db8:0:2::1")).unwrap();
    }
}
