//! How 8 bits in one layer change the predictions.

use std::path::Path;

use super::{Layer, Request, time};
use crate::back::onnx;
use crate::build::{Scheme, compile, prepare};
use crate::error::{Error, Result};
use crate::eval::{Score, Truth};
use crate::ir::{Block, Op, Role};
use crate::passes::Manager;
use crate::precision::Precision;
use crate::runtime::{self, Named, Options, ProblemType, Runtime};
use crate::target::Target;

/// Texts on which single layers are measured: enough to rank them.
const LAYER_TEXTS: usize = 48;

/// FP32's predictions, by text.
pub(super) struct Reference<'a> {
    predictions: Vec<Vec<f32>>,
    problem_type: ProblemType,
    truths: Option<Vec<&'a Truth>>,
    /// The accuracy, where texts have labels.
    pub accuracy: Option<f64>,
}

/// An engine beside the reference.
pub(super) struct Found {
    pub agreement: f64,
    pub drop: f64,
    pub rms: f64,
}

impl<'a> Reference<'a> {
    pub fn of(request: &Request<'a>, inputs: &[Named]) -> Result<Reference<'a>> {
        let target = request.targets.first().ok_or_else(|| Error::bad_input("there is no target to tune for"))?;
        let graph = compile(request.model.graph(), &Scheme::new(target, Precision::Fp32), &mut Manager::default())?;
        let file = request.scratch.join("reference.onnx");
        onnx::write(&graph, &file, &|_| {})?;
        let predictions = predictions(target, &file, inputs)?;
        let problem_type = request.classes.problem_type;
        let truths: Option<Vec<&Truth>> = request.texts.iter().map(|text| text.truth.as_ref()).collect();
        let accuracy = truths.as_ref().and_then(|truths| Score::of(problem_type, &predictions, truths).accuracy);
        Ok(Reference { predictions, problem_type, truths, accuracy })
    }

    pub fn compare(&self, found: &[Vec<f32>]) -> Found {
        let pairs = || self.predictions.iter().zip(found);
        let chosen = |row: &[f32]| self.problem_type.chosen(row);
        let same = pairs().filter(|(expected, found)| chosen(expected) == chosen(found)).count();
        let agreement = same as f64 / found.len().max(1) as f64;
        let after = self.truths.as_ref().and_then(|truths| Score::of(self.problem_type, found, truths).accuracy);
        let drop = self.accuracy.zip(after).map_or(1.0 - agreement, |(before, after)| before - after);
        Found { agreement, drop, rms: rms(pairs()) }
    }
}

fn rms<'a>(pairs: impl Iterator<Item = (&'a Vec<f32>, &'a Vec<f32>)>) -> f64 {
    let (mut squares, mut count) = (0.0, 0usize);
    for (expected, found) in pairs {
        squares += expected.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        count += expected.len();
    }
    (squares / count.max(1) as f64).sqrt()
}

/// The first output for every text, as one row.
pub(super) fn predictions(target: &Target, file: &Path, inputs: &[Named]) -> Result<Vec<Vec<f32>>> {
    let mut engine = runtime::open_isolated(Runtime::of(target), file, Options::default(), &[])?;
    let mut predictions = Vec::with_capacity(inputs.len());
    for input in inputs {
        let outputs = engine.run(input)?;
        let rows = outputs.first().and_then(|(_, tensor)| tensor.rows());
        predictions
            .push(rows.ok_or_else(|| Error::bad_input("the engine gives no floats"))?.flatten().copied().collect());
    }
    Ok(predictions)
}

/// Every layer that can be in 8 bits, with its sensitivity and its time.
pub(super) fn layers(
    request: &Request,
    target: &Target,
    inputs: &[Named],
    reference: &Reference,
) -> Result<Vec<Layer>> {
    let graph = prepare(request.model.graph(), target, &mut Manager::default())?;
    let mut layers: Vec<(Role, time::Shape)> = Vec::new();
    for (_, node) in graph.nodes().filter(|(_, node)| node.op == Op::Linear) {
        let weight = node.operand(1).and_then(|id| graph.weight(id));
        let Some((role, weight)) = node.role.zip(weight) else { continue };
        let rows = node.outputs.first().map(|id| graph.value(*id).ty.shape.clone()).unwrap_or_default();
        let one_row = rows.len() == 2 || rows.get(1).and_then(|dim| dim.fixed()) == Some(1);
        if matches!(role.part.block(), Block::Attention | Block::FeedForward) {
            layers.push((role, time::Shape::of(weight, one_row, request.shape)));
        }
    }
    let all: Vec<Role> = layers.iter().map(|(role, _)| *role).collect();
    let step = inputs.len().div_ceil(LAYER_TEXTS).max(1);
    let sample: Vec<Named> = inputs.iter().step_by(step).cloned().collect();
    let expected: Vec<&Vec<f32>> = reference.predictions.iter().step_by(step).collect();
    request.observer.begin(&format!("measuring layers on {target}"), Some(layers.len() as u64));
    let mut sensitivities = Vec::new();
    for (role, _) in &layers {
        let keep: Vec<Role> = all.iter().filter(|other| *other != role).copied().collect();
        let scheme = request.scheme(target, Precision::Int8, &keep);
        let graph = compile(request.model.graph(), &scheme, &mut Manager::default())?;
        let file = request.scratch.join("layer.onnx");
        onnx::write(&graph, &file, &|_| {})?;
        sensitivities.push(rms(expected.iter().copied().zip(&predictions(target, &file, &sample)?)));
        request.observer.advance(1);
    }
    request.observer.done(&format!("{} layers on {target}, each in 8 bits alone on {} texts", all.len(), sample.len()));
    let times = time::layers(layers.iter().map(|(_, shape)| *shape).collect(), target, request)?;
    let found = layers.into_iter().zip(sensitivities).filter_map(|((role, shape), sensitivity)| {
        let [ms_full, ms_int8] = *times.get(&shape)?;
        let name = role.name();
        Some(Layer { name, sensitivity, ms_full, ms_int8, chosen: String::new(), why: String::new(), role: Some(role) })
    });
    Ok(found.collect())
}
