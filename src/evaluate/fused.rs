//! Products of floats that runtimes compute as products of integers.

use std::collections::HashMap;

use super::arithmetic::Int8Sums;
use super::array::Array;
use super::integer;
use super::weights::Weights;
use crate::error::Result;
use crate::ir::{DType, Graph, Node, Op, ValueId};

/// `dequantize(x₈) · dequantize(w₈)`
pub(super) struct Integers {
    x: [ValueId; 3],
    w: [ValueId; 2],
}

impl Integers {
    /// The parts of a node, if it is such a product.
    pub fn of(graph: &Graph, node: &Node) -> Option<Integers> {
        let widened = |i: usize| {
            let made = graph.producer(node.operand(i)?)?;
            matches!(made.op, Op::DequantizeLinear { .. }).then_some(made)
        };
        if node.op != Op::MatMul {
            return None;
        }
        let (x, w) = (widened(0)?, widened(1)?);
        let x = [x.operand(0)?, x.operand(1)?, x.operand(2)?];
        let (values, scales) = (w.operand(0)?, w.operand(1)?);
        let fits = graph.value(x[1]).ty.rank() == 0
            && graph.value(values).ty.rank() == 2
            && graph.value(values).ty.dtype == DType::I8
            && w.operand(2).is_none()
            && w.op == (Op::DequantizeLinear { axis: 1 });
        fits.then_some(Integers { x, w: [values, scales] })
    }

    /// Its input.
    pub fn ids(&self) -> impl Iterator<Item = ValueId> {
        self.x.into_iter().chain(self.w)
    }

    /// Its output, by sums that saturate.
    pub fn product(&self, graph: &Graph, live: &HashMap<ValueId, Array>, weights: &mut Weights) -> Result<Array> {
        let mut of = |id| weights.read(graph, id, live);
        let [x, x_scale, x_zero] = self.x;
        let [w, w_scales] = self.w;
        integer::to_float(&of(x)?, &of(w)?, (&of(x_scale)?, of(w_scales)?), &of(x_zero)?, None, Int8Sums::Saturating)
    }
}
