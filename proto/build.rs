//! Compiles the `.proto` files without `protoc` and keeps their descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 11] = [
    "fairmazon/v1/accounts.proto",
    "fairmazon/v1/audit.proto",
    "fairmazon/v1/catalogue.proto",
    "fairmazon/v1/common.proto",
    "fairmazon/v1/hosts.proto",
    "fairmazon/v1/instances.proto",
    "fairmazon/v1/operations.proto",
    "fairmazon/v1/placement_groups.proto",
    "fairmazon/v1/sites.proto",
    "fairmazon/v1/usage.proto",
    "fairmazon/v1/volumes.proto",
];
const HOST_FILE: &str = "fairmazon/host/v1/host.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=fairmazon");
    let files: Vec<_> = FILES.iter().copied().chain([HOST_FILE]).collect();
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("fairmazon.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
