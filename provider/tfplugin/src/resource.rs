//! What an author implements for a managed resource.
//!
//! The schema does most of the work: defaults, which values become unknown, what forces a
//! replacement and the simple checks are declared there. The handlers deal in the author's own
//! model, a serde type with one field an attribute: `Option<T>` where the user may leave it out,
//! [`Attr<T>`](crate::Attr) where the provider computes it.

mod change;
mod erased;
mod sink;
mod transfer;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

pub use change::{Change, ChangeKind, Planned};
pub(crate) use erased::{AnyResource, erase};
pub(crate) use sink::Slot;
pub use sink::StateSink;
pub use transfer::{ImportTarget, MoveSource, Upgrader};
pub(crate) use transfer::{Upgraded, upgrade};

use crate::{Context, Diagnostic, Diagnostics, IdentitySchema, View, schema::Schema};

/// A managed resource.
///
/// Create, read, update and delete are each called with a [`StateSink`]: what was saved there
/// last is the state, also when the handler returns an error, is cancelled or panics. So save as
/// soon as there is something real, and before anything slow.
#[async_trait]
pub trait Resource: Send + Sync + 'static {
    /// What the configured provider shares.
    type Data: Send + Sync + 'static;
    /// The object, one field an attribute.
    type Model: Serialize + DeserializeOwned + Send + Sync;

    /// The type's full name: `example_volume`.
    fn name(&self) -> &'static str;

    /// Its attributes. Asked for once.
    fn schema(&self) -> Schema;

    /// What tells one object from all others; without it there is no import by identity and no
    /// list.
    fn identity(&self) -> Option<IdentitySchema> {
        None
    }

    /// How states of older schema versions are brought to the present one, a step a version.
    fn upgraders(&self) -> Vec<Upgrader> {
        Vec::new()
    }

    /// How identities of older versions are brought to the present one, a step a version.
    fn identity_upgraders(&self) -> Vec<Upgrader> {
        Vec::new()
    }

    /// Whether [`Self::plan`] wants to see deletions too.
    fn plans_destroy(&self) -> bool {
        false
    }

    /// Whether states of other resource types can be taken over by [`Self::move_state`].
    fn moves_state(&self) -> bool {
        false
    }

    /// Checks the configuration beyond what the schema's own validators do. As all that only looks
    /// it is dropped where it stands when the user wants everything to stop. Values may be
    /// unknown: an unknown is never a mistake. The provider may not be configured yet.
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

    /// Refines the plan after the schema's rules made it: values that are known already,
    /// further reasons for a replacement, warnings. Dropped where it stands when the user wants
    /// everything to stop.
    ///
    /// # Errors
    /// Why it can't be done.
    async fn plan(
        &self,
        _cx: &Context<Self::Data>,
        _change: &mut Change<'_>,
    ) -> Result<(), Diagnostics> {
        Ok(())
    }

    /// Makes the object.
    ///
    /// # Errors
    /// Why it is not complete; what was saved before is kept as a tainted object.
    async fn create(
        &self,
        cx: &Context<Self::Data>,
        plan: Planned<'_, Self::Model>,
        state: &mut StateSink<'_, Self::Model>,
    ) -> Result<(), Diagnostics>;

    /// Looks at the object. The sink holds what was known; save what is there now, or call
    /// [`StateSink::gone`]. Dropped where it stands when the user wants everything to stop.
    ///
    /// # Errors
    /// Why it can't be looked at. An object that does not exist any more is no error.
    async fn read(
        &self,
        cx: &Context<Self::Data>,
        prior: Self::Model,
        state: &mut StateSink<'_, Self::Model>,
    ) -> Result<(), Diagnostics>;

    /// Changes the object in place. Not needed when every attribute forces a replacement.
    ///
    /// # Errors
    /// Why it is not complete; the sink holds what was, until something is saved.
    async fn update(
        &self,
        _cx: &Context<Self::Data>,
        _prior: Self::Model,
        _plan: Planned<'_, Self::Model>,
        _state: &mut StateSink<'_, Self::Model>,
    ) -> Result<(), Diagnostics> {
        Err(Diagnostics::error(
            format!("Unable to change a {} in place", self.name()),
            "The provider does not support it, and yet planned it. Please report this.",
        ))
    }

    /// Removes the object. Succeeds when it is gone already.
    ///
    /// # Errors
    /// Why it still exists; its state is then kept.
    async fn delete(
        &self,
        cx: &Context<Self::Data>,
        prior: Self::Model,
        state: &mut StateSink<'_, Self::Model>,
    ) -> Result<(), Diagnostics>;

    /// Finds an existing object and saves its whole state. Dropped where it stands when the user
    /// wants everything to stop.
    ///
    /// # Errors
    /// Why there is none.
    async fn import(
        &self,
        _cx: &Context<Self::Data>,
        _target: ImportTarget,
        _state: &mut StateSink<'_, Self::Model>,
    ) -> Result<(), Diagnostics> {
        let summary = format!("Unable to import a {}", self.name());
        Err(Diagnostics::error(summary, "This resource can not be imported."))
    }

    /// Takes over the state of a resource of another type, and saves what becomes of it.
    ///
    /// # Errors
    /// Why it can't.
    async fn move_state(
        &self,
        _cx: &Context<Self::Data>,
        source: MoveSource,
        _state: &mut StateSink<'_, Self::Model>,
    ) -> Result<(), Diagnostics> {
        Err(Diagnostic::error(format!("Unable to move to a {}", self.name()))
            .detail(format!("The state of a {} can not be taken over.", source.type_name))
            .into())
    }
}
