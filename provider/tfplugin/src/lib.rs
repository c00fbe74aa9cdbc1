//! A runtime for Terraform and OpenTofu providers in Rust.
