//! The Terraform and OpenTofu provider of Fairmazon.
