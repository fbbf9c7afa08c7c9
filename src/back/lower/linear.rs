//! Linear layers in floating point.

use crate::error::Result;
use crate::ir::{Node, Op, Rewriter, ValueId};

/// `Linear(x, w, b) = x · w + b`
pub(super) fn float(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (x, w, bias) = (rw.required(node, 0)?, rw.required(node, 1)?, rw.operand(node, 2)?);
    biased(rw, rw.name(node), bias, |rw, name| rw.node(name, Op::MatMul, &[x, w]))
}

/// A product under the given name, and a bias added to it.
pub(super) fn biased(
    rw: &mut Rewriter,
    name: &str,
    bias: Option<ValueId>,
    product: impl FnOnce(&mut Rewriter, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    match bias {
        None => product(rw, name),
        Some(bias) => {
            let product = product(rw, &format!("{name}.product"))?;
            rw.node(name, Op::Add, &[product, bias])
        }
    }
}
