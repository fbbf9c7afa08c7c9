//! The error of a call that a plan's library refuses.

use crate::back::tensorrt::logger;
use crate::error::Error;

/// What the library complained of since it was last asked for something.
pub(super) fn failure(what: &str) -> Error {
    match logger() {
        Ok((_, journal)) => journal.read().run_error(what),
        Err(e) => e,
    }
}
