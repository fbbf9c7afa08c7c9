//! Texts on which engines are compared with a reference, in the batches that they are run in.
//!
//! This is the one comparison: the gates of a build, `tune` and, through its builds, `prune` measure with it. Every output of
//! every text counts, and of a decoder also a step with its cache. Outputs are compared as they come and never held together:
//! those of the reference are saved up to a bound, and computed again beyond it.

use std::borrow::Cow;

use serde::Serialize;

use super::compare::{Comparison, TextOutput, answer, per_text, reported};
use super::compared::{Accuracy, Compared};
use super::dataset::{Example, Truth};
use super::probes::PROBES;
use super::score::Score;
use crate::error::{Error, Result, printable};
use crate::ports::PortKind;
use crate::runtime::session::{LastStep, prefill};
use crate::runtime::{Classes, Elements, Engine, Named, Tensor, TextEncoder};
use crate::settings::LongTexts;

/// Most bytes of the reference's outputs that are saved from one engine to the next.
const SAVED: usize = 256 << 20;

/// Most bytes of an engine's outputs for a batch, where one text does not have more: for every token, a masked-LM's has a
/// number for each entry of the vocabulary.
const BATCH: usize = 64 << 20;

/// Most texts of a decoder whose last token is compared in a step of its own.
const STEPPED: usize = 32;

/// The texts that engines are compared on.
pub struct Workload<'a> {
    examples: &'a [Example],
    /// The inputs of each text, then of each probe.
    inputs: Vec<Named>,
    /// The numbers of the texts by their lengths.
    order: Vec<usize>,
    encoder: &'a TextEncoder,
    classes: &'a Classes,
    /// From which length on a step with a state gives others than the whole.
    long: Option<LongTexts>,
}

impl<'a> Workload<'a> {
    /// The texts. With `probed`, the built-in ones are run too, on which outputs must be numbers.
    pub fn new(
        encoder: &'a TextEncoder,
        classes: &'a Classes,
        examples: &'a [Example],
        probed: bool,
    ) -> Result<Workload<'a>> {
        let probes: &[&str] = if probed { &PROBES } else { &[] };
        let texts = examples.iter().map(|example| encoder.encode(&[example]));
        let texts = texts.chain(probes.iter().map(|probe| encoder.encode(&[*probe])));
        let inputs = texts.collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.sort_by_key(|text| inputs.get(*text).map_or(0, tokens));
        Ok(Workload { examples, inputs, order, encoder, classes, long: None })
    }

    /// Of a model whose angles follow the length of a text: steps of longer texts are not compared with the whole.
    pub fn with_long_texts(self, long: Option<LongTexts>) -> Workload<'a> {
        Workload { long, ..self }
    }

    /// How many texts are compared.
    pub fn texts(&self) -> usize {
        self.examples.len()
    }

    /// The inputs of each text, alone, then of each probe; without positions and a state.
    pub fn inputs(&self) -> &[Named] {
        &self.inputs
    }

    /// All that a result depends on besides the inputs and the engines.
    pub fn identity(&self) -> impl Serialize + use<> {
        let truths: Vec<String> = self.examples.iter().map(|example| format!("{:?}", example.truth)).collect();
        (self.examples.len(), truths, self.classes.labels.clone(), self.classes.problem_type)
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

    /// The labels of the texts, where this is a classifier and all texts have labels.
    fn truths(&self) -> Option<Vec<&'a Truth>> {
        if self.classes.labels.is_empty() {
            return None;
        }
        self.examples.iter().map(|example| example.truth.as_ref()).collect()
    }

    /// The accuracies of two sets of logits, each with the number of its text.
    fn accuracy(&self, mut logits: Vec<(usize, Vec<f32>, Vec<f32>)>) -> Option<Accuracy> {
        let truths = self.truths()?;
        logits.sort_by_key(|(text, ..)| *text);
        let (reference, candidate): (Vec<_>, Vec<_>) = logits.into_iter().map(|(_, a, b)| (a, b)).unzip();
        let share = |predictions: &[Vec<f32>]| Score::of(self.classes.problem_type, predictions, &truths).accuracy;
        Some(Accuracy { reference: share(&reference)?, found: share(&candidate)? })
    }
}

