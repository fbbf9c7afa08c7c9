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
    /// Keys and values of each layer from the runs before; none where there is no cache.
    past: Vec<[ValueId; 2]>,
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

impl Blocks {
    /// The inputs of a decoder of `layers` layers. Below a head whose runs continue those before, these are tokens, mask,
    /// positions and a cache; below any other tokens and mask, and positions count the tokens.
    pub fn decoder_inputs(&mut self, head: Head, layers: usize, layer: &DecoderLayer) -> Result<DecoderInputs> {
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
        let positions = self.token_input(PortKind::PositionIds);
        let kv_heads = usize::try_from(layer.kv_heads).unwrap_or_default();
        let cached = TensorType::new(DType::F32, [batch, kv_heads.into(), past, layer.head_size.into()]);
        let mut input = |kind: PortKind| self.builder.input(&kind.name(), cached.clone());
        let past = (0..layers).map(|i| [input(PortKind::PastKey(i)), input(PortKind::PastValue(i))]).collect();
        Ok(DecoderInputs { ids, mask, positions, past })
    }

    /// `i64 [b, s]`: how many tokens that are no padding come before each, for a mask over all of them.
    ///
    /// Rows are the same whichever side they are padded on. In 32 bits: tract takes sums of 64-bit integers for sizes.
    fn counted_positions(&mut self, mask: ValueId) -> Result<ValueId> {
        self.role(Part::Embedding);
        let at = |suffix: &str| format!("position_ids.{suffix}");
        let [one, zero] = [("one", 1), ("zero", 0)].map(|(name, n)| (at(name), Weight::i32s(vec![], &[n])));
        let (one, zero) = (self.constant(&one.0, one.1?), self.constant(&zero.0, zero.1?));
        let kept = self.is_not_zero(&at("kept"), DType::I32, mask)?;
        let count = self.builder.node(&at("count"), Op::CumSum { axis: 1 }, &[kept])?;
        let before = self.builder.node(&at("before"), Op::Sub, &[count, one])?;
        let before = self.builder.node(&at("positive"), Op::Max, &[before, zero])?;
        self.builder.node("position_ids", Op::Cast { to: DType::I64 }, &[before])
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

    /// Attention of each token to those before it and itself, in layer `i`, whose scores are times `scale`. Where there is a cache, what it becomes is
    /// given out by [`Blocks::cache_outputs`].
    pub fn causal_attention(
        &mut self,
        name: &str,
        i: usize,
        (layer, scale): (&DecoderLayer, f32),
        [query, key, value]: [ValueId; 3],
        inputs: &DecoderInputs,
    ) -> Result<ValueId> {
        let heads = layer.sizes.heads;
        let op = Op::Attention {
            heads,
            scale,
            kv_heads: (layer.kv_heads != heads).then_some(layer.kv_heads),
            causal: true,
            window: None,
            positions: Some(i64::try_from(layer.positions).unwrap_or(i64::MAX)),
            soft_cap: None,
        };
        let mut operands = vec![Some(query), Some(key), Some(value), Some(inputs.mask)];
        if let Some(past) = inputs.past.get(i) {
            operands.push(None);
            operands.extend(past.map(Some));
        }
        match self.builder.nodes(name, op, &operands)?.as_slice() {
            [attended] => Ok(*attended),
            [attended, key, value] => {
                self.present.push([*key, *value]);
                Ok(*attended)
            }
            _ => Err(Error::bug("attention has one output, or three")),
        }
    }

    /// Gives out the cache of every layer, in the order of the layers.
    pub fn cache_outputs(&mut self) -> Result<()> {
        for (i, [key, value]) in std::mem::take(&mut self.present).into_iter().enumerate() {
            self.output(PortKind::PresentKey(i), key)?;
            self.output(PortKind::PresentValue(i), value)?;
        }
        Ok(())
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
        let three = self.linear(qkv, hidden, Size { n: hidden.n.saturating_mul(3), ..hidden }, x)?;
        let projected = self.split(&attention.full("split"), three)?;
        self.role(Role::layer(Part::Attention, i));
        let attended = self.causal_attention(attention.path(), i, (layer, scale), projected, inputs)?;
        self.role(Role::layer(Part::AttentionOutput, i));
        self.linear(out, hidden, hidden, attended)
    }
}
