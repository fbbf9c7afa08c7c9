//! Attention, as one operator or as products and a softmax.

use half::{bf16, f16};

use super::masks::{Masks, Places, spread_mask};
use super::places;
use crate::error::{Error, Result};
use crate::ir::{DType, Dim, Node, Op, Rewriter, ValueId, Weight};
use crate::target::AttentionForm;

/// What parts of an attention.
struct Attention<'a> {
    node: &'a Node,
    heads: i64,
    kv_heads: i64,
    scale: f32,
    soft_cap: Option<f32>,
    places: Option<Places>,
    past: Option<[ValueId; 2]>,
    /// One more score of each head.
    sinks: Option<ValueId>,
}

/// The replacements of an attention's outputs.
pub(super) fn lower(rw: &mut Rewriter, node: &Node, form: AttentionForm, masks: &mut Masks) -> Result<Vec<ValueId>> {
    let Op::Attention { heads, scale, kv_heads, soft_cap, .. } = node.op else {
        return Err(Error::bug(format!("`{}` is no attention", rw.name(node))));
    };
    let past = match (rw.operand(node, 5)?, rw.operand(node, 6)?) {
        (Some(key), Some(value)) => Some([key, value]),
        _ => None,
    };
    let kv_heads = kv_heads.unwrap_or(heads);
    let places = Places::of(rw, node)?;
    let sinks = rw.operand(node, 7)?;
    let attention = Attention { node, heads, kv_heads, scale, soft_cap, places, past, sinks };
    let (keys, bias) = (rw.required(node, 1)?, rw.operand(node, 4)?);
    let each = bias.is_some_and(|bias| rw.ty(bias).shape.get(1) != Some(&Dim::Fixed(1)));
    // Versions of ONNX differ in whether the soft cap or the mask comes first (onnx#7867), and keys by head go with queries
    // by head. ONNX Runtime 1.24 refuses a bias of each head where heads share keys.
    let exact = soft_cap.is_none() && sinks.is_none() && rw.ty(keys).rank() == 3 && (kv_heads == heads || !each);
    match form {
        AttentionForm::Operator if exact => attention.operator(rw, masks),
        _ => attention.plain(rw, masks),
    }
}

