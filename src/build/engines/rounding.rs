//! The effect of a target's arithmetic on a model, computed by the evaluator.
//!
//! ONNX Runtime's CPU computes graphs of half precision in 32 bits, so it cannot show whether one overflows.
//! [`beyond_half`] finds the layers whose values leave half precision on the calibration texts, so that they are built in
//! 32 bits; [`open_evaluator`] and [`open_rounded`] run a graph in the arithmetic of its target, so that gates can
//! check it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::back;
use crate::build::calibration::Calibrator;
use crate::error::{Error, Result};
use crate::evaluate::{Arithmetic, Array, Evaluator, Floats, Int8Sums, Range, ranges};
use crate::ir::{DType, Dim, Graph, Node, NodeId, ValueId};
use crate::passes::{Magnitudes, Wide};
use crate::runtime::session::{Executor, Input, Session, Value, Whole, prefill};
use crate::runtime::{ElementType, Elements, Engine, Named, Port, Tensor};
use crate::target::Target;
use crate::verify::Verified;

/// By how much the observed values may grow on other texts and still be in the range of half precision.
pub const MARGIN: f32 = 2.0;

/// The largest number of half precision.
const LARGEST: f32 = 65_504.0;

/// Tokens of the calibration texts on which ranges are found; gates run all texts afterwards.
const TOKENS: usize = 4096;

