//! Compares engines with the reference on every text, in the batches that they are run in.
//!
//! Outputs are compared as they come and never held together: those of the reference are saved up to a bound, and computed
//! for again beyond it.

use std::borrow::Cow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::build::engines::open_rounded;
use crate::build::step_cache::{self, Step, StepCache};
use crate::bundle::Accuracy;
use crate::calibrate::{prefill, step};
use crate::error::{Error, Result};
use crate::eval::{Comparison, Example, OutputParity, PROBES, Score, TextOutput, Truth, answer, per_text, reported};
use crate::ir::Graph;
use crate::observer::Observer;
use crate::ports::PortKind;
use crate::runtime::{self, Classes, Engine, Named, Options, Runtime, TextEncoder};
use crate::verify::Verified;

/// Most bytes of the reference's outputs that are saved from one engine to the next.
const KEPT: usize = 256 << 20;

/// Most bytes of an engine's outputs for a batch, where one text does not have more: for every token, a masked-LM's has a
/// number for each entry of the vocabulary.
const BATCH: usize = 64 << 20;

/// Most texts of a decoder whose last token is compared in a step of its own.
const STEPPED: usize = 32;

/// The texts that engines are compared on, as tokens.
pub(super) struct Workload<'a> {
    /// Those whose predictions are compared.
    examples: &'a [Example],
    /// The inputs of each text, then of each probe.
    inputs: Vec<Named>,
    /// The numbers of the texts by their lengths.
    order: Vec<usize>,
    encoder: &'a TextEncoder,
    classes: &'a Classes,
    /// The graph of all engines, which says what they are given besides texts.
    graph: &'a Graph,
}

/// An engine's file, and its runtime.
pub(super) struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its ONNX file.
    pub onnx: &'a Path,
    /// The runtime here.
    pub run_by: RunBy<'a>,
    /// Its batch size.
    pub batch: usize,
}

/// The runtime of an engine while it is compared.
pub(super) enum RunBy<'a> {
    /// Its ONNX file, by a runtime.
    Runtime(Runtime),
    /// The graph of that file, which the function builds, by the evaluator in the arithmetic of its target.
    Evaluator(&'a dyn Fn() -> Result<Verified<Graph>>),
}

impl RunBy<'_> {
    /// Opens the engine of that file.
    pub fn open(&self, onnx: &Path) -> Result<Box<dyn Engine>> {
        match self {
            RunBy::Runtime(runtime) => runtime::open_isolated(*runtime, onnx, Options::default(), &[]),
            RunBy::Evaluator(graph) => open_rounded(&graph()?),
        }
    }

    fn identity(&self) -> Result<String> {
        match self {
            RunBy::Runtime(runtime) => Ok(format!("{runtime} {}", runtime::available(*runtime)?)),
            RunBy::Evaluator(_) => Ok("evaluator".to_owned()),
        }
    }
}

/// The result of a comparison.
#[derive(Serialize, Deserialize)]
pub(super) struct Compared {
    /// Of every output.
    pub outputs: Vec<OutputParity>,
    /// How many rows of the prediction were compared.
    pub rows: usize,
    /// The accuracies, where this is a classifier and all texts have labels.
    pub accuracy: Option<Accuracy>,
}

