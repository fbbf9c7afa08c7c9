//! Values that are computed once.

use std::sync::OnceLock;

use crate::error::Result;

/// What all parts of a weight need, computed once: the threads that write a weight share it.
pub struct Computed<T>(OnceLock<T>);

impl<T> Default for Computed<T> {
    fn default() -> Computed<T> {
        Computed(OnceLock::new())
    }
}

impl<T> Computed<T> {
    /// It, computed if it was not yet.
    pub(super) fn get(&self, compute: impl FnOnce() -> Result<T>) -> Result<&T> {
        match self.0.get() {
            Some(computed) => Ok(computed),
            None => {
                let computed = compute()?;
                Ok(self.0.get_or_init(|| computed))
            }
        }
    }
}