/// An engine that computes a graph, lowered for its target, by the evaluator.
struct Evaluated {
    evaluator: Evaluator,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// Opens a lowered graph in a stated arithmetic. Fails where it has an operation that the evaluator lacks, naming it.
pub fn open_evaluator(graph: &Verified<Graph>, arithmetic: Arithmetic) -> Result<Box<dyn Engine>> {
    Ok(Box::new(Whole::new(Box::new(Evaluated::open(graph, arithmetic)?))))
}

/// The same as a session, for graphs with a state.
pub fn open_evaluator_session(graph: &Verified<Graph>, arithmetic: Arithmetic) -> Result<Session> {
    Session::new(Box::new(Evaluated::open(graph, arithmetic)?))
}

/// A GPU's arithmetic: every value rounded to its own type, 8-bit products added exactly.
const ROUNDED: Arithmetic = Arithmetic { float: Floats::RoundEachNode, int8: Int8Sums::Exact };

/// Opens a lowered graph as a GPU computes it: every value rounded to its own type, 8-bit products added exactly.
pub fn open_rounded(graph: &Verified<Graph>) -> Result<Box<dyn Engine>> {
    open_evaluator(graph, ROUNDED)
}

/// The same as a session.
pub(in crate::build) fn open_rounded_session(graph: &Verified<Graph>) -> Result<Session> {
    open_evaluator_session(graph, ROUNDED)
}

impl Evaluated {
    fn open(graph: &Verified<Graph>, arithmetic: Arithmetic) -> Result<Evaluated> {
        let required = graph.inputs().iter().filter(|id| graph.default_of(**id).is_none());
        let inputs = required.map(|id| port(graph, *id)).collect();
        let outputs = graph.outputs().iter().map(|id| port(graph, *id)).collect();
        Ok(Evaluated { evaluator: Evaluator::new(graph, arithmetic)?, inputs, outputs })
    }
}

/// What a graph declares of an input or output. In our memory, floats have 32 bits.
fn port(graph: &Graph, id: ValueId) -> Port {
    let value = graph.value(id);
    let element = match value.ty.dtype {
        DType::I64 => Some(ElementType::I64),
        dtype if dtype.is_float() => Some(ElementType::F32),
        _ => None,
    };
    let shape = value.ty.shape.iter().map(Dim::fixed).collect();
    Port { name: value.name.clone(), element, type_name: value.ty.dtype.to_string(), shape }
}

impl Executor for Evaluated {
    fn describe(&self) -> String {
        let Arithmetic { float, int8 } = self.evaluator.arithmetic();
        let float =
            if float == Floats::RoundEachNode { "every value rounded to its type" } else { "floats of 32 bits" };
        let int8 = if int8 == Int8Sums::Saturating { ", 8-bit sums that saturate" } else { "" };
        format!("kilnc's evaluator, {float}{int8}")
    }

    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn execute(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Value>> {
        let of_others = || Error::bug("a value of another runtime is given to the evaluator");
        let named = |(port, input): (&Port, &Input<'_>)| {
            let tensor = input.host().ok_or_else(of_others)?;
            Ok((port.name.clone(), tensor.clone()))
        };
        let named = self.inputs.iter().zip(inputs).map(named).collect::<Result<Named>>()?;
        let outputs = self.evaluator.run(&arrays(&named)?)?;
        outputs.into_iter().map(|(_, array)| Ok(Value::Host(tensor(array)?))).collect()
    }
}

fn arrays(inputs: &Named) -> Result<Vec<(&str, Array)>> {
    let array = |tensor: &Tensor| match &tensor.elements {
        Elements::I64(values) => Array::i64s(&tensor.shape, values.clone()),
        Elements::F32(values) => Array::f32s(&tensor.shape, values.clone()),
        other => Err(Error::bug(format!("the evaluator is given {}", other.element_type()))),
    };
    inputs.iter().map(|(name, tensor)| Ok((name.as_str(), array(tensor)?))).collect()
}

fn tensor(array: Array) -> Result<Tensor> {
    let shape = array.shape().to_vec();
    let elements = match (&array, array.to_f32s()) {
        (_, Some(values)) => Elements::F32(values),
        (Array::I64(values), None) => Elements::I64(values.iter().copied().collect()),
        _ => return Err(Error::bug("an output is neither floats nor i64")),
    };
    Ok(Tensor { shape, elements })
}

/// A layer that half precision does not hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Beyond {
    layer: String,
    reads: f32,
    inside: f32,
    makes: f32,
}

/// The layers of `graph`, in composite operations, that leave half precision on the calibration texts once they are
/// lowered for `target`: those inside of which a value times [`MARGIN`] is beyond its largest number, and those that read
/// such a value. None, where there are no texts; where only what 8-bit layers need of them was saved, that is warned of.
pub(super) fn beyond_half(
    graph: &Verified<Graph>,
    target: &Target,
    calibrator: Option<&Calibrator>,
) -> Result<BTreeMap<String, Wide>> {
    let Some(calibrator) = calibrator else { return Ok(BTreeMap::new()) };
    let Some(inputs) = calibrator.inputs() else {
        calibrator.warn_of_unknown_ranges();
        return Ok(BTreeMap::new());
    };
    let lowered = back::lower(graph, target)?;
    let found: Vec<Beyond> = calibrator.once("half-ranges", &lowered, || {
        let mut evaluator = Evaluator::new(&lowered, Arithmetic::default())?;
        let ports: Vec<Port> = lowered.inputs().iter().map(|id| port(&lowered, *id)).collect();
        let texts = sampled(inputs).map(|text| prefill(&ports, text)).collect::<Result<Vec<_>>>()?;
        let texts = texts.iter().map(arrays).collect::<Result<Vec<_>>>()?;
        Ok(Layers::of(graph, &ranges(&mut evaluator, texts)?).beyond())
    })?;
    let limit = LARGEST / MARGIN;
    let wide = |found: Beyond| {
        let Beyond { layer, reads, inside, makes } = found;
        (layer, Wide::Beyond(Magnitudes { reads, inside, makes, limit }))
    };
    Ok(found.into_iter().map(wide).collect())
}

/// Texts of about [`TOKENS`] tokens, spread over all.
fn sampled(inputs: &[Named]) -> impl Iterator<Item = &Named> {
    let tokens = |text: &Named| text.first().map_or(0, |(_, tensor)| tensor.shape.iter().product::<usize>());
    let all: usize = inputs.iter().map(tokens).sum();
    inputs.iter().step_by(all.div_ceil(TOKENS).max(1))
}

/// How large values become, by the layers of the graph before it was lowered.
struct Layers<'a> {
    graph: &'a Graph,
    inside: HashMap<NodeId, f32>,
    values: HashMap<ValueId, f32>,
}

