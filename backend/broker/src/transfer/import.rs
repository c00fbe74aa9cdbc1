//! The other direction: hands what a customer sends to the host that takes it.

use std::{pin::pin, sync::Arc, time::Duration};

use fairmazon_model::{
    DomainError, ErrorKind,
    id::{AccountId, HostId, VolumeId},
    transfer::{ReceiveVolume, Taken, TransferId},
};
use futures::{Stream, StreamExt};
use tokio::{sync::mpsc, time::timeout};

use super::{BEGIN_WITHIN, Pace, STALLED, Transfers, WAITING, nobody_waits};
use crate::{
    asks::{Asked, cut, take_of, unavailable},
    core::{
        Caller, Engine, Standing,
        answers::{Again, Request},
        draft::Draft,
        engine::Planned,
        rules,
        state::State,
    },
    places::Place,
};

/// Words of a host that wait for the customer's call: all of a transfer.
const WORDS: usize = 2;
/// How long a host may take to write what it has been sent.
const STORED_WITHIN: Duration = Duration::from_secs(60);

/// A transfer that no host has begun to take.
pub(super) struct WaitingImport {
    words: mpsc::Sender<Taken>,
    parts: mpsc::Receiver<Vec<u8>>,
}

/// The customer's end of a transfer.
struct Sending {
    transfers: Arc<Transfers>,
    id: TransferId,
    words: mpsc::Receiver<Taken>,
    parts: mpsc::Sender<Vec<u8>>,
    /// The account's place and the host's: of a host that takes nothing more the customer's end
    /// is the one that notices.
    _held: (Place<AccountId>, Place<HostId>),
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.transfers.begun.lock().imports.remove(&self.id);
    }
}

impl Transfers {
    fn open_import(
        self: &Arc<Self>,
        id: TransferId,
        account: AccountId,
        host: HostId,
    ) -> Result<Sending, DomainError> {
        let held = self.hold(account, host)?;
        let ((say, words), (parts, taken)) = (mpsc::channel(WORDS), mpsc::channel(WAITING));
        self.begun.lock().imports.insert(id, (host, WaitingImport { words: say, parts: taken }));
        Ok(Sending { transfers: self.clone(), id, words, parts, _held: held })
    }

    fn take_import(&self, host: HostId, id: TransferId) -> Option<WaitingImport> {
        take_of(&mut self.begun.lock().imports, host, id)
    }
}

/// The file of a volume on its way to its host.
pub struct Importing {
    /// All that the file has.
    pub bytes: u64,
    /// How much of it the host has.
    pub offset: u64,
    /// None when the host needs no more.
    sending: Option<Sending>,
}

/// The parts of a file as a host takes them.
pub struct Parts(mpsc::Receiver<Vec<u8>>);

impl Parts {
    /// The next; none when there is no more.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.0.recv().await
    }
}

impl Engine {
    /// Has the host of a volume that is imported take its file. `key` is that of the request, and
    /// may be empty: the same one again goes on with the same import.
    ///
    /// # Errors
    /// `NotFound`; `Precondition` for a volume that is not imported, and when its host can't take
    /// it; `LimitExceeded` for too many at once; `Conflict` when the key was used for another
    /// volume; `Unavailable` when its host does not begin: the customer asks again.
    pub async fn import_volume(
        &self,
        caller: &Caller,
        volume: VolumeId,
        key: &str,
    ) -> Result<Importing, DomainError> {
        let (bytes, wanted) = imported(&self.state(), caller, volume)?;
        // The audit log names who has begun it, and nobody else goes on with it.
        let content = (volume, caller.credential);
        let request = Request::if_named(caller.owner()?, "volumes.import", key, &content)?;
        let transfer = TransferId(self.inner.random.id().to_be_bytes());
        let open = |(account, host)| self.inner.transfers.open_import(transfer, account, host);
        let sending = wanted.map(open).transpose()?;
        let plan = |state: &mut State, request: Option<&Request>| {
            imported(state, caller, volume)?;
            let mut draft = Draft::default();
            if sending.is_some() {
                draft.audit(self.begins(caller, "volume.import", volume));
            }
            draft.answer(request.and_then(|request| request.record(self, &volume, None)));
            Ok(Planned { draft, answer: () })
        };
        self.once_if_named(request, plan, |_, _, _| Ok(Again::Same(()))).await?;
        // A repetition is answered whatever the volume has become.
        imported(&self.state(), caller, volume)?;
        let (Some(mut sending), Some((_, host))) = (sending, wanted) else {
            return Ok(Importing { bytes, offset: bytes, sending: None });
        };
        let asked = ReceiveVolume { transfer, volume };
        self.inner.asks.ask(host, Asked::Receive(asked))?;
        let offset = match timeout(BEGIN_WITHIN, sending.words.recv()).await {
            Ok(Some(Taken::Begin { offset })) => offset,
            Ok(Some(Taken::Failed { reason, passing })) => return Err(cant_take(&reason, passing)),
            Ok(_) | Err(_) => {
                return Err(unavailable("the volume's host did not begin to take it"));
            }
        };
        if offset > bytes {
            return Err(broken("has more than the file has"));
        }
        Ok(Importing { bytes, offset, sending: Some(sending) })
    }

