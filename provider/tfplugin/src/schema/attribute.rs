//! One attribute: its type, who may set it, and the rules on it.

use std::sync::Arc;

use super::modifier::{OnUpdate, Replace, ReplaceContext};
use super::validators::{self, Validator};
use super::{Across, Body, Nesting};
use crate::types::Type;
use crate::value::Value;

/// What an attribute holds.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A value of the attribute's type.
    Plain,
    /// Objects whose members are attributes with flags and rules of their own.
    Nested {
        /// How the objects are arranged.
        nesting: Nesting,
        /// What each object holds.
        body: Box<Body>,
    },
}

/// One attribute. Made by a constructor for its type, then described by chained calls.
#[derive(Clone, Debug)]
pub struct Attribute {
    name: Arc<str>,
    ty: Type,
    kind: Kind,
    description: String,
    required: bool,
    optional: bool,
    computed: bool,
    sensitive: bool,
    write_only: bool,
    deprecation: Option<String>,
    default: Option<Value>,
    on_update: OnUpdate,
    replace: Replace,
    validators: Vec<Arc<dyn Validator>>,
}

/// Constructors, one a type.
impl Attribute {
    /// An attribute of any type.
    pub fn typed(name: impl Into<Arc<str>>, ty: Type) -> Self {
        Self::with_kind(name.into(), ty, Kind::Plain)
    }

    /// A string.
    pub fn string(name: impl Into<Arc<str>>) -> Self {
        Self::typed(name, Type::String)
    }

    /// A number, whole or not.
    pub fn number(name: impl Into<Arc<str>>) -> Self {
        Self::typed(name, Type::Number)
    }

    /// A number that must be whole.
    pub fn integer(name: impl Into<Arc<str>>) -> Self {
        Self::typed(name, Type::Number).validate(validators::whole())
    }

    /// A truth value.
    pub fn bool(name: impl Into<Arc<str>>) -> Self {
        Self::typed(name, Type::Bool)
    }

    /// A value of whatever type the configuration gives it.
    pub fn dynamic(name: impl Into<Arc<str>>) -> Self {
        Self::typed(name, Type::Dynamic)
    }

    /// A list of `element`.
    pub fn list(name: impl Into<Arc<str>>, element: Type) -> Self {
        Self::typed(name, Type::list(element))
    }

    /// A set of `element`.
    pub fn set(name: impl Into<Arc<str>>, element: Type) -> Self {
        Self::typed(name, Type::set(element))
    }

    /// A map of `element`.
    pub fn map(name: impl Into<Arc<str>>, element: Type) -> Self {
        Self::typed(name, Type::map(element))
    }

    /// One object of these attributes.
    pub fn nested(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Self>) -> Self {
        Self::with_nesting(name.into(), Nesting::Single, of.into_iter().collect())
    }

    /// A list of objects of these attributes.
    pub fn nested_list(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Self>) -> Self {
        Self::with_nesting(name.into(), Nesting::List, of.into_iter().collect())
    }

    /// A set of objects of these attributes.
    pub fn nested_set(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Self>) -> Self {
        Self::with_nesting(name.into(), Nesting::Set, of.into_iter().collect())
    }

    /// A map of objects of these attributes.
    pub fn nested_map(name: impl Into<Arc<str>>, of: impl IntoIterator<Item = Self>) -> Self {
        Self::with_nesting(name.into(), Nesting::Map, of.into_iter().collect())
    }

    fn with_nesting(name: Arc<str>, nesting: Nesting, of: Vec<Self>) -> Self {
        let body = Body::new(of, Vec::new());
        let ty = nesting.wrap(body.object_type().clone());
        Self::with_kind(name, ty, Kind::Nested { nesting, body: Box::new(body) })
    }

    fn with_kind(name: Arc<str>, ty: Type, kind: Kind) -> Self {
        Self {
            name,
            ty,
            kind,
            description: String::new(),
            required: false,
            optional: false,
            computed: false,
            sensitive: false,
            write_only: false,
            deprecation: None,
            default: None,
            on_update: OnUpdate::default(),
            replace: Replace::default(),
            validators: Vec::new(),
        }
    }
}

/// Who sets it, and how it reads.
impl Attribute {
    /// The configuration must set it.
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The configuration may set it.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The provider sets it, where the configuration does not.
    pub const fn computed(mut self) -> Self {
        self.computed = true;
        self
    }

    /// Its value is secret: shown by nobody, stored in state nevertheless.
    ///
    /// It is taken out of every diagnostic of a call that holds it, and of the log: texts as they
    /// are, numbers in each form in which they are written. A text of two or three bytes is taken
    /// out only where it stands alone, as a word does: elsewhere it would tear holes into others.
    /// One of a single byte is not, and no boolean is: every text is full of them.
    pub const fn sensitive(mut self) -> Self {
        self.sensitive = true;
        self
    }