impl<'a> Workload<'a> {
    /// The texts, and the built-in ones beside them, on which outputs must be numbers.
    pub fn new(
        graph: &'a Graph,
        encoder: &'a TextEncoder,
        classes: &'a Classes,
        examples: &'a [Example],
        probed: bool,
    ) -> Result<Workload<'a>> {
        let probes: &[&str] = if probed { &PROBES } else { &[] };
        let texts = examples.iter().map(|example| encoder.encode(&[example]));
        let texts = texts.chain(probes.iter().map(|probe| encoder.encode(&[*probe])));
        let inputs = texts.map(|text| prefill(graph, &text?)).collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.sort_by_key(|text| inputs.get(*text).map_or(0, tokens));
        Ok(Workload { examples, inputs, order, encoder, classes, graph })
    }

    /// How many steps [`Workload::compare`] reports.
    pub fn steps(&self) -> usize {
        self.examples.len()
    }

    /// The cache key of this workload.
    fn identity(&self) -> impl Serialize + use<> {
        let truths: Vec<String> = self.examples.iter().map(|example| format!("{:?}", example.truth)).collect();
        (
            self.examples.len(),
            step_cache::inputs_digest(&self.inputs),
            truths,
            self.classes.labels.clone(),
            self.classes.problem_type,
        )
    }

    /// Texts of similar length together, up to the engine's batch size, and no more tokens than `most`, padding too.
    fn batches(&self, batch: usize, most: usize) -> Vec<&[usize]> {
        let mut rest = self.order.as_slice();
        let mut batches = Vec::new();
        while !rest.is_empty() {
            let longest = |n: usize| rest.get(n - 1).and_then(|text| self.inputs.get(*text)).map_or(0, tokens);
            let fits = |n: &usize| *n == 1 || n * longest(*n) <= most;
            let n = (1..=batch.clamp(1, rest.len())).rev().find(fits).unwrap_or(1);
            let (head, tail) = rest.split_at(n);
            batches.push(head);
            rest = tail;
        }
        batches
    }

    /// Compares an engine with the reference, or returns the cached result.
    pub fn compare(
        &self,
        reference: &mut Reference,
        candidate: &Candidate,
        step_cache: &StepCache,
        into: &Path,
        observer: &dyn Observer,
    ) -> Result<Compared> {
        let step = Step { kind: "comparison", name: candidate.name, into };
        let of =
            |onnx: &Path, run_by: &RunBy| -> Result<_> { Ok((step_cache::model_digests(onnx)?, run_by.identity()?)) };
        let (onnx, runtime) = (reference.onnx, RunBy::Runtime(reference.runtime));
        let from = || {
            let candidate_is = (of(candidate.onnx, &candidate.run_by)?, candidate.batch);
            Ok((of(onnx, &runtime)?, candidate_is, self.identity()))
        };
        let make = || Ok((self.compare_now(reference, candidate, observer)?, Vec::new()));
        let (compared, before) = step_cache.made(step, from, make)?;
        if before {
            observer.advance(self.steps() as u64);
        }
        Ok(compared)
    }

    fn compare_now(
        &self,
        reference: &mut Reference,
        candidate: &Candidate,
        observer: &dyn Observer,
    ) -> Result<Compared> {
        let mut engine = candidate.run_by.open(candidate.onnx)?;
        let mut comparison = Comparison::new(self.classes.problem_type);
        let mut rows = 0;
        // Only a classifier's few numbers are saved, for its accuracy.
        let truths = self.truths();
        let mut logits: Vec<(usize, Vec<f32>, Vec<f32>)> = Vec::new();
        let most = match self.order.first() {
            Some(text) => {
                let tokens = self.inputs.get(*text).map_or(0, tokens);
                BATCH.saturating_mul(tokens) / bytes(&reference.outputs(self, *text)?).max(1)
            }
            None => 0,
        };
        for batch in self.batches(candidate.batch, most) {
            let texts: Vec<&Example> = batch.iter().filter_map(|text| self.examples.get(*text)).collect();
            let inputs = prefill(self.graph, &self.encoder.encode(&texts)?)?;
            let outputs = engine.run(&inputs)?;
            for (text, found) in batch.iter().zip(per_text(&inputs, &outputs)?) {
                let expected = reference.outputs(self, *text)?;
                comparison.add(&expected, &found).map_err(|e| e.at(format!("text {}", text + 1)))?;
                if let (Some(a), Some(b)) = (answer(&expected), answer(&found)) {
                    rows += a.rows().count();
                    if truths.is_some() {
                        logits.push((*text, a.values.clone(), b.values.clone()));
                    }
                }
                observer.advance(1);
            }
        }
        for text in self.order.iter().take(STEPPED) {
            self.compare_step(*text, reference, &mut *engine, &mut comparison)
                .map_err(|e| e.at(format!("text {}, its last token with the cache of the others", text + 1)))?;
        }
        let mut outputs = comparison.finish()?;
        for probe in self.inputs.get(self.examples.len()..).unwrap_or_default() {
            for found in per_text(probe, &engine.run(probe)?)?.iter().flatten() {
                let of = outputs.iter_mut().find(|of| of.output == reported(&found.name));
                of.into_iter().for_each(|of| of.parity.non_finite += found.non_finite());
            }
        }
        let accuracy = truths.and_then(|truths| {
            logits.sort_by_key(|(text, ..)| *text);
            let (of_reference, of_candidate): (Vec<_>, Vec<_>) = logits.into_iter().map(|(_, a, b)| (a, b)).unzip();
            let share = |predictions: &[Vec<f32>]| Score::of(self.classes.problem_type, predictions, &truths).accuracy;
            Some(Accuracy { reference: share(&of_reference)?, found: share(&of_candidate)? })
        });
        Ok(Compared { outputs, rows, accuracy })
    }

    /// Compares every output of a decoder's engine for the last token of a text, run with the engine's cache of the tokens
    /// before, with the reference's outputs for the whole text.
    fn compare_step(
        &self,
        text: usize,
        reference: &mut Reference,
        engine: &mut dyn Engine,
        comparison: &mut Comparison,
    ) -> Result<()> {
        let Some(inputs) = self.inputs.get(text) else { return Err(Error::bug("a text has no inputs")) };
        let Some(step) = step(self.graph, inputs)? else { return Ok(()) };
        let cached = step.after(&engine.run(&step.before)?);
        let found = per_text(&cached, &engine.run(&cached)?)?.into_iter().flatten().collect::<Vec<_>>();
        // Of the whole text, a step has the last row of logits, and all of the cache.
        let mut expected = reference.outputs(self, text)?.into_owned();
        for output in expected.iter_mut().filter(|output| PortKind::Logits.is(&output.name)) {
            output.values = output.rows().last().unwrap_or_default().to_vec();
        }
        comparison.add(&expected, &found)
    }

    /// The labels of the texts, where this is a classifier and all texts have labels.
    fn truths(&self) -> Option<Vec<&'a Truth>> {
        if self.classes.labels.is_empty() {
            return None;
        }
        self.examples.iter().map(|example| example.truth.as_ref()).collect()
    }
}

