//! Who hears of texts while they are run.

use crate::error::Error;

/// Callbacks for progress: texts are named by their numbers.
pub(super) struct Watch<'a> {
    /// Where a text comes from, for messages.
    pub location: &'a dyn Fn(usize) -> Option<String>,
    /// Called once for each text when its last window was run.
    pub done: &'a dyn Fn(usize),
}

/// Nobody.
pub(super) const UNWATCHED: Watch = Watch { location: &|_| None, done: &|_| () };

impl Watch<'_> {
    pub fn located(&self, text: usize, error: Error) -> Error {
        match (self.location)(text) {
            Some(location) => error.at(location),
            None => error,
        }
    }
}
