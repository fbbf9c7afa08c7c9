#![no_main]

libfuzzer_sys::fuzz_target!(
    // What the library panics on is an error to those who watch its thread.
    init: kilnc_fuzz::let_watched_threads_panic(),
    |bytes: &[u8]| kilnc_fuzz::sentence(bytes)
);
