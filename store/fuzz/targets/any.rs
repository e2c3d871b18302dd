//! One target: the binary's name says which.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    headwater_store::fuzz::run(env!("CARGO_BIN_NAME"), bytes);
});
