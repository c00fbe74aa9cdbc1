//! Reads anything as a type; see the library.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tfplugin_fuzz::read_type(input));
