//! What an author implements for a function.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Type, Value, from_value, proto::tfplugin6 as pb, to_value};

/// A pure function: the same arguments give the same result, without a configured provider.
pub trait Function: Send + Sync + 'static {
    /// The arguments, a tuple with one member a parameter; a variadic parameter is a `Vec` at
    /// its end.
    type Args: DeserializeOwned;
    /// The result.
    type Output: Serialize;

    /// Its name, without the provider's.
    fn name(&self) -> &'static str;

    /// Its parameters and result. Asked for once.
    fn signature(&self) -> Signature;

    /// Calls it.
    ///
    /// # Errors
    /// What is wrong, and with which argument.
    fn call(&self, args: Self::Args) -> Result<Self::Output, FunctionError>;
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct FunctionError {
    text: String,
    argument: Option<usize>,
}

impl FunctionError {
    /// A failure of the call as a whole.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), argument: None }
    }

    /// A failure because of one argument, counted from zero.
    #[must_use]
    pub fn argument(argument: usize, text: impl Into<String>) -> Self {
        Self { text: text.into(), argument: Some(argument) }
    }

    pub(crate) fn into_wire(self) -> pb::FunctionError {
        let function_argument = self.argument.and_then(|index| i64::try_from(index).ok());
        // Clients end the sentence themselves.
        let text = self.text.trim_end_matches('.').to_owned();
        pb::FunctionError { text, function_argument }
    }
}

/// One parameter.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: Arc<str>,
    pub(crate) ty: Type,
    pub(crate) description: String,
    pub(crate) allow_null: bool,
    pub(crate) allow_unknown: bool,
}

/// Parameters, result and documentation of a function.
#[derive(Clone, Debug)]
#[must_use]
pub struct Signature {
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) variadic: Option<Parameter>,
    pub(crate) returns: Type,
    pub(crate) summary: String,
    pub(crate) description: String,
    pub(crate) deprecation: String,
}

impl Signature {
    /// A function without parameters. The summary is one sentence.
    pub fn returning(returns: Type, summary: impl Into<String>) -> Self {
        Self {
            parameters: Vec::new(),
            variadic: None,
            returns,
            summary: summary.into(),
            description: String::new(),
            deprecation: String::new(),
        }
    }

    /// Adds a parameter that is neither null nor unknown.
    pub fn parameter(mut self, name: &str, ty: Type, description: &str) -> Self {
        self.parameters.push(Parameter::new(name, ty, description));
        self
    }

    /// Adds a parameter that may be null.
    pub fn nullable(mut self, name: &str, ty: Type, description: &str) -> Self {
        let parameter = Parameter::new(name, ty, description);
        self.parameters.push(Parameter { allow_null: true, ..parameter });
        self
    }

    /// Ends the parameters with one that may be given any number of times.
    pub fn variadic(mut self, name: &str, ty: Type, description: &str) -> Self {
        self.variadic = Some(Parameter::new(name, ty, description));
        self
    }

    /// Says more, in Markdown.
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Says what to use instead.
    pub fn deprecated(mut self, message: impl Into<String>) -> Self {
        self.deprecation = message.into();
        self
    }

    /// The one sentence on what it does.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// The documentation, in Markdown.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The type of the result.
    #[must_use]
    pub const fn result_type(&self) -> &Type {
        &self.returns
    }

    /// Name, type and description of each parameter, the variadic one last.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Type, &str)> {
        let all = self.parameters.iter().chain(&self.variadic);
        all.map(|parameter| (&*parameter.name, &parameter.ty, parameter.description.as_str()))
    }

    /// Whether the last parameter may be given any number of times.
    #[must_use]
    pub const fn is_variadic(&self) -> bool {
        self.variadic.is_some()
    }

    /// The type of the argument at this place, from zero.
    pub(crate) fn type_of(&self, argument: usize) -> Option<&Type> {
        self.parameters.get(argument).or(self.variadic.as_ref()).map(|parameter| &parameter.ty)
    }

    pub(crate) fn to_wire(&self) -> pb::Function {
        pb::Function {
            parameters: self.parameters.iter().map(Parameter::to_wire).collect(),
            variadic_parameter: self.variadic.as_ref().map(Parameter::to_wire),
            r#return: Some(pb::function::Return { r#type: self.returns.to_json().into() }),
            summary: self.summary.clone(),
            description: self.description.clone(),
            description_kind: pb::StringKind::Markdown.into(),
            deprecation_message: self.deprecation.clone(),
        }
    }
}

impl Parameter {
    fn new(name: &str, ty: Type, description: &str) -> Self {
        let description = description.to_owned();
        Self { name: name.into(), ty, description, allow_null: false, allow_unknown: false }
    }

    fn to_wire(&self) -> pb::function::Parameter {
        pb::function::Parameter {
            name: self.name.as_ref().to_owned(),
            r#type: self.ty.to_json().into(),
            allow_null_value: self.allow_null,
            allow_unknown_values: self.allow_unknown,
            description: self.description.clone(),
            description_kind: pb::StringKind::Markdown.into(),
        }
    }
}

/// The same on values.
pub(crate) trait AnyFunction: Send + Sync {
    fn name(&self) -> &'static str;
    fn signature(&self) -> Signature;
    fn call(&self, arguments: Vec<Value>, signature: &Signature) -> Result<Value, FunctionError>;
}

struct Erased<F>(F);

/// Takes the types off a function.
pub(crate) fn erase(function: impl Function) -> Box<dyn AnyFunction> {
    Box::new(Erased(function))
}

impl<F: Function> AnyFunction for Erased<F> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn signature(&self) -> Signature {
        self.0.signature()
    }

    fn call(
        &self,
        mut arguments: Vec<Value>,
        signature: &Signature,
    ) -> Result<Value, FunctionError> {
        if signature.variadic.is_some() {
            let rest = arguments.split_off(signature.parameters.len().min(arguments.len()));
            arguments.push(Value::List(rest));
        }
        let args = from_value(&Value::Tuple(arguments)).map_err(|error| {
            let argument = match error.path.steps().first() {
                Some(crate::path::Step::Index(index)) => Some(*index),
                _ => None,
            };
            FunctionError { text: error.to_string(), argument }
        })?;
        let result = self.0.call(args)?;
        to_value(&result, &signature.returns)
            .map_err(|error| FunctionError::new(format!("The result does not fit: {error}")))
    }
}
