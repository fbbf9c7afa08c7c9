//! The blocks that families are made of.
//!
//! Nodes get the path of their weights as their name, and the role of the part they play.

mod conv;
mod decoder;
mod experts;
mod gated;
mod grouped;
mod norms;
mod relative;
mod rotary;

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as Misnamed;

use crate::error::{Error, Result};
use crate::front::hub::adapter::hub::{Bottleneck, Place};
use crate::front::hub::checkpoint::{Pooling, Scope, Size};
use crate::ir::{Builder, DType, Dim, Graph, Op, Part, Role, TensorType, ValueId, Weight};
use crate::ports::PortKind;

pub use conv::ShortConv;
pub use decoder::{DecoderInputs, DecoderLayer, Memory, Scores};
pub use experts::{ExpertWeights, Mixture, Weighing};
pub use gated::GatedNames;
pub use grouped::{AttentionNames, SEPARATE};
pub use norms::Norm;
pub use relative::LONGEST;
pub use rotary::{Angles, DynamicBase, Longer, Rotation, wave_lengths};

/// A non-linearity, by the names of `transformers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · Φ(x)`
    #[default]
    #[serde(alias = "gelu_python")]
    Gelu,
    /// Its tanh approximation, in the form of the first BERT.
    #[serde(alias = "gelu_fast", alias = "gelu_accurate", alias = "gelu_python_tanh")]
    GeluNew,
    /// Its tanh approximation.
    GeluPytorchTanh,
    /// `x · σ(1.702 x)`
    QuickGelu,
    /// `x · σ(x)`
    #[serde(alias = "swish")]
    Silu,
    /// `1 / (1 + e⁻ˣ)`
    Sigmoid,
    /// `x` where it is positive, else `x / 100`
    LeakyRelu,
    /// `max(x, 0)`
    Relu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The one that `transformers` calls that.
    pub fn named(name: &str) -> Option<Activation> {
        let name: serde::de::value::StrDeserializer<Misnamed> = name.into_deserializer();
        Activation::deserialize(name).ok()
    }
}

/// The sizes of one layer of an encoder.
#[derive(Clone, Copy, Debug)]
pub struct EncoderLayer {
    /// Width of the residual stream.
    pub hidden: Size,
    /// Width of the feed-forward block.
    pub inner: Size,
    /// Number of attention heads.
    pub heads: i64,
    /// The feed-forward block's non-linearity.
    pub activation: Activation,
    /// The epsilon of norms.
    pub epsilon: f32,
}

/// Where the weights of one layer are, under a family's names.
pub struct LayerWeights<'a> {
    /// The attention as a whole; names its node.
    pub attention: Scope<'a>,
    /// The query projection.
    pub query: Scope<'a>,
    /// The key projection.
    pub key: Scope<'a>,
    /// The value projection.
    pub value: Scope<'a>,
    /// The projection of the heads' outputs.
    pub attention_output: Scope<'a>,
    /// The norm after attention.
    pub attention_norm: Scope<'a>,
    /// The projection to the inner size.
    pub ffn_in: Scope<'a>,
    /// The projection back.
    pub ffn_out: Scope<'a>,
    /// The norm after the feed-forward block.
    pub ffn_norm: Scope<'a>,
    /// Bottleneck adapters, in families that AdapterHub's library puts them into.
    pub adapters: Option<AdapterScopes<'a>>,
}

