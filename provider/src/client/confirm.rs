//! Tells the broker which ids are safely in a state, so that their keys answer no more creation.
//!
//! Ids are collected while a call is under way and sent with the next one: however many
//! resources are read at the same time, few calls are made. Who confirms waits until it is done,
//! so nothing is left over when the process ends.

use std::{collections::BTreeSet, sync::Arc};

use fairmazon_model::limits::CONFIRM_MAX;
use fairmazon_proto::v1;
use parking_lot::Mutex;

use super::{Client, ClientError};

/// Ids that wait for the next call.
#[derive(Default)]
pub(super) struct Confirmations {
    waiting: Mutex<BTreeSet<String>>,
    /// Held by the caller that sends.
    sending: tokio::sync::Mutex<()>,
}

impl Confirmations {
    fn take(&self) -> Vec<String> {
        let mut waiting = self.waiting.lock();
        let rest = waiting.iter().nth(CONFIRM_MAX).cloned();
        let rest = rest.map(|first| waiting.split_off(&first)).unwrap_or_default();
        std::mem::replace(&mut *waiting, rest).into_iter().collect()
    }

    fn holds(&self, id: &str) -> bool {
        self.waiting.lock().contains(id)
    }
}

impl Client {
    /// Says that the id is in a state, and waits until the broker has heard it.
    ///
    /// # Errors
    /// When it could not be told; the next read of the resource tries again.
    pub async fn confirm(self: &Arc<Self>, id: &str) -> Result<(), ClientError> {
        self.confirmations.waiting.lock().insert(id.to_owned());
        let turn = self.confirmations.sending.lock().await;
        while self.confirmations.holds(id) {
            let ids = self.confirmations.take();
            if let Err(error) = self.send_confirmations(ids.clone()).await {
                // The others who wait for this batch try for themselves.
                let others = ids.into_iter().filter(|other| other != id);
                self.confirmations.waiting.lock().extend(others);
                return Err(error);
            }
        }
        drop(turn);
        Ok(())
    }

    async fn send_confirmations(&self, ids: Vec<String>) -> Result<(), ClientError> {
        let request = v1::ConfirmCreatedRequest { ids, idempotency_key: self.keys.for_change() };
        self.call(request, |request| {
            let mut service = self.operations_service();
            async move { service.confirm_created(request).await }
        })
        .await?;
        Ok(())
    }
}
