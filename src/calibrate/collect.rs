//! Runs a graph over texts and collects statistics of values inside.

use std::path::Path;

use rayon::prelude::*;

use super::moments::Moments;
use super::{Activations, Calibration, Extremes, Histogram};
use crate::back::{self, onnx};
use crate::error::{Error, Result, printable};
use crate::ir::{Graph, Op, ValueId};
use crate::presence;
use crate::runtime::session::prefill;
use crate::runtime::{self, Elements, Named, Options, Runtime, Tensor};
use crate::target::Target;
use crate::verify::{Verified, verify};

/// Tokens from which second moments are found; more add time and little else.
const MOMENT_TOKENS: usize = 2048;

/// Texts whose own ranges are saved.
const RANGE_TEXTS: usize = 128;

/// The graph, and where it runs.
pub struct Collection<'a> {
    /// The model, in composite operations.
    pub graph: &'a Verified<Graph>,
    /// The texts as the engine's inputs, each alone.
    pub inputs: &'a [Named],
    /// A folder for the file of the instrumented model.
    pub scratch: &'a Path,
    /// Hears of every text that is done.
    pub progress: &'a (dyn Fn() + Sync),
}

/// The inputs of linear layers, on the texts.
///
/// Runs ONNX Runtime where it is found, else tract. Fails where a value is not finite, naming it.
pub fn collect(plan: &Collection) -> Result<Calibration> {
    let taps = linear_inputs(plan.graph);
    let names: Vec<&str> = taps.iter().map(|id| plan.graph.value(*id).name.as_str()).collect();
    let mut watched: Vec<Watched> = Vec::new();
    let all_tokens: usize = plan.inputs.iter().map(tokens).sum();
    let stride = all_tokens.div_ceil(MOMENT_TOKENS).max(1);
    collect_outputs(plan, &taps, |i, observed| {
        let keep_range = i.is_multiple_of(plan.inputs.len().div_ceil(RANGE_TEXTS).max(1));
        if watched.is_empty() {
            watched = observed.iter().map(|tensor| Watched::new(tensor.shape.last().copied().unwrap_or(1))).collect();
        }
        watched.par_iter_mut().zip(observed).zip(&names).try_for_each(|((watched, tensor), name)| {
            watched
                .add(tensor, stride, keep_range)
                .map_err(|e| e.at(format!("text {}: value {}", i + 1, printable(name))))
        })
    })?;
    let values =
        names.iter().zip(watched).map(|(name, watched)| ((*name).to_owned(), watched.finish().into())).collect();
    Ok(Calibration { texts: plan.inputs.len(), tokens: all_tokens, values })
}

/// Runs the graph over the texts as far as values inside need it, and shows them, text after text, in the order of
/// `taps`.
///
/// Runs ONNX Runtime where it is found, else tract.
pub fn collect_outputs(
    plan: &Collection,
    taps: &[ValueId],
    mut each: impl FnMut(usize, &[&Tensor]) -> Result<()>,
) -> Result<()> {
    let runtime = if runtime::is_available(Runtime::Ort)? { Runtime::Ort } else { Runtime::Tract };
    let target = if runtime == Runtime::Ort { Target::OrtCpu } else { Target::Tract };
    let tapped = verify(plan.graph.up_to(taps.iter().copied()))?;
    let file = plan.scratch.join("calibration.onnx");
    onnx::write(&back::lower(&tapped, &target)?, &file, &|_| {})?;
    let observed = watch(plan, runtime, &file, taps, &mut each);
    std::fs::remove_file(&file).map_err(|e| Error::io("removing", &file, &e))?;
    let data = plan.scratch.join("calibration.onnx_data");
    match std::fs::remove_file(&data) {
        Err(e) if !presence::is_missing(&e) => return Err(Error::io("removing", &data, &e)),
        _ => {}
    }
    observed
}