impl<'a> LayerWeights<'a> {
    /// BERT's names, below the path of the layer.
    pub fn bert(p: &Scope<'a>) -> LayerWeights<'a> {
        let (attention, output) = (p.sub("attention.self"), p.sub("attention.output"));
        LayerWeights {
            query: attention.sub("query"),
            key: attention.sub("key"),
            value: attention.sub("value"),
            attention,
            attention_output: output.sub("dense"),
            attention_norm: output.sub("LayerNorm"),
            ffn_in: p.sub("intermediate.dense"),
            ffn_out: p.sub("output.dense"),
            ffn_norm: p.sub("output.LayerNorm"),
            adapters: Some(AdapterScopes {
                attention: output.sub("adapters"),
                ffn: p.sub("output.adapters"),
                number: None,
                attention_swapped: false,
            }),
        }
    }
}

/// Where the adapters of one layer keep their tensors.
pub struct AdapterScopes<'a> {
    /// Of those after attention.
    pub attention: Scope<'a>,
    /// Of those after the feed-forward block.
    pub ffn: Scope<'a>,
    /// The number by which adapters know the layer, where that is not its place in the model: layers that share their
    /// weights share their adapters.
    pub number: Option<usize>,
    /// Whether the library gives those after attention what went into it as what came out, and the reverse, as it does
    /// in ALBERT. They were trained so.
    pub attention_swapped: bool,
}

/// The end of half a layer: the model's residual and norm, and the adapters around them.
pub(super) struct Ending<'a> {
    /// The model's norm.
    pub norm: &'a Scope<'a>,
    /// The part that residual and norm play.
    pub part: Part,
    /// The adapters' tensors, in families that have a place for them.
    pub adapters: Option<&'a Scope<'a>>,
    /// Which half it is.
    pub place: Place,
    /// The place of the layer in the model.
    pub layer: usize,
    /// The number by which adapters know it.
    pub number: usize,
    /// The layer's sizes.
    pub sizes: &'a EncoderLayer,
}

/// How token types enter the embedding.
#[derive(Clone, Copy, Debug)]
pub enum TokenTypes {
    /// By an input, one number for each token, out of a table of that many rows.
    Input(ValueId, Size),
    /// All tokens are of type 0, out of a table of that many rows.
    First(Size),
    /// Not at all.
    None,
}

/// How the positions of tokens are counted.
#[derive(Clone, Copy, Debug)]
pub enum Positions {
    /// From 0 on, padding too.
    Absolute,
    /// From `pad + 1` on over the tokens that are not `pad`, which are all at `pad`.
    SkipPadding {
        /// The number of the padding token.
        pad: i64,
    },
    /// Not at all: attention knows of distances.
    None,
}

/// The embedding of an encoder: the sum of looked-up rows, and its norm.
#[derive(Clone, Copy, Debug)]
pub struct Embeddings {
    /// Size of the vocabulary.
    pub vocabulary: Size,
    /// Number of positions.
    pub positions: Size,
    /// How positions are counted.
    pub counted: Positions,
    /// Token types.
    pub token_types: TokenTypes,
    /// Width of the rows.
    pub width: Size,
    /// The norm's epsilon.
    pub epsilon: f32,
}

/// The inputs of all layers' attentions besides the hidden states.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs {
    /// `i64 [batch_size, sequence_length]`: 0 where a token is padding.
    pub mask: ValueId,
    /// The bias of the scores.
    pub bias: Option<ValueId>,
}

impl From<ValueId> for AttentionInputs {
    fn from(mask: ValueId) -> AttentionInputs {
        AttentionInputs { mask, bias: None }
    }
}

/// The number of heads, if it divides the width.
pub fn heads(heads: usize, hidden: usize) -> Result<i64> {
    if heads == 0 || hidden == 0 || !hidden.is_multiple_of(heads) {
        return Err(Error::bad_input(format!("`num_attention_heads` {heads} does not divide `hidden_size` {hidden}"))
            .at("config.json"));
    }
    i64::try_from(heads).map_err(|_| Error::bad_input(format!("{heads} heads are too many")).at("config.json"))
}

/// The factor of a sum of `terms` scores: one over the root of the head size times their number.
pub fn attention_scale(hidden: Size, heads: i64, terms: usize) -> f32 {
    (hidden.n as f32 / heads as f32 * terms as f32).sqrt().recip()
}

