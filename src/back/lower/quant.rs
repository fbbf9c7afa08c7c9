//! Linear layers in 8 bits.

use std::collections::HashMap;

use super::linear::biased;
use crate::error::{Error, Result};
use crate::ir::{DType, Node, Op, Rewriter, ValueId, Weight};

/// `DynamicQuantLinear = com.microsoft.DynamicQuantizeMatMul`, without zero points
fn dynamic_fused(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let mut operands: Vec<_> = (0..3).map(|i| rw.operand(node, i)).collect::<Result<_>>()?;
    if let Some(bias) = rw.operand(node, 3)? {
        operands.extend([None, Some(bias)]);
    }
    only(rw.nodes(rw.name(node), Op::DynamicQuantizeMatMul, &operands)?)
}

/// `x · w ≈ (q(x) · w₈) · s(x) · s(w)`, by ONNX's own operators
pub(super) fn dynamic_plain(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let x = dynamically(rw, node)?;
    integer(rw, node, &x)
}

/// `q(x)` by the range that `x` has when it runs
fn dynamically(rw: &mut Rewriter, node: &Node) -> Result<Quantized> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let quantized = rw.nodes(&format!("{name}.quantized"), Op::DynamicQuantizeLinear, &[Some(x)])?;
    match quantized.as_slice() {
        &[values, scale, zero_point] => Ok(Quantized { values, scale, zero_point }),
        _ => Err(Error::bug("DynamicQuantizeLinear has three outputs")),
    }
}

pub(super) fn no_dynamic(rw: &Rewriter, node: &Node) -> Error {
    Error::unsupported(format!("`{}` is quantized with dynamic ranges, which this target cannot run", rw.name(node)))
        .hint("use int8-static for this target")
}

/// Activations in 8 bits.
#[derive(Clone, Copy)]
pub(super) struct Quantized {
    values: ValueId,
    scale: ValueId,
    zero_point: ValueId,
}

/// How activations are quantized: type, step, zero point.
pub(super) type Steps = (DType, f32, i64);

/// Activations that have been quantized, and widened again: layers that read one value share them.
#[derive(Default)]
pub(super) struct Shared {
    dynamic: HashMap<ValueId, Quantized>,
    quantized: HashMap<(ValueId, DType, u32, i64), Quantized>,
    widened: HashMap<ValueId, ValueId>,
}

impl Shared {
    /// `DynamicQuantLinear` by ONNX Runtime's kernels: in one where only this layer reads the value, else the value is
    /// quantized once for all that read it.
    pub fn dynamic(&mut self, rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
        let Some(x) = node.operand(0) else { return dynamic_fused(rw, node) };
        if rw.old().consumers(x).filter(|reader| reader.op == Op::DynamicQuantLinear).count() < 2 {
            return dynamic_fused(rw, node);
        }
        let quantized = match self.dynamic.get(&x) {
            Some(made) => *made,
            None => dynamically(rw, node)?,
        };
        self.dynamic.insert(x, quantized);
        to_float(rw, node, quantized)
    }

    /// `StaticQuantLinear = com.microsoft.MatMulIntegerToFloat(q(x), w₈)`
    pub fn fused(&mut self, rw: &mut Rewriter, node: &Node, steps: Steps) -> Result<ValueId> {
        let x = self.quantized(rw, node, steps)?;
        to_float(rw, node, x)
    }

    /// `StaticQuantLinear = dequantize(q(x)) · dequantize(w₈) + b`, which runtimes fuse into a product of integers
    pub fn annotated(&mut self, rw: &mut Rewriter, node: &Node, steps: Steps) -> Result<ValueId> {
        let (name, op) = (rw.name(node), Op::DequantizeLinear { axis: 1 });
        let wide = self.widened(rw, node, steps)?;
        let (values, scales) = (rw.required(node, 1)?, rw.required(node, 2)?);
        let w = rw.node(&format!("{name}.w"), op, &[values, scales])?;
        let bias = rw.operand(node, 3)?;
        biased(rw, name, bias, |rw, name| rw.node(name, Op::MatMul, &[wide, w]))
    }

