//! Model families: from tensors and configuration to a graph.
//!
//! A family is one file: its configuration, the names of its weights, and `build`, made of the shared [`blocks`].
//! [`FAMILIES`] lists them.

mod albert;
mod bert;
pub mod blocks;
mod bloom;
mod build;
mod classes;
mod cohere;
mod config;
mod deberta;
mod distilbert;
mod electra;
mod flexible;
mod gemma;
mod glm4;
mod gpt2;
mod gpt_neox;
mod granite;
mod heads;
mod hypercomplex;
mod inserted;
mod layer_types;
mod llama;
mod mistral;
mod modernbert;
mod mpnet;
mod olmo2;
mod openai_gpt;
mod opt;
mod phi;
mod phi3;
mod qwen;
mod roberta;
mod rope;
mod sentence;
mod shared;
mod smollm3;
mod stack;
mod starcoder2;
mod task;
mod xlnet;

use serde_json::{Map, Value};

use crate::error::{Error, Result, by_nearness, nearest, printable};
use crate::front::hub::adapter::hub::{FlexibleHead, Insertions};
use crate::front::hub::checkpoint::{Checkpoint, CommonConfig, Scope, SentenceModules, StateDict};
use crate::ir::Graph;
use crate::task::head::Head;

use blocks::Blocks;
use classes::ClassifierOf;
use config::Fields;

pub use build::{Built, build, build_with};
pub use classes::is_bare;
pub use shared::{Shared, contradictions, is_tied, same};
pub use task::Sources;

/// A model family.
pub struct Family {
    /// The `model_type` of its configurations.
    pub model_type: &'static str,
    /// The prefix of its classes' names in `transformers`.
    class: &'static str,
    /// The ends of the names of those that are built, and the head of each.
    classes: &'static [(&'static str, Head)],
    /// The prefix of the encoder's weights in a model that was saved with a head.
    pub prefix: &'static str,
    /// The defaults of its configuration's class, as JSON.
    defaults: &'static str,
    /// Other names of fields, each with the one that counts.
    renamed: &'static [(&'static str, &'static str)],
    /// Whose head the layer `classifier` is.
    classifier: ClassifierOf,
    /// The tensors that its heads over the vocabulary share with the encoder, for each form of head.
    pub shared: &'static [Shared],
    /// Writes the settings that versions of `transformers` have different fields for, where there are any.
    restated: Option<fn(&Fields) -> Result<Restated>>,
    /// The ends of names of tensors that only training reads, and that every model is saved with.
    unread: &'static [&'static str],
    /// What sets a decoder apart; none for encoders.
    decoder: Option<&'static Decoder>,
    build: fn(&Context) -> Result<Graph>,
}

/// A family whose tokens see nothing after them, and whose head over the vocabulary generates.
struct Decoder {
    /// The ends of names that old files have for what the code computes.
    buffers: &'static [&'static str],
    /// The ends of names of weights that are laid out `[inputs, outputs]`: those of `Conv1D` in `transformers`.
    conv1d: &'static [&'static str],
}

impl Family {
    /// Whether a tensor of that name says nothing where no part of the graph reads it: the code computes it itself, or
    /// only training reads it.
    pub fn passes_over(&self, name: &str) -> bool {
        let buffers = self.decoder.map(|decoder| decoder.buffers).unwrap_or_default();
        buffers.iter().chain(self.unread).any(|end| name.ends_with(end))
    }
}

/// What a configuration in the fields of every version of `transformers`.
#[derive(Debug, Default)]
pub struct Restated {
    /// The fields, which mean the same model to each.
    pub fields: Map<String, Value>,
    /// Settings that a version has no field for.
    pub warnings: Vec<String>,
}

/// The fields that a configuration needs besides its own so that versions 4 and 5 of `transformers` read the same model.
pub fn restated(checkpoint: &Checkpoint) -> Result<Restated> {
    let family = family(&checkpoint.common)?;
    let restate = |of: fn(&Fields) -> Result<Restated>| of(&Fields::read(&checkpoint.config, family)?);
    family.restated.map_or_else(|| Ok(Restated::default()), restate)
}