/// A graph under construction, in terms of blocks.
pub struct Blocks {
    builder: Builder,
    /// Constants by name, so that a weight that layers share is one constant; and what else all layers read.
    weights: HashMap<String, ValueId>,
    /// The adapters in the layers, those nearest to them first.
    adapters: Vec<Bottleneck>,
    /// What the layers' states have become.
    present: Vec<(PortKind, ValueId)>,
}

impl Blocks {
    /// An empty graph of that name.
    pub fn new(name: &str) -> Blocks {
        Blocks { builder: Builder::new(name), weights: HashMap::new(), adapters: Vec::new(), present: Vec::new() }
    }

    /// With these bottleneck adapters inserted.
    pub fn with_adapters(self, adapters: &[Bottleneck]) -> Blocks {
        Blocks { adapters: adapters.to_vec(), ..self }
    }

    /// The adapters in the layers.
    pub(super) fn adapters(&self) -> &[Bottleneck] {
        &self.adapters
    }

    /// The role of new nodes from here on.
    pub fn role(&mut self, role: impl Into<Role>) {
        self.builder.set_role(Some(role.into()));
    }

    /// An input of one integer for each token, `i64 [batch_size, sequence_length]`.
    pub fn token_input(&mut self, kind: PortKind) -> ValueId {
        self.builder
            .input(&kind.name(), TensorType::new(DType::I64, [Dim::from("batch_size"), Dim::from("sequence_length")]))
    }

    /// Rows for tokens, token types and positions, added and normed; names as BERT's.
    pub fn embeddings(&mut self, p: &Scope, e: &Embeddings, ids: ValueId) -> Result<ValueId> {
        let sum = self.embedded(p, e, ids)?;
        let normed = self.layer_norm(&p.sub("LayerNorm"), e.width, e.epsilon, sum)?;
        self.invertible(p, e.width, normed)
    }

    /// The same without the norm.
    pub fn embedded(&mut self, p: &Scope, e: &Embeddings, ids: ValueId) -> Result<ValueId> {
        self.role(Part::Embedding);
        let mut sum = self.words(&p.sub("word_embeddings"), [e.vocabulary, e.width], ids)?;
        let types = p.sub("token_type_embeddings");
        let segment = match e.token_types {
            TokenTypes::None => None,
            TokenTypes::Input(types_input, rows) => Some(self.embed(&types, [rows, e.width], types_input)?),
            TokenTypes::First(rows) => {
                let table = self.weight(&types, "weight", &[rows, e.width])?;
                Some(self.builder.node(types.path(), Op::Select { axis: 0, index: 0 }, &[table])?)
            }
        };
        if let Some(segment) = segment {
            sum = self.add(&p.full("segments"), sum, segment)?;
        }
        let places = p.sub("position_embeddings");
        let position = match e.counted {
            Positions::None => return Ok(sum),
            Positions::Absolute => {
                let table = self.weight(&places, "weight", &[e.positions, e.width])?;
                self.builder.node(places.path(), Op::PositionEmbed { offset: 0 }, &[table, ids])?
            }
            Positions::SkipPadding { pad } => {
                let counted =
                    self.builder.node(&p.full("position_ids"), Op::TokenPositions { pad, place: pad }, &[ids])?;
                self.embed(&places, [e.positions, e.width], counted)?
            }
        };
        self.add(&p.full("positions"), sum, position)
    }

    /// Rows for tokens, as many as the table has: the vocabulary may have been extended.
    pub fn words(&mut self, p: &Scope, [vocabulary, width]: [Size; 2], ids: ValueId) -> Result<ValueId> {
        self.embed(p, [p.rows("weight", vocabulary), width], ids)
    }

    /// Rows of the table `weight` of the scope.
    pub fn embed(&mut self, p: &Scope, table: [Size; 2], ids: ValueId) -> Result<ValueId> {
        let table = self.weight(p, "weight", &table)?;
        self.builder.node(p.path(), Op::Embed, &[table, ids])
    }

