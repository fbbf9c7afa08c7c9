//! One vector for each text, without padding. All poolings but the largest number are sums over the tokens
//! with other weights.

use crate::error::{Error, Result};
use crate::ir::{DType, Node, Op, Rewriter, ValueId, Weight};

/// The value of padding in max pooling, as in sentence-transformers.
const LOWEST: f32 = -1e9;

/// `MeanPool(x, m) = Σ x·m / max(Σ m, 10⁻⁹)`, over the tokens
pub(super) fn mean(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, kept) = (rw.name(node), kept(rw, node)?);
    let [sum, count] = weighted(rw, node, kept)?;
    rw.node(name, Op::Div, &[sum, count])
}

/// `MeanSqrtLenPool(x, m) = Σ x·m / √max(Σ m, 10⁻⁹)`
pub(super) fn mean_sqrt_len(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, kept) = (rw.name(node), kept(rw, node)?);
    let [sum, count] = weighted(rw, node, kept)?;
    let root = rw.node(&format!("{name}.root"), Op::Sqrt, &[count])?;
    rw.node(name, Op::Div, &[sum, root])
}

/// `WeightedMeanPool(x, m) = Σ x·m·p / max(Σ m·p, 10⁻⁹)`, where `p` counts the positions from 1 on, padding too
pub(super) fn weighted_mean(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, kept) = (rw.name(node), kept(rw, node)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let one = rw.weight(&at("one"), Weight::scalar(rw.ty(kept).dtype, 1.0)?);
    let zeros = rw.node(&at("zeros"), Op::Sub, &[kept, kept])?;
    let ones = rw.node(&at("ones"), Op::Add, &[zeros, one])?;
    let place = rw.node(&at("place"), Op::CumSum { axis: 1 }, &[ones])?;
    let weights = rw.node(&at("placed"), Op::Mul, &[kept, place])?;
    let [sum, total] = weighted(rw, node, weights)?;
    rw.node(name, Op::Div, &[sum, total])
}

/// `LastToken(x, m) = Σ x·w`, where `w` is 1 at the last token and 0 elsewhere: `max(m − tokens that follow, 0)`
pub(super) fn last_token(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, kept) = (rw.name(node), kept(rw, node)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let until = rw.node(&at("until"), Op::CumSum { axis: 1 }, &[kept])?;
    let all = rw.node(&at("all"), Op::ReduceSum { axes: vec![1], keep: true }, &[kept])?;
    let after = rw.node(&at("after"), Op::Sub, &[all, until])?;
    let margin = rw.node(&at("margin"), Op::Sub, &[kept, after])?;
    let last = rw.node(&at("last"), Op::Relu, &[margin])?;
    let [sum, _] = summed(rw, node, name, last)?;
    Ok(sum)
}

/// `MaxPool(x, m) = max over the tokens of (x where m, else −10⁹)`
pub(super) fn max(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, x, mask) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let kept = rw.node(&at("kept"), Op::Cast { to: DType::Bool }, &[mask])?;
    let kept = rw.node(&at("weights"), Op::Unsqueeze { axes: vec![2] }, &[kept])?;
    let lowest = rw.weight(&at("lowest"), Weight::scalar(rw.ty(x).dtype, LOWEST)?);
    let masked = rw.node(&at("masked"), Op::Where, &[kept, x, lowest])?;
    rw.node(name, Op::ReduceMax { axes: vec![1], keep: false }, &[masked])
}

/// `ZeroPadding(x, m) = x·m`
pub(super) fn zero_padding(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, x, kept) = (rw.name(node), rw.required(node, 0)?, kept(rw, node)?);
    let kept = rw.node(&format!("{name}.weights"), Op::Unsqueeze { axes: vec![2] }, &[kept])?;
    rw.node(name, Op::Mul, &[x, kept])
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

/// The mask in the type of `x`, `[b, s]`.
fn kept(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, x, mask) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    rw.node(&format!("{name}.kept"), Op::Cast { to: rw.ty(x).dtype }, &[mask])
}

/// The sum over the tokens with weights `[b, s]`, `[b, h]`, and the weights' own, `[b, 1]` and never 0.
fn weighted(rw: &mut Rewriter, node: &Node, weights: ValueId) -> Result<[ValueId; 2]> {
    let name = rw.name(node);
    let [sum, weights] = summed(rw, node, &format!("{name}.sum"), weights)?;
    let count = rw.node(&format!("{name}.count"), Op::ReduceSum { axes: vec![1], keep: false }, &[weights])?;
    Ok([sum, at_least(rw, &format!("{name}.count.positive"), count, 1e-9)?])
}

/// The sum over the tokens with weights `[b, s]`, under that name, and the weights as `[b, s, 1]`.
fn summed(rw: &mut Rewriter, node: &Node, sum: &str, weights: ValueId) -> Result<[ValueId; 2]> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let weights = rw.node(&format!("{name}.weights"), Op::Unsqueeze { axes: vec![2] }, &[weights])?;
    let masked = rw.node(&format!("{name}.masked"), Op::Mul, &[x, weights])?;
    Ok([rw.node(sum, Op::ReduceSum { axes: vec![1], keep: false }, &[masked])?, weights])
}

fn at_least(rw: &mut Rewriter, name: &str, x: ValueId, least: f32) -> Result<ValueId> {
    let dtype = rw.ty(x).dtype;
    if !dtype.is_float() {
        return Err(Error::bug(format!("`{name}` is {dtype}")));
    }
    let least = rw.weight(&format!("{name}.least"), Weight::scalar(dtype, least)?);
    rw.node(name, Op::Max, &[x, least])
}
