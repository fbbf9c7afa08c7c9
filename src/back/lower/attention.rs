//! Attention, as one operator or as products and a softmax.

use std::collections::HashMap;

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::ir::{DType, Dim, Node, Op, Rewriter, ValueId, Weight};

/// Masks in the form that attention wants them, made once and read by every layer.
#[derive(Default)]
pub(super) struct Masks {
    /// In another element type, and in the shape that goes with it.
    pub forms: HashMap<(ValueId, DType), ValueId>,
    /// To be added to scores of that type, of so many queries.
    biases: HashMap<(ValueId, DType, Dim), ValueId>,
}

/// `Attention` by one operator.
pub(super) fn operator(rw: &mut Rewriter, node: &Node, heads: i64, scale: f32, masks: &mut Masks) -> Result<ValueId> {
    match (rw.operand(node, 3)?, rw.operand(node, 4)?) {
        (Some(mask), None) => biased(rw, node, mask, Op::BiasedAttention { heads, scale }, masks),
        _ => multi_head(rw, node, heads, scale, masks),
    }
}

/// `Attention(q, k, v, m) = Attention(q, k, v) with the bias 0 or lowest`
fn biased(rw: &mut Rewriter, node: &Node, mask: ValueId, op: Op, masks: &mut Masks) -> Result<ValueId> {
    let [q, k, v] = [rw.required(node, 0)?, rw.required(node, 1)?, rw.required(node, 2)?];
    let bias = mask_as_bias(rw, mask, q, masks)?;
    rw.node(rw.name(node), op, &[q, k, v, bias])
}

/// `i64 [b, s] or [b, t, s] → [b, 1, t, s]`, 0 where there is a token and the lowest number where there is none, for
/// the `t` tokens of `q`. ONNX Runtime wants it whole.
fn mask_as_bias(rw: &mut Rewriter, mask: ValueId, q: ValueId, masks: &mut Masks) -> Result<ValueId> {
    let (mask_ty, q_ty) = (rw.ty(mask), rw.ty(q));
    let (Some(batch), Some(keys), Some(length)) =
        (mask_ty.shape.first().cloned(), mask_ty.shape.last().cloned(), q_ty.shape.get(1).cloned())
    else {
        return Err(Error::bug("a mask and a query have a length"));
    };
    let key = (mask, q_ty.dtype, length.clone());
    if let Some(drawn) = masks.biases.get(&key) {
        return Ok(*drawn);
    }
    let kept = spread_mask(rw, mask, masks)?;
    let suffix = if length == keys { String::new() } else { format!(".{length}") };
    let at = |part: &str| format!("attention_mask.{part}{suffix}");
    let zero = rw.weight(&at("zero"), Weight::scalar(q_ty.dtype, 0.0)?);
    let lowest = rw.weight(&at("lowest"), Weight::scalar(q_ty.dtype, lowest(q_ty.dtype))?);
    let mut bias = rw.node(&at("bias"), Op::Where, &[kept, zero, lowest])?;
    let shape = vec![batch, Dim::Fixed(1), length, keys];
    if rw.ty(bias).shape != shape {
        let one = rw.weight(&at("one"), Weight::i64s(vec![1], &[1])?);
        let sizes = [
            rw.node(&at("batch"), Op::Shape { start: 0, end: 1 }, &[mask])?,
            one,
            rw.node(&at("queries"), Op::Shape { start: 1, end: 2 }, &[q])?,
            rw.node(&at("keys"), Op::Shape { start: 1, end: 2 }, &[mask])?,
        ];
        let sizes = rw.node(&at("sizes"), Op::Concat { axis: 0 }, &sizes)?;
        bias = rw.node(&at("whole"), Op::ExpandTo { shape }, &[bias, sizes])?;
    }
    masks.biases.insert(key, bias);
    Ok(bias)
}

/// `Attention = com.microsoft.MultiHeadAttention`, with the mask in 32 bits
fn multi_head(rw: &mut Rewriter, node: &Node, heads: i64, scale: f32, masks: &mut Masks) -> Result<ValueId> {
    let mut operands: Vec<_> = (0..3).map(|i| rw.operand(node, i)).collect::<Result<_>>()?;
    let mask = match rw.operand(node, 3)? {
        None => None,
        Some(mask) => Some(match masks.forms.get(&(mask, DType::I32)) {
            Some(drawn) => *drawn,
            None => {
                let drawn = rw.node("attention_mask.i32", Op::Cast { to: DType::I32 }, &[mask])?;
                masks.forms.insert((mask, DType::I32), drawn);
                drawn
            }
        }),
    };
    // Between the values and the mask is the place of biases of the three projections.
    operands.extend([None, mask, rw.operand(node, 4)?]);
    while operands.last() == Some(&None) {
        operands.pop();
    }
    let outputs = rw.nodes(rw.name(node), Op::MultiHeadAttention { heads, scale }, &operands)?;
    outputs.first().copied().ok_or_else(|| Error::bug("MultiHeadAttention has an output"))
}

