//! Lookups, selections and residuals.

use crate::error::{Error, Result};
use crate::ir::{DType, Node, Op, Rewriter, ValueId, Weight};

/// `Embed(table, ids) = Gather_0(table, ids)`
pub(super) fn embed(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let operands = [rw.required(node, 0)?, rw.required(node, 1)?];
    rw.node(rw.name(node), Op::Gather { axis: 0 }, &operands)
}

/// `PositionEmbed(table, ids [b, s]) = table[offset … offset + s]`
pub(super) fn position_embed(rw: &mut Rewriter, node: &Node, offset: i64) -> Result<ValueId> {
    let (name, table, ids) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let length = rw.ty(ids).shape.last().cloned().ok_or_else(|| Error::bug("ids without dimensions"))?;
    let starts = rw.weight(&format!("{name}.start"), Weight::i64s(vec![1], &[offset])?);
    let mut ends = rw.node(&format!("{name}.length"), Op::Shape { start: 1, end: 2 }, &[ids])?;
    if offset != 0 {
        ends = rw.node(&format!("{name}.end"), Op::Add, &[ends, starts])?;
    }
    rw.node(name, Op::Slice { axis: 0, length }, &[table, starts, ends])
}

/// `TokenPositions(ids) = cumsum(kept) · kept + place`, where `kept` is 1 for every token but `pad`
///
/// In 32 bits: tract takes sums of 64-bit integers for sizes.
pub(super) fn token_positions(rw: &mut Rewriter, node: &Node, pad: i64, place: i64) -> Result<ValueId> {
    let (name, ids) = (rw.name(node), rw.required(node, 0)?);
    let distinct = pad != place;
    let pad = rw.weight(&format!("{name}.pad"), Weight::i64s(vec![], &[pad])?);
    let first = if distinct { rw.weight(&format!("{name}.first"), Weight::i64s(vec![], &[place])?) } else { pad };
    let distance = rw.node(&format!("{name}.distance"), Op::Sub, &[ids, pad])?;
    let kept = rw.node(&format!("{name}.differs"), Op::Cast { to: DType::Bool }, &[distance])?;
    let kept = rw.node(&format!("{name}.kept"), Op::Cast { to: DType::I32 }, &[kept])?;
    let count = rw.node(&format!("{name}.count"), Op::CumSum { axis: 1 }, &[kept])?;
    let place = rw.node(&format!("{name}.place"), Op::Mul, &[count, kept])?;
    let place = rw.node(&format!("{name}.wide"), Op::Cast { to: DType::I64 }, &[place])?;
    rw.node(name, Op::Add, &[place, first])
}

/// `Select_axis(x, i) = Gather_axis(x, i)` with a scalar index
pub(super) fn select(rw: &mut Rewriter, node: &Node, axis: i64, index: i64) -> Result<ValueId> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let index = rw.weight(&format!("{name}.index"), Weight::i64s(vec![], &[index])?);
    rw.node(name, Op::Gather { axis }, &[x, index])
}

/// `a + b = Sum(a, b)`, which ONNX Runtime does not fuse with the norm after it
pub(super) fn residual_sum(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let operands = [rw.required(node, 0)?, rw.required(node, 1)?];
    rw.node(rw.name(node), Op::Sum, &operands)
}
