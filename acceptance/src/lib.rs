//! Real Terraform against the built plugin and a running backend.
