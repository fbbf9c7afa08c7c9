//! The blocks that families are made of.
//!
//! Nodes get the path of their weights as their name, and the role of the part they play.

use serde::Deserialize;

use crate::checkpoint::{Scope, Size};
use crate::error::{Error, Result};
use crate::ir::{Builder, DType, Dim, Graph, Op, Part, Role, TensorType, ValueId};

/// The non-linearity of a feed-forward block, by the names of `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · Φ(x)`
    Gelu,
    /// Its tanh approximation, in the spelling of the first BERT.
    GeluNew,
    /// Its tanh approximation.
    GeluPytorchTanh,
    /// `max(x, 0)`
    Relu,
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
    /// What norms add to the variance.
    pub epsilon: f32,
}

/// The number of heads, if it divides the width.
pub fn heads(heads: usize, hidden: usize) -> Result<i64> {
    if heads == 0 || hidden == 0 || !hidden.is_multiple_of(heads) {
        return Err(Error::bad_input(format!("`num_attention_heads` {heads} does not divide `hidden_size` {hidden}"))
            .at("config.json"));
    }
    i64::try_from(heads).map_err(|_| Error::bad_input(format!("{heads} heads are too many")).at("config.json"))
}

/// A graph under construction, in terms of blocks.
pub struct Blocks {
    builder: Builder,
}

impl Blocks {
    /// An empty graph of that name.
    pub fn new(name: &str) -> Blocks {
        Blocks { builder: Builder::new(name) }
    }

    /// The role of what is drawn from here on.
    pub fn role(&mut self, role: Role) {
        self.builder.set_role(Some(role));
    }

    /// An input of one integer for each token, `i64 [batch_size, sequence_length]`.
    pub fn token_input(&mut self, name: &str) -> ValueId {
        self.builder.input(name, TensorType::new(DType::I64, [Dim::from("batch_size"), Dim::from("sequence_length")]))
    }

    /// Rows of the table `weight` of the scope.
    pub fn embed(&mut self, p: &Scope, table: [Size; 2], ids: ValueId) -> Result<ValueId> {
        let table = self.weight(p, "weight", &table)?;
        self.builder.node(p.path(), Op::Embed, &[table, ids])
    }

    /// The first rows of the table `weight`, one for each position, from row `offset` on.
    pub fn positions(&mut self, p: &Scope, table: [Size; 2], offset: i64, ids: ValueId) -> Result<ValueId> {
        let table = self.weight(p, "weight", &table)?;
        self.builder.node(p.path(), Op::PositionEmbed { offset }, &[table, ids])
    }

    /// `x · weightᵀ + bias`; checkpoints keep the outputs as rows.
    pub fn linear(&mut self, p: &Scope, inputs: Size, outputs: Size, x: ValueId) -> Result<ValueId> {
        let weight = p.tensor("weight", &[outputs, inputs])?.transpose()?;
        let mut operands = vec![x, self.builder.weight(&p.full("weight"), weight)];
        if p.has("bias") {
            operands.push(self.weight(p, "bias", &[outputs])?);
        }
        self.builder.node(p.path(), Op::Linear, &operands)
    }

    /// A norm over the last dimension, with `weight` and `bias`.
    pub fn layer_norm(&mut self, p: &Scope, hidden: Size, epsilon: f32, x: ValueId) -> Result<ValueId> {
        let (scale, bias) = (self.weight(p, "weight", &[hidden])?, self.weight(p, "bias", &[hidden])?);
        self.builder.node(p.path(), Op::LayerNorm { epsilon }, &[x, scale, bias])
    }

    /// A post-norm encoder layer: attention, residual, norm, feed-forward, residual, norm; names as BERT's.
    pub fn encoder_layer(
        &mut self,
        p: &Scope,
        i: usize,
        layer: &EncoderLayer,
        x: ValueId,
        mask: ValueId,
    ) -> Result<ValueId> {
        let attended = self.self_attention(&p.sub("attention"), i, layer, x, mask)?;
        self.role(Role::layer(Part::AttentionNorm, i));
        let x = self.add_and_norm(&p.sub("attention").sub("output"), layer, attended, x)?;
        let inner = self.feed_forward(p, i, layer, x)?;
        self.role(Role::layer(Part::FeedForwardNorm, i));
        self.add_and_norm(&p.sub("output"), layer, inner, x)
    }

    fn self_attention(
        &mut self,
        p: &Scope,
        i: usize,
        layer: &EncoderLayer,
        x: ValueId,
        mask: ValueId,
    ) -> Result<ValueId> {
        let mut operands = Vec::with_capacity(4);
        for (part, name) in [(Part::Query, "query"), (Part::Key, "key"), (Part::Value, "value")] {
            self.role(Role::layer(part, i));
            operands.push(self.linear(&p.sub("self").sub(name), layer.hidden, layer.hidden, x)?);
        }
        operands.push(mask);
        self.role(Role::layer(Part::Attention, i));
        let head_size = layer.hidden.n as f32 / layer.heads as f32;
        let op = Op::Attention { heads: layer.heads, scale: head_size.sqrt().recip() };
        let attended = self.builder.node(&p.full("self"), op, &operands)?;
        self.role(Role::layer(Part::AttentionOutput, i));
        self.linear(&p.sub("output").sub("dense"), layer.hidden, layer.hidden, attended)
    }

    fn feed_forward(&mut self, p: &Scope, i: usize, layer: &EncoderLayer, x: ValueId) -> Result<ValueId> {
        self.role(Role::layer(Part::FeedForwardIn, i));
        let inner = self.linear(&p.sub("intermediate").sub("dense"), layer.hidden, layer.inner, x)?;
        self.role(Role::layer(Part::Activation, i));
        let active = self.activation(&p.sub("intermediate").full("activation"), layer.activation, inner)?;
        self.role(Role::layer(Part::FeedForwardOut, i));
        self.linear(&p.sub("output").sub("dense"), layer.inner, layer.hidden, active)
    }

    fn add_and_norm(&mut self, p: &Scope, layer: &EncoderLayer, x: ValueId, residual: ValueId) -> Result<ValueId> {
        let sum = self.add(&p.full("residual"), x, residual)?;
        self.layer_norm(&p.sub("LayerNorm"), layer.hidden, layer.epsilon, sum)
    }

    fn activation(&mut self, name: &str, activation: Activation, x: ValueId) -> Result<ValueId> {
        let op = match activation {
            Activation::Gelu => Op::Gelu { tanh: false },
            Activation::GeluNew | Activation::GeluPytorchTanh => Op::Gelu { tanh: true },
            Activation::Relu => Op::Relu,
        };
        self.builder.node(name, op, &[x])
    }

    /// `a + b`
    pub fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::Add, &[a, b])
    }

    /// `tanh(x)`
    pub fn tanh(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::Tanh, &[x])
    }

    /// `[batch, length, hidden] → [batch, hidden]`: the first token of each text.
    pub fn first_token(&mut self, path: &str, x: ValueId) -> Result<ValueId> {
        self.builder.node(&format!("{path}.first_token"), Op::Select { axis: 1, index: 0 }, &[x])
    }

    /// Gives a value to the caller under that name.
    pub fn output(&mut self, name: &str, x: ValueId) -> Result<()> {
        self.builder.output(name, x)
    }

    /// The graph.
    pub fn finish(self) -> Graph {
        self.builder.finish()
    }

    fn weight(&mut self, p: &Scope, name: &str, shape: &[Size]) -> Result<ValueId> {
        let weight = p.tensor(name, shape)?;
        Ok(self.builder.weight(&p.full(name), weight))
    }
}
