//! Whether the user interrupts: work that can save its results so far checks for it, and is not ended at once.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static DEFERRED: AtomicBool = AtomicBool::new(false);
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// From now on the first signal is noted, and the work checks for it.
pub fn defer() {
    DEFERRED.store(true, Ordering::SeqCst);
}

/// Takes a signal. False where the process has to end now: no work checks for it, or it is the second.
pub fn take(signal: i32) -> bool {
    DEFERRED.load(Ordering::SeqCst) && SIGNAL.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// The signal that was noted.
pub fn noted() -> Option<i32> {
    Some(SIGNAL.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}