/// Opens the reference.
type Open<'a> = Box<dyn Fn() -> Result<Box<dyn Engine>> + 'a>;

/// The engine that others are compared with on a workload. It runs one text at a time.
pub struct Reference<'a> {
    name: String,
    workload: &'a Workload<'a>,
    open: Open<'a>,
    engine: Option<Box<dyn Engine>>,
    saved: Vec<Option<Vec<TextOutput>>>,
    bytes: usize,
}

impl<'a> Reference<'a> {
    /// It is opened when it is first run.
    pub fn new(
        name: impl Into<String>,
        workload: &'a Workload<'a>,
        open: impl Fn() -> Result<Box<dyn Engine>> + 'a,
    ) -> Reference<'a> {
        let open = Box::new(open);
        Reference { name: name.into(), workload, open, engine: None, saved: Vec::new(), bytes: 0 }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compares an engine that is run with so many texts at once. `each` hears of every text that is done.
    ///
    /// # Errors
    /// A gate that failed: an output of the reference is not finite. Bad input: the engine lacks an output, or has rows of
    /// another length.
    pub fn compare(&mut self, engine: &mut dyn Engine, batch: usize, each: &dyn Fn()) -> Result<Compared> {
        let workload = self.workload;
        let mut comparison = Comparison::new(workload.classes.problem_type);
        let mut rows = 0;
        // Only a classifier's few numbers are saved, for its accuracy.
        let labelled = workload.truths().is_some();
        let mut logits: Vec<(usize, Vec<f32>, Vec<f32>)> = Vec::new();
        let most = match workload.order.first() {
            Some(text) => {
                let tokens = workload.inputs.get(*text).map_or(0, tokens);
                BATCH.saturating_mul(tokens) / bytes(&self.outputs(*text)?).max(1)
            }
            None => 0,
        };
        for batch in workload.batches(batch, most) {
            let texts: Vec<&Example> = batch.iter().filter_map(|text| workload.examples.get(*text)).collect();
            let inputs = prefill(engine.inputs(), &workload.encoder.encode(&texts)?)?;
            let outputs = engine.run(&inputs)?;
            for (text, found) in batch.iter().zip(per_text(&inputs, &outputs)?) {
                let expected = self.outputs(*text)?;
                comparison.add(&expected, &found).map_err(|e| e.at(format!("text {}", text + 1)))?;
                if let (Some(a), Some(b)) = (answer(&expected), answer(&found)) {
                    rows += a.rows().count();
                    if labelled {
                        logits.push((*text, a.values.clone(), b.values.clone()));
                    }
                }
                each();
            }
        }
        for text in workload.order.iter().take(STEPPED) {
            self.compare_step(*text, engine, &mut comparison)
                .map_err(|e| e.at(format!("text {}, its last token with the cache of the others", text + 1)))?;
        }
        let mut outputs = comparison.finish()?;
        for probe in workload.inputs.get(workload.examples.len()..).unwrap_or_default() {
            let inputs = prefill(engine.inputs(), probe)?;
            for found in per_text(&inputs, &engine.run(&inputs)?)?.iter().flatten() {
                let of = outputs.iter_mut().find(|of| of.output == reported(&found.name));
                of.into_iter().for_each(|of| of.parity.non_finite += found.non_finite());
            }
        }
        Ok(Compared { outputs, rows, accuracy: workload.accuracy(logits) })
    }

