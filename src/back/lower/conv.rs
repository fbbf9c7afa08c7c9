//! Convolutions along the tokens.

use crate::error::Result;
use crate::ir::{Node, Op, Rewriter, ValueId};

/// `TokenConv(x, w, b) = Conv(xᵀ, w, b)ᵀ`
pub(super) fn along_tokens(rw: &mut Rewriter, node: &Node, groups: i64) -> Result<ValueId> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let channels = rw.node(&format!("{name}.channels"), Op::Transpose { perm: vec![0, 2, 1] }, &[x])?;
    let mut operands = vec![channels, rw.required(node, 1)?];
    operands.extend(rw.operand(node, 2)?);
    let product = rw.node(&format!("{name}.product"), Op::Conv { groups }, &operands)?;
    rw.node(name, Op::Transpose { perm: vec![0, 2, 1] }, &[product])
}