    /// The same of a table whose first rows are before all that are looked up.
    pub fn embed_after(&mut self, p: &Scope, table: [Size; 2], first: usize, ids: ValueId) -> Result<ValueId> {
        let rows = p.tensor("weight", &table)?.slice(0, first..table[0].n)?;
        let rows = self.constant(&p.full("weight"), rows);
        self.builder.node(p.path(), Op::Embed, &[rows, ids])
    }

    /// `x · weightᵀ + bias`; checkpoints keep the outputs as rows.
    pub fn linear(&mut self, p: &Scope, inputs: Size, outputs: Size, x: ValueId) -> Result<ValueId> {
        self.linear_of(p.path(), p, [inputs, outputs], x)
    }

    /// The same under its own name, for a layer that several parts of the model go through.
    pub fn linear_of(&mut self, name: &str, p: &Scope, [inputs, outputs]: [Size; 2], x: ValueId) -> Result<ValueId> {
        let weight = p.tensor("weight", &[outputs, inputs])?;
        let bias = if p.has("bias") { Some(self.weight(p, "bias", &[outputs])?) } else { None };
        self.multiply(name, &p.full("weight"), weight.transpose()?, bias, x)
    }

    /// `x · weightᵀ + bias`, where the weight may be that of another part of the model.
    pub fn project(&mut self, p: &Scope, weight: &Weight, bias: Option<ValueId>, x: ValueId) -> Result<ValueId> {
        self.multiply(p.path(), &p.full("weight"), weight.transpose()?, bias, x)
    }

    /// `x · weight + bias`, with a constant of that name.
    pub fn multiply(
        &mut self,
        name: &str,
        constant: &str,
        weight: Weight,
        bias: Option<ValueId>,
        x: ValueId,
    ) -> Result<ValueId> {
        let weight = self.constant(constant, weight);
        let operands: Vec<ValueId> = [x, weight].into_iter().chain(bias).collect();
        self.builder.node(name, Op::Linear, &operands)
    }

    /// A norm over the last dimension, with `weight` and `bias`.
    pub fn layer_norm(&mut self, p: &Scope, hidden: Size, epsilon: f32, x: ValueId) -> Result<ValueId> {
        let (scale, bias) = (self.weight(p, "weight", &[hidden])?, self.weight(p, "bias", &[hidden])?);
        self.builder.node(p.path(), Op::LayerNorm { epsilon }, &[x, scale, bias])
    }

    /// A norm over the last dimension that may have no `bias`.
    pub fn norm(&mut self, p: &Scope, hidden: Size, epsilon: f32, x: ValueId) -> Result<ValueId> {
        if p.has("bias") {
            return self.layer_norm(p, hidden, epsilon, x);
        }
        let scale = self.weight(p, "weight", &[hidden])?;
        self.builder.node(p.path(), Op::LayerNorm { epsilon }, &[x, scale])
    }

    /// A post-norm encoder layer: attention, residual, norm, feed-forward, residual, norm.
    pub fn encoder_layer(
        &mut self,
        w: &LayerWeights,
        i: usize,
        layer: &EncoderLayer,
        x: ValueId,
        inputs: impl Into<AttentionInputs>,
    ) -> Result<ValueId> {
        let projected = self.projections(w, i, layer, x)?;
        self.role(Role::layer(Part::Attention, i));
        let scale = attention_scale(layer.hidden, layer.heads, 1);
        let attended = self.attention(w.attention.path(), layer.heads, scale, projected, inputs.into())?;
        self.role(Role::layer(Part::AttentionOutput, i));
        let attended = self.linear(&w.attention_output, layer.hidden, layer.hidden, attended)?;
        self.after_attention(w, i, layer, attended, x)
    }

