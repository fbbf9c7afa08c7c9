//! Lookups, selections and residuals.

use crate::error::{Error, Result};
use crate::ir::{Node, Op, Rewriter, ValueId, Weight};

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
