//! One vector for each text, and what leaves padding out.

use crate::error::{Error, Result};
use crate::ir::{Node, Op, Rewriter, ValueId, Weight};

/// `MeanPool(x, m) = Σ x·m / max(Σ m, 10⁻⁹)`, over the tokens
pub(super) fn mean(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, x, mask) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let kept = weights(rw, name, x, mask)?;
    let masked = rw.node(&at("masked"), Op::Mul, &[x, kept])?;
    let sum = rw.node(&at("sum"), Op::ReduceSum { axes: vec![1], keep: false }, &[masked])?;
    let count = rw.node(&at("count"), Op::ReduceSum { axes: vec![1], keep: false }, &[kept])?;
    let count = at_least(rw, &at("count.positive"), count, 1e-9)?;
    rw.node(name, Op::Div, &[sum, count])
}

/// `ZeroPadding(x, m) = x·m`
pub(super) fn zero_padding(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, x, mask) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let kept = weights(rw, name, x, mask)?;
    rw.node(name, Op::Mul, &[x, kept])
}

/// A mask `[b, s]` as factors `[b, s, 1]` of `x`.
fn weights(rw: &mut Rewriter, name: &str, x: ValueId, mask: ValueId) -> Result<ValueId> {
    let to = rw.ty(x).dtype;
    let kept = rw.node(&format!("{name}.kept"), Op::Cast { to }, &[mask])?;
    rw.node(&format!("{name}.weights"), Op::Unsqueeze { axes: vec![2] }, &[kept])
}

/// `Normalize(x) = x / max(√Σ x², 10⁻¹²)`, over the last dimension
pub(super) fn normalize(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let squares = rw.node(&at("squares"), Op::Mul, &[x, x])?;
    let sum = rw.node(&at("sum"), Op::ReduceSum { axes: vec![-1], keep: true }, &[squares])?;
    let length = rw.node(&at("length"), Op::Sqrt, &[sum])?;
    let length = at_least(rw, &at("length.positive"), length, 1e-12)?;
    rw.node(name, Op::Div, &[x, length])
}

fn at_least(rw: &mut Rewriter, name: &str, x: ValueId, least: f32) -> Result<ValueId> {
    let dtype = rw.ty(x).dtype;
    if !dtype.is_float() {
        return Err(Error::bug(format!("`{name}` is {dtype}")));
    }
    let least = rw.weight(&format!("{name}.least"), Weight::scalar(dtype, least)?);
    rw.node(name, Op::Max, &[x, least])
}