    /// Compares every output of a decoder's engine for the last token of a text, run on the engine's state of the tokens
    /// before, with the reference's outputs for the whole text.
    fn compare_step(&mut self, text: usize, engine: &mut dyn Engine, comparison: &mut Comparison) -> Result<()> {
        let inputs = self.workload.inputs.get(text).ok_or_else(without_inputs)?;
        if self.workload.long.is_some_and(|long| tokens(inputs) > long.after) {
            return Ok(());
        }
        let Some(step) = LastStep::of(&prefill(engine.inputs(), inputs)?)? else { return Ok(()) };
        engine.run(&step.before)?;
        let outputs = engine.resume(&step.last)?;
        let found = per_text(&step.last, &outputs)?.into_iter().flatten().collect::<Vec<_>>();
        // Of the whole text, a step has the last row of logits, and all of the cache.
        let mut expected = self.outputs(text)?.into_owned();
        for output in expected.iter_mut().filter(|output| PortKind::Logits.is(&output.name)) {
            output.values = output.rows().last().unwrap_or_default().to_vec();
        }
        comparison.add(&expected, &found)
    }

    /// All outputs for a text. Fails where one is NaN or infinite: nothing can be compared with that.
    fn outputs(&mut self, text: usize) -> Result<Cow<'_, [TextOutput]>> {
        if self.saved.get(text).is_none_or(Option::is_none) {
            let inputs = self.workload.inputs.get(text).ok_or_else(without_inputs)?;
            let outputs = self.run(inputs)?;
            if let Some(non_finite) = outputs.iter().find(|output| output.non_finite() > 0) {
                return Err(Error::gate_failed(format!(
                    "{} gives {} numbers that are NaN or infinite in `{}`",
                    self.name,
                    non_finite.non_finite(),
                    printable(&non_finite.name)
                ))
                .at(format!("text {}", text + 1))
                .hint("the checkpoint itself, or a merged adapter, holds or makes such numbers"));
            }
            let bytes = bytes(&outputs);
            if self.bytes + bytes > SAVED {
                return Ok(Cow::Owned(outputs));
            }
            self.bytes += bytes;
            self.saved.resize_with(self.saved.len().max(text + 1), || None);
            if let Some(slot) = self.saved.get_mut(text) {
                *slot = Some(outputs);
            }
        }
        match self.saved.get(text) {
            Some(Some(outputs)) => Ok(Cow::Borrowed(outputs)),
            _ => Err(Error::bug("saved outputs are missing")),
        }
    }

    fn run(&mut self, inputs: &Named) -> Result<Vec<TextOutput>> {
        let engine = match &mut self.engine {
            Some(engine) => engine,
            none => none.insert((self.open)()?),
        };
        let inputs = prefill(engine.inputs(), inputs)?;
        Ok(per_text(&inputs, &engine.run(&inputs)?)?.into_iter().flatten().collect())
    }

    /// Of a decoder, the logits after these tokens.
    pub(super) fn logits_after(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let input = |kind: PortKind, values: Vec<i64>| {
            (kind.name().into_owned(), Tensor { shape: vec![1, values.len()], elements: Elements::I64(values) })
        };
        let ids = tokens.iter().map(|id| i64::from(*id)).collect();
        let mask = vec![1; tokens.len()];
        let outputs = self.run(&vec![input(PortKind::TokenIds, ids), input(PortKind::AttentionMask, mask)])?;
        let logits = outputs.iter().find(|output| PortKind::Logits.is(&output.name));
        let last = logits.and_then(|logits| logits.rows().last());
        last.map(<[f32]>::to_vec).ok_or_else(|| Error::bad_input(format!("{} gives no logits", self.name)))
    }
}

fn without_inputs() -> Error {
    Error::bug("a text has no inputs")
}

/// How much memory outputs take.
fn bytes(outputs: &[TextOutput]) -> usize {
    outputs.iter().map(|output| size_of_val(output.values.as_slice())).sum()
}

/// How many tokens inputs have.
fn tokens(inputs: &Named) -> usize {
    inputs.iter().find_map(|(_, tensor)| tensor.shape.get(1)).copied().unwrap_or(0)
}
