//! What an author implements for the provider itself, and the list of what it offers.

use async_trait::async_trait;

use crate::{
    Context, Crud, Diagnostics, IdentitySchema, Signature, View,
    action::{Action, AnyAction},
    crud::Simple,
    data_source::{AnyDataSource, DataSource},
    ephemeral::{AnyEphemeral, EphemeralResource},
    function::{AnyFunction, Function},
    list::{AnyList, ListResource},
    resource::{AnyResource, Resource},
    schema::Schema,
};

/// A provider: how it is configured and what it offers.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// What a configured provider shares with everything it offers, usually a client for its
    /// service.
    type Data: Send + Sync + 'static;

    /// The attributes of the `provider` block.
    fn schema(&self) -> Schema;

    /// Everything this provider offers. Asked for once.
    fn offers(&self) -> Offers<Self::Data>;

    /// What modules may say to this provider in their `provider_meta` block; nothing by default.
    fn meta_schema(&self) -> Option<Schema> {
        None
    }

    /// Checks the `provider` block beyond what the schema's own validators do. Values may be
    /// unknown: an unknown is never a mistake.
    ///
    /// # Errors
    /// What is wrong with it.
    async fn validate(&self, _cx: &Context<()>, _config: View<'_>) -> Result<(), Diagnostics> {
        Ok(())
    }

    /// Makes what the rest shares. In a plan, values may be unknown: plan what can be planned
    /// without them.
    ///
    /// # Errors
    /// What is missing or contradictory, and all the ways to set it.
    async fn configure(
        &self,
        cx: &Context<()>,
        config: View<'_>,
    ) -> Result<Self::Data, Diagnostics>;

    /// Called once before the process ends, when the provider was configured: what is still to
    /// be sent is sent now. It has about a second.
    async fn close(&self, _data: &Self::Data) {}
}

/// Everything a provider offers, by kind. Names must be unique within a kind.
pub struct Offers<D> {
    pub(crate) resources: Vec<Box<dyn AnyResource<D>>>,
    pub(crate) data_sources: Vec<Box<dyn AnyDataSource<D>>>,
    pub(crate) functions: Vec<Box<dyn AnyFunction>>,
    pub(crate) ephemerals: Vec<Box<dyn AnyEphemeral<D>>>,
    pub(crate) lists: Vec<Box<dyn AnyList<D>>>,
    pub(crate) actions: Vec<Box<dyn AnyAction<D>>>,
}

impl<D> Default for Offers<D> {
    fn default() -> Self {
        Self {
            resources: Vec::new(),
            data_sources: Vec::new(),
            functions: Vec::new(),
            ephemerals: Vec::new(),
            lists: Vec::new(),
            actions: Vec::new(),
        }
    }
}

impl<D: Send + Sync + 'static> Offers<D> {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Name, schema and identity of each managed resource; for documentation.
    pub fn resources(
        &self,
    ) -> impl Iterator<Item = (&'static str, Schema, Option<IdentitySchema>)> + '_ {
        self.resources.iter().map(|one| (one.name(), one.schema(), one.identity()))
    }

    /// Name and schema of each data source; for documentation.
    pub fn data_sources(&self) -> impl Iterator<Item = (&'static str, Schema)> + '_ {
        self.data_sources.iter().map(|one| (one.name(), one.schema()))
    }

    /// Name and signature of each function; for documentation.
    pub fn functions(&self) -> impl Iterator<Item = (&'static str, Signature)> + '_ {
        self.functions.iter().map(|one| (one.name(), one.signature()))
    }

    /// Name and schema of each ephemeral resource; for documentation.
    pub fn ephemerals(&self) -> impl Iterator<Item = (&'static str, Schema)> + '_ {
        self.ephemerals.iter().map(|one| (one.name(), one.schema()))
    }

    /// Name and schema of each list resource; for documentation.
    pub fn lists(&self) -> impl Iterator<Item = (&'static str, Schema)> + '_ {
        self.lists.iter().map(|one| (one.name(), one.schema()))
    }

    /// Name and schema of each action; for documentation.
    pub fn actions(&self) -> impl Iterator<Item = (&'static str, Schema)> + '_ {
        self.actions.iter().map(|one| (one.name(), one.schema()))
    }

    /// Adds a managed resource.
    #[must_use]
    pub fn resource(mut self, resource: impl Resource<Data = D>) -> Self {
        self.resources.push(crate::resource::erase(resource));
        self
    }

    /// Adds a managed resource in its simplest form.
    #[must_use]
    pub fn crud(self, resource: impl Crud<Data = D>) -> Self {
        self.resource(Simple(resource))
    }

    /// Adds a data source.
    #[must_use]
    pub fn data_source(mut self, data_source: impl DataSource<Data = D>) -> Self {
        self.data_sources.push(crate::data_source::erase(data_source));
        self
    }

    /// Adds a function.
    #[must_use]
    pub fn function(mut self, function: impl Function) -> Self {
        self.functions.push(crate::function::erase(function));
        self
    }

    /// Adds an ephemeral resource.
    #[must_use]
    pub fn ephemeral(mut self, ephemeral: impl EphemeralResource<Data = D>) -> Self {
        self.ephemerals.push(crate::ephemeral::erase(ephemeral));
        self
    }

    /// Adds a list resource. The managed resource of the same name must be offered as well, with
    /// an identity.
    #[must_use]
    pub fn list(mut self, list: impl ListResource<Data = D>) -> Self {
        self.lists.push(crate::list::erase(list));
        self
    }

    /// Adds an action.
    #[must_use]
    pub fn action(mut self, action: impl Action<Data = D>) -> Self {
        self.actions.push(crate::action::erase(action));
        self
    }
}
