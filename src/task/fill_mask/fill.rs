//! A token for a mask.

use serde::Serialize;

/// A token for a mask, as in the Hub's `fill-mask`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fill {
    /// Its probability.
    pub score: f32,
    /// Its number in the vocabulary.
    pub token: u32,
    /// Its text.
    pub token_str: String,
    /// The text with it in place of the mask. Where there are several masks, the others are left in it, and so are the
    /// tokens around the text.
    pub sequence: String,
}
