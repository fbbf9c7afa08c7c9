#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kilnc_fuzz::quantized(bytes));
