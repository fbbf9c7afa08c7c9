//! Linear layers in 8 bits.
//!
//! `Linear(x, w, b) = DynamicQuantLinear(x, quantize(w, per output channel), b)`, up to rounding
//!
//! Weights are symmetric with one step per output channel; activations get one range per tensor when the engine runs.
//! Where it is known what a layer reads, its weights are rounded for that ([`crate::calibrate::round`]), else to the
//! nearest.
//! Attention's own products stay in floating point: their operands are both activations, and quantizing them costs
//! more answers than it wins time.

use std::cell::RefCell;
use std::collections::HashMap;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::{Pass, Report};
use crate::calibrate::{Activations, Calibration, Rounded, round};
use crate::error::{Error, Result};
use crate::ir::{Action, Block, DType, Graph, Node, Op, Rewriter, Role, ValueId, Weight, rewrite};

/// The pass: quantizes the linear layers of the attention and feed-forward blocks.
#[derive(Default)]
pub struct QuantizeDynamic<'a> {
    /// What is known of the activations.
    pub calibration: Option<&'a RefCell<Calibration>>,
    /// Layers that stay as they are.
    pub keep: &'a [Role],
}

impl Pass for QuantizeDynamic<'_> {
    fn name(&self) -> &'static str {
        "quantize-dynamic"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        // A weight that two layers share is quantized once.
        let mut shared = HashMap::new();
        let rounded = match self.calibration {
            Some(calibration) => round_all(graph, &calibration.borrow(), self.keep)?,
            None => HashMap::new(),
        };
        let quantized = rewrite(graph, |rw, node| {
            if node.op != Op::Linear {
                return Ok(Action::Keep);
            }
            if let Some(why) = reason_to_leave(rw.old(), node, self.keep) {
                report.left.push(format!("{}: {why}", rw.name(node)));
                return Ok(Action::Keep);
            }
            report.changed += 1;
            replace(rw, node, &rounded, &mut shared)
        })?;
        Ok((quantized, report))
    }
}

fn reason_to_leave(graph: &Graph, node: &Node, keep: &[Role]) -> Option<&'static str> {
    if node.role.is_some_and(|role| keep.contains(&role)) {
        return Some("it is kept in full precision");
    }
    match node.role.map(|role| role.part.block()) {
        Some(Block::Attention | Block::FeedForward) if constant(graph, node, 1).is_some() => None,
        Some(Block::Attention | Block::FeedForward) => Some("its weight is not a constant"),
        Some(Block::Outliers) => Some("its channels are outliers"),
        Some(Block::Embedding | Block::Head) => Some("heads keep full precision"),
        Some(Block::Adapter) => Some("adapters keep full precision"),
        None => Some("it has no role"),
    }
}

fn constant<'a>(graph: &'a Graph, node: &Node, i: usize) -> Option<&'a Weight> {
    node.inputs.get(i).copied().flatten().and_then(|id| graph.weight(id))
}

/// 8-bit values and scales of a weight.
type Pair = (Weight, Weight);

/// The weights of all layers of which it is known what they read, side by side. One that two layers share is rounded
/// for the first.
fn round_all(graph: &Graph, calibration: &Calibration, keep: &[Role]) -> Result<HashMap<ValueId, Pair>> {
    let mut jobs: Vec<(ValueId, &Weight, &Activations)> = Vec::new();
    for (_, node) in graph.nodes().filter(|(_, node)| node.op == Op::Linear) {
        let operand = |i: usize| node.inputs.get(i).copied().flatten();
        let (Some(x), Some(w), Some(weight)) = (operand(0), operand(1), constant(graph, node, 1)) else { continue };
        let known = calibration.get(&graph.value(x).name);
        if let (None, Some(seen)) = (reason_to_leave(graph, node, keep), known)
            && !jobs.iter().any(|(id, ..)| *id == w)
        {
            jobs.push((w, weight, seen));
        }
    }
    let round_one = |(id, weight, seen): &(ValueId, &Weight, &Activations)| Ok((*id, rounded_pair(weight, seen)?));
    jobs.par_iter().map(round_one).collect()
}

fn rounded_pair(weight: &Weight, seen: &Activations) -> Result<Pair> {
    let shape = weight.shape().to_vec();
    let values = weight.to_f32s()?;
    if let Some(x) = values.iter().find(|x| !x.is_finite()) {
        let name = crate::error::printable(weight.source_name().unwrap_or("a computed weight"));
        return Err(Error::bad_input(format!("`{name}` holds {x} and cannot be quantized")));
    }
    let [k, n] = <[usize; 2]>::try_from(shape.as_slice()).map_err(|_| Error::bug("a linear layer has a matrix"))?;
    let view = ArrayView2::from_shape((k, n), &values).map_err(|e| Error::bug(e.to_string()))?;
    let Rounded { values, scales } = round(view, &seen.moments, seen.rounding_noise(|_| 1.0));
    Ok((Weight::literal(DType::I8, shape, bytemuck::cast_slice(&values).to_vec())?, Weight::f32s(vec![n], &scales)?))
}

type Shared = HashMap<ValueId, [ValueId; 2]>;

fn replace(rw: &mut Rewriter, node: &Node, rounded: &HashMap<ValueId, Pair>, shared: &mut Shared) -> Result<Action> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let (Some(weight), Some(Some(id))) = (rw.constant(node, 1), node.inputs.get(1)) else { return Ok(Action::Keep) };
    let [values, scales] = match shared.get(id) {
        Some(drawn) => *drawn,
        None => {
            let (values, scales) = match rounded.get(id) {
                Some(pair) => pair.clone(),
                None => weight.quantize(1)?,
            };
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
        let (after, left) = run(&QuantizeDynamic::default(), before);
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
            run(&QuantizeDynamic::default(), before).0,
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
