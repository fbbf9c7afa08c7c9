//! Text generation: a prompt is continued token by token.

mod generator;
mod score;

use super::definition::Definition;
use super::pipeline::Pipeline;
use super::prediction::Predicted;
use super::scoring::{self, Scoring, ScoringRequest};
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::runtime::TextInput;

pub use generator::{generator_of, not_applied, open_generator};

pub(super) struct TextGeneration;

impl Definition for TextGeneration {
    fn check(&self, _: TextInput) -> Result<()> {
        Err(Error::unsupported("a model of text-generation continues prompts").hint("kilnc run BUNDLE --prompt TEXT"))
    }

    fn predict(&self, _: &mut Pipeline, inputs: &[TextInput], _: &Watch) -> Result<Vec<Predicted>> {
        inputs.iter().try_for_each(|input| self.check(*input))?;
        Ok(Vec::new())
    }

    fn rows(&self) -> &'static str {
        score::ROWS
    }

    fn scoring(&self, request: &ScoringRequest) -> Result<Box<dyn Scoring>> {
        Ok(scoring::of(score::Texts::read(request)?))
    }
}