    /// `StaticQuantLinear = (dequantize(q(x)) · (w₈ · s)) · (s(w) / s) + b` with `s` the largest of `s(w)`, in 32 bits
    /// up to the product
    pub fn rescaled(&mut self, rw: &mut Rewriter, node: &Node, steps: Steps) -> Result<ValueId> {
        let x = rw.required(node, 0)?;
        let (name, of) = (rw.name(node), rw.ty(x).dtype);
        let wide = self.widened(rw, node, steps)?;
        let scales = rw.constant(node, 2).ok_or_else(|| Error::bug("the steps of a layer are constants"))?.to_f32s()?;
        let largest = scales.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let shares: Vec<f32> = scales.iter().map(|scale| scale / largest).collect();
        let step = rw.weight(&format!("{name}.step"), Weight::scalar(DType::F32, largest)?);
        let shares = Weight::f32s(vec![shares.len()], &shares)?;
        let shares = rw.weight(&format!("{name}.shares"), if of == DType::F32 { shares } else { shares.cast(of) });
        let values = rw.required(node, 1)?;
        let w = rw.node(&format!("{name}.w"), Op::DequantizeLinear { axis: 1 }, &[values, step])?;
        let narrow = |rw: &mut Rewriter, id, part: &str| match of {
            DType::F32 => Ok(id),
            _ => rw.node(&format!("{name}.{part}"), Op::Cast { to: of }, &[id]),
        };
        let (wide, w) = (narrow(rw, wide, "x.narrow")?, narrow(rw, w, "w.narrow")?);
        let product = rw.node(&format!("{name}.product"), Op::MatMul, &[wide, w])?;
        match rw.operand(node, 3)? {
            None => rw.node(name, Op::Mul, &[product, shares]),
            Some(bias) => {
                let scaled = rw.node(&format!("{name}.scaled"), Op::Mul, &[product, shares])?;
                rw.node(name, Op::Add, &[scaled, bias])
            }
        }
    }

    /// `dequantize(q(x))`, made once for all that read it
    fn widened(&mut self, rw: &mut Rewriter, node: &Node, steps: Steps) -> Result<ValueId> {
        let x = self.quantized(rw, node, steps)?;
        if let Some(made) = self.widened.get(&x.values) {
            return Ok(*made);
        }
        let op = Op::DequantizeLinear { axis: 1 };
        let made = rw.node(&format!("{}.x", rw.name(node)), op, &[x.values, x.scale, x.zero_point])?;
        self.widened.insert(x.values, made);
        Ok(made)
    }

    /// `StaticQuantLinear = (q(x) · w₈) · s(x) · s(w) + b`
    pub fn plain(&mut self, rw: &mut Rewriter, node: &Node, steps: Steps) -> Result<ValueId> {
        let x = self.quantized(rw, node, steps)?;
        integer(rw, node, &x)
    }

    /// `q(x) = QuantizeLinear(x, step, zero)`, in 32 bits
    fn quantized(&mut self, rw: &mut Rewriter, node: &Node, (to, scale, zero): Steps) -> Result<Quantized> {
        let x = rw.required(node, 0)?;
        let key = (x, to, scale.to_bits(), zero);
        if let Some(made) = self.quantized.get(&key) {
            return Ok(*made);
        }
        let name = rw.name(node);
        let at = |suffix: &str| format!("{name}.x.{suffix}");
        let scale = rw.weight(&at("scale"), Weight::scalar(DType::F32, scale)?);
        let x = match rw.ty(x).dtype {
            DType::F32 => x,
            _ => rw.node(&at("wide"), Op::Cast { to: DType::F32 }, &[x])?,
        };
        // The verifier has checked that the zero point fits its type: its lowest byte is the number.
        let zero_point = rw.weight(&at("zero"), Weight::literal(to, Vec::new(), vec![zero as u8])?);
        let values = rw.node(&at("int8"), Op::QuantizeLinear, &[x, scale, zero_point])?;
        let made = Quantized { values, scale, zero_point };
        self.quantized.insert(key, made);
        Ok(made)
    }
}

