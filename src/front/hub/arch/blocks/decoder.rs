//! What decoders are made of: inputs with a cache, positions that count tokens, and causal attention.

use super::{Blocks, EncoderLayer};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{DType, Dim, Op, Part, Role, TensorType, ValueId, Weight};
use crate::ports::PortKind;
use crate::task::head::Head;

/// What the layers of a decoder are given besides hidden states.
#[derive(Clone, Debug)]
pub struct DecoderInputs {
    /// `i64 [batch_size, sequence_length]`: the tokens.
    pub ids: ValueId,
    /// `i64 [batch_size, past_sequence_length + sequence_length]`, or without the past: 0 where a token is padding.
    pub mask: ValueId,
    /// `i64 [batch_size, sequence_length]`: the position of each token.
    pub positions: ValueId,
    /// What each layer has of the runs before; nothing where there is no cache.
    past: Vec<Past>,
}

/// What a layer keeps between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Keys and values of all tokens.
    Attention,
    /// The inputs of a convolution, of so many channels and tokens.
    Conv {
        /// Channels.
        width: usize,
        /// Tokens: one less than its kernel has.
        tokens: usize,
    },
}

/// What a layer has of the runs before.
#[derive(Clone, Copy, Debug)]
enum Past {
    Attention([ValueId; 2]),
    Conv(ValueId),
}

impl DecoderInputs {
    /// Keys and values of a layer.
    fn past(&self, i: usize) -> Option<[ValueId; 2]> {
        match self.past.get(i) {
            Some(Past::Attention(both)) => Some(*both),
            _ => None,
        }
    }

    /// The last inputs of a layer's convolution.
    pub(super) fn past_conv(&self, i: usize) -> Option<ValueId> {
        match self.past.get(i) {
            Some(Past::Conv(last)) => Some(*last),
            _ => None,
        }
    }
}

/// The sizes of one layer of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct DecoderLayer {
    /// Those that an encoder has, too.
    pub sizes: EncoderLayer,
    /// Heads of keys and values, which divide those of the queries.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_size: usize,
    /// Most positions, past ones included.
    pub positions: usize,
}

/// What becomes of the scores of queries and keys before the softmax.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// Their factor.
    pub scale: f32,
    /// How many positions a query attends to, its own included; all before it where there is none.
    pub window: Option<i64>,
    /// What no score is beyond.
    pub soft_cap: Option<f32>,
    /// `[1 or b, 1 or heads, t, n]`: what is added to them.
    pub bias: Option<ValueId>,
    /// Whether a token attends to those after it, too. A window is then to both sides.
    pub bidirectional: bool,
    /// `[heads]`: one more score of each head, of a value that is zero (arXiv 2309.17453).
    pub sinks: Option<ValueId>,
}

impl From<f32> for Scores {
    fn from(scale: f32) -> Scores {
        Scores { scale, window: None, soft_cap: None, bias: None, sinks: None, bidirectional: false }
    }
}

/// How a language model has the positions of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Places {
    /// As an input.
    Given,
    /// Counted from the mask.
    Counted,
}

impl Blocks {
    /// The inputs of a decoder whose layers keep these. Below a head whose runs continue those before, these are
    /// tokens, mask, positions and a cache; below any other tokens and mask, and positions count the tokens.
    pub fn decoder_inputs(&mut self, head: Head, layers: &[Memory], layer: &DecoderLayer) -> Result<DecoderInputs> {
        self.inputs_of(head, layers, layer, Places::Given)
    }

    /// The same where positions are no input: Optimum gives the models of some families none.
    pub fn counting_decoder_inputs(
        &mut self,
        head: Head,
        layers: &[Memory],
        layer: &DecoderLayer,
    ) -> Result<DecoderInputs> {
        self.inputs_of(head, layers, layer, Places::Counted)
    }

