//! Ephemeral resources, one file each.

mod token;

pub use token::EphemeralToken;
