#![no_main]

libfuzzer_sys::fuzz_target!(
    // A panic of the library is an error of its thread.
    init: kilnc_fuzz::let_watched_threads_panic(),
    |bytes: &[u8]| kilnc_fuzz::sentence(bytes)
);