    fn inputs_of(
        &mut self,
        head: Head,
        layers: &[Memory],
        layer: &DecoderLayer,
        places: Places,
    ) -> Result<DecoderInputs> {
        if layers.is_empty() {
            return Err(Error::bad_input(
                "expected a decoder with a layer, and none is found: neither a number nor its weights",
            )
            .at("config.json: num_hidden_layers"));
        }
        let ids = self.token_input(PortKind::TokenIds);
        if !head.has_cache() {
            let mask = self.token_input(PortKind::AttentionMask);
            let positions = self.counted_positions(mask)?;
            return Ok(DecoderInputs { ids, mask, positions, past: Vec::new() });
        }
        let [batch, past, new] = ["batch_size", "past_sequence_length", "sequence_length"].map(Dim::from);
        let all = past.plus(&new).map_err(Error::bug)?;
        let mask = TensorType::new(DType::I64, [batch.clone(), all]);
        let mask = self.builder.input(&PortKind::AttentionMask.name(), mask);
        let positions = match places {
            Places::Given => self.token_input(PortKind::PositionIds),
            Places::Counted => self.last_positions(ids, mask, &new)?,
        };
        let kv_heads = usize::try_from(layer.kv_heads).unwrap_or_default();
        let cached = TensorType::new(DType::F32, [batch.clone(), kv_heads.into(), past, layer.head_size.into()]);
        let mut input = |kind: PortKind, ty: &TensorType| self.builder.input(&kind.name(), ty.clone());
        let mut past_of = |(i, memory): (usize, &Memory)| match *memory {
            Memory::Attention => {
                Past::Attention([input(PortKind::PastKey(i), &cached), input(PortKind::PastValue(i), &cached)])
            }
            Memory::Conv { width, tokens } => {
                let last = TensorType::new(DType::F32, [batch.clone(), width.into(), tokens.into()]);
                Past::Conv(input(PortKind::PastConv(i), &last))
            }
        };
        let past = layers.iter().enumerate().map(&mut past_of).collect();
        Ok(DecoderInputs { ids, mask, positions, past })
    }

    /// `i64 [b, s]`: how many tokens that are no padding come before each, for a mask over all of them.
    ///
    /// Rows are the same whichever side they are padded on. In 32 bits: tract takes sums of 64-bit integers for sizes.
    fn counted_positions(&mut self, mask: ValueId) -> Result<ValueId> {
        let before = self.tokens_before(mask)?;
        self.builder.node("position_ids", Op::Cast { to: DType::I64 }, &[before])
    }

    /// `i64 [b, s]`: the same of the last tokens, for a mask over past ones too.
    fn last_positions(&mut self, ids: ValueId, mask: ValueId, new: &Dim) -> Result<ValueId> {
        let before = self.tokens_before(mask)?;
        let last = self.last_columns("position_ids", [ids, mask, before], new)?;
        self.builder.node("position_ids", Op::Cast { to: DType::I64 }, &[last])
    }

    /// The columns of the new tokens, for `x [b, n]` over past ones too, as the mask is.
    fn last_columns(&mut self, name: &str, [ids, mask, x]: [ValueId; 3], new: &Dim) -> Result<ValueId> {
        let at = |suffix: &str| format!("{name}.{suffix}");
        let size = Op::Shape { start: 1, end: 2 };
        let end = self.builder.node(&at("end"), size.clone(), &[mask])?;
        let own = self.builder.node(&at("own"), size, &[ids])?;
        let start = self.builder.node(&at("start"), Op::Sub, &[end, own])?;
        self.builder.node(&at("last"), Op::Slice { axis: 1, length: new.clone() }, &[x, start, end])
    }

    /// `[b, s, 1]`: a number for each token, by its position.
    pub fn by_position(&mut self, name: &str, numbers: &[f32], inputs: &DecoderInputs) -> Result<ValueId> {
        self.role(Part::Position);
        let table = self.constant(&format!("{name}.table"), Weight::f32s(vec![numbers.len(), 1], numbers)?);
        self.builder.node(name, Op::Gather { axis: 0 }, &[table, inputs.positions])
    }