/// Every family there is.
pub static FAMILIES: &[Family] = &[
    albert::FAMILY,
    bert::FAMILY,
    bloom::FAMILY,
    roberta::CAMEMBERT,
    cohere::FAMILY,
    deberta::FAMILY,
    distilbert::FAMILY,
    electra::FAMILY,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
    glm4::FAMILY,
    gpt2::FAMILY,
    gpt_neox::FAMILY,
    granite::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    modernbert::FAMILY,
    mpnet::FAMILY,
    olmo2::FAMILY,
    openai_gpt::FAMILY,
    opt::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    qwen::QWEN2,
    qwen::QWEN3,
    roberta::ROBERTA,
    smollm3::FAMILY,
    starcoder2::FAMILY,
    roberta::XLM_ROBERTA,
    xlnet::FAMILY,
];

/// The paths under which any family's heads are saved.
const HEADS: &[&str] = &[
    "answer_class",
    "classifier",
    "cls",
    "decoder",
    "discriminator_predictions",
    "end_logits",
    "generator_lm_head",
    "generator_predictions",
    "head",
    "lm_head",
    "lm_loss",
    "lm_predictions",
    "logits_proj",
    "mask_predictions",
    "multiple_choice_head",
    "pre_classifier",
    "predictions",
    "qa_outputs",
    "score",
    "sequence_summary",
    "sop_classifier",
    "start_logits",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_transform",
];

/// The same of decoders, whose models are called `decoder` themselves in some families.
const DECODERS_HEADS: &[&str] =
    &["classifier", "embed_out", "lm_head", "multiple_choice_head", "qa_outputs", "score", "sequence_summary"];

/// The sources of a family's graph.
pub struct Context<'a> {
    family: &'static Family,
    config: Fields,
    /// The modules of sentence-transformers, and their tensors.
    sentence: Option<(&'a SentenceModules, Scope<'a>)>,
    /// The head to build.
    head: Head,
    /// The name of the task that it is for, for messages.
    task_name: &'static str,
    weights: Scope<'a>,
    inserted: &'a Insertions,
}

impl Context<'_> {
    /// An empty graph of that name, into which the adapters are built as its layers are.
    fn blocks(&self, name: &str) -> Blocks {
        Blocks::new(name).with_adapters(&self.inserted.bottlenecks)
    }

    /// An adapter's head to build in place of the family's own, if it is of that kind.
    fn flexible_head(&self) -> Option<&FlexibleHead> {
        self.inserted.flexible().filter(|head| head.kind.head() == self.head)
    }
}

/// The family of a checkpoint. Fails, naming the known ones, nearest first, where `model_type` is another.
pub fn family(common: &CommonConfig) -> Result<&'static Family> {
    let names = FAMILIES.iter().map(|family| family.model_type);
    let model_type = common.model_type.as_deref().unwrap_or_default();
    if let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) {
        return Ok(family);
    }
    let error = match &common.model_type {
        None => Error::bad_input("`model_type` is missing").at("config.json"),
        Some(other) => {
            Error::unsupported(format!("unknown model type `{}`", printable(other))).at("config.json: model_type")
        }
    };
    let near = nearest(model_type, names.clone()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    Err(error.hint(format!("{near}known, nearest first: {}", by_nearness(model_type, names).join(", "))))
}

/// The checkpoint's tensors under the names that the family's model with a head has, every weight of a linear layer as
/// `[outputs, inputs]`.
pub fn canonical_state(checkpoint: &Checkpoint) -> Result<StateDict> {
    let family = family(&checkpoint.common)?;
    let mut state = checkpoint.state.clone();
    if family.decoder.is_some() && family.prefix == "model" {
        // Models that answer questions are saved under an older name.
        state = state.moved("transformer", family.prefix)?;
    }
    let heads = if family.decoder.is_some() { DECODERS_HEADS } else { HEADS };
    state = state.with_prefix(family.prefix, heads)?;
    if let Some(decoder) = family.decoder {
        state = state.with_conv1d(decoder.conv1d)?;
    }
    shared::complete(&mut state, family, &checkpoint.config)?;
    Ok(state)
}

/// Adds the defaults of a configuration's class to the known fields of a model.
pub fn complete(checkpoint: &mut Checkpoint) -> Result<()> {
    let fields = Fields::read(&checkpoint.config, family(&checkpoint.common)?)?;
    let CommonConfig { vocab_size, max_position_embeddings, .. } = &mut checkpoint.common;
    *vocab_size = vocab_size.or(fields.size("vocab_size"));
    let positions = ["max_position_embeddings", "n_positions"].into_iter().find_map(|name| fields.size(name));
    *max_position_embeddings = max_position_embeddings.or(positions);
    Ok(())
}
