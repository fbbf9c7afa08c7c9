//! Which tokens a corpus uses, in memory that does not grow with it.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Model;
use crate::error::{Error, Result};
use crate::runtime::{TextEncoder, TextInput};

/// How many texts are tokenized together at most.
const BATCH: usize = 256;

/// How long they are together, unless one alone is longer, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// The tokens that a corpus uses.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// How often each occurs, by its number; those that are put around texts too.
    pub counts: BTreeMap<u32, u64>,
    /// The number of texts.
    pub texts: usize,
    /// The count of all texts' tokens, without those that are put around them.
    pub total: u64,
    /// Pieces of words that are unknown as a whole.
    tried: BTreeSet<u32>,
}

impl Tokens {
    pub(super) fn read<T>(
        encoder: &TextEncoder,
        model: &Model,
        corpus: impl IntoIterator<Item = Result<T>>,
    ) -> Result<Tokens>
    where
        for<'a> &'a T: Into<TextInput<'a>>,
    {
        let around = encoder.ids(&["".into(), TextInput { text: "", pair: Some("") }])?;
        let around = |text: &TextInput| around.get(usize::from(text.pair.is_some())).map_or(0, Vec::len);
        let mut tokens = Tokens::default();
        in_batches(corpus, |first, batch| {
            for (text, found) in batch.iter().zip(ids(encoder, first, batch)?) {
                tokens.texts += 1;
                tokens.total += found.len().saturating_sub(around(text)) as u64;
                if model.asks_for_words() && model.unknown().is_some_and(|unknown| found.contains(&unknown)) {
                    tokens.tried.extend(encoder.words(*text)?.iter().flat_map(|word| model.tried(word)));
                }
                for number in found {
                    *tokens.counts.entry(number).or_default() += 1;
                }
            }
            Ok(())
        })?;
        if tokens.total == 0 {
            return Err(Error::bad_input(format!("{} texts, and no token in any of them", tokens.texts))
                .hint("give texts like those that the model will read"));
        }
        Ok(tokens)
    }

    /// The ids of all tokens that kept texts need.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.counts.keys().chain(&self.tried).copied()
    }
}

/// The tokens of some texts. An error is that of the first text that has one, and names it by its number, from 1 on.
pub(super) fn ids(encoder: &TextEncoder, first: usize, batch: &[TextInput]) -> Result<Vec<Vec<u32>>> {
    let found = encoder.ids(batch);
    if found.is_err() {
        for (i, text) in batch.iter().enumerate() {
            encoder.ids(&[*text]).map_err(|e| e.at(format!("text {}", first + i)))?;
        }
    }
    found
}

/// Calls `each` with some texts after others, and the number of the first of them, from 1 on.
pub(super) fn in_batches<T>(
    corpus: impl IntoIterator<Item = Result<T>>,
    mut each: impl FnMut(usize, &[TextInput]) -> Result<()>,
) -> Result<()>
where
    for<'a> &'a T: Into<TextInput<'a>>,
{
    let mut flush = |first: usize, batch: &[T]| {
        let inputs: Vec<TextInput> = batch.iter().map(Into::into).collect();
        each(first, &inputs)
    };
    let (mut batch, mut bytes, mut first) = (Vec::new(), 0, 1);
    for text in corpus {
        let text = text?;
        let input: TextInput = (&text).into();
        bytes += input.text.len() + input.pair.map_or(0, str::len);
        batch.push(text);
        if batch.len() == BATCH || bytes >= BATCH_BYTES {
            flush(first, &batch)?;
            first += batch.len();
            batch.clear();
            bytes = 0;
        }
    }
    if batch.is_empty() { Ok(()) } else { flush(first, &batch) }
}
