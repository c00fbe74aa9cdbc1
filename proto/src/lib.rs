//! Protocol buffers and generated code.
