//! Text generation: a prompt is continued token by token.

use super::Definition;
use super::pipeline::{Pipeline, Predicted, Watch};
use crate::error::{Error, Result};
use crate::runtime::TextInput;

pub(super) struct TextGeneration;

impl Definition for TextGeneration {
    fn check(&self, _: TextInput) -> Result<()> {
        Err(Error::unsupported("a model of text-generation continues prompts").hint("kilnc run BUNDLE --prompt TEXT"))
    }

    fn predict(&self, _: &mut Pipeline, inputs: &[TextInput], _: &Watch) -> Result<Vec<Predicted>> {
        inputs.iter().try_for_each(|input| self.check(*input))?;
        Ok(Vec::new())
    }
}
