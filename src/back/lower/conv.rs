//! Convolutions along the tokens.

use crate::error::{Error, Result};
use crate::ir::{Node, Op, Rewriter, ValueId, Weight};

/// `TokenConv(x, w, b) = Conv(xᵀ, w, b)ᵀ`
pub(super) fn along_tokens(rw: &mut Rewriter, node: &Node, groups: i64) -> Result<ValueId> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let channels = rw.node(&format!("{name}.channels"), Op::Transpose { perm: vec![0, 2, 1] }, &[x])?;
    let mut operands = vec![channels, rw.required(node, 1)?];
    operands.extend(rw.operand(node, 2)?);
    let product = rw.node(&format!("{name}.product"), Op::Conv { groups, pads: None }, &operands)?;
    rw.node(name, Op::Transpose { perm: vec![0, 2, 1] }, &[product])
}

/// `CausalConv(x, w, p, b) = Conv(p | xᵀ, w, b)ᵀ`, and what comes last of `p | xᵀ`; without a past, zeros are before
/// `xᵀ`
pub(super) fn causal(rw: &mut Rewriter, node: &Node) -> Result<Vec<ValueId>> {
    let (name, x, w) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let at = |part: &str| format!("{name}.{part}");
    let Some([groups, _, width]) = rw.ty(w).fixed_shape().and_then(|shape| <[usize; 3]>::try_from(shape).ok()) else {
        return Err(Error::bug(format!("the kernel of `{name}` has three sizes")));
    };
    let before = width.saturating_sub(1);
    let mut channels = rw.node(&at("channels"), Op::Transpose { perm: vec![0, 2, 1] }, &[x])?;
    let (mut pads, mut present) = (vec![before as i64, 0], None);
    if let Some(past) = rw.operand(node, 2)? {
        channels = rw.node(&at("all"), Op::Concat { axis: 2 }, &[past, channels])?;
        let start = rw.weight(&at("present.start"), Weight::i64s(vec![1], &[-(before as i64)])?);
        let end = rw.weight(&at("present.end"), Weight::i64s(vec![1], &[i64::MAX])?);
        let last = Op::Slice { axis: 2, length: before.into() };
        present = Some(rw.node(&at("present"), last, &[channels, start, end])?);
        pads = vec![0, 0];
    }
    let operands: Vec<ValueId> = [channels, w].into_iter().chain(rw.operand(node, 3)?).collect();
    let conv = Op::Conv { groups: groups as i64, pads: Some(pads) };
    let product = rw.node(&at("product"), conv, &operands)?;
    let out = rw.node(name, Op::Transpose { perm: vec![0, 2, 1] }, &[product])?;
    Ok(std::iter::once(out).chain(present).collect())
}
