//! Attention whose query heads share heads of keys and values (arXiv 2305.13245): projections, separate or fused, scores, and
//! the projection of the heads' outputs.

use super::{Blocks, DecoderInputs, DecoderLayer, Scores};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Op, Part, Role, ValueId};

/// The layers of weights of attention, below its path.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNames {
    /// Those of queries, keys and values.
    pub qkv: [&'static str; 3],
    /// That of the heads' outputs.
    pub out: &'static str,
}

/// As most families call them.
pub const SEPARATE: AttentionNames = AttentionNames { qkv: ["q_proj", "k_proj", "v_proj"], out: "o_proj" };

impl DecoderLayer {
    /// Width of all queries.
    pub fn query_width(&self) -> Size {
        Size { n: count(self.sizes.heads).saturating_mul(self.head_size), field: "num_attention_heads" }
    }

    /// Width of all keys, and of all values.
    pub fn key_width(&self) -> Size {
        Size { n: count(self.kv_heads).saturating_mul(self.head_size), field: "num_key_value_heads" }
    }

    /// The factor of scores that the paper has: one over the root of a head's size.
    pub fn usual_scale(&self) -> f32 {
        (self.head_size as f64).sqrt().recip() as f32
    }
}

fn count(heads: i64) -> usize {
    usize::try_from(heads).unwrap_or_default()
}

impl Blocks {
    /// `x · weightᵀ`, and `+ bias` where the configuration has one. A bias that it denies is left out, as `transformers` does.
    pub fn dense(&mut self, p: &Scope, sizes: [Size; 2], bias: bool, x: ValueId) -> Result<ValueId> {
        let [inputs, outputs] = sizes;
        let weight = p.tensor("weight", &[outputs, inputs])?;
        let bias = if bias { Some(self.weight(p, "bias", &[outputs])?) } else { None };
        self.multiply(p.path(), &p.full("weight"), weight.transpose()?, bias, x)
    }

    /// Queries, keys and values by three projections.
    pub fn separate_projections(
        &mut self,
        names: [&Scope; 3],
        i: usize,
        layer: &DecoderLayer,
        bias: bool,
        x: ValueId,
    ) -> Result<[ValueId; 3]> {
        let (hidden, query, key) = (layer.sizes.hidden, layer.query_width(), layer.key_width());
        let mut out = [x; 3];
        let parts = [(Part::Query, query), (Part::Key, key), (Part::Value, key)];
        for ((out, p), (part, width)) in out.iter_mut().zip(names).zip(parts) {
            self.role(Role::layer(part, i));
            *out = self.dense(p, [hidden, width], bias, x)?;
        }
        Ok(out)
    }

    /// Queries, keys and values by one projection, all queries first.
    pub fn fused_projections(
        &mut self,
        qkv: &Scope,
        i: usize,
        layer: &DecoderLayer,
        bias: bool,
        x: ValueId,
    ) -> Result<[ValueId; 3]> {
        let (query, key) = (layer.query_width(), layer.key_width());
        let all = Size { n: query.n.saturating_add(key.n.saturating_mul(2)), ..key };
        self.role(Role::layer(Part::Qkv, i));
        let three = self.dense(qkv, [layer.sizes.hidden, all], bias, x)?;
        let sizes = vec![query.n as i64, key.n as i64, key.n as i64];
        let pieces = self.pieces(&qkv.full("split"), three, sizes)?;
        pieces.try_into().map_err(|_| Error::bug("queries, keys and values are three pieces"))
    }

    /// Queries, keys and values by one projection, those of the first head first; each head has its own.
    pub fn projections_by_head(
        &mut self,
        qkv: &Scope,
        i: usize,
        layer: &DecoderLayer,
        bias: bool,
        x: ValueId,
    ) -> Result<[ValueId; 3]> {
        let (width, size) = (layer.query_width(), layer.head_size as i64);
        self.role(Role::layer(Part::Qkv, i));
        let three = self.dense(qkv, [layer.sizes.hidden, Size { n: width.n.saturating_mul(3), ..width }], bias, x)?;
        let by_head = vec![0, 0, layer.sizes.heads, 3 * size];
        let three = self.builder.node(&qkv.full("heads"), Op::Reshape { shape: by_head }, &[three])?;
        let pieces = self.pieces(&qkv.full("split"), three, vec![size; 3])?;
        let mut out = [x; 3];
        for ((out, piece), what) in out.iter_mut().zip(pieces).zip(["query", "key", "value"]) {
            let whole = Op::Reshape { shape: vec![0, 0, width.n as i64] };
            *out = self.builder.node(&qkv.full(what), whole, &[piece])?;
        }
        Ok(out)
    }

    /// Scores, softmax, and the weighted sum.
    pub fn attended(
        &mut self,
        attention: &Scope,
        i: usize,
        (layer, scores): (&DecoderLayer, Scores),
        qkv: [ValueId; 3],
        inputs: &DecoderInputs,
    ) -> Result<ValueId> {
        self.role(Role::layer(Part::Attention, i));
        self.causal_attention(attention.path(), i, (layer, scores), qkv, inputs)
    }

    /// The projection of the heads' outputs.
    pub fn attention_output(
        &mut self,
        out: &Scope,
        i: usize,
        layer: &DecoderLayer,
        bias: bool,
        x: ValueId,
    ) -> Result<ValueId> {
        self.role(Role::layer(Part::AttentionOutput, i));
        self.dense(out, [layer.query_width(), layer.sizes.hidden], bias, x)
    }
}
