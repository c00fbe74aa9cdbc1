//! How other hosts reach an agent, to bring machines and to take them.

use std::net::SocketAddr;

use clap::Args;

/// Where machines from other hosts are taken, and what other hosts are told of it.
#[derive(Debug, Clone, Args)]
pub(super) struct Moves {
    /// Where machines from other hosts are taken, as `ADDRESS:PORT`. Machines move to this host and
    /// from it only with this.
    #[arg(long, env = "FAIRMAZON_MIGRATION_LISTEN", value_name = "ADDRESS:PORT")]
    pub(super) migration_listen: Option<String>,
    /// How other hosts reach that, as `NAME:PORT` [default: as it is listened at].
    #[arg(long, env = "FAIRMAZON_MIGRATION_ADDRESS", value_name = "NAME:PORT")]
    pub(super) migration_address: Option<String>,
}

impl Moves {
    /// Why what other hosts would be told is no address of any machine.
    pub(super) fn misleads(&self) -> Option<String> {
        let told = self.told()?;
        match told.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_unspecified() => Some(format!(
                "other hosts would be told to reach this one at {told}, which is no address of a \
                 machine: give --migration-address, as NAME:PORT"
            )),
            Ok(_) => None,
            Err(_) if is_name_and_port(told) => None,
            Err(_) => Some(format!(
                "other hosts would be told to reach this one at `{told}`, which is not NAME:PORT: \
                 give --migration-address"
            )),
        }
    }

    /// Why no other host reaches this one, as far as its machine can know: not whether something
    /// between them lets no connection pass.
    pub(super) fn is_out_of_reach(&self) -> Option<String> {
        let Some(told) = self.told() else {
            return Some(
                "without --migration-listen no machine moves to this host or from it, and those \
                 that are on it stay when it is emptied"
                    .into(),
            );
        };
        let address = told.parse::<SocketAddr>();
        let within = address.ok().filter(|address| address.ip().is_loopback()).map(|address| {
            format!("only programs of this machine reach {address}: give --migration-address")
        });
        self.misleads().or(within)
    }

    fn told(&self) -> Option<&str> {
        let listen = self.migration_listen.as_deref()?;
        Some(self.migration_address.as_deref().unwrap_or(listen))
    }
}

fn is_name_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(name, port)| {
        !name.is_empty() && !name.contains(':') && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(listen: Option<&str>, address: Option<&str>) -> Moves {
        Moves {
            migration_listen: listen.map(str::to_owned),
            migration_address: address.map(str::to_owned),
        }
    }

    #[test]
    fn what_no_other_host_reaches_is_said() {
        let why = |listen, address| moves(listen, address).is_out_of_reach();
        for (listen, address, words) in [
            (None, None, "without --migration-listen"),
            // Nobody listens there.
            (None, Some("host.example.com:7443"), "without --migration-listen"),
            (Some("0.0.0.0:7443"), None, "0.0.0.0:7443, which is no address"),
            (Some("[::]:7443"), None, "give --migration-address"),
            (Some("10.0.0.1:7443"), Some("[::]:7443"), "which is no address"),
            (Some("127.0.0.1:7443"), None, "only programs of this machine"),
            (Some("0.0.0.0:7443"), Some("[::1]:7443"), "only programs of this machine"),
            (Some("0.0.0.0:7443"), Some("host.example.com"), "not NAME:PORT"),
            (Some("0.0.0.0:7443"), Some("host.example.com:0"), "not NAME:PORT"),
            (Some("0.0.0.0:7443"), Some("2001:db8::1:7443"), "not NAME:PORT"),
        ] {
            let said = why(listen, address).unwrap_or_default();
            assert!(said.contains(words), "{listen:?} {address:?}: {said}");
        }
        for (listen, address) in [
            ("10.0.0.1:7443", None),
            ("0.0.0.0:7443", Some("host.example.com:7443")),
            ("0.0.0.0:7443", Some("10.0.0.1:7443")),
            ("[::]:7443", Some("[2001:db8::1]:7443")),
            // What it is told is what it got.
            ("10.0.0.1:0", None),
        ] {
            assert_eq!(why(Some(listen), address), None, "{listen} {address:?}");
        }
    }

    #[test]
    fn an_agent_may_be_alone_but_not_mislead() {
        assert_eq!(moves(None, None).misleads(), None);
        assert_eq!(moves(Some("127.0.0.1:0"), None).misleads(), None);
        assert!(moves(Some("0.0.0.0:7443"), None).misleads().is_some());
    }
}
