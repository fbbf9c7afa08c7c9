//! Readers of trained weights: a folder in the Hub layout becomes a [`Checkpoint`].

mod foreign;
pub mod generation;
pub mod labels;
pub mod licence;
mod names;
mod sentence;
pub mod shards;
mod state;
mod tokenizer;
pub mod torch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result, printable};
use crate::file::check_searchable;
use crate::ir::{DType, Weight};
use crate::presence;
use crate::{json, safetensors};

pub use generation::GenerationConfig;
use labels::Names;
pub use names::common as common_prefix;
pub use sentence::{Dense, ModuleKind, Pooling, Prompt, Purpose, SentenceModule, SentenceModules};
pub use state::{Scope, Size, StateDict, Tensor};
pub use tokenizer::{Tokenizer, TokenizerUse};

/// A trained model: its configuration, its tensors and the folder they came from.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// The folder of the encoder, which is mostly the same.
    pub encoder: PathBuf,
    /// The text of `config.json`; each family reads its own fields from it.
    pub config: String,
    /// The fields of `config.json` that every family has.
    pub common: CommonConfig,
    /// What sentence-transformers puts after the encoder, if this is a model of its.
    pub sentence: Option<SentenceModules>,
    /// The tensors.
    pub state: StateDict,
    /// The files that were read, configuration first.
    pub files: Vec<PathBuf>,
}

/// What `config.json` says of any model.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CommonConfig {
    /// The family, e.g. `bert`.
    pub model_type: Option<String>,
    /// The classes of `transformers` that the weights were saved from.
    #[serde(default)]
    pub architectures: Option<Vec<String>>,
    /// Names of a classifier's answers, by number.
    #[serde(default, deserialize_with = "labels::scalars")]
    pub id2label: Option<Names>,
    /// Numbers of a classifier's answers, by name.
    #[serde(default, deserialize_with = "labels::scalars")]
    pub label2id: Option<Names>,
    /// How many answers a classifier has, where no names say it.
    #[serde(default)]
    pub num_labels: Option<usize>,
    /// The classes of a checkpoint's own code, by those of `transformers` that they stand for.
    #[serde(default)]
    pub auto_map: Option<BTreeMap<String, Value>>,
    /// What a classifier was trained for, where that is said.
    #[serde(default)]
    pub problem_type: Option<StatedProblem>,
    /// What sentence-transformers keeps of a cross-encoder.
    #[serde(default)]
    pub sentence_transformers: Option<CrossEncoder>,
    /// The same before its version 4.
    #[serde(default)]
    pub sbert_ce_default_activation_function: Option<String>,
    /// Number of tokens.
    #[serde(default)]
    pub vocab_size: Option<usize>,
    /// Longest sequence that the positions cover, in tokens.
    #[serde(default)]
    pub max_position_embeddings: Option<usize>,
    /// How the weights were quantized, where they were.
    #[serde(default)]
    pub quantization_config: Option<QuantizationConfig>,
}

/// What `config.json` says of weights that are quantized already.
#[derive(Clone, Debug, Deserialize)]
pub struct QuantizationConfig {
    /// By what, e.g. `bitsandbytes`.
    #[serde(default)]
    pub quant_method: Option<String>,
}

/// What a classifier was trained for, by the names of `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatedProblem {
    /// One of the labels.
    SingleLabelClassification,
    /// Any number of the labels.
    MultiLabelClassification,
    /// Numbers.
    Regression,
}

/// What sentence-transformers keeps of a cross-encoder in config.json.
#[derive(Clone, Debug, Deserialize)]
pub struct CrossEncoder {
    /// The class in `torch.nn` of what is done to the logits.
    #[serde(default)]
    pub activation_fn: Option<String>,
}

impl CommonConfig {
    /// The class of what a cross-encoder does to its logits, where that is said.
    pub fn cross_encoder_activation(&self) -> Option<&str> {
        let current = self.sentence_transformers.as_ref().and_then(|kept| kept.activation_fn.as_ref());
        current.or(self.sbert_ce_default_activation_function.as_ref()).map(String::as_str)
    }

    /// The models of a checkpoint's own code.
    pub fn own_classes(&self) -> impl Iterator<Item = &str> {
        let models = self.auto_map.iter().flatten().filter(|(stands_for, _)| stands_for.starts_with("AutoModel"));
        models.filter_map(|(_, class)| class.as_str())
    }
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
        let state = state.without_wrappers()?.with_current_names()?;
        Ok(Checkpoint { dir: dir.to_owned(), encoder, config, common, sentence, state, files })
    }

    /// Takes the modules that sentence-transformers saved in a folder, in place of this checkpoint's. Whether there are
    /// any. Fails where that folder keeps its encoder in a folder of its own: it is no part of this checkpoint then.
    pub fn take_modules(&mut self, dir: &Path) -> Result<bool> {
        let Some(modules) = sentence::read(dir)? else { return Ok(false) };
        if !modules.encoder.as_os_str().is_empty() {
            return Err(Error::unsupported("the encoder is in a folder of its own").at("modules.json"));
        }
        self.sentence = Some(modules);
        Ok(true)
    }

    /// Fails where the weights are quantized already: what is drawn from a checkpoint is in floating point.
    pub fn check_unquantized(&self) -> Result<()> {
        const HINT: &str = "give the checkpoint that it was quantized from, in floating point";
        if let Some(config) = &self.common.quantization_config {
            let by =
                config.quant_method.as_ref().map(|method| format!(" by {}", printable(method))).unwrap_or_default();
            let error = Error::unsupported(format!("the model is already quantized{by}"));
            return Err(error.at("config.json: quantization_config").hint(HINT));
        }
        let last = |name: &str| name.rsplit('.').next().is_some_and(|part| ["weight", "qweight"].contains(&part));
        match self.state.iter().find(|(name, tensor)| last(name) && !tensor.weight.dtype().is_float()) {
            None => Ok(()),
            Some((name, tensor)) => Err(Error::unsupported(format!(
                "the model is already quantized: tensor `{}` holds {}",
                printable(name),
                tensor.weight.dtype()
            ))
            .at(tensor.file.to_string())
            .hint(HINT)),
        }
    }

    /// How many numbers the tensors hold, and in which element types.
    pub fn parameters(&self) -> (usize, Vec<DType>) {
        let mut dtypes: Vec<DType> = self.state.iter().map(|(_, t)| t.weight.dtype()).collect();
        dtypes.sort();
        dtypes.dedup();
        (self.state.iter().map(|(_, t)| t.weight.shape().iter().product::<usize>()).sum(), dtypes)
    }
}

/// The tensors of a folder, in the best of the forms that it has, and the files that were read.
fn read_state(dir: &Path) -> Result<(StateDict, Vec<PathBuf>)> {
    for stem in ["model.safetensors", "pytorch_model.bin"] {
        let one = dir.join(stem);
        if presence::has_file(&one)? {
            let file: Arc<str> = stem.into();
            let mut state = StateDict::default();
            for (name, weight) in read_weights(&one)? {
                state.insert(name, Tensor { weight, file: file.clone() });
            }
            return Ok((state, vec![one]));
        }
        let index = dir.join(format!("{stem}.index.json"));
        if presence::has_file(&index)? {
            return shards::read(&index);
        }
    }
    Err(Error::bad_input("neither model.safetensors nor pytorch_model.bin is there").at(dir.display().to_string()))
}

/// The tensors of one file, by the form that its name says.
pub fn read_weights(path: &Path) -> Result<Vec<(String, Weight)>> {
    match path.extension().is_some_and(|extension| extension == "bin") {
        true => torch::read(path),
        false => safetensors::read(path),
    }
}
