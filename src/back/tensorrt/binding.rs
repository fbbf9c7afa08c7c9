//! The binding as a process starts it: its one logger, and the error of a call that only a broken installation refuses.

use std::sync::OnceLock;

use trtx::Logger;

use super::journal::Journal;
use super::names::NAME;
use crate::error::{Error, Result};

/// A call that only a broken installation refuses.
pub(crate) fn refused(error: trtx::Error) -> Error {
    Error::runtime_missing(format!("{NAME} does not start: {error}"))
}

/// The logger of this process, of which the library keeps one, and its messages.
pub(crate) fn logger() -> Result<(&'static Logger, &'static Journal)> {
    static LOGGER: OnceLock<(Result<Logger, String>, Journal)> = OnceLock::new();
    let (logger, journal) = LOGGER.get_or_init(|| {
        let journal = Journal::default();
        (Logger::new(journal.clone()).map_err(|e| e.to_string()), journal)
    });
    match logger {
        Ok(logger) => Ok((logger, journal)),
        Err(e) => Err(Error::runtime_missing(format!("{NAME} does not start: {e}"))),
    }
}
