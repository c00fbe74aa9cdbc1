//! The wire of Fairmazon: generated code of `fairmazon.v1` (one service a noun) and
//! `fairmazon.host.v1`, and the translation between messages and the model.
//!
//! `tfplugin6.proto` and go-plugin's files lie beside these but are compiled by the `tfplugin`
//! crate, which knows nothing of Fairmazon.

mod convert;
mod details;

pub use convert::chunk;

/// The customers', operators' and auditors' API.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("fairmazon.v1");
}

/// The stream between hosts and the broker.
pub mod host {
    /// Version 1.
    #[allow(clippy::all, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("fairmazon.host.v1");
    }
}

/// The compiled descriptors of all services, for reflection and for golden tests.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fairmazon.bin"));
