//! What an author implements for an action: something to be done that leaves no state behind.

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::{Context, Diagnostics, Value, View, from_value, schema::Schema};

/// An action.
#[async_trait]
pub trait Action: Send + Sync + 'static {
    /// What the configured provider shares.
    type Data: Send + Sync + 'static;
    /// What it can be told, one field an attribute.
    type Config: DeserializeOwned + Send;

    /// The type's full name: `example_reboot`.
    fn name(&self) -> &'static str;

    /// Its attributes. Asked for once.
    fn schema(&self) -> Schema;

    /// Checks the configuration beyond what the schema's own validators do. Values may be
    /// unknown: an unknown is never a mistake.
    ///
    /// # Errors
    /// What is wrong with it.
    async fn validate(
        &self,
        _cx: &Context<Self::Data>,
        _config: View<'_>,
    ) -> Result<(), Diagnostics> {
        Ok(())
    }

    /// Checks, when a plan is made, that it can be done. Values may be unknown.
    ///
    /// # Errors
    /// Why it can't.
    async fn plan(&self, _cx: &Context<Self::Data>, _config: View<'_>) -> Result<(), Diagnostics> {
        Ok(())
    }

    /// Does it.
    ///
    /// # Errors
    /// Why it could not be done.
    async fn invoke(
        &self,
        cx: &Context<Self::Data>,
        config: Self::Config,
        progress: &Progress,
    ) -> Result<(), Diagnostics>;
}

/// Tells the user how far an action got.
#[derive(Clone, Debug)]
pub struct Progress {
    pub(crate) messages: mpsc::UnboundedSender<String>,
}

impl Progress {
    /// Shows a line.
    pub fn say(&self, message: impl Into<String>) {
        // A client that has gone away does not want to know.
        let _ = self.messages.send(message.into());
    }
}

/// The same on values.
#[async_trait]
pub(crate) trait AnyAction<D>: Send + Sync {
    fn name(&self) -> &'static str;
    fn schema(&self) -> Schema;
    async fn validate(&self, cx: &Context<D>, config: &Value) -> Result<(), Diagnostics>;
    async fn plan(&self, cx: &Context<D>, config: &Value) -> Result<(), Diagnostics>;
    async fn invoke(
        &self,
        cx: &Context<D>,
        config: &Value,
        progress: &Progress,
    ) -> Result<(), Diagnostics>;
}

struct Erased<A>(A);

/// Takes the types off an action.
pub(crate) fn erase<A: Action>(action: A) -> Box<dyn AnyAction<A::Data>> {
    Box::new(Erased(action))
}

#[async_trait]
impl<A: Action> AnyAction<A::Data> for Erased<A> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn schema(&self) -> Schema {
        self.0.schema()
    }

    async fn validate(&self, cx: &Context<A::Data>, config: &Value) -> Result<(), Diagnostics> {
        self.0.validate(cx, View::new(config)).await
    }

    async fn plan(&self, cx: &Context<A::Data>, config: &Value) -> Result<(), Diagnostics> {
        self.0.plan(cx, View::new(config)).await
    }

    async fn invoke(
        &self,
        cx: &Context<A::Data>,
        config: &Value,
        progress: &Progress,
    ) -> Result<(), Diagnostics> {
        self.0.invoke(cx, from_value(config)?, progress).await
    }
}
