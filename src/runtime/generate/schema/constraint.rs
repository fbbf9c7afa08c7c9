//! What a decoder is given to follow a schema.

use serde::{Deserialize, Serialize};

/// A schema, with the vocabulary of the model that has to follow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// The schema's JSON.
    pub(super) schema: String,
    /// The bytes of each token, by its id; none for those that never come.
    pub(super) tokens: Vec<Vec<u8>>,
    /// The tokens that end a text.
    pub(super) eos: Vec<u32>,
}
