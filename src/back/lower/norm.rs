//! Norms where a target has no operator for them.

use crate::error::Result;
use crate::ir::{DType, Node, Op, Rewriter, ValueId, Weight};

/// `RmsNorm(x, w) = x / √(mean(x²) + ε) · w`. The squares are in 32 bits: half precision ends at 65504.
pub(super) fn rms(rw: &mut Rewriter, node: &Node, epsilon: f32) -> Result<ValueId> {
    let (name, mut x, scale) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let dtype = rw.ty(x).dtype;
    if dtype != DType::F32 {
        x = rw.node(&at("wide"), Op::Cast { to: DType::F32 }, &[x])?;
    }
    let squares = rw.node(&at("squares"), Op::Mul, &[x, x])?;
    let mean = rw.node(&at("mean"), Op::ReduceMean { axes: vec![-1], keep: true }, &[squares])?;
    let epsilon = rw.weight(&at("epsilon"), Weight::scalar(DType::F32, epsilon)?);
    let mean = rw.node(&at("mean.positive"), Op::Add, &[mean, epsilon])?;
    let root = rw.node(&at("root"), Op::Sqrt, &[mean])?;
    let mut normal = rw.node(&at("normal"), Op::Div, &[x, root])?;
    if dtype != DType::F32 {
        normal = rw.node(&at("narrow"), Op::Cast { to: dtype }, &[normal])?;
    }
    rw.node(name, Op::Mul, &[normal, scale])
}