    /// Its value is never stored: it is read from the configuration, and null everywhere else.
    pub const fn write_only(mut self) -> Self {
        self.write_only = true;
        self
    }

    /// Marks it as one that should not be used any more, with what to use instead.
    pub fn deprecated(mut self, message: impl Into<String>) -> Self {
        self.deprecation = Some(message.into());
        self
    }

    /// Says what it is, in Markdown.
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }
}

/// What happens to it in a plan, and what is checked before.
impl Attribute {
    /// What it is when the configuration leaves it out. Makes it optional and computed.
    pub fn default(mut self, value: impl Into<Value>) -> Self {
        self.default = Some(value.into());
        self.optional = true;
        self.computed = true;
        self
    }

    /// An update leaves the computed value as it is.
    pub fn use_state_for_unknown(mut self) -> Self {
        self.on_update = OnUpdate::KeepState;
        self
    }

    /// An update leaves the computed value as it is unless one of these attributes beside it
    /// changes.
    pub fn recomputed_when<N: Into<Arc<str>>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        self.on_update = OnUpdate::RecomputeWhen(names.into_iter().map(Into::into).collect());
        self
    }

    /// A change of it makes a new resource.
    pub fn requires_replace(mut self) -> Self {
        self.replace = Replace::Always;
        self
    }

    /// A change of it makes a new resource when `test` says so. `when` completes the sentence
    /// "makes a new resource when ..." for the documentation.
    pub fn requires_replace_if(
        mut self,
        when: impl Into<String>,
        test: impl Fn(&ReplaceContext<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.replace = Replace::when(when.into(), test);
        self
    }

    /// Adds a check of the configured value.
    pub fn validate(mut self, validator: impl Validator + 'static) -> Self {
        self.validators.push(Arc::new(validator));
        self
    }

    /// Adds a rule between the nested attributes; nothing for a plain attribute, which
    /// [`Schema::check`](super::Schema::check) would refuse to have children anyway.
    pub fn rule(mut self, rule: Across) -> Self {
        if let Kind::Nested { body, .. } = &mut self.kind {
            body.push_across(rule);
        }
        self
    }
}

/// What was declared.
impl Attribute {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, shared.
    #[must_use]
    pub const fn name_arc(&self) -> &Arc<str> {
        &self.name
    }

    /// Its type; for a nested attribute the type of the objects in their arrangement.
    #[must_use]
    pub const fn ty(&self) -> &Type {
        &self.ty
    }

    /// Whether it is plain or nested.
    #[must_use]
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// What each object of a nested attribute holds.
    #[must_use]
    pub fn body(&self) -> Option<&Body> {
        self.nested_objects().map(|(_, body)| body)
    }

    /// The arrangement and the body of a nested attribute.
    #[must_use]
    pub fn nested_objects(&self) -> Option<(Nesting, &Body)> {
        match &self.kind {
            Kind::Plain => None,
            Kind::Nested { nesting, body } => Some((*nesting, body)),
        }
    }

    /// What it is, in Markdown.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Whether the configuration must set it.
    #[must_use]
    pub const fn is_required(&self) -> bool {
        self.required
    }

    /// Whether the configuration may set it.
    #[must_use]
    pub const fn is_optional(&self) -> bool {
        self.optional
    }

    /// Whether the provider may set it.
    #[must_use]
    pub const fn is_computed(&self) -> bool {
        self.computed
    }

    /// Whether its value is secret.
    #[must_use]
    pub const fn is_sensitive(&self) -> bool {
        self.sensitive
    }

    /// Whether its value is never stored.
    #[must_use]
    pub const fn is_write_only(&self) -> bool {
        self.write_only
    }

    /// What to use instead, when it should not be used any more.
    #[must_use]
    pub fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    /// What it is when the configuration leaves it out.
    #[must_use]
    pub const fn default_value(&self) -> Option<&Value> {
        self.default.as_ref()
    }

    /// What an update does to the computed value.
    #[must_use]
    pub const fn on_update(&self) -> &OnUpdate {
        &self.on_update
    }

    /// Whether a change makes a new resource.
    #[must_use]
    pub const fn replace(&self) -> &Replace {
        &self.replace
    }

    /// The checks of the configured value.
    #[must_use]
    pub fn validators(&self) -> &[Arc<dyn Validator>] {
        &self.validators
    }

    /// The values it may have, when a validator limits it to a list.
    #[must_use]
    pub fn allowed_values(&self) -> Option<&[String]> {
        self.validators.iter().find_map(|validator| validator.allowed_values())
    }
}