    /// Queries, keys and values.
    pub fn projections(
        &mut self,
        w: &LayerWeights,
        i: usize,
        layer: &EncoderLayer,
        x: ValueId,
    ) -> Result<[ValueId; 3]> {
        let mut projected = [x; 3];
        let parts = [(Part::Query, &w.query), (Part::Key, &w.key), (Part::Value, &w.value)];
        for (out, (part, p)) in projected.iter_mut().zip(parts) {
            self.role(Role::layer(part, i));
            *out = self.linear(p, layer.hidden, layer.hidden, x)?;
        }
        Ok(projected)
    }

    /// Scores times `scale`, softmax, and the weighted sum.
    pub fn attention(
        &mut self,
        name: &str,
        heads: i64,
        scale: f32,
        [query, key, value]: [ValueId; 3],
        inputs: AttentionInputs,
    ) -> Result<ValueId> {
        let operands: Vec<ValueId> = [query, key, value, inputs.mask].into_iter().chain(inputs.bias).collect();
        self.builder.node(name, Op::attention(heads, scale), &operands)
    }

    /// The rest of a post-norm layer after its attention, of residual `x`: norm, feed-forward, residual, norm.
    pub fn after_attention(
        &mut self,
        w: &LayerWeights,
        i: usize,
        layer: &EncoderLayer,
        attended: ValueId,
        x: ValueId,
    ) -> Result<ValueId> {
        let adapters = w.adapters.as_ref();
        let number = adapters.and_then(|adapters| adapters.number).unwrap_or(i);
        let end = Ending {
            norm: &w.attention_norm,
            part: Part::AttentionNorm,
            adapters: adapters.map(|adapters| &adapters.attention),
            place: Place::Attention,
            layer: i,
            number,
            sizes: layer,
        };
        let swapped = adapters.is_some_and(|adapters| adapters.attention_swapped);
        let (out, into) = if swapped { (x, attended) } else { (attended, x) };
        let x = self.end(&end, out, into)?;
        let inner = self.feed_forward([&w.ffn_in, &w.ffn_out], i, layer, x)?;
        let end = Ending {
            norm: &w.ffn_norm,
            part: Part::FeedForwardNorm,
            adapters: adapters.map(|adapters| &adapters.ffn),
            place: Place::FeedForward,
            ..end
        };
        self.end(&end, inner, x)
    }

    /// `N` equal pieces of the last dimension.
    pub fn split<const N: usize>(&mut self, name: &str, x: ValueId) -> Result<[ValueId; N]> {
        let width = self.width(x).unwrap_or_default();
        let pieces = self.pieces(name, x, vec![(width / N) as i64; N])?;
        pieces.try_into().map_err(|_| Error::bug(format!("`{name}` has not {N} pieces")))
    }

    /// Pieces of those sizes of the last dimension.
    pub(super) fn pieces(&mut self, name: &str, x: ValueId, sizes: Vec<i64>) -> Result<Vec<ValueId>> {
        self.builder.nodes(name, Op::Split { axis: -1, sizes }, &[Some(x)])
    }

    /// The pieces joined along the last dimension.
    pub(super) fn concat(&mut self, name: &str, pieces: &[ValueId]) -> Result<ValueId> {
        self.builder.node(name, Op::Concat { axis: -1 }, pieces)
    }

    /// A projection to the inner size, a non-linearity, and a projection back.
    pub fn feed_forward(
        &mut self,
        [ffn_in, ffn_out]: [&Scope; 2],
        i: usize,
        layer: &EncoderLayer,
        x: ValueId,
    ) -> Result<ValueId> {
        self.role(Role::layer(Part::FeedForwardIn, i));
        let inner = self.linear(ffn_in, layer.hidden, layer.inner, x)?;
        self.role(Role::layer(Part::Activation, i));
        let active = self.activation(&ffn_in.full("activation"), layer.activation, inner)?;
        self.role(Role::layer(Part::FeedForwardOut, i));
        self.linear(ffn_out, layer.inner, layer.hidden, active)
    }

