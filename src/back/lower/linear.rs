//! Linear layers, in floating point and in 8 bits.

use crate::error::{Error, Result};
use crate::ir::{DType, Node, Op, Rewriter, ValueId};

/// `Linear(x, w, b) = x · w + b`
pub(super) fn float(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, x, w) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    match rw.operand(node, 2)? {
        None => rw.node(name, Op::MatMul, &[x, w]),
        Some(bias) => {
            let product = rw.node(&format!("{name}.product"), Op::MatMul, &[x, w])?;
            rw.node(name, Op::Add, &[product, bias])
        }
    }
}

/// `DynamicQuantLinear = com.microsoft.DynamicQuantizeMatMul`, without zero points
pub(super) fn dynamic_fused(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let mut operands: Vec<_> = (0..3).map(|i| rw.operand(node, i)).collect::<Result<_>>()?;
    if let Some(bias) = rw.operand(node, 3)? {
        operands.extend([None, Some(bias)]);
    }
    let outputs = rw.nodes(rw.name(node), Op::DynamicQuantizeMatMul, &operands)?;
    outputs.first().copied().ok_or_else(|| Error::bug("DynamicQuantizeMatMul has an output"))
}

/// `x · w ≈ (q(x) · w₈) · s(x) · s(w)`, by ONNX's own operators
pub(super) fn dynamic_plain(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let name = rw.name(node);
    let (x, values, scales) = (rw.required(node, 0)?, rw.required(node, 1)?, rw.required(node, 2)?);
    let quantized = rw.nodes(&format!("{name}.quantized"), Op::DynamicQuantizeLinear, &[Some(x)])?;
    let &[x, x_scale, x_zero] = quantized.as_slice() else {
        return Err(Error::bug("DynamicQuantizeLinear has three outputs"));
    };
    let product = rw.node(&format!("{name}.product"), Op::MatMulInteger, &[x, values, x_zero])?;
    let product = rw.node(&format!("{name}.float"), Op::Cast { to: DType::F32 }, &[product])?;
    let scale = rw.node(&format!("{name}.steps"), Op::Mul, &[scales, x_scale])?;
    match rw.operand(node, 3)? {
        None => rw.node(name, Op::Mul, &[product, scale]),
        Some(bias) => {
            let scaled = rw.node(&format!("{name}.scaled"), Op::Mul, &[product, scale])?;
            rw.node(name, Op::Add, &[scaled, bias])
        }
    }
}

pub(super) fn no_dynamic_quant(rw: &Rewriter, node: &Node) -> Error {
    Error::unsupported(format!("`{}` is quantized with dynamic ranges, which this target cannot run", rw.name(node)))
        .hint("use fp16 for this target")
}