impl<'a> Layers<'a> {
    /// Lowering names the nodes that replace one after it: `layer.product`, `layer`.
    fn of(graph: &'a Graph, ranges: &[Range]) -> Layers<'a> {
        let made: HashMap<&str, (NodeId, ValueId)> = graph
            .nodes()
            .flat_map(|(node, of)| of.outputs.iter().map(move |id| (node, *id)))
            .map(|(node, id)| (graph.value(id).name.as_str(), (node, id)))
            .collect();
        let mut layers = Layers { graph, inside: HashMap::new(), values: HashMap::new() };
        for range in ranges {
            let mut name = range.name.as_str();
            let magnitude = if range.non_finite > 0 { f32::INFINITY } else { range.magnitude() };
            loop {
                if let Some((node, id)) = made.get(name) {
                    let inside = layers.inside.entry(*node).or_insert(0.0);
                    *inside = inside.max(magnitude);
                    if name == range.name {
                        layers.values.insert(*id, magnitude);
                    }
                    break;
                }
                match name.rfind('.') {
                    Some(end) => name = &name[..end],
                    None => break,
                }
            }
        }
        layers
    }

    fn beyond(&self) -> Vec<Beyond> {
        self.graph.nodes().filter_map(|(id, node)| self.layer(id, node)).collect()
    }

    fn layer(&self, id: NodeId, node: &Node) -> Option<Beyond> {
        let most = |ids: &mut dyn Iterator<Item = ValueId>| {
            ids.filter_map(|id| self.values.get(&id)).copied().fold(0.0, f32::max)
        };
        let reads = most(&mut node.inputs.iter().flatten().copied());
        let makes = most(&mut node.outputs.iter().copied());
        let inside = self.inside.get(&id).copied().unwrap_or(0.0);
        let layer = self.graph.node_name(node).to_owned();
        (reads.max(inside) * MARGIN > LARGEST).then_some(Beyond { layer, reads, inside, makes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;
    use crate::verify::verify;

    fn graph(text: &str) -> Verified<Graph> {
        verify(parse(text).unwrap()).unwrap()
    }

    #[test]
    fn an_evaluated_engine_has_the_inputs_and_outputs_of_others() {
        let graph = graph(
            r#"graph "g" {
  input %ids: i64[b, s]
  %x: f16[b, s] = Cast {to=f16} (%ids)
  %y: f32[b, s] = Cast {to=f32} (%x)
  output %y
  output %ids
}
"#,
        );
        let ids = Tensor { shape: vec![1, 2], elements: Elements::I64(vec![2049, 100_000]) };
        let inputs = vec![("ids".to_owned(), ids.clone())];
        let mut rounded = open_rounded(&graph).unwrap();
        assert_eq!(
            (rounded.inputs()[0].name.as_str(), rounded.describe().as_str()),
            ("ids", "kilnc's evaluator, every value rounded to its type")
        );
        let outputs = rounded.run(&inputs).unwrap();
        let y = |values: [f32; 2]| Tensor { shape: vec![1, 2], elements: Elements::F32(values.to_vec()) };
        assert_eq!(outputs, [("y".to_owned(), y([2048.0, f32::INFINITY])), ("ids".to_owned(), ids)]);
        let mut exact = open_evaluator(&graph, Arithmetic::default()).unwrap();
        assert_eq!(exact.run(&inputs).unwrap()[0].1, y([2049.0, 100_000.0]));
    }

    #[test]
    fn layers_are_found_by_their_lowered_nodes_and_inputs() {
        let graph = graph(
            r#"graph "g" {
  input %x: f32[b, 2]
  input %w: f32[2, 2]
  input %scale: f32[2]
  %l.dense: f32[b, 2] = Linear(%x, %w)
  %l: f32[b, 2] = Tanh(%l.dense)
  %l.dense.out: f32[b, 2] = Linear(%l, %w)
  output %l.dense.out
}
"#,
        );
        let range = |name: &str, highest: f32, non_finite: usize| Range {
            id: graph.outputs()[0],
            name: name.to_owned(),
            role: None,
            ty: graph.value(graph.outputs()[0]).ty.clone(),
            lowest: -1.0,
            highest,
            non_finite,
            elements: 2,
        };
        let beyond = |ranges: &[Range]| {
            let found = Layers::of(&graph, ranges).beyond();
            found.into_iter().map(|b| (b.layer, b.reads, b.inside, b.makes)).collect::<Vec<_>>()
        };
        assert!(beyond(&[range("l.dense", 32_752.0, 0), range("attention_mask.bias", 1e9, 0)]).is_empty());
        assert_eq!(
            beyond(&[range("l.dense", 4e4, 0)]),
            [("l.dense".to_owned(), 0.0, 4e4, 4e4), ("l".to_owned(), 4e4, 0.0, 0.0)]
        );
        assert_eq!(beyond(&[range("l.dense.out.product", 4e4, 0)]), [("l.dense.out".to_owned(), 0.0, 4e4, 0.0)]);
        assert_eq!(beyond(&[range("l.dense.out", 1.0, 3)])[0].2, f32::INFINITY);
    }

    #[test]
    fn texts_are_spread_over_all() {
        let text = |tokens: usize| {
            let tensor = Tensor { shape: vec![1, tokens], elements: Elements::I64(vec![0; tokens]) };
            vec![("ids".to_owned(), tensor)]
        };
        let few: Vec<Named> = (0..10).map(|_| text(100)).collect();
        assert_eq!(sampled(&few).count(), 10);
        let many: Vec<Named> = (0..1000).map(|_| text(100)).collect();
        assert_eq!(sampled(&many).count(), 40);
    }
}
