//! Tells the broker that an id is in a state, once.

use std::sync::Arc;

use tfplugin::Private;

use crate::client::Client;

/// What is kept beside the state once the broker knows: the id. Private data of a machine that is
/// replaced comes along to the one that replaces it, which has to be confirmed itself.
const CONFIRMED: &str = "confirmed";

/// Confirms the id unless that was done before. A failure is not the user's problem: the next
/// run tries again.
pub async fn confirm(client: &Arc<Client>, id: &str, known: bool, private: &mut Private) {
    if private.get::<String>(CONFIRMED).as_deref() == Some(id) {
        return;
    }
    if !known && let Err(error) = client.confirm(id).await {
        tracing::warn!(id, error = %error, "the id could not be confirmed");
        return;
    }
    if private.set(CONFIRMED, &id).is_err() {
        tracing::warn!(id, "the confirmation could not be noted");
    }
}
