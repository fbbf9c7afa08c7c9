//! Floating point in 16 bits, with islands of 32.
//!
//! `f(x: f32) = cast(f(cast(x)): f16)`; norms stay in 32 bits, because a sum of squares overflows half precision, and
//! so do the residual sums that only norms read, which costs nothing where a kernel does both.

use std::collections::HashMap;

use super::{Pass, Report};
use crate::error::Result;
use crate::ir::{Action, DType, Graph, Node, Op, Rewriter, ValueId, retype};

/// The pass, to half precision (`F16`) or `BF16`.
pub struct Half(
    /// The 16-bit type.
    pub DType,
);

impl Pass for Half {
    fn name(&self) -> &'static str {
        "half"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let mut narrow = Narrowing { to: self.0, weights: HashMap::new() };
        let graph = retype(graph, |rw, node| {
            report.changed += 1;
            let outputs = match node.op {
                Op::LayerNorm { .. } | Op::Normalize => narrow.island(rw, node)?,
                Op::MeanPool | Op::MeanSqrtLenPool | Op::WeightedMeanPool | Op::MaxPool | Op::LastToken => {
                    narrow.island(rw, node)?
                }
                Op::Add if rw.old().feeds_only_norms(node) => narrow.wide(rw, node, rw.name(node))?,
                _ => narrow.inside(rw, node)?,
            };
            narrow.restore_outputs(rw, node, outputs).map(Action::Replace)
        })?;
        Ok((graph, report))
    }
}

struct Narrowing {
    to: DType,
    /// 16-bit copies of constants, by the constant of the old graph.
    weights: HashMap<ValueId, ValueId>,
}

impl Narrowing {
    /// A node that computes in 16 bits.
    fn inside(&mut self, rw: &mut Rewriter, node: &Node) -> Result<Vec<ValueId>> {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for (i, input) in node.inputs.iter().enumerate() {
            operands.push(match (input, rw.constant(node, i)) {
                // The steps of 8-bit products stay in 32 bits, in which their sums are.
                (Some(_), Some(_)) if i == 2 && matches!(node.op, Op::StaticQuantLinear { .. }) => {
                    rw.operand(node, i)?
                }
                (Some(id), Some(weight)) if weight.dtype() == DType::F32 => Some(self.weight(rw, *id, weight)),
                _ => match rw.operand(node, i)? {
                    // An output of the graph is wide; inside, it is narrowed again.
                    Some(id) if rw.ty(id).dtype == DType::F32 => {
                        Some(rw.node(&format!("{}.narrow", rw.name(node)), Op::Cast { to: self.to }, &[id])?)
                    }
                    other => other,
                },
            });
        }
        rw.nodes(rw.name(node), node.op.clone(), &operands)
    }

    /// A node that computes in 32 bits and gives 16.
    fn island(&mut self, rw: &mut Rewriter, node: &Node) -> Result<Vec<ValueId>> {
        let name = rw.name(node);
        let wide = self.wide(rw, node, &format!("{name}.f32"))?;
        wide.into_iter().map(|id| rw.node(name, Op::Cast { to: self.to }, &[id])).collect()
    }

    /// A node that computes in 32 bits.
    fn wide(&mut self, rw: &mut Rewriter, node: &Node, name: &str) -> Result<Vec<ValueId>> {
        let mut operands = Vec::with_capacity(node.inputs.len());
        for i in 0..node.inputs.len() {
            let operand = rw.operand(node, i)?;
            operands.push(match operand {
                Some(id) if rw.ty(id).dtype == self.to => {
                    Some(rw.node(&format!("{name}.wide"), Op::Cast { to: DType::F32 }, &[id])?)
                }
                other => other,
            });
        }
        rw.nodes(name, node.op.clone(), &operands)
    }

    /// Outputs of the graph keep the type they have on the outside.
    fn restore_outputs(&self, rw: &mut Rewriter, node: &Node, outputs: Vec<ValueId>) -> Result<Vec<ValueId>> {
        let pairs: Vec<_> = node.outputs.iter().copied().zip(outputs).collect();
        pairs
            .into_iter()
            .map(|(old, new)| {
                let wanted = rw.old().value(old).ty.dtype;
                if rw.old().outputs().contains(&old) && rw.ty(new).dtype != wanted {
                    let name = format!("{}.wide", rw.old().value(old).name);
                    rw.node(&name, Op::Cast { to: wanted }, &[new])
                } else {
                    Ok(new)
                }
            })
            .collect()
    }

    fn weight(&mut self, rw: &mut Rewriter, old: ValueId, weight: &crate::ir::Weight) -> ValueId {
        let (to, name) = (self.to, &rw.old().value(old).name);
        *self.weights.entry(old).or_insert_with(|| rw.weight(name, weight.cast(to)))
    }
}

#[cfg(test)]
mod tests {
    use super::Half;
    use crate::ir::DType;
    use crate::passes::tests::run;

    #[test]
    fn products_are_narrow_and_norms_stay_wide() {
        let before = r#"graph "g" {
  input %x: f32[b, 4]
  weight %w: f32[4, 4] = transpose(source "w" f32[4, 4])
  %product: f32[b, 4] = Linear(%x, %w) @ffn-out/0
  weight %scale: f32[4] = source "scale"
  %norm: f32[b, 4] = LayerNorm {epsilon=1e-12} (%product, %scale) @ffn-norm/0
  %active: f32[b, 4] = Relu(%norm)
  %y: f32[b, 4] = Linear(%active, %w)
  output %y
}
"#;
        assert_eq!(
            run(&Half(DType::F16), before).0,
            r#"graph "g" {
  input %x: f32[b, 4]
  %product.narrow: f16[b, 4] = Cast {to=f16} (%x) @ffn-out/0
  weight %w: f16[4, 4] = transpose(cast(f16, source "w" f32[4, 4]))
  %product: f16[b, 4] = Linear(%product.narrow, %w) @ffn-out/0
  %norm.f32.wide: f32[b, 4] = Cast {to=f32} (%product) @ffn-norm/0
  weight %scale: f32[4] = source "scale"
  %norm.f32: f32[b, 4] = LayerNorm {epsilon=1e-12} (%norm.f32.wide, %scale) @ffn-norm/0
  %norm: f16[b, 4] = Cast {to=f16} (%norm.f32) @ffn-norm/0
  %active: f16[b, 4] = Relu(%norm)
  %y.1: f16[b, 4] = Linear(%active, %w)
  %y: f32[b, 4] = Cast {to=f32} (%y.1)
  output %y
}
"#
        );
    }

    #[test]
    fn an_output_keeps_its_type_and_is_narrowed_where_it_is_read_inside() {
        let before = r#"graph "g" {
  input %x: i64[b]
  weight %table: f32[8, 4] = source "table"
  %hidden: f32[b, 4] = Embed(%table, %x)
  %y: f32[b, 4] = Tanh(%hidden)
  output %hidden
  output %y
}
"#;
        assert_eq!(
            run(&Half(DType::BF16), before).0,
            r#"graph "g" {
  input %x: i64[b]
  weight %table: bf16[8, 4] = cast(bf16, source "table" f32[8, 4])
  %hidden.1: bf16[b, 4] = Embed(%table, %x)
  %hidden: f32[b, 4] = Cast {to=f32} (%hidden.1)
  %y.narrow: bf16[b, 4] = Cast {to=bf16} (%hidden)
  %y.1: bf16[b, 4] = Tanh(%y.narrow)
  %y: f32[b, 4] = Cast {to=f32} (%y.1)
  output %hidden
  output %y
}
"#
        );
    }
}
