//! Error details on the wire: an [`ErrorDetail`] inside a `google.rpc.Status`, the form that
//! gRPC tools expect in `grpc-status-details-bin`. The broker writes it, the plugin reads it.

use prost::Message;

use crate::v1::ErrorDetail;

/// Names the message inside, as `google.protobuf.Any` wants it.
const TYPE_URL: &str = "type.googleapis.com/fairmazon.v1.ErrorDetail";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl ErrorDetail {
    /// The bytes for the details of a status with this gRPC code.
    pub fn to_status_details(&self, code: tonic::Code) -> Vec<u8> {
        let any = Any { type_url: TYPE_URL.to_owned(), value: self.encode_to_vec() };
        let status =
            RpcStatus { code: code.into(), message: self.message.clone(), details: vec![any] };
        status.encode_to_vec()
    }

    /// The detail in the details of a status; none when they hold no readable one.
    pub fn from_status_details(details: &[u8]) -> Option<Self> {
        let status = RpcStatus::decode(details).ok()?;
        let any = status.details.into_iter().find(|any| any.type_url == TYPE_URL)?;
        Self::decode(any.value.as_slice()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_survives_the_status() {
        let detail = ErrorDetail {
            kind: "invalid".into(),
            message: "too small".into(),
            field: "boot_volume.size_gib".into(),
            ..ErrorDetail::default()
        };
        let bytes = detail.to_status_details(tonic::Code::InvalidArgument);
        assert_eq!(ErrorDetail::from_status_details(&bytes), Some(detail));
    }

    #[test]
    fn foreign_details_are_none() {
        assert_eq!(ErrorDetail::from_status_details(&[]), None);
        assert_eq!(ErrorDetail::from_status_details(b"\xff\xff"), None);
    }
}