    /// `i64 [b, s]`: 0 where a new token is padding.
    pub fn mask_of_new(&mut self, inputs: &DecoderInputs) -> Result<ValueId> {
        self.role(Part::Embedding);
        let new = self.builder.ty(inputs.ids).shape.get(1).cloned();
        let new = new.ok_or_else(|| Error::bug("tokens have two dimensions"))?;
        match self.builder.ty(inputs.mask).shape.get(1) == Some(&new) {
            true => Ok(inputs.mask),
            false => self.last_columns("attention_mask", [inputs.ids, inputs.mask, inputs.mask], &new),
        }
    }

    /// `i32 [b, n]`: how many tokens that are no padding come before each, 0 at least.
    fn tokens_before(&mut self, mask: ValueId) -> Result<ValueId> {
        self.role(Part::Embedding);
        let at = |suffix: &str| format!("position_ids.{suffix}");
        let [one, zero] = [("one", 1), ("zero", 0)].map(|(name, n)| (at(name), Weight::i32s(vec![], &[n])));
        let (one, zero) = (self.constant(&one.0, one.1?), self.constant(&zero.0, zero.1?));
        let kept = self.is_not_zero(&at("kept"), DType::I32, mask)?;
        let count = self.builder.node(&at("count"), Op::CumSum { axis: 1 }, &[kept])?;
        let before = self.builder.node(&at("before"), Op::Sub, &[count, one])?;
        self.builder.node(&at("positive"), Op::Max, &[before, zero])
    }

    /// `[b, heads, t, n]`: what is added to scores by how far a key is from the first token, a slope for each head (arXiv
    /// 2108.12409). It differs from the distance to the query by the same number for all keys, which no softmax sees.
    pub fn linear_biases(&mut self, heads: usize, inputs: &DecoderInputs) -> Result<ValueId> {
        let before = self.tokens_before(inputs.mask)?;
        self.role(Part::Position);
        let at = |suffix: &str| format!("alibi.{suffix}");
        let slopes = self.constant(&at("slopes"), Weight::f32s(vec![heads, 1, 1], &slopes(heads))?);
        let before = self.builder.node(&at("before"), Op::Cast { to: DType::F32 }, &[before])?;
        let before = self.builder.node(&at("keys"), Op::Unsqueeze { axes: vec![1, 2] }, &[before])?;
        let biases = self.mul(&at("biases"), before, slopes)?;
        let dim = |value: ValueId, axis: usize| self.builder.ty(value).shape.get(axis).cloned();
        let (Some(batch), Some(keys), Some(new)) = (dim(inputs.mask, 0), dim(inputs.mask, 1), dim(inputs.ids, 1))
        else {
            return Err(Error::bug("tokens and their mask have two dimensions"));
        };
        let count = self.constant(&at("heads"), Weight::i64s(vec![1], &[heads as i64])?);
        let size = |axis: i64| Op::Shape { start: axis, end: axis + 1 };
        let rows = self.builder.node(&at("batch"), size(0), &[inputs.ids])?;
        let queries = self.builder.node(&at("queries"), size(1), &[inputs.ids])?;
        let all = self.builder.node(&at("all"), size(1), &[inputs.mask])?;
        let sizes = self.builder.node(&at("sizes"), Op::Concat { axis: 0 }, &[rows, count, queries, all])?;
        let shape = vec![batch, heads.into(), new, keys];
        self.builder.node("alibi", Op::ExpandTo { shape }, &[biases, sizes])
    }

    /// A mask `[b, s]` of the tokens that are not `pad`, and of the first one.
    pub fn other_tokens(&mut self, pad: i64, inputs: &DecoderInputs) -> Result<ValueId> {
        let at = |suffix: &str| format!("classified.{suffix}");
        let one = self.constant(&at("one"), Weight::i32s(vec![], &[1])?);
        let later = self.is_not_zero(&at("later"), DType::I32, inputs.positions)?;
        // An operation that knows of the padding token, so that a cut vocabulary renumbers it.
        let places = self.builder.node(&at("places"), Op::TokenPositions { pad, place: 0 }, &[inputs.ids])?;
        let other = self.is_not_zero(&at("other"), DType::I32, places)?;
        let first = self.builder.node(&at("first"), Op::Sub, &[one, later])?;
        let either = self.builder.node(&at("either"), Op::Add, &[other, first])?;
        let kept = self.is_not_zero(&at("kept"), DType::I64, either)?;
        self.builder.node(&at("mask"), Op::Mul, &[kept, inputs.mask])
    }

