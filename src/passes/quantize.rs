//! Linear layers in 8 bits.
//!
//! `Linear(x, w, b) = DynamicQuantLinear(x, quantize(w, per output channel), b)`, up to rounding
//!
//! Weights are symmetric with one step per output channel; activations get one range per tensor when the engine runs.
//! Attention's own products stay in floating point: their operands are both activations, and quantizing them costs
//! more answers than it wins time.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Pass, Report};
use crate::error::{Error, Result, printable};
use crate::ir::{Action, Block, Graph, Node, Op, Rewriter, rewrite};

/// How a model is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Weights per channel, activations with a range per tensor that is found at run time.
    #[serde(rename = "int8")]
    Int8Dynamic,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("int8")
    }
}

impl FromStr for Scheme {
    type Err = Error;

    fn from_str(text: &str) -> Result<Scheme> {
        match text {
            "int8" => Ok(Scheme::Int8Dynamic),
            "int8-fast" | "int8-static" | "int4" => {
                Err(Error::unsupported(format!("the scheme `{text}` is not built yet")).hint("known: int8"))
            }
            _ => Err(Error::bad_input(format!("unknown scheme `{}`; known: int8", printable(text)))),
        }
    }
}

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
