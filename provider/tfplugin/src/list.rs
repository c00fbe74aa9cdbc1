//! What an author implements for a list resource: the existing objects of a resource type, for
//! `terraform query`.

use std::marker::PhantomData;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use crate::{
    Context, Diagnostic, Diagnostics, IdentitySchema, Type, Value, View, from_value,
    schema::Schema, to_value,
};

/// A list of existing objects.
#[async_trait]
pub trait ListResource: Send + Sync + 'static {
    /// What the configured provider shares.
    type Data: Send + Sync + 'static;
    /// What can be filtered by, one field an attribute.
    type Config: DeserializeOwned + Send;
    /// The model of the managed resource.
    type Model: Serialize + Send + Sync;

    /// The name of the managed resource that is listed: `example_volume`.
    fn name(&self) -> &'static str;

    /// The attributes of the list's `config` block. Asked for once.
    fn schema(&self) -> Schema;

    /// Checks the configuration beyond what the schema's own validators do.
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

    /// Finds the objects, and puts each into the sink until it wants no more.
    ///
    /// # Errors
    /// Why there are not more; those already put are kept.
    async fn list(
        &self,
        cx: &Context<Self::Data>,
        config: Self::Config,
        found: &mut ListSink<Self::Model>,
    ) -> Result<(), Diagnostics>;
}

/// One found object, as values.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) display_name: String,
    pub(crate) identity: Value,
    pub(crate) object: Value,
}

/// Where found objects go, without the model's type.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) ty: Type,
    pub(crate) identity: IdentitySchema,
    pub(crate) include_object: bool,
    /// How many more are wanted.
    pub(crate) left: u64,
    pub(crate) events: mpsc::Sender<Found>,
}

/// Where found objects go.
#[derive(Debug)]
pub struct ListSink<M> {
    outlet: Outlet,
    model: PhantomData<fn(&M)>,
}

impl<M: Serialize> ListSink<M> {
    /// Whether the user wants the whole objects; otherwise only what the identity is made of has
    /// to be filled in.
    #[must_use]
    pub const fn wants_objects(&self) -> bool {
        self.outlet.include_object
    }

    /// How many more objects are wanted.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.outlet.left
    }

    /// Puts one. Returns whether more are wanted.
    ///
    /// # Errors
    /// When the model does not fit the schema or has no identity.
    pub async fn put(
        &mut self,
        display_name: impl Into<String> + Send,
        model: &M,
    ) -> Result<bool, Diagnostics>
    where
        M: Sync,
    {
        let display_name = display_name.into();
        let object = to_value(model, &self.outlet.ty)?;
        let Some(identity) = self.outlet.identity.of_state(&object) else {
            return Err(Diagnostic::error("Unable to list an object")
                .detail(format!("The object {display_name:?} has no complete identity."))
                .into());
        };
        if self.outlet.left == 0 {
            return Ok(false);
        }
        self.outlet.left -= 1;
        let sent = self.outlet.events.send(Found { display_name, identity, object }).await;
        Ok(sent.is_ok() && self.outlet.left > 0)
    }
}

/// The same on values.
#[async_trait]
pub(crate) trait AnyList<D>: Send + Sync {
    fn name(&self) -> &'static str;
    fn schema(&self) -> Schema;
    async fn validate(&self, cx: &Context<D>, config: &Value) -> Result<(), Diagnostics>;
    async fn list(
        &self,
        cx: &Context<D>,
        config: &Value,
        outlet: Outlet,
    ) -> Result<(), Diagnostics>;
}

struct Erased<L>(L);

/// Takes the types off a list resource.
pub(crate) fn erase<L: ListResource>(list: L) -> Box<dyn AnyList<L::Data>> {
    Box::new(Erased(list))
}

#[async_trait]
impl<L: ListResource> AnyList<L::Data> for Erased<L> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn schema(&self) -> Schema {
        self.0.schema()
    }

    async fn validate(&self, cx: &Context<L::Data>, config: &Value) -> Result<(), Diagnostics> {
        self.0.validate(cx, View::new(config)).await
    }

    async fn list(
        &self,
        cx: &Context<L::Data>,
        config: &Value,
        outlet: Outlet,
    ) -> Result<(), Diagnostics> {
        let mut sink = ListSink { outlet, model: PhantomData };
        self.0.list(cx, from_value(config)?, &mut sink).await
    }
}
