//! What every handler is told beside its own input: the provider's shared data, the client on
//! the other end, and whether the user wants it all to stop.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{Diagnostic, Diagnostics, Value, View, proto::tfplugin6 as pb};

/// What the client can do beyond the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCapabilities {
    /// Write-only attributes may be used in the configuration.
    pub write_only_attributes_allowed: bool,
}

impl ClientCapabilities {
    /// Whether the client takes deferrals is not among them: no handler can answer with one.
    pub(crate) fn from_wire(wire: Option<&pb::ClientCapabilities>) -> Self {
        wire.map_or_else(Self::default, |wire| Self {
            write_only_attributes_allowed: wire.write_only_attributes_allowed,
        })
    }
}

/// One call of the client, as its handler sees it.
///
/// `D` is what [`Provider::configure`](crate::Provider::configure) returned, usually a client
/// for the provider's service.
#[derive(Debug)]
pub struct Context<D> {
    pub(crate) data: Option<Arc<D>>,
    pub(crate) cancel: CancellationToken,
    pub(crate) terraform_version: Arc<str>,
    pub(crate) client: ClientCapabilities,
    pub(crate) request_id: Arc<str>,
    pub(crate) meta: Value,
    pub(crate) warnings: Mutex<Diagnostics>,
}

impl<D> Context<D> {
    /// What the provider was configured with.
    ///
    /// # Errors
    /// In a call that the client makes before it configures the provider: validation. There,
    /// use [`Self::try_data`].
    pub fn data(&self) -> Result<&Arc<D>, Diagnostics> {
        self.data.as_ref().ok_or_else(|| {
            Diagnostics::error(
                "The provider is not configured",
                "This operation needs a configured provider, and the client has not configured \
                 it yet. This is a mistake in the provider or in the client: please report it.",
            )
        })
    }

    /// What the provider was configured with, when it already was.
    #[must_use]
    pub const fn try_data(&self) -> Option<&Arc<D>> {
        self.data.as_ref()
    }

    /// The version of Terraform or OpenTofu; empty until the provider is configured.
    #[must_use]
    pub fn terraform_version(&self) -> &str {
        &self.terraform_version
    }

    /// What the client can do.
    #[must_use]
    pub const fn client(&self) -> ClientCapabilities {
        self.client
    }

    /// What tells this call from all others; it stands in every line of the log, and may be sent
    /// along to the provider's service.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// What the module says in its `provider_meta` block; null where there is none.
    #[must_use]
    pub const fn meta(&self) -> View<'_> {
        View::new(&self.meta)
    }

    /// Cancelled when the user wants everything under way to stop.
    #[must_use]
    pub const fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Tells the user something without failing.
    pub fn warn(&self, warning: Diagnostic) {
        self.warnings.lock().push(warning);
    }

    /// Waits for `work`, but no longer than until the user wants it to stop. The work is then
    /// dropped where it stands: what must not be lost belongs into the state before.
    ///
    /// # Errors
    /// When the user wants it to stop.
    pub async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = T> + Send,
    ) -> Result<T, Diagnostics> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(cancelled()),
            done = work => Ok(done),
        }
    }

    /// Waits for `work`, but no longer than `limit`, and no longer than until the user wants it
    /// to stop. `what` completes "Waited ... for": "the volume to be attached".
    ///
    /// # Errors
    /// When the time is up or the user wants it to stop.
    pub async fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        work: impl Future<Output = T> + Send,
    ) -> Result<T, Diagnostics> {
        match self.unless_cancelled(tokio::time::timeout(limit, work)).await? {
            Ok(done) => Ok(done),
            Err(_) => Err(Diagnostics::error(
                "Timed out",
                format!(
                    "Waited {} for {what}. It may still happen: the next plan looks again. To \
                     wait longer, raise the limit in `timeouts`.",
                    crate::timeouts::display(limit)
                ),
            )),
        }
    }

    /// Takes what was told so far.
    pub(crate) fn take_warnings(&self) -> Diagnostics {
        std::mem::take(&mut *self.warnings.lock())
    }
}

fn cancelled() -> Diagnostics {
    Diagnostics::error(
        "Cancelled",
        "The operation was stopped before it was complete. What was done so far is in the \
         state; the next plan shows what is left to do.",
    )
}

/// The token of everything under way; a stop cancels it and what starts later gets a new one.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    current: Mutex<CancellationToken>,
}

impl Stop {
    /// The token for work that starts now.
    pub(crate) fn token(&self) -> CancellationToken {
        self.current.lock().child_token()
    }

    /// Cancels everything under way.
    pub(crate) fn stop(&self) {
        std::mem::take(&mut *self.current.lock()).cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn context() -> Context<()> {
        Context {
            data: None,
            cancel: CancellationToken::new(),
            terraform_version: "1.15.5".into(),
            client: ClientCapabilities::default(),
            request_id: "1-1".into(),
            meta: Value::Null,
            warnings: Mutex::default(),
        }
    }

    #[test]
    fn authors_are_told_only_of_what_they_can_use() {
        let wire =
            pb::ClientCapabilities { deferral_allowed: true, write_only_attributes_allowed: true };
        // All there is: a field more would not compile.
        let ClientCapabilities { write_only_attributes_allowed } =
            ClientCapabilities::from_wire(Some(&wire));
        assert!(write_only_attributes_allowed);
    }

    #[tokio::test]
    async fn a_stop_ends_waiting() {
        let cx = context();
        cx.cancel.cancel();
        let told = cx.unless_cancelled(std::future::pending::<()>()).await;
        assert!(told.expect_err("it was cancelled").to_string().contains("Cancelled"));
    }

    #[tokio::test]
    async fn waiting_has_an_end() {
        let cx = context();
        let told = cx.within(Duration::ZERO, "the rain", std::future::pending::<()>()).await;
        let told = told.expect_err("time is up").to_string();
        assert!(told.contains("0s for the rain"), "{told}");
    }

    #[test]
    fn a_stop_spares_what_starts_later() {
        let stop = Stop::default();
        let before = stop.token();
        stop.stop();
        assert!(before.is_cancelled());
        assert!(!stop.token().is_cancelled());
    }
}
