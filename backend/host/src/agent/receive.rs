//! Files of volumes that customers bring: taken beside everything else, and made volumes by the
//! steps of volumes once they are whole.

use std::{io, sync::Arc, time::Duration};

use fairmazon_hypervisor::{HypervisorError, VolumeSink};
use fairmazon_model::{
    id::VolumeId,
    transfer::{ReceiveVolume, Taken, TransferId},
    volume::Import,
};
use futures::StreamExt;
use tokio::{
    io::AsyncWriteExt,
    sync::{Mutex, mpsc},
    task::AbortHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Agent,
    queue::Target,
    work::{Done, Hands},
};
use crate::transport::{Data, Transport, TransportError};

/// Files that are taken at once; the broker asks for fewer.
const AT_ONCE: usize = 16;
/// How long nothing may come, and how long a write may take: longer than the broker waits, which
/// tells the customer why it ends.
const STALLED: Duration = Duration::from_secs(120);
/// Words to the broker that may wait: all of a transfer.
const WORDS: usize = 2;

/// The transfer of a volume's file.
#[derive(Debug)]
pub(super) struct Receiving {
    number: u64,
    task: AbortHandle,
}

impl Receiving {
    /// It shall not go on.
    pub(super) fn end(&self) {
        self.task.abort();
    }
}

/// Who writes a volume's file; one at a time.
pub(super) type Writing = Arc<Mutex<()>>;

/// All that one transfer needs.
struct Receiver {
    hands: Hands,
    transport: Arc<dyn Transport>,
    transfer: TransferId,
}

impl Agent {
    /// Takes the rest of a volume's file. Nothing is repeated: whoever sends it asks again.
    pub(super) fn receive_volume(&mut self, asked: ReceiveVolume) {
        let ReceiveVolume { transfer, volume } = asked;
        let receiver = Receiver {
            hands: self.hands.clone(),
            transport: Arc::clone(&self.transport),
            transfer,
        };
        let under_way = self.book.volumes.values().filter(|r| r.receiving.is_some()).count();
        let refusal = match self.book.volumes.get(&volume) {
            _ if !self.looks.complete => Some("it is not ready yet"),
            Some(record) if record.imports().is_none() || record.unsure => {
                Some("it does not expect this file yet")
            }
            Some(record) if record.busy => Some("it looks at the file now"),
            Some(record) if record.receiving.is_none() && under_way >= AT_ONCE => {
                Some("it takes as many files as it can")
            }
            Some(_) => None,
            None => Some("it does not expect this file yet"),
        };
        if let Some(why) = refusal {
            tracing::debug!(host = %self.config.host, %volume, "a file is not taken: {why}");
            let (reason, passing) = (why.to_owned(), true);
            self.answer(receiver, vec![Taken::Failed { reason, passing }]);
            return;
        }
        let Some(record) = self.book.volumes.get_mut(&volume) else { return };
        let (Some(wish), Some(import)) = (record.desired.clone(), record.imports()) else { return };
        if record.seen.is_some() {
            let all = vec![Taken::Begin { offset: import.bytes }, Taken::Stored];
            self.answer(receiver, all);
            return;
        }
        // The customer has come back before the way that broke was noticed.
        if let Some(earlier) = record.receiving.take() {
            earlier.end();
        }
        if record.error.take().is_some() {
            self.report.wanted();
        }
        self.looks.counter += 1;
        let number = self.looks.counter;
        let (host, writing) = (self.config.host, Arc::clone(&record.writing));
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let _writing = writing.lock().await;
            let begin = receiver.hands.hypervisor.begin_import(&wish);
            let begun = receiver.hands.within("begin to take a volume's file", begin).await;
            match begun {
                Ok(sink) => match receiver.receive(sink, import).await {
                    Ok(bytes) => {
                        tracing::info!(%host, %volume, bytes, "a volume's file has come");
                        Some(bytes)
                    }
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::info!(%host, %volume, error, "a volume's file has not all come");
                        None
                    }
                },
                Err(error) => {
                    tracing::warn!(%host, %volume, %error, "a volume's file can't be taken");
                    receiver.answer(vec![failed(&error)]).await;
                    None
                }
            }
        }));
        record.receiving = Some(Receiving { number, task: task.abort_handle() });
        // However it ends, something of the file may be there.
        record.incoming.get_or_insert(0);
        self.work.push(Box::pin(async move {
            let bytes = task.await.ok().flatten();
            Done::Received { volume, number, bytes }
        }));
    }

    /// Says what needs no more of the file.
    fn answer(&mut self, receiver: Receiver, words: Vec<Taken>) {
        self.work.push(Box::pin(async move {
            receiver.answer(words).await;
            Done::Nothing
        }));
    }

    /// A transfer has ended; `bytes` are there when that is known.
    pub(super) fn received(&mut self, volume: VolumeId, number: u64, bytes: Option<u64>) {
        self.looks.counter += 1;
        let Some(record) = self.book.volumes.get_mut(&volume) else { return };
        if record.receiving.as_ref().is_none_or(|now| now.number != number) {
            return;
        }
        record.receiving = None;
        match bytes {
            Some(bytes) => {
                record.incoming = Some(bytes);
                record.touched = self.looks.counter;
            }
            None => self.looks.sooner(),
        }
        self.queue.push(Target::Volume(volume));
        self.forget_volume_if_empty(volume);
    }
}

