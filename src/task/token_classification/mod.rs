//! Token classification: the entities of a text.

mod entity;
mod groups;
mod score;
mod tokens;
mod words;

use std::ops::Range;

use super::definition::{Definition, not_a_pair};
use super::id::Task;
use super::pipeline::{Pipeline, one};
use super::prediction::Predicted;
use super::scoring::{self, Scoring, ScoringRequest};
use super::watch::{UNWATCHED, Watch};
use crate::error::Result;
use crate::runtime::TextInput;

use tokens::Tokens;

pub use entity::Entity;
pub use words::Word;

pub(super) struct TokenClassification;

impl Definition for TokenClassification {
    fn check(&self, input: TextInput) -> Result<()> {
        not_a_pair(Task::TokenClassification, input)
    }

    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let tokenized = pipeline.encode(inputs, watch)?;
        let (engine, parts) = pipeline.parts(watch);
        let tokens = Tokens { encoder: parts.encoder, model: parts.model, settings: parts.settings };
        parts.batches.run(engine, &tokenized, &tokens)
    }

    fn rows(&self) -> &'static str {
        score::ROWS
    }

    fn scoring(&self, request: &ScoringRequest) -> Result<Box<dyn Scoring>> {
        Ok(scoring::of(score::TaggedTexts::read(request)?))
    }
}

impl Pipeline {
    /// Every word of a text with its label, whether it is part of an entity or not: words at the positions `given`, in
    /// characters and in order, each with the label of its first token; or those of the tokenizer, as the options'
    /// aggregation reads them. Fails where the model is not for token classification.
    pub fn words(&mut self, text: &str, given: Option<&[Range<usize>]>) -> Result<Predicted<Vec<Word>>> {
        let tokenized = self.tokenized(text.into(), Task::TokenClassification)?;
        let (engine, parts) = self.parts(&UNWATCHED);
        let tokens = Tokens { encoder: parts.encoder, model: parts.model, settings: parts.settings };
        one(parts.batches.run(engine, &[tokenized], &words::Words { tokens, given })?)
    }
}
