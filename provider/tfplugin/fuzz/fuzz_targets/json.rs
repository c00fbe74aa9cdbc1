//! Decodes anything as JSON; see the library.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tfplugin_fuzz::decode_json(input));
