//! What every task defines in its file.

use super::batches::Tokenized;
use super::id::Task;
use super::pipeline::Pipeline;
use super::prediction::Predicted;
use super::scoring::{Scoring, ScoringRequest};
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::runtime::{TextEncoder, TextInput};

/// What a task is, beside its facts: which inputs it takes, how a model is run on them, and how it is scored.
pub(super) trait Definition: Sync {
    /// Fails where an input does not fit the task. None of its texts is empty.
    fn check(&self, _input: TextInput) -> Result<()> {
        Ok(())
    }

    /// Fails where the tokens of an input lack what the task needs.
    fn check_tokens(&self, _encoder: &TextEncoder, _tokens: &Tokenized) -> Result<()> {
        Ok(())
    }

    /// The message for an empty text.
    fn empty(&self) -> &'static str {
        "a text is empty"
    }

    /// Runs inputs that [`Definition::check`] has passed, and reads the outputs.
    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>>;

    /// What a labelled row is, and what is measured by it: lines of help, the measures after an arrow.
    fn rows(&self) -> &'static str;

    /// Reads labelled rows, by which a bundle's engines are scored.
    fn scoring(&self, request: &ScoringRequest) -> Result<Box<dyn Scoring>>;
}

/// The error of a pair where a task takes one text.
pub(super) fn not_a_pair(task: Task, input: TextInput) -> Result<()> {
    match input.pair {
        Some(_) => Err(Error::bad_input(format!("{task} is of one text, not of a pair"))),
        None => Ok(()),
    }
}
