//! Text generation: a prompt is continued token by token.

use super::pipeline::Pipeline;
use super::watch::Watch;
use super::{Definition, Predicted, Task};
use crate::bundle::{Bundle, EngineEntry, GENERATION_CONFIG, Manifest};
use crate::error::{Error, Result};
use crate::runtime::generate::{DecoderLimits, Generator, SpecialTokens, open_isolated};
use crate::runtime::{Options, TextInput};

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

/// Opens an engine of a bundle for text generation, in a process of its own where children can be started. Fails where
/// the bundle is for another task, and where the files are not what the manifest says.
pub fn open_generator(bundle: &Bundle, entry: &EngineEntry, options: Options) -> Result<Generator> {
    let manifest = &bundle.manifest;
    if manifest.task != Task::TextGeneration {
        return Err(Error::bad_input(format!("the bundle is for {}, not for {}", manifest.task, Task::TextGeneration)));
    }
    let generation = manifest.generation.clone().unwrap_or_default();
    let positions = [manifest.positions, generation.positions].into_iter().flatten().min();
    // Every vocabulary has a token 0.
    let pad = generation.pad.or(generation.eos.first().copied()).unwrap_or_default();
    let encoder = bundle.encoder().map_err(|e| bundle.named_error(e))?;
    let opened = open_isolated(entry.runtime, &bundle.engine(entry)?, options, DecoderLimits { positions, pad });
    let decoding = opened.map_err(|e| bundle.explained(entry.runtime, bundle.named_error(e)))?;
    bundle.check_unchanged()?;
    let special = SpecialTokens { eos: generation.eos, bos: generation.bos };
    Ok(Generator::new(decoding, encoder, special).with_positions(positions))
}

/// What a manifest says of generation that is not done, in words.
pub fn not_applied(manifest: &Manifest) -> Option<String> {
    let fields = manifest.generation.as_ref().map(|generation| generation.not_applied.join(", "))?;
    let said = || format!("{} asks for {fields}, which is not applied: greedy tokens", GENERATION_CONFIG);
    (!fields.is_empty()).then(said)
}