/// `Attention(q, k, v, m, b) = softmax(where(m, (scale · q) kᵀ + b, lowest)) v`, head by head
///
/// Scaled first, products are smaller: half precision ends at 65504. TensorRT's fused attention takes that and reads this
/// mask as it is; an additive one costs it a kernel.
pub(super) fn plain(rw: &mut Rewriter, node: &Node, heads: i64, scale: f32, masks: &mut Masks) -> Result<ValueId> {
    let name = rw.name(node);
    let q = rw.required(node, 0)?;
    let ty = rw.ty(q);
    let width =
        ty.shape.last().and_then(Dim::fixed).ok_or_else(|| Error::bug("the width of attention is known"))? as i64;
    let q = turned_heads(rw, &format!("{name}.query"), node, 0, heads, [0, 2, 1, 3])?;
    let k = turned_heads(rw, &format!("{name}.key"), node, 1, heads, [0, 2, 3, 1])?;
    let v = turned_heads(rw, &format!("{name}.value"), node, 2, heads, [0, 2, 1, 3])?;
    let factor = rw.weight(&format!("{name}.scale"), Weight::scalar(ty.dtype, scale)?);
    let q = rw.node(&format!("{name}.query.scaled"), Op::Mul, &[q, factor])?;
    let mut scores = rw.node(&format!("{name}.scores"), Op::MatMul, &[q, k])?;
    if let Some(bias) = rw.operand(node, 4)? {
        scores = rw.node(&format!("{name}.biased"), Op::Add, &[scores, bias])?;
    }
    if let Some(mask) = rw.operand(node, 3)? {
        let kept = spread_mask(rw, mask, masks)?;
        let lowest = rw.weight(&format!("{name}.lowest"), Weight::scalar(ty.dtype, lowest(ty.dtype))?);
        scores = rw.node(&format!("{name}.masked"), Op::Where, &[kept, scores, lowest])?;
    }
    let weights = rw.node(&format!("{name}.softmax"), Op::Softmax { axis: -1 }, &[scores])?;
    let context = rw.node(&format!("{name}.context"), Op::MatMul, &[weights, v])?;
    let context = rw.node(&format!("{name}.context.turned"), Op::Transpose { perm: vec![0, 2, 1, 3] }, &[context])?;
    rw.node(name, Op::Reshape { shape: vec![0, 0, width] }, &[context])
}

/// The lowest finite number of a type.
fn lowest(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::MIN.to_f32(),
        DType::BF16 => bf16::MIN.to_f32(),
        _ => f32::MIN,
    }
}

/// Operand `i` of a node, `[b, s, heads · d] → [b, heads, s, d]`.
pub(super) fn split_heads(rw: &mut Rewriter, name: &str, node: &Node, i: usize, heads: i64) -> Result<ValueId> {
    turned_heads(rw, name, node, i, heads, [0, 2, 1, 3])
}

/// The same in the order of dimensions `perm` of `[b, s, heads, d]`.
fn turned_heads(rw: &mut Rewriter, name: &str, node: &Node, i: usize, heads: i64, perm: [i64; 4]) -> Result<ValueId> {
    let x = rw.required(node, i)?;
    let width = rw.ty(x).shape.last().and_then(Dim::fixed);
    let width = width.ok_or_else(|| Error::bug("the width of attention is known"))? as i64;
    let x = rw.node(&format!("{name}.heads"), Op::Reshape { shape: vec![0, 0, heads, width / heads] }, &[x])?;
    rw.node(&format!("{name}.turned"), Op::Transpose { perm: perm.to_vec() }, &[x])
}

/// `i64 [b, s] → bool [b, 1, 1, s]`, `i64 [b, s, s] → bool [b, 1, s, s]`
fn spread_mask(rw: &mut Rewriter, mask: ValueId, masks: &mut Masks) -> Result<ValueId> {
    if let Some(drawn) = masks.forms.get(&(mask, DType::Bool)) {
        return Ok(*drawn);
    }
    let kept = rw.node("attention_mask.kept", Op::Cast { to: DType::Bool }, &[mask])?;
    let axes = if rw.ty(mask).rank() == 2 { vec![1, 2] } else { vec![1] };
    let spread = rw.node("attention_mask.spread", Op::Unsqueeze { axes }, &[kept])?;
    masks.forms.insert((mask, DType::Bool), spread);
    Ok(spread)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use crate::back::lower;
    use crate::ir::text::parse;
    use crate::target::Target;
    use crate::verify::verify;

    #[test]
    fn what_is_masked_gets_the_lowest_finite_number_of_its_type() {
        let lowest = [
            ("f32", f32::MIN.to_le_bytes().to_vec()),
            ("f16", f16::MIN.to_le_bytes().to_vec()),
            ("bf16", bf16::MIN.to_le_bytes().to_vec()),
        ];
        for (dtype, bytes) in lowest {
            let text = r#"graph "g" {
  input %x: DTYPE[b, s, 4]
  input %mask: i64[b, s]
  %y: DTYPE[b, s, 4] = Attention {heads=2, scale=0.5} (%x, %x, %x, %mask)
  output %y
}
"#;
            let graph = verify(parse(&text.replace("DTYPE", dtype)).unwrap()).unwrap();
            let lowered = lower(&graph, &Target::Tract).unwrap();
            let (_, _, weight) = lowered.weights().find(|(_, value, _)| value.name == "y.lowest").unwrap();
            assert_eq!(weight.evaluate().unwrap().as_bytes(), bytes, "{dtype}");
        }
    }
}