impl Receiver {
    async fn answer(&self, words: Vec<Taken>) {
        let words = futures::stream::iter(words).boxed();
        let Ok(mut data) = self.transport.receive_volume(self.transfer, words).await else {
            return;
        };
        heard(&mut data).await;
    }

    /// Writes what comes; how many bytes are there when all has come.
    async fn receive(&self, sink: VolumeSink, import: Import) -> Result<u64, TransportError> {
        let VolumeSink { offset, mut writer } = sink;
        let (say, words) = mpsc::channel(WORDS);
        // There is room for all that is said.
        let _ = say.try_send(Taken::Begin { offset });
        let words = ReceiverStream::new(words).boxed();
        let mut data = self.transport.receive_volume(self.transfer, words).await?;
        let ended = |reason: String| TransportError::Ended { reason };
        let mut at = offset;
        while at < import.bytes {
            let Ok(part) = timeout(STALLED, data.next()).await else {
                return Err(ended("nothing has come for too long".into()));
            };
            let part = part.ok_or_else(|| ended("no more comes".into()))??;
            at += part.len() as u64;
            let written = if at > import.bytes {
                Err(io::Error::other("more came than was promised"))
            } else {
                in_time(writer.write_all(&part)).await
            };
            if let Err(error) = written {
                let (reason, passing) = ("its host can't write the file".to_owned(), true);
                let _ = say.try_send(Taken::Failed { reason, passing });
                drop(say);
                heard(&mut data).await;
                return Err(ended(error.to_string()));
            }
        }
        in_time(writer.flush()).await.map_err(|error| ended(error.to_string()))?;
        drop(writer);
        let _ = say.try_send(Taken::Stored);
        drop(say);
        // All is here, whether the broker has heard that or not.
        heard(&mut data).await;
        Ok(at)
    }
}

/// Waits until the broker has heard what was said last.
async fn heard(data: &mut Data) {
    let ends = async { while let Some(Ok(_)) = data.next().await {} };
    if timeout(STALLED, ends).await.is_err() {
        tracing::debug!("the broker does not end the transfer of a volume's file");
    }
}

/// Writes to the disk, which may hang.
async fn in_time(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let hangs = |_| io::Error::new(io::ErrorKind::TimedOut, "the disk takes too long");
    timeout(STALLED, write).await.map_err(hangs)?
}

fn failed(error: &HypervisorError) -> Taken {
    let passing = matches!(
        error,
        HypervisorError::Busy { .. }
            | HypervisorError::Timeout { .. }
            | HypervisorError::Driver { .. }
    );
    Taken::Failed { reason: error.for_customer(), passing }
}
