//! The generator that a bundle is opened as.

use std::path::{Path, PathBuf};

use crate::bundle::{Bundle, EngineEntry, GENERATION_CONFIG, GenerationConfig};
use crate::error::{Error, Result};
use crate::runtime::Options;
use crate::runtime::generate::{DecoderLimits, Generator, SpecialTokens, open_isolated_with};
use crate::runtime::{Runtime, TextEncoder};
use crate::settings::LongTexts;
use crate::task::id::Task;

/// Opens an engine of a bundle for text generation, in a process of its own where children can be started. Fails where
/// the bundle is for another task, and where the files are not what the manifest says.
pub fn open_generator(bundle: &Bundle, entry: &EngineEntry, options: Options) -> Result<Generator> {
    let manifest = &bundle.manifest;
    if manifest.task != Task::TextGeneration {
        return Err(Error::bad_input(format!("the bundle is for {}, not for {}", manifest.task, Task::TextGeneration)));
    }
    let generation = manifest.generation.clone().unwrap_or_default();
    let positions = [manifest.positions, generation.positions].into_iter().flatten().min();
    let encoder = bundle.encoder().map_err(|e| bundle.named_error(e))?;
    let generation = GenerationConfig { positions, ..generation };
    let limited = (generation, manifest.long_texts);
    let opened = generator_of((entry.runtime, &bundle.engine(entry)?, &[]), options, encoder, limited);
    let generator = opened.map_err(|e| bundle.explained(entry.runtime, bundle.named_error(e)))?;
    bundle.check_unchanged()?;
    Ok(generator)
}

/// Opens a decoder with a cache in the file `model`, with adapters in files of ONNX Runtime's own, by its tokenizer and what
/// is known of generation with it.
pub fn generator_of(
    (runtime, model, adapters): (Runtime, &Path, &[PathBuf]),
    options: Options,
    encoder: TextEncoder,
    (generation, long): (GenerationConfig, Option<LongTexts>),
) -> Result<Generator> {
    let GenerationConfig { eos, bos, positions, strategy, .. } = generation;
    // Every vocabulary has a token 0.
    let pad = generation.pad.or(eos.first().copied()).unwrap_or_default();
    let decoding = open_isolated_with(runtime, model, adapters, options, DecoderLimits { positions, long, pad })?;
    let special = SpecialTokens { eos, bos };
    Ok(Generator::new(decoding, encoder, special).with_positions(positions).with_strategy(strategy))
}

/// What a checkpoint says of generation that is not done.
pub fn not_applied(generation: &GenerationConfig) -> Option<String> {
    let fields = generation.not_applied.join(", ");
    (!fields.is_empty()).then(|| format!("{GENERATION_CONFIG} asks for {fields}, which is not applied"))
}
