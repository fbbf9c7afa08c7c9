//! Linear layers in 8 bits and fewer: one file for each scheme, the shared parts here.
//!
//! Weights are symmetric with one step per output channel. Where statistics of a layer's input are collected, they are
//! rounded for that ([`crate::calibrate::round`]), else to the nearest. Attention's own products stay in floating
//! point: their operands are both activations, and quantizing them costs more accuracy than it wins time.

mod dynamic;
mod embeddings;
mod fixed;
mod weights;

use std::cell::RefCell;
use std::collections::HashMap;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::Report;
use crate::calibrate::{Activations, Calibration, Rounded, round};
use crate::error::{Error, Result, printable};
use crate::ir::weight::Int8Range;
use crate::ir::{Action, Block, DType, Graph, Node, Op, Rewriter, Role, ValueId, Weight, rewrite};

pub use dynamic::QuantizeDynamic;
pub use embeddings::QuantizeEmbeddings;
pub use fixed::{ActivationType, QuantizeStatic};
pub use weights::QuantizeWeights;

/// The outcome for a layer: its replacement, or why it is left.
type Outcome = std::result::Result<ValueId, String>;

/// Replaces the linear layers of the attention and feed-forward blocks, but for those in `keep`.
fn linears(
    graph: &Graph,
    keep: &[Role],
    mut replace: impl FnMut(&mut Rewriter, &Node) -> Result<Outcome>,
) -> Result<(Graph, Report)> {
    let mut report = Report::default();
    let quantized = rewrite(graph, |rw, node| {
        if node.op != Op::Linear {
            return Ok(Action::Keep);
        }
        let outcome = match reason_to_leave(graph, node, keep) {
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

fn reason_to_leave(graph: &Graph, node: &Node, keep: &[Role]) -> Option<&'static str> {
    if Role::is_in(node.role, keep) {
        return Some("`keep` holds it in full precision");
    }
    match node.role.map(|role| role.part.block()) {
        Some(Block::Attention | Block::FeedForward) if constant(graph, node, 1).is_some() => None,
        Some(Block::Attention | Block::FeedForward) => Some("its weight is not a constant"),
        Some(Block::Outliers) => Some("its channels are outliers"),
        Some(Block::Embedding | Block::Head) => Some("heads keep full precision"),
        Some(Block::Router) => Some("the choice of experts keeps full precision"),
        Some(Block::Adapter) => Some("adapters keep full precision"),
        None => Some("it has no role"),
    }
}

/// The constant that an operand of a node is.
fn constant<'a>(graph: &'a Graph, node: &Node, operand: usize) -> Option<(ValueId, &'a Weight)> {
    let id = node.operand(operand)?;
    Some((id, graph.weight(id)?))
}

/// The same, where the choice of nodes ensures it.
fn known_constant<'a>(rw: &Rewriter<'a>, node: &Node, operand: usize) -> Result<(ValueId, &'a Weight)> {
    constant(rw.old(), node, operand)
        .ok_or_else(|| Error::bug(format!("operand {operand} of `{}` is not a constant", rw.name(node))))
}

/// 8-bit values and scales of a matrix.
type Pair = (Weight, Weight);

/// 8-bit matrices with one scale for each channel. One that several nodes share is quantized once.
struct Channels {
    operand: usize,
    axis: usize,
    range: Int8Range,
    /// Those that are not rounded to the nearest.
    calibrated: HashMap<ValueId, Pair>,
    built: HashMap<ValueId, [ValueId; 2]>,
}

impl Channels {
    /// The weights of linear layers, by output channel.
    fn of_layers(range: Int8Range) -> Channels {
        Channels { operand: 1, axis: 1, range, calibrated: HashMap::new(), built: HashMap::new() }
    }

    /// The tables of embeddings, by row.
    fn of_tables() -> Channels {
        Channels { operand: 0, axis: 0, ..Channels::of_layers(Int8Range::Full) }
    }

    /// The weights of linear layers. Where statistics of their input are collected, they are rounded for it, side by
    /// side; one that two layers share for the first.
    fn of_calibrated_layers(
        graph: &Graph,
        calibration: Option<&RefCell<Calibration>>,
        keep: &[Role],
        range: Int8Range,
    ) -> Result<Channels> {
        let Some(calibration) = calibration else { return Ok(Channels::of_layers(range)) };
        let calibration = calibration.borrow();
        let mut jobs: Vec<(ValueId, &Weight, &Activations)> = Vec::new();
        for (_, node) in graph.nodes().filter(|(_, node)| node.op == Op::Linear) {
            let (Some(x), Some((id, weight))) = (node.operand(0), constant(graph, node, 1)) else { continue };
            let known = calibration.get(&graph.value(x).name);
            if let (None, Some(observed)) = (reason_to_leave(graph, node, keep), known)
                && !jobs.iter().any(|(other, ..)| *other == id)
            {
                jobs.push((id, weight, observed));
            }
        }
        let one =
            |(id, weight, observed): &(ValueId, &Weight, &Activations)| Ok((*id, rounded(weight, observed, range)?));
        Ok(Channels { calibrated: jobs.par_iter().map(one).collect::<Result<_>>()?, ..Channels::of_layers(range) })
    }

    /// Values and scales of a node's matrix.
    fn of(&mut self, rw: &mut Rewriter, node: &Node) -> Result<[ValueId; 2]> {
        let (id, weight) = known_constant(rw, node, self.operand)?;
        if let Some(built) = self.built.get(&id) {
            return Ok(*built);
        }
        let (values, scales) = match self.calibrated.get(&id) {
            Some(pair) => pair.clone(),
            None => weight.quantize(self.axis, self.range)?,
        };
        let of = rw.old().value(id).name.clone();
        let built = [rw.weight(&format!("{of}.int8"), values), rw.weight(&format!("{of}.scale"), scales)];
        self.built.insert(id, built);
        Ok(built)
    }
}

fn rounded(weight: &Weight, observed: &Activations, range: Int8Range) -> Result<Pair> {
    let shape = weight.shape().to_vec();
    let values = weight.to_f32s()?;
    if let Some(x) = values.iter().find(|x| !x.is_finite()) {
        let name = printable(weight.source_name().unwrap_or("a computed weight"));
        return Err(Error::bad_input(format!("`{name}` holds {x} and cannot be quantized")));
    }
    let [k, n] = <[usize; 2]>::try_from(shape.as_slice()).map_err(|_| Error::bug("a linear layer has a matrix"))?;
    let view = ArrayView2::from_shape((k, n), &values).map_err(|e| Error::bug(e.to_string()))?;
    let Rounded { values, scales } = round(view, &observed.moments, observed.rounding_noise(|_| 1.0), range);
    Ok((Weight::literal(DType::I8, shape, bytemuck::cast_slice(&values).to_vec())?, Weight::f32s(vec![n], &scales)?))
}
