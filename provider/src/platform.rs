//! What a configured provider shares with everything it offers.

use std::{collections::BTreeMap, sync::Arc};

use fairmazon_model::catalogue::Catalogue;
use tfplugin::Diagnostics;

use crate::{budget::Budget, client::Client, diagnostics::Attempt};

/// The way to the broker, the labels for all, and the guard over all.
pub struct Platform {
    client: Option<Arc<Client>>,
    default_labels: Option<BTreeMap<String, String>>,
    budget: Budget,
}

impl Platform {
    /// What the provider block means. Without a client, plan what can be planned without one.
    pub fn new(
        client: Option<Client>,
        default_labels: Option<BTreeMap<String, String>>,
        budget: Budget,
    ) -> Self {
        Self { client: client.map(Arc::new), default_labels, budget }
    }

    /// The client.
    ///
    /// # Errors
    /// While endpoint or credential are not known yet.
    pub fn client(&self) -> Result<&Arc<Client>, Diagnostics> {
        self.client.as_ref().ok_or_else(|| {
            Diagnostics::error(
                "The provider's settings are not known yet",
                "The endpoint or the credential in the provider block comes from something that \
                 does not exist yet. Apply that first, with -target, then the rest.",
            )
        })
    }

    /// The client, when its settings are known.
    pub const fn try_client(&self) -> Option<&Arc<Client>> {
        self.client.as_ref()
    }

    /// The catalogue; nothing while there is nobody to ask.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn catalogue(&self) -> Result<Option<Arc<Catalogue>>, Diagnostics> {
        let Some(client) = &self.client else { return Ok(None) };
        let asked = client.catalogue().await;
        asked.map(Some).map_err(|error| Attempt::new("read", "catalogue").failed(&error))
    }

    /// Labels for every resource; nothing while they are not known yet.
    pub const fn default_labels(&self) -> Option<&BTreeMap<String, String>> {
        self.default_labels.as_ref()
    }

    /// The guard over the whole configuration.
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }
}
