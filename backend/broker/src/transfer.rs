//! Volumes' files on their way: hands what a host sends to the customer who waits for it.
//!
//! Nothing is kept, on disk or in memory, but the few parts that the slower side has not taken
//! yet, and nothing of it can be opened here. A transfer ends with the customer's call.

mod import;

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{AccountId, HostId, VolumeId},
    key::VolumeHostKey,
    limits::{TRANSFERS_PER_ACCOUNT, TRANSFERS_PER_HOST},
    transfer::{Part, SendVolume, TransferId},
    volume::Volume,
};
use fairmazon_store::AuditEntry;
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    asks::{Asked, cut, take_of, unavailable},
    core::{Caller, Engine, Standing, audit, draft::Draft, engine::Planned, rules, state::State},
    places::{Place, Places},
};

use import::WaitingImport;
pub use import::{Importing, Parts};

/// Parts that wait for the customer.
const WAITING: usize = 2;
/// How long a host may take to begin: a request that is lost is noticed by this.
const BEGIN_WITHIN: Duration = Duration::from_secs(20);
/// How long nothing may move.
const STALLED: Duration = Duration::from_secs(60);
/// What has to move within that time, in bytes: less is nothing, and holds places all the same.
const LEAST: u64 = 16 * 1024;

/// The transfers under way.
pub(crate) struct Transfers {
    begun: Mutex<Table>,
    /// Whose and where those are that have not ended.
    accounts: Arc<Places<AccountId>>,
    hosts: Arc<Places<HostId>>,
    /// The volumes that are sent to their customers.
    sent: Arc<Places<VolumeId>>,
}

/// Those that no host has begun.
#[derive(Default)]
struct Table {
    waiting: HashMap<TransferId, (HostId, Waiting)>,
    imports: HashMap<TransferId, (HostId, WaitingImport)>,
}

impl Default for Transfers {
    fn default() -> Self {
        let (accounts, hosts, sent) = (Places::new(), Places::new(), Places::new());
        Self { begun: Mutex::default(), accounts, hosts, sent }
    }
}

struct Waiting {
    to: mpsc::Sender<Part>,
    /// The host's: counts as long as it sends, and not as long as the customer keeps the call.
    held: Place<HostId>,
}

/// The customer's end of a transfer.
struct Receiving {
    transfers: Arc<Transfers>,
    id: TransferId,
    parts: mpsc::Receiver<Part>,
    _held: (Place<AccountId>, Option<Place<VolumeId>>),
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.transfers.begun.lock().waiting.remove(&self.id);
    }
}

impl Transfers {
    fn open(
        self: &Arc<Self>,
        id: TransferId,
        account: AccountId,
        (volume, host): (VolumeId, HostId),
    ) -> Result<Receiving, DomainError> {
        let (ours, held) = self.hold(account, host)?;
        let sent = self.sent.take(volume, usize::MAX);
        let (to, parts) = mpsc::channel(WAITING);
        self.begun.lock().waiting.insert(id, (host, Waiting { to, held }));
        Ok(Receiving { transfers: self.clone(), id, parts, _held: (ours, sent) })
    }

    /// Counts one more transfer of the account and the host.
    fn hold(
        &self,
        account: AccountId,
        host: HostId,
    ) -> Result<(Place<AccountId>, Place<HostId>), DomainError> {
        let ours = self.accounts.take(account, TRANSFERS_PER_ACCOUNT);
        let ours = ours.ok_or_else(|| too_many("the account", TRANSFERS_PER_ACCOUNT))?;
        let held = self.hosts.take(host, TRANSFERS_PER_HOST);
        let held = held.ok_or_else(|| too_many("the volume's host", TRANSFERS_PER_HOST))?;
        Ok((ours, held))
    }

    /// The customer who waits for a transfer of this host, once.
    fn take(&self, host: HostId, id: TransferId) -> Option<Waiting> {
        take_of(&mut self.begun.lock().waiting, host, id)
    }