    /// The parts that a host is to take for a transfer, as its customer sends them, up to the end
    /// of what the host says.
    ///
    /// # Errors
    /// `NotFound` for a transfer that is not this host's, was begun or has ended.
    pub fn give_volume(
        &self,
        host: HostId,
        transfer: TransferId,
    ) -> Result<(mpsc::Sender<Taken>, Parts), DomainError> {
        let waiting = self.inner.transfers.take_import(host, transfer);
        let WaitingImport { words, parts } = waiting.ok_or_else(nobody_waits)?;
        Ok((words, Parts(parts)))
    }
}

impl Importing {
    /// Hands the host what the customer sends from the offset on, as fast as it takes that, and
    /// waits until it has all of it. To be driven whether or not the customer takes the answer:
    /// it counts among the transfers under way until it has ended.
    ///
    /// # Errors
    /// `Invalid` for more or less than the file has; `Unavailable` when the host or the customer
    /// breaks off, or nothing moves for a while; what is wrong with a part.
    pub async fn take(
        self,
        parts: impl Stream<Item = Result<Vec<u8>, DomainError>> + Send,
    ) -> Result<(), DomainError> {
        let Some(mut sending) = self.sending else { return Ok(()) };
        let (mut parts, mut left) = (pin!(parts), self.bytes - self.offset);
        let mut pace = Pace::begin();
        while left > 0 {
            let part = tokio::select! {
                word = sending.words.recv() => return Err(ended(word)),
                part = pace.within(parts.next()) => part,
            };
            let Some(part) = part else {
                return Err(unavailable("too little was sent for a while"));
            };
            let part = part.ok_or_else(|| {
                let text = format!("the file ended {left} bytes before its promised end");
                DomainError::invalid("data", text)
                    .advise("send the rest: it goes on where it broke")
            })??;
            let bytes = part.len();
            left = left.checked_sub(bytes as u64).ok_or_else(|| {
                DomainError::invalid("data", "more was sent than the file was promised to have")
                    .advise("send the file that was promised, or make another import for this one")
            })?;
            tokio::select! {
                word = sending.words.recv() => return Err(ended(word)),
                sent = timeout(STALLED, sending.parts.send(part)) => match sent {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(ended(sending.words.recv().await)),
                    Err(_) => return Err(broken("took nothing for a while")),
                },
            }
            pace.moved(bytes);
        }
        match timeout(STORED_WITHIN, sending.words.recv()).await {
            Ok(Some(Taken::Stored)) => Ok(()),
            Ok(word) => Err(ended(word)),
            Err(_) => Err(broken("did not say that it has all of it")),
        }
    }
}

/// How many bytes the file of a volume has that is imported, and whose and where it is until it is
/// made.
fn imported(
    state: &State,
    caller: &Caller,
    id: VolumeId,
) -> Result<(u64, Option<(AccountId, HostId)>), DomainError> {
    let row = state.world.volumes.get(id).filter(|row| caller.may_change(row.account));
    let row = row.ok_or_else(|| DomainError::not_found("volume", id))?;
    rules::check_not_deleting("volume", &id, row.deleting.is_some())?;
    let Some(import) = row.spec.import else {
        return Err(rules::precondition(format!("{id} is not made from a file"))
            .advise("make a volume with `import`: `fairmazon volume import` does both"));
    };
    let bytes = import.bytes;
    if row.made {
        return Ok((bytes, None));
    }
    state.check_volume_not_lost(row)?;
    let silent = || unavailable("the volume's host is silent");
    let host = row.host.ok_or_else(silent)?;
    if state.standing(host) != Standing::Connected {
        return Err(silent());
    }
    Ok((bytes, Some((row.account, host))))
}

