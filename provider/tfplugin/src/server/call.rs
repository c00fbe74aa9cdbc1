//! What surrounds every call: its span and id, its context, the net that catches panics, and
//! the diagnostics on their way out.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use tracing::{Instrument as _, Span};

use super::Server;
use crate::{
    Context, Diagnostics, Provider, Value, context::ClientCapabilities, proto::tfplugin6 as pb,
    secrets,
};

/// One call under way.
pub(super) struct Call<D> {
    pub(super) cx: Context<D>,
    rpc: &'static str,
    type_name: String,
    span: Span,
    /// Behind a lock, as what streams answers finds more of them while its handler works.
    secrets: Mutex<secrets::Texts>,
}

impl<P: Provider> Server<P> {
    /// Opens a call with everything that the handler may ask for.
    pub(super) fn call(
        &self,
        rpc: &'static str,
        type_name: &str,
        client: Option<&pb::ClientCapabilities>,
    ) -> Call<P::Data> {
        let data = self.inner.configured.read().data.clone();
        self.call_with(rpc, type_name, client, data)
    }

    /// Notes what the module says in its `provider_meta` block.
    pub(super) fn read_meta(
        &self,
        call: &mut Call<P::Data>,
        meta: Option<&pb::DynamicValue>,
    ) -> Result<(), Diagnostics> {
        if let (Some(schema), Some(_)) = (&self.inner.catalogue.meta, meta) {
            call.cx.meta = super::config::decode(call, schema, meta)?;
        }
        Ok(())
    }

    /// Opens a call that comes before the provider is configured.
    pub(super) fn early_call(
        &self,
        rpc: &'static str,
        name: &str,
        client: Option<&pb::ClientCapabilities>,
    ) -> Call<()> {
        self.call_with(rpc, name, client, None)
    }

    fn call_with<D>(
        &self,
        rpc: &'static str,
        type_name: &str,
        client: Option<&pb::ClientCapabilities>,
        data: Option<Arc<D>>,
    ) -> Call<D> {
        let number = self.inner.calls.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}-{number:x}", std::process::id());
        let span = tracing::info_span!(
            "rpc",
            tf_rpc = rpc,
            tf_req_id = id.as_str(),
            tf_resource_type = type_name
        );
        span.in_scope(|| tracing::trace!("started"));
        let cx = Context {
            data,
            cancel: self.inner.stop.token(),
            terraform_version: Arc::clone(&self.inner.configured.read().terraform_version),
            client: ClientCapabilities::from_wire(client),
            request_id: id.into(),
            meta: Value::Null,
            warnings: Default::default(),
        };
        Call { cx, rpc, type_name: type_name.to_owned(), span, secrets: Mutex::default() }
    }
}

impl<D> Call<D> {
    /// Of what it is about.
    pub(super) fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Hides these texts from every diagnostic of this call, and from the log.
    pub(super) fn hide(&self, texts: &[String]) {
        secrets::note(texts);
        let mut secrets = self.secrets.lock();
        texts.iter().for_each(|text| secrets.add(text));
    }

    /// The text without what this call has to hide; nothing when there is nothing of it in it.
    pub(super) fn without_secrets(&self, text: &str) -> Option<String> {
        self.secrets.lock().without(text)
    }

    /// Runs a handler; a panic in it becomes an error.
    pub(super) async fn guard<T>(
        &self,
        work: impl Future<Output = Result<T, Diagnostics>>,
    ) -> Result<T, Diagnostics> {
        let work = AssertUnwindSafe(work).catch_unwind().instrument(self.span.clone());
        match work.await {
            Ok(done) => done,
            Err(panic) => Err(self.panicked(&*panic)),
        }
    }

    /// As [`guard`](Self::guard), for what changes nothing anywhere: when the user wants everything to
    /// stop it is dropped where it stands.
    pub(super) async fn look<T: Send>(
        &self,
        work: impl Future<Output = Result<T, Diagnostics>> + Send,
    ) -> Result<T, Diagnostics> {
        self.guard(async { self.cx.unless_cancelled(work).await? }).await
    }

    /// As [`guard`](Self::guard), for an author's code that waits for nothing.
    pub(super) fn guard_now<T>(
        &self,
        work: impl FnOnce() -> Result<T, Diagnostics>,
    ) -> Result<T, Diagnostics> {
        let done = self.span.in_scope(|| catch_unwind(AssertUnwindSafe(work)));
        done.unwrap_or_else(|panic| Err(self.panicked(&*panic)))
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Diagnostics {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let of = if self.type_name.is_empty() {
            String::new()
        } else {
            format!(" of {}", self.type_name)
        };
        Diagnostics::error(
            "The provider failed unexpectedly",
            format!(
                "{}{of} panicked: {}. This is a mistake in the provider: please report it, with \
                 the log of a run under TF_LOG=debug.",
                self.rpc,
                said.unwrap_or("it did not say why")
            ),
        )
    }

    /// Takes out what this call has to hide.
    pub(super) fn clean(&self, told: &mut Diagnostics) {
        for diagnostic in told.iter_mut() {
            diagnostic.map_text(|text| self.without_secrets(text));
        }
    }

    /// Closes the call: everything there is to tell the user.
    pub(super) fn finish(self, failed: Option<Diagnostics>) -> Diagnostics {
        let mut told = self.cx.take_warnings();
        told.extend(failed.unwrap_or_default());
        self.clean(&mut told);
        self.span.in_scope(|| {
            let errors = told.iter().filter(|diagnostic| diagnostic.is_error()).count();
            tracing::trace!(errors, warnings = told.len() - errors, "answered");
        });
        told
    }

    /// The same, in the wire's form.
    pub(super) fn finish_wire(self, failed: Option<Diagnostics>) -> Vec<pb::Diagnostic> {
        self.finish(failed).into_wire()
    }
}
