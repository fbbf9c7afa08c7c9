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
