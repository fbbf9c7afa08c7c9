//! Linear layers in 8 bits.
//!
//! `Linear(x, w, b) = DynamicQuantLinear(x, quantize(w, per output channel), b)`, up to rounding
//!
//! Weights are symmetric with one step per output channel; activations get one range per tensor when the engine runs.
//! Attention's own products stay in floating point: their operands are both activations, and quantizing them costs
//! more answers than it wins time.

use std::collections::HashMap;

use super::{Pass, Report};
use crate::error::Result;
use crate::ir::{Action, Block, Graph, Node, Op, Rewriter, rewrite};

/// The pass: quantizes the linear layers of the attention and feed-forward blocks.
pub struct QuantizeDynamic;

impl Pass for QuantizeDynamic {
    fn name(&self) -> &'static str {
        "quantize-dynamic"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        // A weight that two layers share is quantized once.
        let mut shared = HashMap::new();
        let quantized = rewrite(graph, |rw, node| {
            if node.op != Op::Linear {
                return Ok(Action::Keep);
            }
            if let Some(why) = reason_to_leave(rw, node) {
                report.left.push(format!("{}: {why}", rw.name(node)));
                return Ok(Action::Keep);
            }
            report.changed += 1;
            replace(rw, node, &mut shared)
        })?;
        Ok((quantized, report))
    }
}

fn reason_to_leave(rw: &Rewriter, node: &Node) -> Option<&'static str> {
    match node.role.map(|role| role.part.block()) {
        Some(Block::Attention | Block::FeedForward) if rw.constant(node, 1).is_some() => None,
        Some(Block::Attention | Block::FeedForward) => Some("its weight is not a constant"),
        Some(Block::Embedding | Block::Head) => Some("heads keep full precision"),
        None => Some("it has no role"),
    }
}

type Shared = HashMap<crate::ir::ValueId, [crate::ir::ValueId; 2]>;

fn replace(rw: &mut Rewriter, node: &Node, shared: &mut Shared) -> Result<Action> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let (Some(weight), Some(Some(id))) = (rw.constant(node, 1), node.inputs.get(1)) else { return Ok(Action::Keep) };
    let [values, scales] = match shared.get(id) {
        Some(drawn) => *drawn,
        None => {
            let (values, scales) = weight.quantize(1)?;
            let of = rw.old().value(*id).name.clone();
            let drawn = [rw.weight(&format!("{of}.int8"), values), rw.weight(&format!("{of}.scale"), scales)];
            shared.insert(*id, drawn);
            drawn
        }
    };
    let mut operands = vec![x, values, scales];
    operands.extend(rw.operand(node, 2)?);
    Ok(Action::Replace(vec![rw.node(name, Op::DynamicQuantLinear, &operands)?]))
}

#[cfg(test)]
mod tests {
    use super::QuantizeDynamic;
    use crate::passes::tests::run;

    #[test]
    fn layers_are_quantized_and_heads_are_left() {
        let before = r#"graph "g" {
  input %x: f32[b, 4]
  input %given: f32[2, 2]
  weight %w: f32[4, 2] = transpose(source "w" f32[2, 4])
  weight %bias: f32[2] = source "bias"
  %inner: f32[b, 2] = Linear(%x, %w, %bias) @ffn-in/0
  weight %plain.w: f32[2, 2] = source "plain.w"
  %plain: f32[b, 2] = Linear(%inner, %plain.w)
  %dynamic: f32[b, 2] = Linear(%plain, %given) @query/0
  weight %head.w: f32[2, 3] = source "head.w"
  %logits: f32[b, 3] = Linear(%dynamic, %head.w) @head
  output %logits
}
"#;
        let (after, left) = run(&QuantizeDynamic, before);
        assert_eq!(
            after,
            r#"graph "g" {
  input %x: f32[b, 4]
  input %given: f32[2, 2]
  weight %w.int8: i8[4, 2] = quantized(1, transpose(source "w" f32[2, 4]))
  weight %w.scale: f32[2] = scales(1, transpose(source "w" f32[2, 4]))
  weight %bias: f32[2] = source "bias"
  %inner: f32[b, 2] = DynamicQuantLinear(%x, %w.int8, %w.scale, %bias) @ffn-in/0
  weight %plain.w: f32[2, 2] = source "plain.w"
  %plain: f32[b, 2] = Linear(%inner, %plain.w)
  %dynamic: f32[b, 2] = Linear(%plain, %given) @query/0
  weight %head.w: f32[2, 3] = source "head.w"
  %logits: f32[b, 3] = Linear(%dynamic, %head.w) @head
  output %logits
}
"#
        );
        assert_eq!(
            left,
            ["plain: it has no role", "dynamic: its weight is not a constant", "logits: heads keep full precision"]
        );
    }

    #[test]
    fn a_weight_that_two_layers_share_is_quantized_once() {
        let before = r#"graph "g" {
  input %x: f32[b, 2]
  weight %w: f32[2, 2] = source "w"
  %first: f32[b, 2] = Linear(%x, %w) @ffn-in/0
  %second: f32[b, 2] = Linear(%first, %w) @ffn-in/1
  output %second
}
"#;
        assert_eq!(
            run(&QuantizeDynamic, before).0,
            r#"graph "g" {
  input %x: f32[b, 2]
  weight %w.int8: i8[2, 2] = quantized(1, source "w" f32[2, 2])
  weight %w.scale: f32[2] = scales(1, source "w" f32[2, 2])
  %first: f32[b, 2] = DynamicQuantLinear(%x, %w.int8, %w.scale) @ffn-in/0
  %second: f32[b, 2] = DynamicQuantLinear(%first, %w.int8, %w.scale) @ffn-in/1
  output %second
}
"#
        );
    }
}
