//! What every call of the harness needs: values there and back, diagnostics apart.

use tonic::{Response, Status};

use crate::{Diagnostics, Explain as _, Type, Value, codec, proto::tfplugin6 as pb};

/// The capabilities of a present client.
pub(super) const fn capabilities() -> pb::ClientCapabilities {
    pb::ClientCapabilities { deferral_allowed: false, write_only_attributes_allowed: true }
}

pub(super) fn encode(value: &Value, ty: &Type) -> Result<pb::DynamicValue, Diagnostics> {
    let msgpack = codec::msgpack::encode(value, ty).explain("The harness can't encode a value")?;
    Ok(pb::DynamicValue { msgpack: msgpack.into(), json: bytes::Bytes::new() })
}

pub(super) fn decode(value: Option<&pb::DynamicValue>, ty: &Type) -> Result<Value, Diagnostics> {
    let Some(value) = value else { return Ok(Value::Null) };
    codec::msgpack::decode(&value.msgpack, ty).explain("The provider's answer is no value")
}

/// A call must be answered; whatever went wrong belongs into diagnostics.
pub(super) fn answer<T>(answer: Result<Response<T>, Status>) -> Result<T, Diagnostics> {
    answer.map(Response::into_inner).explain("The provider did not answer")
}

/// Tells errors from warnings.
pub(super) fn warnings(told: Vec<pb::Diagnostic>) -> Result<Diagnostics, Diagnostics> {
    let told = Diagnostics::from_wire(told);
    if told.has_errors() { Err(told) } else { Ok(told) }
}
