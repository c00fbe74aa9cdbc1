//! Where handlers put the state, so that it survives whatever happens to them afterwards.

use std::marker::PhantomData;

use serde::Serialize;

use crate::{Diagnostics, IdentitySchema, Private, Type, Value, to_value};

/// The state that a handler leaves behind, without its Rust type. Lives outside of the handler.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) ty: Type,
    pub(crate) value: Value,
    pub(crate) identity_schema: Option<IdentitySchema>,
    /// Set when the handler names the identity itself.
    pub(crate) identity: Option<Value>,
    pub(crate) private: Private,
    /// Whether the handler said anything.
    pub(crate) touched: bool,
}

impl Slot {
    /// A slot that holds what was known so far.
    pub(crate) const fn new(
        ty: Type,
        value: Value,
        identity_schema: Option<IdentitySchema>,
        private: Private,
    ) -> Self {
        Self { ty, value, identity_schema, identity: None, private, touched: false }
    }

    /// The identity of what the slot holds.
    pub(crate) fn identity(&self) -> Option<Value> {
        let of_state = || self.identity_schema.as_ref()?.of_state(&self.value);
        self.identity.clone().or_else(of_state)
    }
}

/// Where a handler saves the object as far as it got.
#[derive(Debug)]
pub struct StateSink<'a, M> {
    slot: &'a mut Slot,
    model: PhantomData<fn(&M)>,
}

impl<'a, M: Serialize> StateSink<'a, M> {
    pub(crate) const fn new(slot: &'a mut Slot) -> Self {
        Self { slot, model: PhantomData }
    }

    /// Saves the object in place of what was saved before. Values may still be unknown; when the
    /// handler then fails they become null, and when it succeeds with unknown values left, that
    /// is an error.
    ///
    /// # Errors
    /// When the model does not fit the schema.
    pub fn save(&mut self, model: &M) -> Result<(), Diagnostics> {
        self.slot.value = to_value(model, &self.slot.ty)?;
        self.slot.touched = true;
        Ok(())
    }

    /// Says that the object does not exist.
    pub fn gone(&mut self) {
        self.slot.value = Value::Null;
        self.slot.touched = true;
    }

    /// The text of an attribute, as the sink has it now.
    pub(crate) fn text(&self, attribute: &str) -> Option<&str> {
        self.slot.value.member(attribute).as_str()
    }

    /// Names the identity, where it is not made of the state's attributes of the same names.
    ///
    /// # Errors
    /// When it does not fit the identity schema, or there is none.
    pub fn identify(&mut self, identity: &impl Serialize) -> Result<(), Diagnostics> {
        let schema = self.slot.identity_schema.as_ref().ok_or_else(|| {
            Diagnostics::error("No identity", "The resource declares no identity schema.")
        })?;
        self.slot.identity = Some(to_value(identity, &schema.ty())?);
        Ok(())
    }

    /// What the resource keeps for itself beside the state.
    pub const fn private(&mut self) -> &mut Private {
        &mut self.slot.private
    }
}
