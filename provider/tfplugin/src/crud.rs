//! Resources that are made, read, changed and removed in one call each: less to write than a
//! [`Resource`], which each of them becomes.

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Context, Diagnostics, IdentitySchema, ImportTarget, Planned, Resource, Schema, StateSink, Type,
};

/// A managed resource in its simplest form: four calls that take and return the whole object.
///
/// Identity, import and lists need nothing more: the attribute [`Self::key`] tells an object from
/// all others. What is made in several steps, or refines its plan, or upgrades old states, is a
/// [`Resource`], which can save the state as far as it got.
///
/// ```
/// use std::{collections::BTreeMap, sync::Mutex};
///
/// use serde::{Deserialize, Serialize};
/// use tfplugin::{Attr, Attribute, Context, Crud, Diagnostics, Offers, Schema, async_trait};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Note {
///     id: Attr<String>,
///     text: String,
/// }
///
/// type Notes = Mutex<BTreeMap<String, Note>>;
///
/// struct NoteResource;
///
/// #[async_trait]
/// impl Crud for NoteResource {
///     type Data = Notes;
///     type Model = Note;
///
///     fn name(&self) -> &'static str {
///         "example_note"
///     }
///
///     fn schema(&self) -> Schema {
///         Schema::builder()
///             .attribute(Attribute::string("id").computed().use_state_for_unknown())
///             .attribute(Attribute::string("text").required())
///             .build()
///     }
///
///     async fn create(&self, cx: &Context<Notes>, plan: Note) -> Result<Note, Diagnostics> {
///         let mut notes = cx.data()?.lock().unwrap();
///         let id = notes.len().to_string();
///         let note = Note { id: Attr::Value(id.clone()), ..plan };
///         notes.insert(id, note.clone());
///         Ok(note)
///     }
///
///     async fn read(&self, cx: &Context<Notes>, id: &str) -> Result<Option<Note>, Diagnostics> {
///         Ok(cx.data()?.lock().unwrap().get(id).cloned())
///     }
///
///     async fn delete(&self, cx: &Context<Notes>, id: &str) -> Result<(), Diagnostics> {
///         cx.data()?.lock().unwrap().remove(id);
///         Ok(())
///     }
/// }
///
/// let offers = Offers::new().crud(NoteResource);
/// ```
#[async_trait]
pub trait Crud: Send + Sync + 'static {
    /// What the configured provider shares.
    type Data: Send + Sync + 'static;
    /// The object, one field an attribute.
    type Model: Serialize + DeserializeOwned + Send + Sync;

    /// The type's full name: `example_volume`.
    fn name(&self) -> &'static str;

    /// Its attributes. Asked for once.
    fn schema(&self) -> Schema;

    /// The attribute, a text, that tells an object from all others. Imports go by it.
    fn key(&self) -> &'static str {
        "id"
    }

    /// Makes the object and returns it, its key included.
    ///
    /// # Errors
    /// Why there is none.
    async fn create(
        &self,
        cx: &Context<Self::Data>,
        plan: Self::Model,
    ) -> Result<Self::Model, Diagnostics>;

    /// The object as it is now; nothing when it does not exist.
    ///
    /// # Errors
    /// Why it can't be looked at. An object that does not exist is no error.
    async fn read(
        &self,
        cx: &Context<Self::Data>,
        key: &str,
    ) -> Result<Option<Self::Model>, Diagnostics>;

    /// Changes the object in place and returns it. Not needed when every attribute forces a
    /// replacement.
    ///
    /// # Errors
    /// Why it is as it was.
    async fn update(
        &self,
        _cx: &Context<Self::Data>,
        _key: &str,
        _plan: Self::Model,
    ) -> Result<Self::Model, Diagnostics> {
        Err(Diagnostics::error(
            format!("Unable to change a {} in place", self.name()),
            "The provider does not support it, and yet planned it. Please report this.",
        ))
    }

    /// Removes the object. Succeeds when it is gone already.
    ///
    /// # Errors
    /// Why it still exists.
    async fn delete(&self, cx: &Context<Self::Data>, key: &str) -> Result<(), Diagnostics>;
}

/// The resource that four calls make.
pub(crate) struct Simple<R>(pub(crate) R);

impl<R: Crud> Simple<R> {
    fn key_of(&self, state: &StateSink<'_, R::Model>) -> Result<String, Diagnostics> {
        let key = self.0.key();
        state.text(key).map(str::to_owned).ok_or_else(|| {
            Diagnostics::error(
                format!("The {} has no {key}", self.0.name()),
                format!(
                    "Its state has no text in `{key}`, which it is found by. This is a mistake in \
                     the provider: please report it."
                ),
            )
        })
    }
}

#[async_trait]
impl<R: Crud> Resource for Simple<R> {
    type Data = R::Data;
    type Model = R::Model;

    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn schema(&self) -> Schema {
        self.0.schema()
    }

    fn identity(&self) -> Option<IdentitySchema> {
        let description = format!("What tells one {} from all others.", self.0.name());
        Some(IdentitySchema::new().required(self.0.key(), Type::String, &description))
    }

    async fn create(
        &self,
        cx: &Context<R::Data>,
        plan: Planned<'_, R::Model>,
        state: &mut StateSink<'_, R::Model>,
    ) -> Result<(), Diagnostics> {
        state.save(&self.0.create(cx, plan.model).await?)
    }

    async fn read(
        &self,
        cx: &Context<R::Data>,
        _: R::Model,
        state: &mut StateSink<'_, R::Model>,
    ) -> Result<(), Diagnostics> {
        match self.0.read(cx, &self.key_of(state)?).await? {
            Some(model) => state.save(&model)?,
            None => state.gone(),
        }
        Ok(())
    }

    async fn update(
        &self,
        cx: &Context<R::Data>,
        _: R::Model,
        plan: Planned<'_, R::Model>,
        state: &mut StateSink<'_, R::Model>,
    ) -> Result<(), Diagnostics> {
        state.save(&self.0.update(cx, &self.key_of(state)?, plan.model).await?)
    }

    async fn delete(
        &self,
        cx: &Context<R::Data>,
        _: R::Model,
        state: &mut StateSink<'_, R::Model>,
    ) -> Result<(), Diagnostics> {
        self.0.delete(cx, &self.key_of(state)?).await
    }

    async fn import(
        &self,
        cx: &Context<R::Data>,
        target: ImportTarget,
        state: &mut StateSink<'_, R::Model>,
    ) -> Result<(), Diagnostics> {
        let key = target.text(self.0.key())?;
        match self.0.read(cx, key).await? {
            Some(model) => state.save(&model),
            None => Err(Diagnostics::error(
                format!("Unable to import a {}", self.0.name()),
                format!("There is none with the {} {key:?}. Check it and repeat.", self.0.key()),
            )),
        }
    }
}
