//! Linear layers in 8 bits and fewer: one file for each scheme, what they share here.
//!
//! Weights are symmetric with one step per output channel. Attention's own products stay in floating point: their
//! operands are both activations, and quantizing them costs more answers than it wins time.

mod dynamic;
mod embeddings;
mod fixed;
mod weights;

use std::collections::HashMap;

use super::Report;
use crate::error::{Error, Result};
use crate::ir::{Action, Block, Graph, Node, Op, Rewriter, ValueId, Weight, rewrite};

pub use dynamic::QuantizeDynamic;
pub use embeddings::QuantizeEmbeddings;
pub use fixed::{Activations, QuantizeStatic, Ranges};
pub use weights::QuantizeWeights;

/// What becomes of a layer: the value that stands for it, or why it is left.
type Outcome = std::result::Result<ValueId, String>;

/// Replaces the linear layers of the attention and feed-forward blocks.
fn linears(graph: &Graph, mut replace: impl FnMut(&mut Rewriter, &Node) -> Result<Outcome>) -> Result<(Graph, Report)> {
    let mut report = Report::default();
    let quantized = rewrite(graph, |rw, node| {
        if node.op != Op::Linear {
            return Ok(Action::Keep);
        }
        let outcome = match reason_to_leave(rw, node) {
            Some(why) => Err(why.to_owned()),
            None => replace(rw, node)?,
        };
        Ok(match outcome {
            Ok(value) => {
                report.changed += 1;
                Action::Replace(vec![value])
            }
            Err(why) => {
                report.left.push(format!("{}: {why}", rw.name(node)));
                Action::Keep
            }
        })
    })?;
    Ok((quantized, report))
}

fn reason_to_leave(rw: &Rewriter, node: &Node) -> Option<&'static str> {
    match node.role.map(|role| role.part.block()) {
        Some(Block::Attention | Block::FeedForward) if rw.constant(node, 1).is_some() => None,
        Some(Block::Attention | Block::FeedForward) => Some("its weight is not a constant"),
        Some(Block::Embedding | Block::Head) => Some("heads keep full precision"),
        None => Some("it has no role"),
    }
}

/// 8-bit matrices with one scale for each channel. One that several nodes share is quantized once.
struct Channels {
    operand: usize,
    axis: usize,
    drawn: HashMap<ValueId, [ValueId; 2]>,
}

impl Channels {
    /// The weights of linear layers, by output channel.
    fn of_layers() -> Channels {
        Channels { operand: 1, axis: 1, drawn: HashMap::new() }
    }

    /// The tables of embeddings, by row.
    fn of_tables() -> Channels {
        Channels { operand: 0, axis: 0, drawn: HashMap::new() }
    }

    /// Values and scales of a node's matrix.
    fn of(&mut self, rw: &mut Rewriter, node: &Node) -> Result<[ValueId; 2]> {
        let (id, weight) = constant(rw, node, self.operand)?;
        if let Some(drawn) = self.drawn.get(&id) {
            return Ok(*drawn);
        }
        let (values, scales) = weight.quantize(self.axis)?;
        let of = rw.old().value(id).name.clone();
        let drawn = [rw.weight(&format!("{of}.int8"), values), rw.weight(&format!("{of}.scale"), scales)];
        self.drawn.insert(id, drawn);
        Ok(drawn)
    }
}

/// The constant that an operand is, which the choice of nodes has seen to.
fn constant<'a>(rw: &Rewriter<'a>, node: &Node, operand: usize) -> Result<(ValueId, &'a Weight)> {
    match (node.inputs.get(operand), rw.constant(node, operand)) {
        (Some(Some(id)), Some(weight)) => Ok((*id, weight)),
        _ => Err(Error::bug(format!("operand {operand} of `{}` is not a constant", rw.name(node)))),
    }
}
