//! What AdapterHub's adapters and heads add to a model's graph, as families read it.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{Hypercomplex, Place, Reduction, Residual, Scaling, at, positive};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{StateDict, Tensor};
use crate::ir::Weight;
use crate::task::head::Head;

/// The additions of AdapterHub's adapters and heads to a model's graph.
#[derive(Clone, Debug, Default)]
pub struct Insertions {
    /// Bottleneck adapters, those nearest to the layers first.
    pub bottlenecks: Vec<Bottleneck>,
    /// A head.
    pub head: Option<AddedHead>,
    /// The labels of the head.
    pub labels: Option<BTreeMap<String, String>>,
    /// The tensors that some part of the graph has to read, and the adapter that has them.
    tensors: BTreeMap<String, String>,
    /// How many adapters there are, of any kind.
    pub(super) adapters: usize,
    /// The adapter that has been merged into the weights.
    pub(super) linear: Option<String>,
}

impl Insertions {
    /// The head that is built in place of the family's own, where there is one.
    pub fn flexible(&self) -> Option<&FlexibleHead> {
        match &self.head {
            Some(AddedHead::Flexible(head)) => Some(head),
            Some(AddedHead::OfClass { .. }) | None => None,
        }
    }

    /// Puts a tensor of an adapter into the model: the graph has to read it.
    pub(super) fn insert(&mut self, state: &mut StateDict, name: String, weight: Weight, file: &str, adapter: &str) {
        self.tensors.insert(name.clone(), adapter.to_owned());
        state.insert(name, Tensor { weight, file: file.into() });
    }

    /// The first of the tensors `unread` that an adapter has for new nodes, and the adapter's name.
    pub fn left_over<'a>(&'a self, unread: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, &'a str)> {
        unread.into_iter().find_map(|name| self.tensors.get(name).map(|adapter| (name, adapter.as_str())))
    }
}

/// How a bottleneck adapter computes, and where it is inserted. `x` is its input, `y` the output of attention or
/// feed-forward.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    /// Its name, by which its tensors are called.
    pub name: String,
    /// The parts of a layer after which it is inserted.
    pub places: Vec<Place>,
    /// Layers that have none.
    pub leave_out: BTreeSet<usize>,
    /// Name of the non-linearity, in the words of `transformers`.
    pub non_linearity: String,
    /// Whether `x` is the input of attention or feed-forward, rather than the output.
    pub parallel: bool,
    /// Whether the model's residual and norm come before it.
    pub norm_before: bool,
    /// Whether the model's residual and norm come after it.
    pub norm_after: bool,
    /// Whether it begins with its own norm.
    pub own_norm_before: bool,
    /// Whether it ends with its own norm.
    pub own_norm_after: bool,
    /// Where its residual begins; parallel ones add to `y`.
    pub residual: Residual,
    /// Whether its residual is added before its own norm at the end.
    pub residual_in_norm: bool,
    /// The factor of its output.
    pub scaling: Scaling,
    /// Whether its output is multiplied by a gate: the mean over the tokens of `σ(w · x + b)`.
    pub gated: bool,
    /// The path of its invertible part, which follows the embeddings, and how much narrower that is inside.
    pub invertible: Option<(String, f64)>,
    /// How its projections are put together, where they are not simply there.
    pub hypercomplex: Option<Hypercomplex>,
    /// The path of the tensors that all layers share.
    pub shared: String,
    /// How much narrower it is inside, everywhere or by layer.
    pub(super) reduction: Reduction,
}

/// `width // factor`, as Python divides.
fn narrowed(width: usize, factor: f64) -> usize {
    (width as f64 / factor).floor() as usize
}

impl Bottleneck {
    /// The inner size in a layer of a model that is `hidden` wide. Fails where the configuration has none for it.
    pub fn inner(&self, layer: usize, hidden: usize) -> Result<usize> {
        let factor = match &self.reduction {
            Reduction::Everywhere(factor) => *factor,
            Reduction::ByLayer(factors) => {
                let found = factors.get(&layer.to_string()).or_else(|| factors.get("default"));
                *found.ok_or_else(|| {
                    Error::bad_input(format!("layer {layer} has none, and there is no default"))
                        .at(at("reduction_factor"))
                })?
            }
        };
        let factor = positive(factor).map_err(|e| e.at(at("reduction_factor")))?;
        Ok(narrowed(hidden, factor).max(1))
    }

    /// The inner size of a part of the invertible block that takes `width` channels.
    pub fn inner_invertible(&self, width: usize) -> usize {
        self.invertible.as_ref().map_or(0, |(_, factor)| narrowed(width, *factor))
    }

    /// Whether there is an adapter after that part of that layer.
    pub fn stands(&self, place: Place, layer: usize) -> bool {
        self.places.contains(&place) && !self.leave_out.contains(&layer)
    }
}

/// A head as a list of layers, with dropout between them, which inference ignores.
#[derive(Clone, Debug)]
pub struct FlexibleHead {
    /// The path of its tensors: `heads.` and its name.
    pub path: String,
    /// Its output.
    pub kind: HeadKind,
    /// Number of linear layers.
    pub layers: usize,
    /// Name of the non-linearity between them.
    pub activation: Option<String>,
    /// Whether it reads the pooled first token rather than the first token.
    pub use_pooler: bool,
    /// Whether a norm follows each layer but the last.
    pub layer_norm: bool,
}

/// The head of an adapter.
#[derive(Clone, Debug)]
pub enum AddedHead {
    /// One that the library describes, in place of the family's own.
    Flexible(FlexibleHead),
    /// That of a class of `transformers`.
    OfClass {
        /// The class.
        class: String,
        /// The adapter's folder, for messages.
        adapter: String,
    },
}

/// The output of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// One row of logits for each text.
    Classification,
    /// One row of logits for each token.
    Tagging,
    /// Where an answer begins and ends.
    QuestionAnswering,
    /// Logits over the vocabulary for each token.
    MaskedLm,
}

impl HeadKind {
    /// The head that it takes the place of.
    pub fn head(self) -> Head {
        match self {
            HeadKind::Classification => Head::TextLogits,
            HeadKind::Tagging => Head::TokenLogits,
            HeadKind::QuestionAnswering => Head::SpanLogits,
            HeadKind::MaskedLm => Head::MaskedTokens,
        }
    }
}
