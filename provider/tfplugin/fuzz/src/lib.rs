//! What the fuzz targets do: a module of the tests of `tfplugin`, whose package has it that way. A
//! package leaves out this folder, as it does each crate of its own.

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

pub use targets::*;
