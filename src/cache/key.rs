//! The key of an entry.

use serde::Serialize;

use crate::digest;
use crate::error::{Error, Result};
use crate::json;

/// The key of an entry.
#[derive(Debug)]
pub struct Key {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) from: serde_json::Value,
    pub(super) digest: String,
}

impl Key {
    /// The key of a thing of that kind which follows from `from` and nothing else. `name` is its name for people.
    pub fn new(kind: &'static str, name: &str, from: &impl Serialize) -> Result<Key> {
        let from = serde_json::to_value(from).map_err(|e| Error::bug(format!("a key of the cache: {e}")))?;
        let from = json::sorted(from);
        let digest = digest::of(format!("{kind}\n{from}").as_bytes());
        Ok(Key { kind, name: name.to_owned(), from, digest })
    }
}
