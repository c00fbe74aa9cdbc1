//! Calls of functions.

use std::collections::HashMap;

use super::{Server, wire};
use crate::{Diagnostics, FunctionError, Provider, proto::tfplugin6 as pb};

impl<P: Provider> Server<P> {
    pub(super) fn signatures(&self) -> HashMap<String, pb::Function> {
        let functions = self.inner.catalogue.functions.iter();
        functions.map(|(name, entry)| ((*name).to_owned(), entry.signature.to_wire())).collect()
    }

    pub(super) async fn get_functions(
        &self,
        _: pb::get_functions::Request,
    ) -> pb::get_functions::Response {
        let diagnostics = Vec::new();
        pb::get_functions::Response { functions: self.signatures(), diagnostics }
    }

    pub(super) async fn call_function(
        &self,
        request: pb::call_function::Request,
    ) -> pb::call_function::Response {
        let call = self.early_call("CallFunction", &request.name, None);
        // A function's own error travels beside the diagnostics that a panic leaves.
        let called = call.guard(async { Ok(self.call_by_name(&request)) }).await;
        let answer = called.unwrap_or_else(|told| Err(FunctionError::new(text_of(&told))));
        match answer {
            Ok(result) => pb::call_function::Response { result: Some(result), error: None },
            Err(error) => {
                pb::call_function::Response { result: None, error: Some(error.into_wire()) }
            }
        }
    }

    fn call_by_name(
        &self,
        request: &pb::call_function::Request,
    ) -> Result<pb::DynamicValue, FunctionError> {
        let entry = self.inner.catalogue.functions.get(request.name.as_str()).ok_or_else(|| {
            FunctionError::new(format!("The provider has no function {:?}.", request.name))
        })?;
        let signature = &entry.signature;
        let mut arguments = Vec::with_capacity(request.arguments.len());
        for (index, argument) in request.arguments.iter().enumerate() {
            let ty = signature.type_of(index).ok_or_else(|| {
                FunctionError::argument(index, "There are more arguments than parameters.")
            })?;
            let value = wire::decode(Some(argument), ty)
                .map_err(|told| FunctionError::argument(index, text_of(&told)))?;
            arguments.push(value);
        }
        if arguments.len() < signature.parameters.len() {
            let needed = signature.parameters.len();
            return Err(FunctionError::new(format!(
                "It takes {needed} arguments, and {} are given.",
                arguments.len()
            )));
        }
        let result = entry.handler.call(arguments, signature)?;
        wire::encode(&result, &signature.returns).map_err(|told| FunctionError::new(text_of(&told)))
    }
}

fn text_of(told: &Diagnostics) -> String {
    let texts = told.iter().map(|one| match one.detail_text() {
        "" => one.summary(),
        detail => detail,
    });
    texts.collect::<Vec<_>>().join(" ")
}
