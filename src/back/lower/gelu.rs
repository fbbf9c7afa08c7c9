//! GELU, exact and by its tanh approximation.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use crate::error::Result;
use crate::ir::{Node, Op, Rewriter, ValueId, Weight};

/// `Gelu = com.microsoft.Gelu`
pub(super) fn fused(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let x = rw.required(node, 0)?;
    rw.node(rw.name(node), Op::FusedGelu, &[x])
}

/// `Gelu(x) = 0.5 · x · (1 + erf(x / √2))`
pub(super) fn erf(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let mut draw = Drawing::new(rw, node)?;
    let scaled = draw.times("scaled", draw.x, FRAC_1_SQRT_2)?;
    let erf = draw.node("erf", Op::Erf, &[scaled])?;
    draw.finish(erf)
}

/// `Gelu(x) ≈ 0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`
pub(super) fn tanh(rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
    let mut draw = Drawing::new(rw, node)?;
    let x = draw.x;
    let square = draw.node("square", Op::Mul, &[x, x])?;
    let cube = draw.node("cube", Op::Mul, &[square, x])?;
    let cube = draw.times("cubic", cube, 0.044_715)?;
    let sum = draw.node("sum", Op::Add, &[x, cube])?;
    let scaled = draw.times("scaled", sum, FRAC_2_PI.sqrt())?;
    let tanh = draw.node("tanh", Op::Tanh, &[scaled])?;
    draw.finish(tanh)
}

struct Drawing<'r, 'g> {
    rw: &'r mut Rewriter<'g>,
    name: &'g str,
    x: ValueId,
}

impl<'r, 'g> Drawing<'r, 'g> {
    fn new(rw: &'r mut Rewriter<'g>, node: &Node) -> Result<Self> {
        Ok(Drawing { name: rw.name(node), x: rw.required(node, 0)?, rw })
    }

    fn node(&mut self, suffix: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        self.rw.node(&format!("{}.{suffix}", self.name), op, inputs)
    }

    fn times(&mut self, suffix: &str, x: ValueId, factor: f32) -> Result<ValueId> {
        let factor = self.constant(suffix, x, factor)?;
        self.node(suffix, Op::Mul, &[x, factor])
    }

    fn constant(&mut self, suffix: &str, like: ValueId, value: f32) -> Result<ValueId> {
        let weight = Weight::scalar(self.rw.ty(like).dtype, value)?;
        Ok(self.rw.weight(&format!("{}.{suffix}.by", self.name), weight))
    }

    /// `x · (0.5 · (1 + gate))`
    fn finish(mut self, gate: ValueId) -> Result<ValueId> {
        let one = self.constant("one", gate, 1.0)?;
        let sum = self.node("gate", Op::Add, &[gate, one])?;
        let product = self.node("product", Op::Mul, &[self.x, sum])?;
        let half = self.constant("half", gate, 0.5)?;
        self.rw.node(self.name, Op::Mul, &[product, half])
    }
}