/// What a host's word means before all was sent, and its end without one.
fn ended(word: Option<Taken>) -> DomainError {
    match word {
        Some(Taken::Failed { reason, passing }) => cant_take(&reason, passing),
        Some(Taken::Begin { .. }) => broken("began a second time"),
        Some(Taken::Stored) => broken("took less than the file has"),
        None => broken("hung up"),
    }
}

fn broken(how: &str) -> DomainError {
    DomainError::new(ErrorKind::Unavailable, format!("the volume's host {how}"))
        .advise("ask again: it says from which byte on it wants the file")
}

fn cant_take(reason: &str, passing: bool) -> DomainError {
    let text = format!("the volume's host can't take the file: {}", cut(reason));
    if passing {
        return DomainError::new(ErrorKind::Unavailable, text).advise("ask again in a while");
    }
    rules::precondition(text).advise("delete the volume and import it elsewhere")
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use fairmazon_model::limits::{TRANSFERS_PER_ACCOUNT, TRANSFERS_PER_HOST};

    const BYTES: u64 = 1 << 20;

    /// The host and the accounts of these tests.
    fn ids() -> (HostId, AccountId, AccountId) {
        (HostId::from_parts(1, 1), AccountId::from_parts(1, 1), AccountId::from_parts(1, 2))
    }

    /// All the places of the host, each with what the host has of it.
    fn full(transfers: &Arc<Transfers>) -> Vec<(Importing, WaitingImport)> {
        let (host, one, other) = ids();
        let begun = (0..TRANSFERS_PER_HOST).map(|at| {
            let account = if at < TRANSFERS_PER_ACCOUNT { one } else { other };
            let id = TransferId([u8::try_from(at).unwrap(); 16]);
            let sending = Some(transfers.open_import(id, account, host).unwrap());
            let taken = transfers.take_import(host, id).unwrap();
            (Importing { bytes: BYTES, offset: 0, sending }, taken)
        });
        begun.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_next_to_nothing_loses_the_place() {
        let transfers = Arc::<Transfers>::default();
        let (host, one, _) = ids();
        let mut begun = full(&transfers);
        let (importing, mut taken) = begun.remove(0);
        let takes = tokio::spawn(async move { while taken.parts.recv().await.is_some() {} });
        // Something comes every few seconds, and is nothing or a byte.
        let trickle = stream::unfold(0_usize, |number| async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Some((Ok(vec![0; number % 2]), number + 1))
        });
        let ended = importing.take(trickle).await.unwrap_err();
        assert_eq!(ended.kind, ErrorKind::Unavailable);
        assert!(ended.message.contains("too little was sent"), "{ended}");
        takes.await.unwrap();
        transfers.open_import(TransferId([100; 16]), one, host).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_takes_nothing_more_holds_no_place() {
        let transfers = Arc::<Transfers>::default();
        let (host, one, _) = ids();
        let mut begun = full(&transfers);
        let (importing, _hangs) = begun.remove(0);
        let all = stream::repeat_with(|| Ok(vec![0; 64 * 1024]));
        let ended = importing.take(all).await.unwrap_err();
        assert!(ended.message.contains("took nothing for a while"), "{ended}");
        transfers.open_import(TransferId([100; 16]), one, host).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_customer_goes_on() {
        let transfers = Arc::<Transfers>::default();
        let mut begun = full(&transfers);
        let (importing, WaitingImport { words, mut parts }) = begun.remove(0);
        let host = tokio::spawn(async move {
            let mut all = 0;
            while all < BYTES {
                all += parts.recv().await.unwrap().len() as u64;
            }
            words.send(Taken::Stored).await.unwrap();
        });
        let slow = stream::repeat_with(|| ()).then(|()| async {
            tokio::time::sleep(Duration::from_secs(13)).await;
            Ok(vec![0; 4_096])
        });
        importing.take(slow).await.unwrap();
        host.await.unwrap();
    }
}