    /// The norm of `x + residual`.
    pub fn add_and_norm(
        &mut self,
        norm: &Scope,
        layer: &EncoderLayer,
        x: ValueId,
        residual: ValueId,
    ) -> Result<ValueId> {
        let sum = self.add(&norm.full("residual"), x, residual)?;
        self.layer_norm(norm, layer.hidden, layer.epsilon, sum)
    }

    /// A non-linearity, element by element.
    pub fn activation(&mut self, name: &str, activation: Activation, x: ValueId) -> Result<ValueId> {
        let op = match activation {
            Activation::Gelu => Op::Gelu { tanh: false },
            Activation::GeluNew | Activation::GeluPytorchTanh => Op::Gelu { tanh: true },
            Activation::Relu => Op::Relu,
            Activation::LeakyRelu => Op::LeakyRelu { alpha: 0.01 },
            Activation::Tanh => Op::Tanh,
            Activation::Sigmoid => Op::Sigmoid,
            Activation::Silu => return self.gated_by_itself(name, x, x),
            Activation::QuickGelu => {
                let steepness = self.number(&format!("{name}.steepness"), 1.702)?;
                let steep = self.mul(&format!("{name}.steep"), x, steepness)?;
                return self.gated_by_itself(name, x, steep);
            }
        };
        self.builder.node(name, op, &[x])
    }

    /// `x · σ(α · x)`
    pub fn gated_steeply(&mut self, name: &str, x: ValueId, alpha: f32) -> Result<ValueId> {
        let steep = self.times(&format!("{name}.steep"), alpha, x)?;
        self.gated_by_itself(name, x, steep)
    }

    /// `x · σ(gate)`
    fn gated_by_itself(&mut self, name: &str, x: ValueId, gate: ValueId) -> Result<ValueId> {
        let open = self.builder.node(&format!("{name}.open"), Op::Sigmoid, &[gate])?;
        self.mul(name, x, open)
    }

