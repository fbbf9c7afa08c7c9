//! The size of a model's vocabulary, where it is not the configuration's.

use std::fmt;

use super::limits;
use crate::error::Result;
use crate::front::hub::checkpoint::{Checkpoint, Tokenizer};
use crate::ir::Graph;
use crate::runtime::TextEncoder;

/// A vocabulary that is not of the size that the configuration says. `transformers` refuses such a file; its weights
/// have all that is needed, so it is built as it is if all tokens of its tokenizer have their row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// The rows of the word embeddings.
    pub rows: usize,
    /// The configuration's `vocab_size`.
    pub said: usize,
    /// Whether there was a tokenizer to compare with the rows.
    pub checked: bool,
}

impl Extended {
    /// Compares the configuration with the graph. Fails where they differ and a token of the tokenizer has no row.
    pub(crate) fn of(checkpoint: &Checkpoint, tokenizer: &Tokenizer, graph: &Graph) -> Result<Option<Extended>> {
        let (Some(said), Some(rows)) = (checkpoint.common.vocab_size, limits::rows(graph)) else { return Ok(None) };
        if said == rows {
            return Ok(None);
        }
        let checked = tokenizer.json.is_some();
        if let Some(text) = &tokenizer.json {
            let encoder = TextEncoder::parse(text.clone(), 512);
            let fits = encoder.and_then(|encoder| encoder.check_rows(rows));
            fits.map_err(|e| e.at(tokenizer.path().display().to_string()))?;
        }
        Ok(Some(Extended { rows, said, checked }))
    }
}

impl fmt::Display for Extended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Extended { rows, said, checked } = self;
        let tokenizer = match checked {
            true => "which is enough for every token of tokenizer.json",
            false => "and there is no tokenizer.json to compare with them",
        };
        write!(f, "`vocab_size` in config.json is {said}; the word embeddings have {rows} rows, {tokenizer}")
    }
}
