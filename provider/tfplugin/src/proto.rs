//! The generated messages and services of the wire, and nothing else.
//!
//! `tfplugin6` is what Terraform and OpenTofu speak, `plugin` are the services that
//! go-plugin expects of every plugin. Authors of providers need neither.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated code is not ours to document"
)]
pub mod tfplugin6 {
    tonic::include_proto!("tfplugin6");
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated code is not ours to document"
)]
pub mod plugin {
    tonic::include_proto!("plugin");
}

/// The compiled descriptors of both packages, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