/// `(x₈ · w₈) · s(x) · s(w) + b = com.microsoft.MatMulIntegerToFloat`, with the bias inside
fn to_float(rw: &mut Rewriter, node: &Node, x: Quantized) -> Result<ValueId> {
    let (values, scales) = (rw.operand(node, 1)?, rw.operand(node, 2)?);
    let mut operands = vec![Some(x.values), values, Some(x.scale), scales, Some(x.zero_point)];
    if let Some(bias) = rw.operand(node, 3)? {
        operands.extend([None, Some(bias)]);
    }
    only(rw.nodes(rw.name(node), Op::MatMulIntegerToFloat, &operands)?)
}

/// `(x₈ · w₈) · s(x) · s(w) + b`, by ONNX's own operators
fn integer(rw: &mut Rewriter, node: &Node, x: &Quantized) -> Result<ValueId> {
    let (name, values, scales) = (rw.name(node), rw.required(node, 1)?, rw.required(node, 2)?);
    let product = rw.node(&format!("{name}.integers"), Op::MatMulInteger, &[x.values, values, x.zero_point])?;
    let product = rw.node(&format!("{name}.float"), Op::Cast { to: DType::F32 }, &[product])?;
    let steps = rw.node(&format!("{name}.steps"), Op::Mul, &[scales, x.scale])?;
    let bias = rw.operand(node, 3)?;
    biased(rw, name, bias, |rw, name| rw.node(name, Op::Mul, &[product, steps]))
}

/// `WeightQuantLinear = x · dequantize(w₈) + b`
pub(super) fn widened(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let (values, scales) = (rw.required(node, 1)?, rw.required(node, 2)?);
    let w = rw.node(&format!("{name}.w"), Op::DequantizeLinear { axis: 1 }, &[values, scales])?;
    let bias = rw.operand(node, 3)?;
    biased(rw, name, bias, |rw, name| rw.node(name, Op::MatMul, &[x, w]))
}

/// `BlockQuantLinear = com.microsoft.MatMulNBits`, with the bias inside
pub(super) fn blocks(rw: &mut Rewriter, node: &Node, bits: i64, size: i64) -> Result<ValueId> {
    let mut operands: Vec<_> = (0..4).map(|i| rw.operand(node, i)).collect::<Result<_>>()?;
    operands.extend([None, rw.operand(node, 4)?]);
    while operands.last() == Some(&None) {
        operands.pop();
    }
    only(rw.nodes(rw.name(node), Op::MatMulNBits { bits, size }, &operands)?)
}

pub(super) fn no_blocks(rw: &Rewriter, node: &Node, bits: i64) -> Error {
    Error::unsupported(format!(
        "`{}` has weights of {bits} bits in blocks, which this target cannot run",
        rw.name(node)
    ))
}

/// `QuantEmbed(v₈, s, ids) = v₈[ids] · s[ids]`
pub(super) fn embed(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let name = rw.name(node);
    let (values, scales, ids) = (rw.required(node, 0)?, rw.required(node, 1)?, rw.required(node, 2)?);
    let rows = rw.node(&format!("{name}.int8"), Op::Gather { axis: 0 }, &[values, ids])?;
    let rows = rw.node(&format!("{name}.float"), Op::Cast { to: DType::F32 }, &[rows])?;
    let steps = rw.node(&format!("{name}.scales"), Op::Gather { axis: 0 }, &[scales, ids])?;
    let last = rw.ty(steps).rank() as i64;
    let steps = rw.node(&format!("{name}.steps"), Op::Unsqueeze { axes: vec![last] }, &[steps])?;
    rw.node(name, Op::Mul, &[rows, steps])
}

fn only(outputs: Vec<ValueId>) -> Result<ValueId> {
    outputs.first().copied().ok_or_else(|| Error::bug("an operation without outputs"))
}
