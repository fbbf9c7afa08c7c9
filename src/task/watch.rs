//! Who hears of texts while they are run.

use crate::error::Error;

/// Who watches texts being answered, which it knows by their numbers.
pub(super) struct Watch<'a> {
    /// Where a text comes from, for messages.
    pub place: &'a dyn Fn(usize) -> Option<String>,
    /// Called once for each text when its last window was run.
    pub done: &'a dyn Fn(usize),
}

/// Nobody.
pub(super) const UNWATCHED: Watch = Watch { place: &|_| None, done: &|_| () };

impl Watch<'_> {
    pub fn placed(&self, text: usize, error: Error) -> Error {
        match (self.place)(text) {
            Some(place) => error.at(place),
            None => error,
        }
    }
}