/// The values that linear layers with constant weights read, each once.
pub(super) fn linear_inputs(graph: &Graph) -> Vec<ValueId> {
    let mut taps = Vec::new();
    for (_, node) in graph.nodes().filter(|(_, node)| node.op == Op::Linear) {
        if let (Some(x), Some(w)) = (node.operand(0), node.operand(1))
            && graph.weight(w).is_some()
            && graph.producer(x).is_some()
            && !taps.contains(&x)
        {
            taps.push(x);
        }
    }
    taps
}

fn watch(
    plan: &Collection,
    runtime: Runtime,
    file: &Path,
    taps: &[ValueId],
    each: &mut dyn FnMut(usize, &[&Tensor]) -> Result<()>,
) -> Result<()> {
    let names: Vec<&str> = taps.iter().map(|id| plan.graph.value(*id).name.as_str()).collect();
    // The engine computes the next text while this one is collected.
    std::thread::scope(|scope| {
        let (sender, outputs) = std::sync::mpsc::sync_channel(1);
        scope.spawn(move || {
            let mut engine = match runtime::open(runtime, file, Options::default()) {
                Ok(engine) => engine,
                Err(e) => return drop(sender.send(Err(e))),
            };
            for inputs in plan.inputs {
                // A receiver that has stopped has its own error.
                let given = prefill(engine.inputs(), inputs);
                if sender.send(given.and_then(|given| engine.run(&given))).is_err() {
                    return;
                }
            }
        });
        for (i, outputs) in outputs.into_iter().enumerate() {
            let outputs = outputs?;
            each(i, &names.iter().map(|name| find(&outputs, name)).collect::<Result<Vec<_>>>()?)?;
            (plan.progress)();
        }
        Ok(())
    })
}

fn tokens(inputs: &Named) -> usize {
    inputs.first().map_or(0, |(_, tensor)| tensor.shape.iter().product())
}

fn find<'a>(outputs: &'a Named, name: &str) -> Result<&'a Tensor> {
    let found = outputs.iter().find(|(given, _)| given == name);
    found.map(|(_, tensor)| tensor).ok_or_else(|| Error::bug(format!("the engine does not give `{name}`")))
}

/// The statistics of one value so far.
struct Watched {
    extremes: Extremes,
    by_text: Vec<Extremes>,
    moments: Moments,
    histogram: Histogram,
    rows: usize,
}

impl Watched {
    fn new(channels: usize) -> Watched {
        Watched {
            extremes: Extremes::none(channels),
            by_text: Vec::new(),
            moments: Moments::new(channels),
            histogram: Histogram::default(),
            rows: 0,
        }
    }

    fn add(&mut self, tensor: &Tensor, stride: usize, keep_range: bool) -> Result<()> {
        let Elements::F32(elements) = &tensor.elements else { return Err(Error::bug("activations are floats")) };
        if let Some(x) = elements.iter().find(|x| !x.is_finite()) {
            return Err(Error::bad_input(format!("the model computes {x}"))
                .hint("a model that overflows in FP32 cannot be calibrated: are the weights whole?"));
        }
        let mut text = Extremes::none(self.extremes.lowest.len());
        for row in tensor.rows().into_iter().flatten() {
            text.include(row);
            // A value of which a text has one row is sampled whole.
            if tensor.shape.iter().rev().nth(1) == Some(&1) || self.rows.is_multiple_of(stride) {
                self.moments.add(row);
            }
            self.rows += 1;
        }
        let low = text.lowest.iter().copied().fold(0.0, f32::min);
        let high = text.highest.iter().copied().fold(0.0, f32::max);
        self.histogram.add(elements, low, high);
        self.extremes.merge(&text);
        if keep_range {
            self.by_text.push(text);
        }
        Ok(())
    }

    fn finish(self) -> Activations {
        Activations {
            extremes: self.extremes,
            by_text: self.by_text,
            moments: self.moments.mean(),
            histogram: self.histogram,
        }
    }
}