    /// 1 where an integer is not 0, and 0 where it is.
    fn is_not_zero(&mut self, name: &str, to: DType, x: ValueId) -> Result<ValueId> {
        let truth = self.builder.node(&format!("{name}.differs"), Op::Cast { to: DType::Bool }, &[x])?;
        self.builder.node(name, Op::Cast { to }, &[truth])
    }

    /// Attention of each token to those before it and itself, in layer `i`. Where there is a cache, what it becomes
    /// is given out by [`Blocks::cache_outputs`].
    pub fn causal_attention(
        &mut self,
        name: &str,
        i: usize,
        (layer, scores): (&DecoderLayer, impl Into<Scores>),
        [query, key, value]: [ValueId; 3],
        inputs: &DecoderInputs,
    ) -> Result<ValueId> {
        let Scores { scale, window, soft_cap, bias, sinks, bidirectional } = scores.into();
        let heads = layer.sizes.heads;
        let op = Op::Attention {
            heads,
            scale,
            kv_heads: (layer.kv_heads != heads).then_some(layer.kv_heads),
            causal: !bidirectional,
            window,
            positions: Some(i64::try_from(layer.positions).unwrap_or(i64::MAX)),
            soft_cap,
        };
        let mut operands = vec![Some(query), Some(key), Some(value), Some(inputs.mask)];
        let past = inputs.past(i);
        if bias.is_some() || past.is_some() {
            operands.push(bias);
        }
        operands.extend(past.into_iter().flatten().map(Some));
        if sinks.is_some() {
            operands.resize(7, None);
            operands.push(sinks);
        }
        match self.builder.nodes(name, op, &operands)?.as_slice() {
            [attended] => Ok(*attended),
            [attended, key, value] => {
                self.present.extend([(PortKind::PresentKey(i), *key), (PortKind::PresentValue(i), *value)]);
                Ok(*attended)
            }
            _ => Err(Error::bug("attention has one output, or three")),
        }
    }

    /// Gives out the cache of every layer, in the order of the layers.
    pub fn cache_outputs(&mut self) -> Result<()> {
        std::mem::take(&mut self.present).into_iter().try_for_each(|(kind, value)| self.output(kind, value))
    }

    /// Attention whose queries, keys and values are one projection `qkv`, and the projection of the heads' outputs.
    pub fn fused_causal_attention(
        &mut self,
        [attention, qkv, out]: [&Scope; 3],
        i: usize,
        (layer, scale): (&DecoderLayer, f32),
        x: ValueId,
        inputs: &DecoderInputs,
    ) -> Result<ValueId> {
        let hidden = layer.sizes.hidden;
        self.role(Role::layer(Part::Qkv, i));
        let three = Size { n: hidden.n.saturating_mul(3), ..hidden };
        let three = self.dense(qkv, [hidden, three], true, x)?;
        let projected = self.split(&attention.full("split"), three)?;
        self.role(Role::layer(Part::Attention, i));
        let attended = self.causal_attention(attention.path(), i, (layer, scale), projected, inputs)?;
        self.role(Role::layer(Part::AttentionOutput, i));
        self.dense(out, [hidden, hidden], true, attended)
    }
}

/// The slope of each head: `2^(−8k/n)` for a number of heads `n` that is a power of two; for others those of the power below
/// it, and then every other one of the power above.
fn slopes(heads: usize) -> Vec<f32> {
    let below = heads.checked_ilog2().map_or(1, |log| 1_usize << log);
    let of = |n: usize| {
        let base = (-(2.0_f64.powf(-((n as f64).log2() - 3.0)))).exp2() as f32;
        move |k: usize| f64::from(base).powi(i32::try_from(k).unwrap_or(i32::MAX)) as f32
    };
    let (first, more) = (of(below), of(2 * below));
    (1..=below).map(first).chain((0..heads - below).map(|i| more(2 * i + 1))).take(heads).collect()
}