    /// Whether the volume is on its way to its customer.
    fn sends(&self, volume: VolumeId) -> bool {
        self.sent.has(&volume)
    }
}

/// How far a transfer is towards the least that has to move.
struct Pace {
    until: Instant,
    moved: u64,
}

impl Pace {
    fn begin() -> Self {
        Self { until: Instant::now() + STALLED, moved: 0 }
    }

    /// What comes in time; none when it does not.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.until, work).await.ok()
    }

    /// So many more bytes have moved.
    fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        if self.moved >= LEAST {
            *self = Self::begin();
        }
    }
}

/// The file of a volume on its way to its customer.
pub struct Export {
    /// All that the file has, also before the offset.
    pub bytes: u64,
    /// What it is encrypted with, wrapped for the customer.
    pub key: VolumeHostKey,
    /// The bytes from the offset on; an error when it breaks off before their end.
    pub data: BoxStream<'static, Result<Vec<u8>, DomainError>>,
}

impl Engine {
    /// Has a snapshot's host send its file, from `offset` on.
    ///
    /// # Errors
    /// `NotFound`; `Precondition` for a volume that may be written to, is not there or has no key;
    /// `LimitExceeded` for too many at once; `Unavailable` when its host does not begin: the
    /// customer asks again. `Invalid` for an offset behind the end.
    pub async fn export_volume(
        &self,
        caller: &Caller,
        volume: VolumeId,
        offset: u64,
    ) -> Result<Export, DomainError> {
        let (account, host, key) = exported(&self.state(), caller, volume)?;
        let transfer = TransferId(self.inner.random.id().to_be_bytes());
        let mut receiving = self.inner.transfers.open(transfer, account, (volume, host))?;
        let plan = |state: &mut State| {
            exported(state, caller, volume)?;
            let mut draft = Draft::default();
            draft.audit(self.begins(caller, "volume.export", volume));
            Ok(Planned { draft, answer: () })
        };
        self.run(plan).await.map_err(DomainError::from)?;
        let asked = SendVolume { transfer, volume, offset };
        self.inner.asks.ask(host, Asked::Send(asked))?;
        let bytes = match timeout(BEGIN_WITHIN, receiving.parts.recv()).await {
            Ok(Some(Part::Begin { bytes })) => bytes,
            Ok(Some(Part::Failed { reason })) => return Err(cant_send(&reason)),
            Ok(_) | Err(_) => {
                return Err(unavailable("the volume's host did not begin to send it"));
            }
        };
        let Some(left) = bytes.checked_sub(offset) else {
            let text = format!("the file has {bytes} bytes and none from {offset} on");
            return Err(DomainError::invalid("offset", text)
                .advise("export it anew from the beginning: it is not what was begun"));
        };
        Ok(Export { bytes, key, data: data(receiving, left).boxed() })
    }

    /// Whether the volume is being sent to its customer.
    pub(crate) fn is_exported(&self, volume: VolumeId) -> bool {
        self.inner.transfers.sends(volume)
    }

    /// What the audit log says of a transfer that a customer begins: the row stays as it is.
    fn begins(&self, caller: &Caller, verb: &'static str, volume: VolumeId) -> AuditEntry {
        let nothing = None::<&Volume>;
        audit::entry(caller, self.now(), verb, &volume, nothing, nothing)
    }

    /// Takes what a host sends for a transfer, as fast as the customer takes it.
    ///
    /// # Errors
    /// `NotFound` for a transfer that is not this host's, was begun or has ended; `Unavailable`
    /// when the customer has gone or takes nothing for a while, or the host sends next to nothing;
    /// what is wrong with a part.
    pub async fn take_volume(
        &self,
        host: HostId,
        transfer: TransferId,
        parts: impl Stream<Item = Result<Part, DomainError>> + Send,
    ) -> Result<(), DomainError> {
        let waiting = self.inner.transfers.take(host, transfer);
        let Waiting { to, held: _held } = waiting.ok_or_else(nobody_waits)?;
        let mut parts = pin!(parts);
        let gone = || unavailable("the customer takes nothing more");
        let mut pace = Pace::begin();
        loop {
            let part = tokio::select! {
                () = to.closed() => return Err(gone()),
                part = pace.within(parts.next()) => part,
            };
            let part = part.ok_or_else(|| unavailable("too little was sent for a while"))?;
            let Some(part) = part.transpose()? else { return Ok(()) };
            let bytes = match &part {
                Part::Data(data) => data.len(),
                Part::Begin { .. } | Part::Failed { .. } => 0,
            };
            match timeout(STALLED, to.send(part)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(gone()),
            }
            pace.moved(bytes);
        }
    }
}

