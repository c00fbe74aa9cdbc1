//! The one binary of the backend.
fn main() {}
