//! What an author implements for a data source.

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Context, Diagnostics, Type, Value, View, from_value, schema::Schema, to_value};

/// Something to look up. Its model holds both what the user asks and what is found.
#[async_trait]
pub trait DataSource: Send + Sync + 'static {
    /// What the configured provider shares.
    type Data: Send + Sync + 'static;
    /// The object, one field an attribute.
    type Model: Serialize + DeserializeOwned + Send + Sync;

    /// The type's full name: `example_images`.
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

    /// Looks it up: computed values of `config` are null and come back filled in. Dropped where it
    /// stands when the user wants everything to stop.
    ///
    /// # Errors
    /// Why it can't be found.
    async fn read(
        &self,
        cx: &Context<Self::Data>,
        config: Self::Model,
    ) -> Result<Self::Model, Diagnostics>;
}

/// The same on values.
#[async_trait]
pub(crate) trait AnyDataSource<D>: Send + Sync {
    fn name(&self) -> &'static str;
    fn schema(&self) -> Schema;
    async fn validate(&self, cx: &Context<D>, config: &Value) -> Result<(), Diagnostics>;
    async fn read(&self, cx: &Context<D>, config: &Value, ty: &Type) -> Result<Value, Diagnostics>;
}

struct Erased<S>(S);

/// Takes the types off a data source.
pub(crate) fn erase<S: DataSource>(source: S) -> Box<dyn AnyDataSource<S::Data>> {
    Box::new(Erased(source))
}

#[async_trait]
impl<S: DataSource> AnyDataSource<S::Data> for Erased<S> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn schema(&self) -> Schema {
        self.0.schema()
    }

    async fn validate(&self, cx: &Context<S::Data>, config: &Value) -> Result<(), Diagnostics> {
        self.0.validate(cx, View::new(config)).await
    }

    async fn read(
        &self,
        cx: &Context<S::Data>,
        config: &Value,
        ty: &Type,
    ) -> Result<Value, Diagnostics> {
        let found = self.0.read(cx, from_value(config)?).await?;
        Ok(to_value(&found, ty)?)
    }
}
