//! The error of a call that a plan's library refuses.

use crate::back::tensorrt::logger;
use crate::error::Error;

/// The library's warnings since its last call.
pub(super) fn failure(what: &str) -> Error {
    match logger() {
        Ok((_, journal)) => journal.read().run_error(what),
        Err(e) => e,
    }
}