/// Whose a snapshot is that can be exported, where it is and its key.
fn exported(
    state: &State,
    caller: &Caller,
    id: VolumeId,
) -> Result<(AccountId, HostId, VolumeHostKey), DomainError> {
    let row = state.world.volumes.get(id).filter(|row| caller.may_change(row.account));
    let row = row.ok_or_else(|| DomainError::not_found("volume", id))?;
    rules::check_not_deleting("volume", &id, row.deleting.is_some())?;
    if !row.spec.read_only {
        return Err(rules::precondition(format!("{id} is no snapshot, and may be written to"))
            .advise("make a snapshot of it and export that: `fairmazon volume export` does both"));
    }
    if state.world.moves_with(id).is_some() {
        return Err(rules::precondition(format!("{id} moves to another host"))
            .advise("repeat when it is there, from its beginning: it gets another key there"));
    }
    let Some(host) = row.host.filter(|_| row.observed.is_present()) else {
        return Err(rules::precondition(format!("{id} is not there yet"))
            .advise("wait for the operation that makes it"));
    };
    let key = row.key().cloned().ok_or_else(|| {
        rules::precondition(format!("{id} has no key that opens it"))
            .advise("only volumes of hosts that encrypt them can be exported")
    })?;
    state.check_volume_not_lost(row)?;
    if state.standing(host) != Standing::Connected {
        return Err(unavailable("the volume's host is silent"));
    }
    Ok((row.account, host, key))
}

/// The bytes as they come, up to the last one.
fn data(
    receiving: Receiving,
    left: u64,
) -> impl Stream<Item = Result<Vec<u8>, DomainError>> + Send + 'static {
    stream::unfold(Some((receiving, left)), |at| async move {
        let (mut receiving, left) = at.filter(|(_, left)| *left > 0)?;
        let part = timeout(STALLED, receiving.parts.recv()).await;
        let error = match part {
            Ok(Some(Part::Data(data))) => match left.checked_sub(data.len() as u64) {
                Some(left) => return Some((Ok(data), Some((receiving, left)))),
                None => broken("sent more than the file has"),
            },
            Ok(Some(Part::Failed { reason })) => broken(&format!("failed: {}", cut(&reason))),
            Ok(Some(Part::Begin { .. })) => broken("began a second time"),
            Ok(None) => broken("ended before all was sent"),
            Err(_) => broken("sent nothing for a while"),
        };
        Some((Err(error), None))
    })
}

fn too_many(who: &str, most: usize) -> DomainError {
    let text = format!("{who} has {most} transfers under way, which is the most it may have");
    DomainError::new(ErrorKind::LimitExceeded, text).advise("wait until one has ended")
}

fn nobody_waits() -> DomainError {
    DomainError::new(ErrorKind::NotFound, "nobody waits for this transfer")
        .advise("end it: its customer has gone, and asks again")
}

fn broken(how: &str) -> DomainError {
    DomainError::new(ErrorKind::Unavailable, format!("the volume's host {how}"))
        .advise("ask again, from the byte on that is the first to be missing")
}

fn cant_send(reason: &str) -> DomainError {
    rules::precondition(format!("the volume's host can't send it: {}", cut(reason)))
        .advise("ask again later; the snapshot stays as it is")
}

#[cfg(test)]
mod tests {
    use fairmazon_model::catalogue::Catalogue;
    use fairmazon_store::sqlite::{SqliteOptions, SqliteStore};

