//! The connections to libvirt's daemon, opened again after the daemon was restarted: guests go on
//! meanwhile, and are there again in the new connection. One is for all that speaks to no QEMU that
//! runs. The daemon does five calls of a connection at once, and a QEMU that hangs has it do a call
//! for ever: what speaks to one has a connection of its own for that time.

use std::{collections::BTreeMap, sync::Arc, thread};

use fairmazon_hypervisor::{Hint, Result};
use fairmazon_model::id::{InstanceId, VolumeId};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use virt::{connect::Connect, domain::Domain, error::Error};
use virt_sys as sys;

use super::{
    Accelerator,
    files::volume_of,
    keyring::LentNow,
    migration::{is_stranded, resume_stranded},
    xml::live_disks,
};
use crate::{
    domains::Domains, error::failed, events::Watch, guests::Guests, left::Left, user_data::UserData,
};

/// Seconds between signs of life, and how many may be missed.
pub(super) const KEEP_ALIVE: (i32, u32) = (5, 3);

const CONNECT: &str = "connect to libvirt";

/// One connection and what hangs on it.
#[derive(Debug)]
pub(super) struct Session {
    // Before the connection, so that it ends first.
    _watch: Option<Watch>,
    /// The domains of machines that run and were measured: to look each up again and again would be
    /// a good part of what it takes.
    pub(super) measured: Mutex<BTreeMap<InstanceId, Arc<Domain>>>,
    pub(super) domains: Domains,
}

impl Session {
    fn new(watch: Option<Watch>, domains: Domains) -> Self {
        Self { _watch: watch, measured: Mutex::default(), domains }
    }
}

/// Opens connections.
#[derive(Debug)]
pub(super) struct Sessions {
    uri: String,
    accelerator: Accelerator,
    hints: broadcast::Sender<Hint>,
    user_data: UserData,
    left: Left,
    guests: Arc<Guests>,
    lent: LentNow,
    current: Mutex<Option<Arc<Session>>>,
    /// Those that are for one call each, and in none now.
    idle: Mutex<Vec<Session>>,
}

impl Sessions {
    pub(super) fn new(
        uri: String,
        accelerator: Accelerator,
        hints: broadcast::Sender<Hint>,
        user_data: UserData,
        left: Left,
        guests: Arc<Guests>,
        lent: LentNow,
    ) -> Self {
        Self {
            uri,
            accelerator,
            hints,
            user_data,
            left,
            guests,
            lent,
            current: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// The connection, a new one where the last has ended.
    pub(super) fn get(&self) -> Result<Arc<Session>> {
        let mut current = self.current.lock();
        if let Some(session) = &*current {
            if session.domains.connection.is_alive().unwrap_or(false) {
                return Ok(Arc::clone(session));
            }
            tracing::warn!("the connection to libvirt has ended; opening another");
        }
        *current = None;
        let session = Arc::new(self.open_main().map_err(failed(CONNECT))?);
        *current = Some(Arc::clone(&session));
        // Whatever happened meanwhile gave no event. Nobody listening is no failure.
        let _ = self.hints.send(Hint::All);
        Ok(session)
    }

    /// Does a call over a connection that nobody else has meanwhile.
    pub(super) fn alone<T>(&self, call: impl FnOnce(&Session) -> Result<T>) -> Result<T> {
        let session = match self.idle_one() {
            Some(session) => session,
            None => {
                let connection = self.connect().map_err(failed(CONNECT))?;
                Session::new(None, self.domains(connection))
            }
        };
        let outcome = call(&session);
        self.idle.lock().push(session);
        outcome
    }

    fn idle_one(&self) -> Option<Session> {
        loop {
            let session = self.idle.lock().pop()?;
            if session.domains.connection.is_alive().unwrap_or(false) {
                return Some(session);
            }
        }
    }

    fn open_main(&self) -> std::result::Result<Session, Error> {
        let connection = self.connect()?;
        self.lent.take_back_others(&connection)?;
        let watch = Watch::start(&connection, self.hints.clone())?;
        let domains = self.domains(connection);
        domains.each(|domain, machine| {
            if is_stranded(domain, machine) {
                self.let_go_on(machine.instance());
            }
        });
        Ok(Session::new(Some(watch), domains))
    }

    /// Lets a machine go on in a thread and over a connection of its own: its QEMU may hang.
    fn let_go_on(&self, instance: InstanceId) {
        let begun = self.connect().map_err(|error| error.to_string()).and_then(|connection| {
            let domains = self.domains(connection);
            let resume = move || match domains.expect(instance) {
                Ok((domain, machine)) => resume_stranded(&domain, &machine),
                Err(error) => {
                    tracing::error!(%instance, %error, "a machine has stopped on its way");
                }
            };
            let thread = thread::Builder::new().name("stranded".into()).spawn(resume);
            thread.map(drop).map_err(|error| error.to_string())
        });
        if let Err(error) = begun {
            tracing::error!(%instance, error, "a machine has stopped on its way");
        }
    }

    fn connect(&self) -> std::result::Result<Connect, Error> {
        let connection = Connect::open(Some(&self.uri))?;
        connection.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)?;
        Ok(connection)
    }

    fn domains(&self, connection: Connect) -> Domains {
        Domains {
            connection,
            domain_type: self.accelerator.domain_type(),
            // Nothing leases addresses here; the host has seen who answers on the bridge. What a
            // guest's agent says is better, and asked for elsewhere.
            address_source: sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
            addresses: Mutex::default(),
            user_data: Some(self.user_data.clone()),
            left: Some(self.left.clone()),
            guests: Some(Arc::clone(&self.guests)),
            shutdown: sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
            // Nothing of ours saves a guest's memory. What somebody has saved is older than the
            // disks by now, or will be, and a guest that went on with it would ruin them.
            start: sys::VIR_DOMAIN_START_FORCE_BOOT,
            plugged: Some(live_volumes),
        }
    }
}

/// The volumes that a domain has by libvirt's description of it.
fn live_volumes(domain: &str) -> Vec<VolumeId> {
    live_disks(domain).iter().filter_map(|disk| volume_of(&disk.file)).collect()
}