    /// `a − b`
    pub fn sub(&mut self, name: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::Sub, &[a, b])
    }

    /// A number as a constant.
    pub fn number(&mut self, name: &str, value: f32) -> Result<ValueId> {
        Ok(self.constant(name, Weight::scalar(DType::F32, value)?))
    }

    /// `[batch, length, n] → [batch, 1, n]`: the mean over all tokens, padding too.
    pub fn mean_over_tokens(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::ReduceMean { axes: vec![1], keep: true }, &[x])
    }

    /// `a + b`
    pub fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::Add, &[a, b])
    }

    /// `a · b`, element by element.
    pub fn mul(&mut self, name: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::Mul, &[a, b])
    }

    /// `x` with 0 where the mask is.
    pub fn zero_padding(&mut self, name: &str, x: ValueId, mask: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::ZeroPadding, &[x, mask])
    }

    /// Each token with those around it, as many as the kernel is wide.
    pub fn token_conv(&mut self, p: &Scope, groups: i64, shape: [Size; 3], x: ValueId) -> Result<ValueId> {
        let (weight, bias) = (self.weight(p, "weight", &shape)?, self.weight(p, "bias", &shape[..1])?);
        self.builder.node(p.path(), Op::TokenConv { groups }, &[x, weight, bias])
    }

    /// `[batch, length, hidden] → [batch, hidden]`: the first token of each text.
    pub fn first_token(&mut self, path: &str, x: ValueId) -> Result<ValueId> {
        self.select(&format!("{path}.first_token"), x, 1, 0)
    }

    /// `x` without dimension `axis`, at `index`.
    pub fn select(&mut self, name: &str, x: ValueId, axis: i64, index: i64) -> Result<ValueId> {
        self.builder.node(name, Op::Select { axis, index }, &[x])
    }

    /// `[batch, length, hidden] → [batch, hidden]`: one vector for each text.
    pub fn pool(&mut self, name: &str, mode: Pooling, x: ValueId, mask: ValueId) -> Result<ValueId> {
        let op = match mode {
            Pooling::FirstToken => return self.first_token(name, x),
            Pooling::Max => Op::MaxPool,
            Pooling::Mean => Op::MeanPool,
            Pooling::MeanSqrtLen => Op::MeanSqrtLenPool,
            Pooling::WeightedMean => Op::WeightedMeanPool,
            Pooling::LastToken => Op::LastToken,
        };
        self.builder.node(name, op, &[x, mask])
    }

    /// The last dimension, where it is known.
    pub fn width(&self, x: ValueId) -> Option<usize> {
        self.builder.ty(x).shape.last().and_then(Dim::fixed)
    }

    /// A mask `[b, s]` without the first `n` of the tokens that it keeps.
    pub fn without_first(&mut self, mask: ValueId, n: usize) -> Result<ValueId> {
        let at = |suffix: &str| format!("after_{n}.{suffix}");
        let limit = self.constant(&at("limit"), Weight::scalar(DType::F32, n as f32)?);
        let kept = self.builder.node(&at("kept"), Op::Cast { to: DType::F32 }, &[mask])?;
        let count = self.builder.node(&at("count"), Op::CumSum { axis: 1 }, &[kept])?;
        let left = self.builder.node(&at("left"), Op::Sub, &[count, limit])?;
        let past = self.builder.node(&at("past"), Op::Relu, &[left])?;
        let past = self.builder.node(&at("is_past"), Op::Cast { to: DType::Bool }, &[past])?;
        let past = self.builder.node(&at("past_or_not"), Op::Cast { to: DType::I64 }, &[past])?;
        self.builder.node(&at("mask"), Op::Mul, &[past, mask])
    }

    /// `[batch, length, hidden] → [batch, hidden]`: the vector of the token after the first `n`.
    pub fn token_after(&mut self, name: &str, n: usize, x: ValueId, mask: ValueId) -> Result<ValueId> {
        let (from, beyond) = (self.without_first(mask, n)?, self.without_first(mask, n + 1)?);
        let only = self.builder.node(&format!("{name}.only"), Op::Sub, &[from, beyond])?;
        self.builder.node(name, Op::MeanPool, &[x, only])
    }

    /// The first `kept` numbers of the last dimension of `x [b, h]`.
    pub fn first(&mut self, x: ValueId, kept: usize) -> Result<ValueId> {
        let end = i64::try_from(kept).map_err(|_| Error::bug("a vector is longer than memory"))?;
        let starts = self.constant("first.starts", Weight::i64s(vec![1], &[0])?);
        let ends = self.constant("first.ends", Weight::i64s(vec![1], &[end])?);
        self.builder.node("first", Op::Slice { axis: 1, length: kept.into() }, &[x, starts, ends])
    }

    /// `x` at length 1.
    pub fn normalize(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::Normalize, &[x])
    }

    /// Makes a value an output.
    pub fn output(&mut self, kind: PortKind, x: ValueId) -> Result<()> {
        self.builder.output(&kind.name(), x)
    }

    /// The graph.
    pub fn finish(self) -> Graph {
        self.builder.finish()
    }

    /// The tensor `name` of a scope as a constant.
    pub fn weight(&mut self, p: &Scope, name: &str, shape: &[Size]) -> Result<ValueId> {
        let weight = p.tensor(name, shape)?;
        Ok(self.constant(&p.full(name), weight))
    }

    /// The same with its elements in another shape.
    pub fn reshaped(&mut self, p: &Scope, name: &str, shape: &[Size], to: Vec<usize>) -> Result<ValueId> {
        let weight = p.tensor(name, shape)?.reshape(to)?;
        Ok(self.constant(&p.full(name), weight))
    }

    /// A constant of that name, made once.
    pub fn constant(&mut self, name: &str, weight: Weight) -> ValueId {
        let Blocks { builder, weights, .. } = self;
        *weights.entry(name.to_owned()).or_insert_with(|| builder.weight(name, weight))
    }
}
