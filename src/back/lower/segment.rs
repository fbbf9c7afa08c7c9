//! Scores by token type.

use super::attention::split_heads;
use super::distance::head_columns;
use super::masks::Masks;
use crate::error::{Error, Result};
use crate::ir::{DType, Node, Op, Rewriter, ValueId};

/// `SegmentScores(x, t, types) = where(typesᵢ ≠ typesⱼ, scale · x t₁ᵀ, scale · x t₀ᵀ)`, head by head
pub(super) fn scores(rw: &mut Rewriter, node: &Node, heads: i64, scale: f32, masks: &mut Masks) -> Result<ValueId> {
    let (name, types) = (rw.name(node), rw.required(node, 2)?);
    let x = split_heads(rw, &format!("{name}.queries"), node, 0, heads)?;
    let table = head_columns(rw, &format!("{name}.table"), node, heads, scale)?;
    let both = rw.node(&format!("{name}.both"), Op::MatMul, &[x, table])?;
    let both = rw.nodes(&format!("{name}.split"), Op::Split { axis: -1, sizes: vec![1, 1] }, &[Some(both)])?;
    let &[same, other] = both.as_slice() else { return Err(Error::bug("a split in two has two pieces")) };
    let differ = differ(rw, types, masks)?;
    rw.node(name, Op::Where, &[differ, other, same])
}

/// `i64 [b, s] → bool [b, 1, s, s]`: whether the types of two tokens differ. In 32 bits: tract takes 64-bit integers for
/// sizes.
fn differ(rw: &mut Rewriter, types: ValueId, masks: &mut Masks) -> Result<ValueId> {
    if let Some(made) = masks.forms.get(&(types, DType::Bool)) {
        return Ok(*made);
    }
    let narrow = rw.node("segments.i32", Op::Cast { to: DType::I32 }, &[types])?;
    let queries = rw.node("segments.queries", Op::Unsqueeze { axes: vec![1, 3] }, &[narrow])?;
    let keys = rw.node("segments.keys", Op::Unsqueeze { axes: vec![1, 2] }, &[narrow])?;
    let difference = rw.node("segments.apart", Op::Sub, &[queries, keys])?;
    let differ = rw.node("segments.differ", Op::Cast { to: DType::Bool }, &[difference])?;
    masks.forms.insert((types, DType::Bool), differ);
    Ok(differ)
}
