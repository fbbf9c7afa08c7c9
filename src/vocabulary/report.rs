//! The report of a cut vocabulary.

use serde::{Deserialize, Serialize};

/// A vocabulary before and after the cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutReport {
    /// How many texts there are, each of which has the tokens that it had before.
    pub texts: usize,
    /// How many tokens they have together, without those that are put around them.
    pub text_tokens: u64,
    /// How many different tokens they use, those around them included.
    pub used: usize,
    /// The tokens of the tokenizer before.
    pub tokens_before: usize,
    /// The tokens now; those that texts use, and those that always stay.
    pub tokens: usize,
    /// The rows of the table of tokens before. There may be some that no token has.
    pub rows_before: usize,
    /// The rows now, one for each token.
    pub rows: usize,
    /// The tables of tokens before, in bytes.
    pub bytes_before: usize,
    /// The tables now, in bytes.
    pub bytes: usize,
}
