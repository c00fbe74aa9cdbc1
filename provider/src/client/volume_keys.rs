//! Keys of volumes: given to the hosts that wait for them while an operation is followed.

use fairmazon_model::id::VolumeId;
use fairmazon_proto::v1;

use super::{Client, ClientError, clock::now};

/// How often the keys that are wanted are asked for anew when others answer at the same time.
const ROUNDS: usize = 8;

impl Client {
    /// Gives the keys that hosts wait for, of one instance's volumes or of one volume.
    ///
    /// # Errors
    /// When this client has no identity, a host is not to be believed, or the broker refuses.
    pub(super) async fn give_keys(&self, target: &str) -> Result<(), ClientError> {
        let keyring = self.keyring.as_ref().ok_or(ClientError::NoIdentity)?;
        let mut rounds = 0;
        loop {
            let request = wanted_of(target);
            let wanted = self
                .call(request, |request| {
                    let mut service = self.volumes_service();
                    async move { service.list_key_requests(request).await }
                })
                .await?;
            if wanted.requests.is_empty() {
                return Ok(());
            }
            let now = now();
            let keys = wanted
                .requests
                .into_iter()
                .map(|request| keyring.answer(request, now).map_err(Box::new));
            let keys = keys.collect::<Result<Vec<_>, _>>()?;
            let idempotency_key = self.keys.for_change();
            let given = self
                .call(v1::GiveKeysRequest { keys, idempotency_key }, |request| {
                    let mut service = self.volumes_service();
                    async move { service.give_keys(request).await }
                })
                .await;
            rounds += 1;
            match given {
                Ok(_) => return Ok(()),
                // Somebody else gave one first, or the machine was placed elsewhere.
                Err(error) if error.is_conflict() && rounds < ROUNDS => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Asks which keys are wanted of an instance's volumes, or of one volume.
fn wanted_of(target: &str) -> v1::ListKeyRequestsRequest {
    let (instance_id, volume_id) = match target.parse::<VolumeId>() {
        Ok(volume) => (String::new(), volume.to_string()),
        Err(_) => (target.to_owned(), String::new()),
    };
    // One page has room for all that an instance may have.
    v1::ListKeyRequestsRequest { instance_id, volume_id, ..Default::default() }
}
