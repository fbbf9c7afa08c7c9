//! One node: which function computes it.

use super::arithmetic::Int8Sums;
use super::array::{Array, shared};
use super::elementwise::{Binary, binary, cast, choose, erf, gelu, relu, unary};
use super::reduce::{Reduction, cum_sum, layer_norm, reduce, rms_norm, softmax};
use super::{attention, integer, layout, product};
use crate::error::{Error, Result};
use crate::ir::Op;

/// The operands of one node, taken by their index.
pub(super) struct Operands {
    arrays: Vec<Option<Array>>,
    /// The node's output, where it is known already.
    made: Option<Array>,
}

impl Operands {
    pub fn new(arrays: Vec<Option<Array>>) -> Operands {
        Operands { arrays, made: None }
    }

    /// Those of a node whose result was read from a table.
    pub fn gathered(rows: Array) -> Operands {
        Operands { arrays: Vec::new(), made: Some(rows) }
    }

    fn optional(&mut self, i: usize) -> Option<Array> {
        self.arrays.get_mut(i).and_then(Option::take)
    }

    fn take(&mut self, i: usize) -> Result<Array> {
        self.optional(i).ok_or_else(|| Error::bug(format!("operand {i} is absent")))
    }

    /// The sizes of an operand that was not taken yet.
    fn shape(&self, i: usize) -> Vec<usize> {
        self.arrays.get(i).and_then(Option::as_ref).map_or_else(Vec::new, |array| array.shape().to_vec())
    }

    /// An operand of integers, in order.
    fn i64s(&mut self, i: usize) -> Result<Vec<i64>> {
        match self.take(i)? {
            Array::I64(x) => Ok(x.iter().copied().collect()),
            Array::I32(x) => Ok(x.iter().map(|x| i64::from(*x)).collect()),
            _ => Err(Error::bug(format!("operand {i} is no integers"))),
        }
    }
}