impl Attention<'_> {
    /// `Attention` by one operator.
    fn operator(&self, rw: &mut Rewriter, masks: &mut Masks) -> Result<Vec<ValueId>> {
        let (mask, bias) = (rw.operand(self.node, 3)?, rw.operand(self.node, 4)?);
        let simple = self.places.is_none() && self.past.is_none() && self.kv_heads == self.heads;
        if simple && (mask.is_none() || bias.is_some()) {
            return Ok(vec![multi_head(rw, self.node, self.heads, self.scale, masks)?]);
        }
        let [q, k, v] = [rw.required(self.node, 0)?, rw.required(self.node, 1)?, rw.required(self.node, 2)?];
        let bias = match (mask, bias) {
            (Some(mask), None) if self.places.is_none() => Some(mask_as_bias(rw, mask, q, masks)?),
            (_, bias) => match self.kept(rw, masks)? {
                None => bias,
                Some(kept) => Some(kept_as_bias(rw, self.node, kept, bias, q, masks)?),
            },
        };
        let [past_key, past_value] = self.past.map_or([None, None], |past| past.map(Some));
        let mut operands = vec![Some(q), Some(k), Some(v), bias, past_key, past_value];
        while operands.last() == Some(&None) {
            operands.pop();
        }
        let kv_heads = (self.kv_heads != self.heads).then_some(self.kv_heads);
        let op = Op::BiasedAttention { heads: self.heads, scale: self.scale, kv_heads };
        rw.nodes(rw.name(self.node), op, &operands)
    }

    /// `Attention(q, k, v, m, b) = softmax(where(m, (scale · q) kᵀ + b, lowest)) v`, head by head
    ///
    /// Scaled first, products are smaller: half precision ends at 65504. TensorRT's fused attention takes that and reads
    /// this mask as it is; an additive one costs it a kernel. Where heads share keys, they are one more dimension.
    fn plain(&self, rw: &mut Rewriter, masks: &mut Masks) -> Result<Vec<ValueId>> {
        let Attention { node, heads, scale, .. } = *self;
        let name = rw.name(node);
        let q = rw.required(node, 0)?;
        let ty = rw.ty(q);
        let width = width(&ty.shape)?;
        let shared = self.kv_heads != heads;
        let q = match shared {
            true => self.grouped_queries(rw, q, width)?,
            false => turned_heads(rw, &format!("{name}.query"), node, 0, heads, [0, 2, 1, 3])?,
        };
        let (mut k, present_key) = self.keys(rw)?;
        let (mut v, present_value) = self.values(rw)?;
        if shared {
            k = rw.node(&format!("{name}.key.shared"), Op::Unsqueeze { axes: vec![2] }, &[k])?;
            v = rw.node(&format!("{name}.value.shared"), Op::Unsqueeze { axes: vec![2] }, &[v])?;
        }
        let factor = rw.weight(&format!("{name}.scale"), Weight::scalar(ty.dtype, scale)?);
        let q = rw.node(&format!("{name}.query.scaled"), Op::Mul, &[q, factor])?;
        let mut scores = rw.node(&format!("{name}.scores"), Op::MatMul, &[q, k])?;
        if let Some(cap) = self.soft_cap {
            let cap = rw.weight(&format!("{name}.cap"), Weight::scalar(ty.dtype, cap)?);
            let share = rw.node(&format!("{name}.share"), Op::Div, &[scores, cap])?;
            let share = rw.node(&format!("{name}.bounded"), Op::Tanh, &[share])?;
            scores = rw.node(&format!("{name}.capped"), Op::Mul, &[share, cap])?;
        }
        if let Some(mut bias) = rw.operand(node, 4)? {
            if shared {
                bias = self.grouped_bias(rw, bias)?;
            }
            scores = rw.node(&format!("{name}.biased"), Op::Add, &[scores, bias])?;
        }
        if let Some(mut kept) = self.kept(rw, masks)? {
            if shared {
                kept = rw.node(&format!("{name}.kept"), Op::Unsqueeze { axes: vec![1] }, &[kept])?;
            }
            let lowest = rw.weight(&format!("{name}.lowest"), Weight::scalar(ty.dtype, lowest(ty.dtype))?);
            scores = rw.node(&format!("{name}.masked"), Op::Where, &[kept, scores, lowest])?;
        }
        let weights = match self.sinks {
            None => rw.node(&format!("{name}.softmax"), Op::Softmax { axis: -1 }, &[scores])?,
            Some(sinks) => self.with_sinks(rw, scores, sinks)?,
        };
        let context = rw.node(&format!("{name}.context"), Op::MatMul, &[weights, v])?;
        let perm = if shared { vec![0, 3, 1, 2, 4] } else { vec![0, 2, 1, 3] };
        let context = rw.node(&format!("{name}.context.turned"), Op::Transpose { perm }, &[context])?;
        let out = rw.node(name, Op::Reshape { shape: vec![0, 0, width] }, &[context])?;
        Ok([Some(out), present_key, present_value].into_iter().flatten().collect())
    }

    /// `softmax(scores | sink)` without its last column, for scores `[b, heads, t, n]` or by the heads of keys.
    fn with_sinks(&self, rw: &mut Rewriter, scores: ValueId, sinks: ValueId) -> Result<ValueId> {
        let name = rw.name(self.node);
        let at = |part: &str| format!("{name}.sinks.{part}");
        let mut shape = rw.ty(scores).shape;
        let last = shape.len() as i64 - 1;
        let keys = shape.pop().ok_or_else(|| Error::bug("scores have keys"))?;
        let by_head = match self.kv_heads == self.heads {
            true => vec![1, self.heads, 1, 1],
            false => vec![1, self.kv_heads, self.heads / self.kv_heads, 1, 1],
        };
        let column = rw.node(&at("heads"), Op::Reshape { shape: by_head }, &[sinks])?;
        let one = rw.weight(&at("one"), Weight::i64s(vec![1], &[1])?);
        let queries = rw.node(&at("queries"), Op::Shape { start: 0, end: last }, &[scores])?;
        let sizes = rw.node(&at("sizes"), Op::Concat { axis: 0 }, &[queries, one])?;
        shape.push(Dim::Fixed(1));
        let column = rw.node(&at("column"), Op::ExpandTo { shape }, &[column, sizes])?;
        let scores = rw.node(&at("scores"), Op::Concat { axis: -1 }, &[scores, column])?;
        let weights = rw.node(&at("softmax"), Op::Softmax { axis: -1 }, &[scores])?;
        let (start, end) = (Weight::i64s(vec![1], &[0])?, Weight::i64s(vec![1], &[-1])?);
        let (start, end) = (rw.weight(&at("start"), start), rw.weight(&at("end"), end));
        rw.node(&at("kept"), Op::Slice { axis: last, length: keys }, &[weights, start, end])
    }

    /// Which keys a query attends to, as bool that broadcasts to `[b, 1, t, n]`; none where it attends to all.
    fn kept(&self, rw: &mut Rewriter, masks: &mut Masks) -> Result<Option<ValueId>> {
        match (&self.places, rw.operand(self.node, 3)?) {
            (None, None) => Ok(None),
            (None, Some(mask)) => spread_mask(rw, mask, masks).map(Some),
            (Some(places), mask) => places::kept(rw, self.node, places, mask, masks).map(Some),
        }
    }

    /// `[b, t, heads · d] → [b, kv, heads / kv, t, d]`
    fn grouped_queries(&self, rw: &mut Rewriter, q: ValueId, width: i64) -> Result<ValueId> {
        let name = format!("{}.query", rw.name(self.node));
        let shape = vec![0, 0, self.kv_heads, self.heads / self.kv_heads, width / self.heads];
        let q = rw.node(&format!("{name}.heads"), Op::Reshape { shape }, &[q])?;
        rw.node(&format!("{name}.turned"), Op::Transpose { perm: vec![0, 2, 3, 1, 4] }, &[q])
    }

    /// `[1, heads, t, n] → [1, kv, heads / kv, t, n]`, where either of the first two may be stretched.
    fn grouped_bias(&self, rw: &mut Rewriter, bias: ValueId) -> Result<ValueId> {
        let name = rw.name(self.node);
        let at = |part: &str| format!("{name}.bias.{part}");
        let shape = <[Dim; 4]>::try_from(rw.ty(bias).shape).map_err(|_| Error::bug("a bias has rank 4"))?;
        let [batch, heads, queries, keys] = shape;
        if heads == Dim::Fixed(1) {
            return rw.node(&at("shared"), Op::Unsqueeze { axes: vec![1] }, &[bias]);
        }
        let [kv, share] = [self.kv_heads, self.heads / self.kv_heads];
        let groups = rw.weight(&at("groups"), Weight::i64s(vec![2], &[kv, share])?);
        let first = rw.node(&at("batch"), Op::Shape { start: 0, end: 1 }, &[bias])?;
        let last = rw.node(&at("pairs"), Op::Shape { start: 2, end: 4 }, &[bias])?;
        let sizes = rw.node(&at("sizes"), Op::Concat { axis: 0 }, &[first, groups, last])?;
        let shape = vec![batch, Dim::Fixed(kv as usize), Dim::Fixed(share as usize), queries, keys];
        rw.node(&at("grouped"), Op::ReshapeTo { shape }, &[bias, sizes])
    }

    /// The keys as `[b, kv, d, n]`, and as `[b, kv, n, d]` where there is a past.
    fn keys(&self, rw: &mut Rewriter) -> Result<(ValueId, Option<ValueId>)> {
        let name = format!("{}.key", rw.name(self.node));
        let keys = rw.required(self.node, 1)?;
        if self.past.is_none() && rw.ty(keys).rank() == 3 {
            return Ok((turned_heads(rw, &name, self.node, 1, self.kv_heads, [0, 2, 3, 1])?, None));
        }
        let (keys, present) = self.with_past(rw, &name, 1)?;
        let columns = rw.node(&format!("{name}.columns"), Op::Transpose { perm: vec![0, 1, 3, 2] }, &[keys])?;
        Ok((columns, present))
    }

    /// The values as `[b, kv, n, d]`, and again where there is a past.
    fn values(&self, rw: &mut Rewriter) -> Result<(ValueId, Option<ValueId>)> {
        let name = format!("{}.value", rw.name(self.node));
        self.with_past(rw, &name, 2)
    }

    /// Operand `i` by heads, after its past.
    fn with_past(&self, rw: &mut Rewriter, name: &str, i: usize) -> Result<(ValueId, Option<ValueId>)> {
        let mut all = rw.required(self.node, i)?;
        if rw.ty(all).rank() == 3 {
            all = turned_heads(rw, name, self.node, i, self.kv_heads, [0, 2, 1, 3])?;
        }
        let Some([key, value]) = self.past else { return Ok((all, None)) };
        let past = if i == 1 { key } else { value };
        let present = rw.node(&format!("{name}.present"), Op::Concat { axis: 2 }, &[past, all])?;
        Ok((present, Some(present)))
    }
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
    if let Some(made) = masks.biases.get(&key) {
        return Ok(*made);
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

/// A bias, or 0, where a key is kept, and the lowest number where it is not. Sums of two lowest numbers are infinite, so
/// the bias is chosen and not added.
fn kept_as_bias(
    rw: &mut Rewriter,
    node: &Node,
    kept: ValueId,
    bias: Option<ValueId>,
    q: ValueId,
    masks: &mut Masks,
) -> Result<ValueId> {
    let (name, ty) = (rw.name(node), rw.ty(q));
    let length = ty.shape.get(1).cloned().ok_or_else(|| Error::bug("a query has a length"))?;
    let key = (kept, ty.dtype, length);
    if let (None, Some(made)) = (bias, masks.biases.get(&key)) {
        return Ok(*made);
    }
    let lowest = rw.weight(&format!("{name}.lowest"), Weight::scalar(ty.dtype, lowest(ty.dtype))?);
    let seen = match bias {
        Some(bias) => bias,
        None => rw.weight(&format!("{name}.zero"), Weight::scalar(ty.dtype, 0.0)?),
    };
    let made = rw.node(&format!("{name}.bias"), Op::Where, &[kept, seen, lowest])?;
    if bias.is_none() {
        masks.biases.insert(key, made);
    }
    Ok(made)
}

/// `Attention = com.microsoft.MultiHeadAttention`, with the mask in 32 bits
fn multi_head(rw: &mut Rewriter, node: &Node, heads: i64, scale: f32, masks: &mut Masks) -> Result<ValueId> {
    let mut operands: Vec<_> = (0..3).map(|i| rw.operand(node, i)).collect::<Result<_>>()?;
    let mask = match rw.operand(node, 3)? {
        None => None,
        Some(mask) => Some(match masks.forms.get(&(mask, DType::I32)) {
            Some(made) => *made,
            None => {
                let made = rw.node("attention_mask.i32", Op::Cast { to: DType::I32 }, &[mask])?;
                masks.forms.insert((mask, DType::I32), made);
                made
            }
        }),
    };
    // Between the values and the mask is the operand of the three projections' biases.
    operands.extend([None, mask, rw.operand(node, 4)?]);
    while operands.last() == Some(&None) {
        operands.pop();
    }
    let outputs = rw.nodes(rw.name(node), Op::MultiHeadAttention { heads, scale }, &operands)?;
    outputs.first().copied().ok_or_else(|| Error::bug("MultiHeadAttention has an output"))
}

/// The lowest finite number of a type.
fn lowest(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::MIN.to_f32(),
        DType::BF16 => bf16::MIN.to_f32(),
        _ => f32::MIN,
    }
}

