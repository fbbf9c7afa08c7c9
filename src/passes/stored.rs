//! Weights in 16 bits, for a target that computes in 32.
//!
//! `Linear(x, w, b) = Linear(x, cast(w: f16), b)` · `Embed(t, ids) = cast(Embed(t: f16, ids))`, up to the rounding of
//! weights
//!
//! Half the file and the speed of 32 bits: the runtime widens the weights of layers when it loads them, and rows of
//! tables when it reads them.

use std::collections::HashMap;

use super::{Pass, Report};
use crate::error::Result;
use crate::ir::{Action, DType, Graph, Node, Op, Rewriter, Role, ValueId, rewrite};

/// The pass, to half precision (`F16`) or `BF16`.
pub struct Stored<'a> {
    /// The 16-bit type.
    pub to: DType,
    /// The nodes that stay as they are.
    pub keep: &'a [Role],
}

impl Stored<'static> {
    /// The pass for all layers and tables.
    pub fn to(to: DType) -> Stored<'static> {
        Stored { to, keep: &[] }
    }
}

impl Pass for Stored<'_> {
    fn name(&self) -> &'static str {
        "stored"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let mut narrow = Narrow { to: self.to, made: HashMap::new() };
        let graph = rewrite(graph, |rw, node| {
            let stands = match node.op {
                Op::Embed | Op::PositionEmbed { .. } | Op::Linear if Role::is_in(node.role, self.keep) => {
                    report.left.push(format!("{}: `keep` holds it in full precision", rw.name(node)));
                    return Ok(Action::Keep);
                }
                Op::Embed | Op::PositionEmbed { .. } if is_wide(rw, node, 0) => narrow.rows(rw, node)?,
                Op::Linear if is_wide(rw, node, 1) => narrow.layer(rw, node)?,
                _ => return Ok(Action::Keep),
            };
            report.changed += 1;
            Ok(Action::Replace(vec![stands]))
        })?;
        Ok((graph, report))
    }
}

fn is_wide(rw: &Rewriter, node: &Node, operand: usize) -> bool {
    rw.constant(node, operand).is_some_and(|weight| weight.dtype() == DType::F32)
}

struct Narrow {
    to: DType,
    /// 16-bit constants, by the constant of the old graph.
    made: HashMap<ValueId, ValueId>,
}

impl Narrow {
    /// Rows of a table, widened when they have been read.
    fn rows(&mut self, rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
        let (name, operands) = (rw.name(node), [self.constant(rw, node, 0)?, rw.required(node, 1)?]);
        let rows = rw.node(&format!("{name}.stored"), node.op.clone(), &operands)?;
        rw.node(name, Op::Cast { to: DType::F32 }, &[rows])
    }

    /// A layer whose weight is widened before.
    fn layer(&mut self, rw: &mut Rewriter, node: &Node) -> Result<ValueId> {
        let (name, stored) = (rw.name(node), self.constant(rw, node, 1)?);
        let weight = rw.node(&format!("{name}.w"), Op::Cast { to: DType::F32 }, &[stored])?;
        let mut operands = vec![rw.required(node, 0)?, weight];
        operands.extend(rw.operand(node, 2)?);
        rw.node(name, Op::Linear, &operands)
    }

    fn constant(&mut self, rw: &mut Rewriter, node: &Node, operand: usize) -> Result<ValueId> {
        let (Some(Some(id)), Some(weight)) = (node.inputs.get(operand), rw.constant(node, operand)) else {
            return rw.required(node, operand);
        };
        let name = &rw.old().value(*id).name;
        Ok(*self.made.entry(*id).or_insert_with(|| rw.weight(name, weight.cast(self.to))))
    }
}

#[cfg(test)]
mod tests {
    use super::Stored;
    use crate::ir::DType;
    use crate::passes::tests::run;

    #[test]
    fn weights_and_tables_are_narrow_in_the_file_and_wide_where_they_are_used() {
        assert_eq!(run(&Stored::to(DType::F16), BEFORE).0, AFTER);
    }

    #[test]
    fn layers_of_keep_stay_wide_and_share_no_narrow_constant() {
        let keep = ["ffn-in/1".parse().unwrap(), "embedding".parse().unwrap()];
        let (after, left) = run(&Stored { to: DType::F16, keep: &keep }, BEFORE);
        for line in [
            "  weight %table: f32[9, 4] = source \"table\"",
            "  %x: f32[b, s, 4] = Embed(%table, %ids) @embedding",
            "  %p: f32[s, 4] = PositionEmbed {offset=0} (%positions, %ids) @embedding",
            "  %y.w: f32[4, 4] = Cast {to=f32} (%w) @ffn-in/0",
        ] {
            assert!(after.lines().any(|found| found == line), "{line}\n{after}");
        }
        // The two layers have one weight; each has it in its own type.
        let kept = after.lines().find(|line| line.contains("@ffn-in/1")).unwrap();
        let weight = kept.split("Linear(%y, ").nth(1).unwrap().split(')').next().unwrap();
        let made = format!("  weight {weight}: f32[4, 4] = transpose(source \"w\" f32[4, 4])");
        assert!(after.lines().any(|line| line.starts_with(&made)), "{made}\n{after}");
        assert_eq!(left, ["x", "p", "z"].map(|name| format!("{name}: `keep` holds it in full precision")));
    }

    const BEFORE: &str = r#"graph "g" {
  input %ids: i64[b, s]
  weight %table: f32[9, 4] = source "table"
  %x: f32[b, s, 4] = Embed(%table, %ids) @embedding
  weight %positions: f32[9, 4] = cast(f32, source "positions" f16[9, 4])
  %p: f32[s, 4] = PositionEmbed {offset=0} (%positions, %ids) @embedding
  %sum: f32[b, s, 4] = Add(%x, %p)
  weight %w: f32[4, 4] = transpose(source "w" f32[4, 4])
  weight %bias: f32[4] = source "bias"
  %y: f32[b, s, 4] = Linear(%sum, %w, %bias) @ffn-in/0
  %z: f32[b, s, 4] = Linear(%y, %w) @ffn-in/1
  output %z
}
"#;

    const AFTER: &str = r#"graph "g" {
  input %ids: i64[b, s]
  weight %table: f16[9, 4] = cast(f16, source "table" f32[9, 4])
  %x.stored: f16[b, s, 4] = Embed(%table, %ids) @embedding
  %x: f32[b, s, 4] = Cast {to=f32} (%x.stored) @embedding
  weight %positions: f16[9, 4] = source "positions"
  %p.stored: f16[s, 4] = PositionEmbed {offset=0} (%positions, %ids) @embedding
  %p: f32[s, 4] = Cast {to=f32} (%p.stored) @embedding
  %sum: f32[b, s, 4] = Add(%x, %p)
  weight %w: f16[4, 4] = transpose(cast(f16, source "w" f32[4, 4]))
  %y.w: f32[4, 4] = Cast {to=f32} (%w) @ffn-in/0
  weight %bias: f32[4] = source "bias"
  %y: f32[b, s, 4] = Linear(%sum, %y.w, %bias) @ffn-in/0
  %z.w: f32[4, 4] = Cast {to=f32} (%w) @ffn-in/1
  %z: f32[b, s, 4] = Linear(%y, %z.w) @ffn-in/1
  output %z
}
"#;
}