/// How much memory outputs take.
fn bytes(outputs: &[TextOutput]) -> usize {
    outputs.iter().map(|output| size_of_val(output.values.as_slice())).sum()
}

/// How many tokens inputs have.
fn tokens(inputs: &Named) -> usize {
    inputs.iter().find_map(|(_, tensor)| tensor.shape.get(1)).copied().unwrap_or(0)
}

/// The engine that others are compared with, which runs one text at a time.
pub(super) struct Reference<'a> {
    name: String,
    onnx: &'a Path,
    runtime: Runtime,
    engine: Option<Box<dyn Engine>>,
    kept: Vec<Option<Vec<TextOutput>>>,
    bytes: usize,
}

impl<'a> Reference<'a> {
    /// It is opened when it is first run.
    pub fn new(name: String, onnx: &'a Path, runtime: Runtime) -> Reference<'a> {
        Reference { name, onnx, runtime, engine: None, kept: Vec::new(), bytes: 0 }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn onnx(&self) -> &Path {
        self.onnx
    }

    /// All outputs for a text. Fails where one is NaN or infinite: nothing can be compared with that.
    fn outputs(&mut self, workload: &Workload, text: usize) -> Result<Cow<'_, [TextOutput]>> {
        if self.kept.get(text).is_none_or(Option::is_none) {
            let Some(inputs) = workload.inputs.get(text) else { return Err(Error::bug("a text has no inputs")) };
            let engine = match &mut self.engine {
                Some(engine) => engine,
                none => none.insert(runtime::open_isolated(self.runtime, self.onnx, Options::default(), &[])?),
            };
            let outputs = per_text(inputs, &engine.run(inputs)?)?.into_iter().flatten().collect::<Vec<_>>();
            if let Some(non_finite) = outputs.iter().find(|output| output.non_finite() > 0) {
                return Err(Error::gate_failed(format!(
                    "{} gives {} numbers that are NaN or infinite in `{}`",
                    self.name,
                    non_finite.non_finite(),
                    crate::error::printable(&non_finite.name)
                ))
                .at(format!("text {}", text + 1))
                .hint("the checkpoint itself, or a merged adapter, holds or makes such numbers"));
            }
            let bytes = bytes(&outputs);
            if self.bytes + bytes > KEPT {
                return Ok(Cow::Owned(outputs));
            }
            self.bytes += bytes;
            self.kept.resize_with(self.kept.len().max(text + 1), || None);
            if let Some(slot) = self.kept.get_mut(text) {
                *slot = Some(outputs);
            }
        }
        match self.kept.get(text) {
            Some(Some(outputs)) => Ok(Cow::Borrowed(outputs)),
            _ => Err(Error::bug("saved outputs are missing")),
        }
    }
}
