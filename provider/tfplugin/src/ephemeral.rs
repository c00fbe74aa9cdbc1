//! What an author implements for an ephemeral resource: a value that lives for one run and is
//! never stored.

use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Context, Diagnostics, Private, Type, Value, View, from_value, schema::Schema, to_value,
};

/// An ephemeral resource.
#[async_trait]
pub trait EphemeralResource: Send + Sync + 'static {
    /// What the configured provider shares.
    type Data: Send + Sync + 'static;
    /// The object, one field an attribute.
    type Model: Serialize + DeserializeOwned + Send + Sync;

    /// The type's full name: `example_token`.
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

    /// Opens it: computed values of `config` are null and come back filled in.
    ///
    /// # Errors
    /// Why it can't be opened.
    async fn open(
        &self,
        cx: &Context<Self::Data>,
        config: Self::Model,
    ) -> Result<Opened<Self::Model>, Diagnostics>;

    /// Prolongs it, and says until when. The private part is what open left there.
    ///
    /// # Errors
    /// Why it can't be prolonged.
    async fn renew(
        &self,
        _cx: &Context<Self::Data>,
        _private: &mut Private,
    ) -> Result<Option<SystemTime>, Diagnostics> {
        Ok(None)
    }

    /// Ends it. The private part is what open left there.
    ///
    /// # Errors
    /// Why it can't be ended.
    async fn close(
        &self,
        _cx: &Context<Self::Data>,
        _private: &Private,
    ) -> Result<(), Diagnostics> {
        Ok(())
    }
}

/// An open ephemeral resource.
#[derive(Debug)]
pub struct Opened<M> {
    /// The object.
    pub model: M,
    /// When to prolong it; never, when there is no time.
    pub renew_at: Option<SystemTime>,
    /// What it takes to prolong and end it.
    pub private: Private,
}

impl<M> Opened<M> {
    /// One that needs neither renewal nor an end.
    pub fn new(model: M) -> Self {
        Self { model, renew_at: None, private: Private::default() }
    }
}

/// The same on values.
#[async_trait]
pub(crate) trait AnyEphemeral<D>: Send + Sync {
    fn name(&self) -> &'static str;
    fn schema(&self) -> Schema;
    async fn validate(&self, cx: &Context<D>, config: &Value) -> Result<(), Diagnostics>;
    async fn open(
        &self,
        cx: &Context<D>,
        config: &Value,
        ty: &Type,
    ) -> Result<Opened<Value>, Diagnostics>;
    async fn renew(
        &self,
        cx: &Context<D>,
        private: &mut Private,
    ) -> Result<Option<SystemTime>, Diagnostics>;
    async fn close(&self, cx: &Context<D>, private: &Private) -> Result<(), Diagnostics>;
}

struct Erased<E>(E);

/// Takes the types off an ephemeral resource.
pub(crate) fn erase<E: EphemeralResource>(ephemeral: E) -> Box<dyn AnyEphemeral<E::Data>> {
    Box::new(Erased(ephemeral))
}

#[async_trait]
impl<E: EphemeralResource> AnyEphemeral<E::Data> for Erased<E> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn schema(&self) -> Schema {
        self.0.schema()
    }

    async fn validate(&self, cx: &Context<E::Data>, config: &Value) -> Result<(), Diagnostics> {
        self.0.validate(cx, View::new(config)).await
    }

    async fn open(
        &self,
        cx: &Context<E::Data>,
        config: &Value,
        ty: &Type,
    ) -> Result<Opened<Value>, Diagnostics> {
        let opened = self.0.open(cx, from_value(config)?).await?;
        let model = to_value(&opened.model, ty)?;
        Ok(Opened { model, renew_at: opened.renew_at, private: opened.private })
    }

    async fn renew(
        &self,
        cx: &Context<E::Data>,
        private: &mut Private,
    ) -> Result<Option<SystemTime>, Diagnostics> {
        self.0.renew(cx, private).await
    }

    async fn close(&self, cx: &Context<E::Data>, private: &Private) -> Result<(), Diagnostics> {
        self.0.close(cx, private).await
    }
}
