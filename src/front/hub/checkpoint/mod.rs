//! Readers of trained weights: a folder in the Hub layout becomes a [`Checkpoint`].

mod chat;
mod config;
mod folder;
mod foreign;
mod generation;
pub mod labels;
pub mod licence;
mod names;
mod quantized;
mod sentence;
pub mod shards;
mod state;
pub mod torch;
mod weights;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, printable};
use crate::file::check_searchable;
use crate::front::folder::Folder;
use crate::ir::DType;
use crate::json;
use crate::presence;

use folder::read_state;

pub use crate::front::tokenizer::{FILE as TOKENIZER_FILE, Tokenizer, TokenizerUse};
pub use chat::{CHAT_TEMPLATE, CHAT_TEMPLATE_JSON, CHAT_TEMPLATES, ChatFile, ChatFiles, chat_template_files};
pub use config::{CommonConfig, CrossEncoder, StatedProblem};
pub use generation::GenerationConfig;
pub use names::common as common_prefix;
pub use quantized::{Quantized, read as read_quantized};
pub use sentence::{
    Dense, LogitScore, Messages, ModuleKind, Pooling, Prompt, Purpose, SentenceModule, SentenceModules,
};
pub use state::{Scope, Size, StateDict, Tensor};
pub use weights::read_weights;

/// The file with the defaults of generation.
pub const GENERATION: &str = "generation_config.json";

/// A trained model: its configuration, its tensors and the folder they came from.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The folder, or the file that holds all.
    pub dir: PathBuf,
    /// The files of the encoder; its folder is mostly the same.
    pub encoder: Folder,
    /// The text of `config.json`; each family reads its own fields from it.
    pub config: String,
    /// The fields of `config.json` that every family has.
    pub common: CommonConfig,
    /// The modules of sentence-transformers after the encoder, if this is a model of its.
    pub sentence: Option<SentenceModules>,
    /// The tensors.
    pub state: StateDict,
    /// How its weights were quantized, where they were.
    pub quantized: Option<Quantized>,
    /// The files that were read, configuration first.
    pub files: Vec<PathBuf>,
    /// Warnings of its reader.
    pub notes: Vec<String>,
}

impl Checkpoint {
    /// Opens a folder in the Hub layout: `config.json`, and `model.safetensors` or `pytorch_model.bin`, whole or in
    /// shards.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        check_searchable(dir)?;
        if !presence::is_dir(dir)? {
            return Err(Error::bad_input(format!("{} is not a folder", dir.display()))
                .hint("give the folder that holds config.json and model.safetensors"));
        }
        let sentence = sentence::read(dir)?;
        let encoder: PathBuf = dir.components().chain(sentence.iter().flat_map(|s| s.encoder.components())).collect();
        let config_path = encoder.join("config.json");
        foreign::refuse_adapter(dir, &encoder)?;
        let config = json::read_text(&config_path)?;
        let common = json::parse(&config, "config.json")?;
        let (state, weights) = read_state(&encoder)?;
        let modules = sentence.iter().flat_map(|modules| modules.files.clone());
        let files = std::iter::once(config_path).chain(weights).chain(modules).collect();
        let (state, quantized) = quantized::read(&common, state.without_wrappers()?)?;
        let state = state.with_current_names()?;
        let encoder = encoder.into();
        let (dir, notes) = (dir.to_owned(), Vec::new());
        Ok(Checkpoint { dir, encoder, config, common, sentence, state, quantized, files, notes })
    }

    /// The files that say something of the whole model, such as its licence.
    pub fn around(&self) -> Folder {
        match self.encoder.path() == self.dir {
            true => self.encoder.clone(),
            false => self.dir.as_path().into(),
        }
    }

    /// Takes the modules that sentence-transformers saved in a folder, in place of this checkpoint's. Returns whether
    /// there are any. Fails where that folder keeps its encoder in a separate folder: it is no part of this checkpoint
    /// then.
    pub fn take_modules(&mut self, dir: &Path) -> Result<bool> {
        let Some(modules) = sentence::read(dir)? else { return Ok(false) };
        if !modules.encoder.as_os_str().is_empty() {
            return Err(Error::unsupported("the encoder is in a separate folder").at("modules.json"));
        }
        self.sentence = Some(modules);
        Ok(true)
    }

    /// Fails where a weight is of integers, or of 8-bit floats beside scales, that no quantization of `config.json` explains.
    pub fn check_unquantized(&self) -> Result<()> {
        let last = |name: &str| name.rsplit('.').next().is_some_and(|part| ["weight", "qweight"].contains(&part));
        let is_scaled = |name: &str, tensor: &Tensor| {
            let stem = name.strip_suffix("weight").unwrap_or(name);
            let below = |other: &str| other.strip_prefix(stem).is_some_and(|end| end.contains("scale"));
            tensor.weight.packing().is_some()
                && !tensor.weight.is_quantized()
                && self.state.iter().any(|(other, _)| below(other))
        };
        let found = self.state.iter().find_map(|(name, tensor)| match tensor.weight.dtype().is_float() {
            false if last(name) => Some((name, tensor, tensor.weight.dtype().to_string())),
            true if is_scaled(name, tensor) => Some((name, tensor, "8-bit floats beside a scale".to_owned())),
            _ => None,
        });
        let Some((name, tensor, what)) = found else { return Ok(()) };
        Err(Error::unsupported(format!("the model is already quantized: tensor `{}` holds {what}", printable(name)))
            .at(tensor.file.to_string())
            .hint(
                "give the checkpoint that it was quantized from, or say how it was quantized in `quantization_config` of \
                 config.json",
            ))
    }

    /// How many numbers the tensors hold, and in which element types.
    pub fn parameters(&self) -> (usize, Vec<DType>) {
        let stored = self.state.iter().filter(|(_, tensor)| tensor.weight.packing().is_none());
        let mut dtypes: Vec<DType> = stored.map(|(_, t)| t.weight.dtype()).collect();
        dtypes.sort();
        dtypes.dedup();
        (self.state.iter().map(|(_, t)| t.weight.shape().iter().product::<usize>()).sum(), dtypes)
    }
}
