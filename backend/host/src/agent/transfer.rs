//! Volumes' files that customers wait for: sent beside everything else, and noted nowhere.

use std::{future::ready, sync::Arc};

use fairmazon_hypervisor::{HypervisorError, VolumeFile};
use fairmazon_model::transfer::{CHUNK, Part, SendVolume};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::io::AsyncReadExt;

use super::Agent;

/// Files that are sent at once; the broker asks for fewer.
const AT_ONCE: usize = 16;

impl Agent {
    /// Sends what was asked for. Nothing is repeated: whoever waits for it asks again.
    pub(super) fn send_volume(&mut self, asked: SendVolume) {
        while self.transfers.try_join_next().is_some() {}
        let SendVolume { transfer, volume, offset } = asked;
        let host = self.config.host;
        if self.transfers.len() >= AT_ONCE {
            tracing::warn!(%host, %volume, "too many volumes are being sent for one more");
            return;
        }
        let (hypervisor, transport) =
            (Arc::clone(&self.hands.hypervisor), Arc::clone(&self.transport));
        self.transfers.spawn(async move {
            let parts = match hypervisor.read_volume(volume, offset).await {
                Ok(file) => parts(file),
                Err(error) => stream::once(ready(failed(&error))).boxed(),
            };
            match transport.send_volume(transfer, parts).await {
                Ok(()) => tracing::info!(%host, %volume, "a volume was sent to its customer"),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::info!(%host, %volume, error, "a volume was not sent to its end");
                }
            }
        });
    }
}

/// A file as parts, read as they are taken.
fn parts(file: VolumeFile) -> BoxStream<'static, Part> {
    let begin = Part::Begin { bytes: file.bytes };
    let rest = stream::unfold(Some(file.reader), |reader| async move {
        let mut reader = reader?;
        let mut chunk = Vec::with_capacity(CHUNK);
        match (&mut reader).take(CHUNK as u64).read_to_end(&mut chunk).await {
            Ok(0) => None,
            Ok(_) => Some((Part::Data(chunk), Some(reader))),
            Err(error) => {
                tracing::error!(%error, "a volume's file can't be read");
                Some((Part::Failed { reason: "its file can't be read".into() }, None))
            }
        }
    });
    stream::once(ready(begin)).chain(rest).boxed()
}

fn failed(error: &HypervisorError) -> Part {
    Part::Failed { reason: error.for_customer() }
}
