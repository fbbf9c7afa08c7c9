//! Model families: from tensors and configuration to a graph.
//!
//! A family is one file: its configuration, the names of its weights, and `build`, made of the shared [`blocks`].
//! [`FAMILIES`] lists them.

mod albert;
mod bert;
pub mod blocks;
mod config;
mod deberta;
mod distilbert;
mod electra;
mod flexible;
mod gpt2;
mod heads;
mod hypercomplex;
mod inserted;
mod modernbert;
mod mpnet;
mod openai_gpt;
mod roberta;
mod sentence;
mod shared;
mod task;
mod xlnet;

use serde_json::{Map, Value};

use crate::error::{Error, Result, by_nearness, nearest, printable};
use crate::front::hub::adapter::hub::{FlexibleHead, Insertions};
use crate::front::hub::checkpoint::{Checkpoint, CommonConfig, Scope, SentenceModules, StateDict};
use crate::ir::Graph;
use crate::task::id::Task;

use blocks::Blocks;
use config::Fields;
use task::ClassifierOf;

pub use shared::{Shared, contradictions, is_tied, same};

/// A model family.
pub struct Family {
    /// The `model_type` of its configurations.
    pub model_type: &'static str,
    /// The prefix of its classes' names in `transformers`.
    class: &'static str,
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
    /// What sets a decoder apart; none for encoders.
    decoder: Option<&'static Decoder>,
    build: fn(&Context) -> Result<Graph>,
}

/// A family whose tokens see nothing after them, and whose head over the vocabulary generates.
struct Decoder {
    /// The ends of its classes' names, and what each is for.
    classes: &'static [(&'static str, Task)],
    /// The ends of names that old files have for what the code computes.
    buffers: &'static [&'static str],
    /// The ends of names of weights that are laid out `[inputs, outputs]`: those of `Conv1D` in `transformers`.
    conv1d: &'static [&'static str],
}

impl Family {
    /// Whether a tensor of that name is one that the code computes itself, and no part of what was trained.
    pub fn computes(&self, name: &str) -> bool {
        let buffers = self.decoder.map(|decoder| decoder.buffers).unwrap_or_default();
        buffers.iter().any(|end| name.ends_with(end))
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
    roberta::CAMEMBERT,
    deberta::FAMILY,
    distilbert::FAMILY,
    electra::FAMILY,
    gpt2::FAMILY,
    modernbert::FAMILY,
    mpnet::FAMILY,
    openai_gpt::FAMILY,
    roberta::ROBERTA,
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

/// The sources of a family's graph.
pub struct Context<'a> {
    family: &'static Family,
    config: Fields,
    /// The adapter's head, and its tensors.
    sentence: Option<(&'a SentenceModules, Scope<'a>)>,
    task: Task,
    weights: Scope<'a>,
    inserted: &'a Insertions,
}

impl Context<'_> {
    /// An empty graph of that name, into which the adapters are built as its layers are.
    fn blocks(&self, name: &str) -> Blocks {
        Blocks::new(name).with_adapters(&self.inserted.bottlenecks)
    }

    /// A head to build in place of the family's own, if it is for the task.
    fn flexible_head(&self) -> Option<&FlexibleHead> {
        self.inserted.head.as_ref().filter(|head| head.kind.task() == self.task)
    }
}

/// A graph, its task, and the unused tensors.
#[derive(Debug)]
pub struct Built {
    /// The graph.
    pub graph: Graph,
    /// Its task.
    pub task: Task,
    /// Tensors of the checkpoint that no part of the graph reads.
    pub unused: Vec<String>,
    /// Warnings about the configuration.
    pub warnings: Vec<String>,
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
    let mut state = checkpoint.state.clone().with_prefix(family.prefix, HEADS)?;
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

/// Builds the graph of `task` from a checkpoint's configuration and the given tensors (the checkpoint's own, or with
/// adapters merged). Without a task, the checkpoint decides it: by its modules, its class or the tensors of its head.
pub fn build(checkpoint: &Checkpoint, state: &StateDict, task: Option<Task>) -> Result<Built> {
    build_with(checkpoint, state, &Insertions::default(), task)
}

/// Like [`build`], with bottleneck adapters and heads that are not the family's own.
pub fn build_with(
    checkpoint: &Checkpoint,
    state: &StateDict,
    inserted: &Insertions,
    task: Option<Task>,
) -> Result<Built> {
    let family = family(&checkpoint.common)?;
    let config = Fields::read(&checkpoint.config, family)?;
    let task = match task.or(inserted.task) {
        Some(task) => task,
        None => task::of(family, checkpoint, &canonical_state(checkpoint)?, state)?,
    };
    if let Some(class) = checkpoint.common.own_classes().next() {
        config.warn(format!(
            "config.json names its own code (auto_map: {}), which is never run; the model is built as a {}",
            printable(class),
            family.model_type
        ));
    }
    let context = Context {
        family,
        config,
        sentence: checkpoint.sentence.as_ref().map(|modules| (modules, Scope::root(&modules.state))),
        task,
        weights: Scope::root(state),
        inserted,
    };
    if task.is_over_vocabulary() && inserted.head.is_none() {
        shared::check(state, family, &checkpoint.config)?;
    }
    let graph = (family.build)(&context)?;
    let scopes = context.sentence.iter().map(|(_, scope)| scope).chain([&context.weights]);
    let unused: Vec<&str> = scopes.flat_map(Scope::unread).collect();
    if let Some((tensor, adapter)) = inserted.left_over(unused.iter().copied()) {
        return Err(Error::unsupported(format!(
            "tensor `{}` of the adapter `{}` belongs to no part of a {} model by its configuration",
            printable(tensor),
            printable(adapter),
            family.model_type
        ))
        .at("adapter_config.json")
        .hint(
            "bottleneck adapters are supported in albert, bert, deberta-v2, distilbert, electra, roberta, xlm-roberta",
        ));
    }
    let unused = unused.into_iter().map(str::to_owned).collect();
    Ok(Built { graph, task, unused, warnings: context.config.into_warnings() })
}