/// The results of an operation that is not composite.
pub(super) fn compute(op: &Op, mut o: Operands, sums: Int8Sums) -> Result<Vec<Array>> {
    if let Some(made) = o.made.take() {
        return Ok(vec![made]);
    }
    let one = match op {
        Op::DynamicQuantizeLinear => return Ok(integer::dynamic_quantize(&o.take(0)?)?.into()),
        Op::BiasedAttention { heads, scale, kv_heads } => {
            let operands = [o.take(0)?, o.take(1)?, o.take(2)?];
            let (bias, past) = (o.optional(3), o.optional(4).zip(o.optional(5)));
            let heads = [*heads, kv_heads.unwrap_or(*heads)];
            return attention::with_past(operands, bias.as_ref(), past, heads, *scale);
        }
        Op::SplitTo { axis, .. } => {
            let sizes = o.i64s(1)?;
            return layout::split(o.take(0)?, *axis, &sizes);
        }
        Op::NonZero { .. } => {
            let values = o.i64s(0)?;
            let places: Vec<i64> = (0..).zip(&values).filter(|(_, value)| **value != 0).map(|(at, _)| at).collect();
            Array::I64(shared(&[1, places.len()], places)?)
        }
        Op::Scatter { axis } => {
            let indices = o.i64s(1)?;
            layout::scatter(o.take(0)?, &indices, &o.take(2)?, *axis)?
        }
        Op::TopK { largest, .. } => {
            let count = o.i64s(1)?;
            return Ok(layout::top_k(&o.take(0)?, &count, *largest)?.into());
        }
        Op::Split { axis, sizes } => return layout::split(o.take(0)?, *axis, sizes),
        Op::Add => binary(Binary::Add, o.take(0)?, o.take(1)?)?,
        Op::Sub => binary(Binary::Sub, o.take(0)?, o.take(1)?)?,
        Op::Mul => binary(Binary::Mul, o.take(0)?, o.take(1)?)?,
        Op::Div => binary(Binary::Div, o.take(0)?, o.take(1)?)?,
        Op::Max => binary(Binary::Max, o.take(0)?, o.take(1)?)?,
        Op::Sum => {
            let first = o.take(0)?;
            (1..o.arrays.len()).try_fold(first, |sum, i| binary(Binary::Add, sum, o.take(i)?))?
        }
        Op::Sqrt => unary(o.take(0)?, f32::sqrt)?,
        Op::Tanh => unary(o.take(0)?, f32::tanh)?,
        Op::Sin => unary(o.take(0)?, f32::sin)?,
        Op::Cos => unary(o.take(0)?, f32::cos)?,
        Op::Sigmoid => unary(o.take(0)?, |x| 1.0 / (1.0 + (-x).exp()))?,
        Op::Erf => unary(o.take(0)?, erf)?,
        Op::FusedGelu => unary(o.take(0)?, gelu)?,
        Op::LeakyRelu { alpha } => unary(o.take(0)?, |x| if x < 0.0 { alpha * x } else { x })?,
        Op::Relu => relu(o.take(0)?)?,
        Op::Where => choose(o.take(0)?, o.take(1)?, o.take(2)?)?,
        Op::Cast { to } => cast(o.take(0)?, *to)?,
        Op::LayerNorm { epsilon } => layer_norm(o.take(0)?, &o.take(1)?, o.optional(2).as_ref(), *epsilon)?,
        Op::RmsNorm { epsilon } => rms_norm(o.take(0)?, &o.take(1)?, *epsilon)?,
        Op::Softmax { axis } => softmax(o.take(0)?, *axis)?,
        Op::ReduceSum { axes, keep } => reduce(o.take(0)?, Reduction::Sum, axes, *keep)?,
        Op::ReduceMean { axes, keep } => reduce(o.take(0)?, Reduction::Mean, axes, *keep)?,
        Op::ReduceMax { axes, keep } => reduce(o.take(0)?, Reduction::Max, axes, *keep)?,
        Op::CumSum { axis } => cum_sum(o.take(0)?, *axis)?,
        Op::MatMul => product::mat_mul(o.take(0)?, &o.take(1)?)?,
        Op::Conv { groups, pads } => product::conv(o.take(0)?, &o.take(1)?, o.optional(2), (*groups, pads.as_deref()))?,
        Op::Gather { axis } => {
            let shape = o.shape(1);
            layout::gather(o.take(0)?, &o.i64s(1)?, &shape, *axis)?
        }
        Op::Reshape { shape } => layout::reshape(o.take(0)?, shape)?,
        Op::ReshapeTo { .. } => layout::reshape(o.take(0)?, &o.i64s(1)?)?,
        Op::ExpandTo { .. } => layout::expand(o.take(0)?, &o.i64s(1)?)?,
        Op::Transpose { perm } => layout::transpose(o.take(0)?, perm)?,
        Op::Unsqueeze { axes } => layout::unsqueeze(o.take(0)?, axes)?,
        Op::Concat { axis } => {
            let parts = (0..o.arrays.len()).map(|i| o.take(i)).collect::<Result<Vec<_>>>()?;
            layout::concat(&parts, *axis)?
        }
        Op::Join { .. } => {
            let parts = (0..o.arrays.len()).map(|i| o.take(i)).collect::<Result<Vec<_>>>()?;
            layout::concat(&parts, 0)?
        }
        Op::Shape { start, end } => {
            let sizes: Vec<i64> = o.take(0)?.shape().iter().map(|size| *size as i64).collect();
            let sizes = sizes.get(*start as usize..*end as usize).unwrap_or_default().to_vec();
            Array::I64(shared(&[sizes.len()], sizes)?)
        }
        Op::Slice { axis, .. } => {
            let (x, starts, ends) = (o.take(0)?, o.i64s(1)?, o.i64s(2)?);
            match (starts.as_slice(), ends.as_slice()) {
                (&[start], &[end]) => layout::slice(x, *axis, start, end)?,
                _ => return Err(Error::bug("a range has one start and one end")),
            }
        }
        Op::QuantizeLinear => integer::quantize(&o.take(0)?, &o.take(1)?, &o.take(2)?)?,
        Op::DequantizeLinear { axis } => integer::dequantize(&o.take(0)?, o.take(1)?, o.optional(2), *axis)?,
        Op::MatMulInteger => Array::I32(integer::mat_mul(&o.take(0)?, &o.take(1)?, &o.take(2)?, sums)?),
        Op::MatMulIntegerToFloat => {
            let (a, b, a_scale, scales, zero) = (o.take(0)?, o.take(1)?, o.take(2)?, o.take(3)?, o.take(4)?);
            integer::to_float(&a, &b, (&a_scale, scales), &zero, o.optional(6), sums)?
        }
        Op::DynamicQuantizeMatMul => {
            let [x, scale, zero] = integer::dynamic_quantize(&o.take(0)?)?;
            integer::to_float(&x, &o.take(1)?, (&scale, o.take(2)?), &zero, o.optional(4), sums)?
        }
        Op::MatMulNBits { bits, .. } => {
            let (x, values, scales, points) = (o.take(0)?, o.take(1)?, o.take(2)?, o.optional(3));
            integer::blocks(x, [&values, &scales], points.as_ref(), o.optional(5), *bits)?
        }
        Op::MultiHeadAttention { heads, scale } => {
            let operands = [o.take(0)?, o.take(1)?, o.take(2)?];
            if o.optional(3).is_some() {
                return Err(Error::unsupported("the evaluator adds no biases of projections inside of attention"));
            }
            attention::multi_head(operands, o.optional(4).as_ref(), o.optional(5), *heads, *scale)?
        }
        other => return Err(Error::unsupported(format!("the evaluator does not compute {}", other.name()))),
    };
    Ok(vec![one])
}