/// The last size of a shape, which is known.
fn width(shape: &[Dim]) -> Result<i64> {
    let width = shape.last().and_then(Dim::fixed).and_then(|n| i64::try_from(n).ok());
    width.ok_or_else(|| Error::bug("the width of attention is known"))
}

/// Operand `i` of a node, `[b, s, heads · d] → [b, heads, s, d]`.
pub(super) fn split_heads(rw: &mut Rewriter, name: &str, node: &Node, i: usize, heads: i64) -> Result<ValueId> {
    turned_heads(rw, name, node, i, heads, [0, 2, 1, 3])
}

/// The same in the order of dimensions `perm` of `[b, s, heads, d]`.
fn turned_heads(rw: &mut Rewriter, name: &str, node: &Node, i: usize, heads: i64, perm: [i64; 4]) -> Result<ValueId> {
    let x = rw.required(node, i)?;
    let width = width(&rw.ty(x).shape)?;
    let x = rw.node(&format!("{name}.heads"), Op::Reshape { shape: vec![0, 0, heads, width / heads] }, &[x])?;
    rw.node(&format!("{name}.turned"), Op::Transpose { perm: perm.to_vec() }, &[x])
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use crate::back::lower;
    use crate::ir::text::parse;
    use crate::target::Target;
    use crate::verify::verify;

    #[test]
    fn masked_scores_get_the_lowest_finite_number_of_their_type() {
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
