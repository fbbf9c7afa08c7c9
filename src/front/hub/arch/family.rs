//! What a family is, and what its graph is built of.

use serde_json::{Map, Value};

use super::blocks::Blocks;
use super::config::{Class, Fields};
use crate::error::Result;
use crate::front::hub::adapter::hub::{FlexibleHead, Insertions};
use crate::front::hub::checkpoint::{Scope, SentenceModules};
use crate::ir::Graph;
use crate::task::head::Head;

/// A model family.
pub struct Family {
    /// The `model_type` of its configurations.
    pub model_type: &'static str,
    /// The prefix of its classes' names in `transformers`.
    pub(super) class: &'static str,
    /// The ends of the names of those that are built, and the head of each.
    pub(super) classes: &'static [(&'static str, Head)],
    /// The prefix of the encoder's weights in a model that was saved with a head.
    pub prefix: &'static str,
    /// The defaults of its configuration's class, as JSON.
    pub(super) defaults: &'static str,
    /// Other names of fields, each with the one that counts.
    pub(super) renamed: &'static [(&'static str, &'static str)],
    /// Whose head the layer `classifier` is.
    pub(super) classifier: ClassifierOf,
    /// The tensors that its heads over the vocabulary share with the encoder, for each form of head.
    pub shared: &'static [Shared],
    /// Writes the settings that versions of `transformers` have different fields for, where there are any.
    pub(super) restated: Option<fn(&Fields) -> Result<Restated>>,
    /// The ends of names of tensors that only training reads, and that every model is saved with.
    pub(super) unread: &'static [&'static str],
    /// What sets a decoder apart; none for encoders.
    pub(super) decoder: Option<&'static Decoder>,
    pub(super) build: fn(&Context) -> Result<Graph>,
}

/// A family whose tokens see nothing after them, and whose head over the vocabulary generates.
pub(super) struct Decoder {
    /// The ends of names that old files have for what the code computes.
    pub(super) buffers: &'static [&'static str],
    /// The ends of names of weights that are laid out `[inputs, outputs]`: those of `Conv1D` in `transformers`.
    pub(super) conv1d: &'static [&'static str],
}

impl Family {
    /// The configuration of one of its models, by the text of `config.json`.
    pub(super) fn fields(&self, text: &str) -> Result<Fields> {
        let Family { model_type, defaults, renamed, decoder, .. } = self;
        Fields::read(text, &Class { model_type, defaults, renamed, decoder: decoder.is_some() })
    }

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

/// What the layer `classifier` is for, where only the tensors of a family's models show it.
pub(super) enum ClassifierOf {
    /// One that labels texts, or compares choices, where that tensor is there; else one that labels tokens.
    TextsWith(&'static str),
    /// One that labels tokens; with one row, and that tensor beside it, one that compares choices. A head that labels texts has
    /// other names.
    TokensWithout(&'static str),
    /// One that labels tokens.
    Tokens,
    /// One that labels texts or tokens, or finds answers.
    Any,
}

/// The names of the tensors that a class shares.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// The word embeddings.
    pub embeddings: &'static str,
    /// The weight of the projection to the vocabulary.
    pub decoder: &'static str,
    /// Its bias.
    pub bias: &'static str,
    /// The other name of the bias, where it has two.
    pub head_bias: Option<&'static str>,
    /// Whether the class has its own projection, which `tie_word_embeddings` decides about.
    pub may_differ: bool,
}

impl Shared {
    /// Names of a projection that is a module, whose bias has one name.
    pub(super) const fn one(embeddings: &'static str, [decoder, bias]: [&'static str; 2]) -> Shared {
        Shared { embeddings, decoder, bias, head_bias: None, may_differ: true }
    }

    /// Names of a projection whose bias is also `head_bias`, that of the head around it.
    pub(super) const fn two(embeddings: &'static str, decoder: [&'static str; 2], head_bias: &'static str) -> Shared {
        Shared { head_bias: Some(head_bias), ..Shared::one(embeddings, decoder) }
    }

    /// Names of a projection that the class does not have: it always uses the embeddings. `decoder` is where kilnc looks
    /// for one all the same.
    pub(super) const fn always(embeddings: &'static str, decoder: [&'static str; 2]) -> Shared {
        Shared { may_differ: false, ..Shared::one(embeddings, decoder) }
    }
}

/// The sources of a family's graph.
pub struct Context<'a> {
    pub(super) family: &'static Family,
    pub(super) config: Fields,
    /// The modules of sentence-transformers, and their tensors.
    pub(super) sentence: Option<(&'a SentenceModules, Scope<'a>)>,
    /// The head to build.
    pub(super) head: Head,
    /// The name of the task that it is for, for messages.
    pub(super) task_name: &'static str,
    pub(super) weights: Scope<'a>,
    pub(super) inserted: &'a Insertions,
}

impl Context<'_> {
    /// An empty graph of that name, into which the adapters are built as its layers are.
    pub(super) fn blocks(&self, name: &str) -> Blocks {
        Blocks::new(name).with_adapters(&self.inserted.bottlenecks)
    }

    /// An adapter's head to build in place of the family's own, if it is of that kind.
    pub(super) fn flexible_head(&self) -> Option<&FlexibleHead> {
        self.inserted.flexible().filter(|head| head.kind.head() == self.head)
    }
}