    use super::*;
    use crate::core::{CoreConfig, Parts, Randomness, SystemClock};

    const VOLUME: VolumeId = VolumeId::from_parts(1, 1);

    fn id(number: u8) -> TransferId {
        TransferId([number; 16])
    }

    #[test]
    fn a_transfer_is_one_hosts_and_taken_once() {
        let transfers = Arc::<Transfers>::default();
        let (account, host) = (AccountId::from_parts(1, 1), HostId::from_parts(1, 1));
        let open = transfers.open(id(1), account, (VOLUME, host)).unwrap();
        assert!(transfers.take(HostId::from_parts(1, 2), id(1)).is_none());
        assert!(transfers.take(host, id(2)).is_none());
        assert!(transfers.take(host, id(1)).is_some());
        assert!(transfers.take(host, id(1)).is_none());
        assert!(transfers.sends(VOLUME), "its customer still reads");
        assert!(!transfers.sends(VolumeId::from_parts(1, 2)));
        drop(open);
        assert!(!transfers.sends(VOLUME));
        let open = transfers.open(id(3), account, (VOLUME, host)).unwrap();
        drop(open);
        assert!(transfers.take(host, id(3)).is_none(), "nobody waits any more");
    }

    #[test]
    fn an_account_that_takes_nothing_leaves_room_on_the_host() {
        let transfers = Arc::<Transfers>::default();
        let (ours, other) = (AccountId::from_parts(1, 1), AccountId::from_parts(1, 2));
        let host = HostId::from_parts(1, 1);
        let number = |count: usize| id(u8::try_from(count).unwrap());
        let held: Vec<_> = (0..TRANSFERS_PER_ACCOUNT)
            .map(|at| transfers.open(number(at), ours, (VOLUME, host)).unwrap())
            .collect();
        let refused = transfers.open(id(100), ours, (VOLUME, host)).err().unwrap();
        assert_eq!(refused.kind, ErrorKind::LimitExceeded);
        let others: Vec<_> = (TRANSFERS_PER_ACCOUNT..TRANSFERS_PER_HOST)
            .map(|at| transfers.open(number(at), other, (VOLUME, host)).unwrap())
            .collect();
        let third = AccountId::from_parts(1, 3);
        assert!(transfers.open(id(100), third, (VOLUME, host)).is_err());
        // What the host has ended does not count there, whatever the customer does with it.
        drop(transfers.take(host, number(0)).unwrap());
        transfers.open(id(100), third, (VOLUME, host)).unwrap();
        drop((held, others));
        assert!(transfers.begun.lock().waiting.is_empty());
    }

    /// An engine without any rows.
    async fn engine(folder: &std::path::Path) -> Engine {
        let options = SqliteOptions::new(folder.join("store.db"));
        let parts = Parts {
            store: Arc::new(SqliteStore::open(&options).unwrap()),
            clock: Arc::new(SystemClock),
            random: Randomness::from_seed(1),
            catalogue: Catalogue::default_catalogue(),
            config: CoreConfig::default(),
        };
        Engine::open(parts).await.unwrap()
    }

    #[tokio::test]
    async fn a_host_that_sends_next_to_nothing_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(folder.path()).await;
        let (account, host) = (AccountId::from_parts(1, 1), HostId::from_parts(1, 1));
        tokio::time::pause();
        // So much every few seconds.
        let trickle = |bytes: usize, parts: usize| {
            stream::iter(0..parts).then(move |_| async move {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(Part::Data(vec![0; bytes]))
            })
        };
        for (bytes, ends_well) in [(0, false), (1, false), (4_096, true)] {
            let mut open = engine.inner.transfers.open(id(1), account, (VOLUME, host)).unwrap();
            let takes = tokio::spawn(async move { while open.parts.recv().await.is_some() {} });
            let taken = engine.take_volume(host, id(1), trickle(bytes, 100)).await;
            assert_eq!(taken.is_ok(), ends_well, "{bytes} bytes at a time: {taken:?}");
            takes.await.unwrap();
        }
    }
}
