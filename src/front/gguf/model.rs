//! What all parts of the reader look at.

use serde_json::{Map, Value};

use super::architectures::Architecture;
use super::format::Contents;
use super::keys::missing;
use crate::error::Result;

/// A file and its architecture.
pub(super) struct Model<'a> {
    pub contents: &'a Contents,
    pub architecture: &'static Architecture,
}

/// Fields of a JSON file in the making.
pub(super) type Fields = Map<String, Value>;

impl Model<'_> {
    /// A number of heads; those of keys and values are those of queries where the file is silent.
    pub fn heads(&self, key: &str) -> Result<usize> {
        let (keys, whole) = (&self.contents.keys, self.architecture.key("attention.head_count"));
        let said = match keys.size(&self.architecture.key(key))? {
            Some(said) => Some(said),
            None => keys.size(&whole)?,
        };
        said.ok_or_else(|| missing(&whole))
    }
}
