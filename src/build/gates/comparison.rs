//! Compares engines with the reference, or takes the result of a build before.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::build::engines::{open_rounded, open_rounded_session};
use crate::build::step_cache::{self, Step, StepCache};
use crate::error::Result;
use crate::eval::{Beginnings, Compared, Greedy, Reference, Workload};
use crate::ir::Graph;
use crate::observer::Observer;
use crate::runtime::generate::{self, Decoder, DecoderLimits, Decoding};
use crate::runtime::{self, Engine, Options, Runtime};
use crate::verify::Verified;

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

    /// Opens it to generate.
    fn decoder(&self, onnx: &Path, limits: DecoderLimits) -> Result<Box<dyn Decoding>> {
        match self {
            RunBy::Runtime(runtime) => generate::open_isolated(*runtime, onnx, Options::default(), limits),
            RunBy::Evaluator(graph) => Ok(Box::new(Decoder::new(open_rounded_session(&graph()?)?, limits)?)),
        }
    }

    fn identity(&self) -> Result<String> {
        match self {
            RunBy::Runtime(runtime) => Ok(format!("{runtime} {}", runtime::available(*runtime)?)),
            RunBy::Evaluator(_) => Ok("evaluator".to_owned()),
        }
    }
}

/// What is compared: texts, and for a model that generates the beginnings of some.
pub(super) struct Compares<'a> {
    /// The texts whose outputs are compared.
    pub workload: Workload<'a>,
    /// Those that are continued, and the limits of the model.
    pub generates: Option<(Beginnings, DecoderLimits)>,
}

/// The engine that others are compared with.
pub(super) struct Baseline<'a> {
    onnx: &'a Path,
    runtime: Runtime,
    compares: &'a Compares<'a>,
    reference: Reference<'a>,
    /// What it generates.
    tokens: Option<Vec<Vec<u32>>>,
}

/// The result of a comparison.
#[derive(Serialize, Deserialize)]
pub(super) struct Found {
    /// Outputs and accuracy.
    pub compared: Compared,
    /// The tokens that were generated.
    pub greedy: Option<Greedy>,
}

impl<'a> Baseline<'a> {
    /// It is opened when it is first run.
    pub fn new(name: String, onnx: &'a Path, runtime: Runtime, compares: &'a Compares<'a>) -> Baseline<'a> {
        let open = move || runtime::open_isolated(runtime, onnx, Options::default(), &[]);
        let reference = Reference::new(name, &compares.workload, open);
        Baseline { onnx, runtime, compares, reference, tokens: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.reference.name()
    }

    /// Its file.
    pub fn onnx(&self) -> &Path {
        self.onnx
    }

    /// Compares an engine with it, or returns the cached result.
    pub fn compare(
        &mut self,
        candidate: &Candidate,
        step_cache: &StepCache,
        into: &Path,
        observer: &dyn Observer,
    ) -> Result<Found> {
        let step = Step { kind: "comparison", name: candidate.name, into };
        let of =
            |onnx: &Path, run_by: &RunBy| -> Result<_> { Ok((step_cache::model_digests(onnx)?, run_by.identity()?)) };
        let (onnx, runtime, compares) = (self.onnx, RunBy::Runtime(self.runtime), self.compares);
        let from = || {
            let candidate_is = (of(candidate.onnx, &candidate.run_by)?, candidate.batch);
            let workload = &compares.workload;
            let texts = (step_cache::inputs_digest(workload.inputs()), workload.identity());
            let beginnings = compares.generates.as_ref().map(|(beginnings, limits)| (beginnings, limits));
            Ok((of(onnx, &runtime)?, candidate_is, texts, beginnings))
        };
        let make = || Ok((self.compare_now(candidate, observer)?, Vec::new()));
        let (found, before) = step_cache.made(step, from, make)?;
        if before {
            observer.advance(compares.workload.texts() as u64);
        }
        Ok(found)
    }

    fn compare_now(&mut self, candidate: &Candidate, observer: &dyn Observer) -> Result<Found> {
        let mut engine = candidate.run_by.open(candidate.onnx)?;
        let compared = self.reference.compare(&mut *engine, candidate.batch, &|| observer.advance(1))?;
        drop(engine);
        Ok(Found { compared, greedy: self.greedy(candidate)? })
    }

    /// What the candidate generates beside what the reference does, one text at a time.
    fn greedy(&mut self, candidate: &Candidate) -> Result<Option<Greedy>> {
        let Some((beginnings, limits)) = &self.compares.generates else { return Ok(None) };
        let expected = match self.tokens.take() {
            Some(tokens) => tokens,
            None => {
                let mut decoder = RunBy::Runtime(self.runtime).decoder(self.onnx, *limits)?;
                beginnings.continued(&mut *decoder, 1).map_err(|e| e.at(self.name().to_owned()))?
            }
        };
        let mut decoder = candidate.run_by.decoder(candidate.onnx, *limits)?;
        let found = beginnings.continued(&mut *decoder, candidate.batch)?;
        let greedy = beginnings.compare(&expected, &found, &mut self.reference)?;
        self.tokens = Some(expected);
        Ok(Some(greedy))
    }
}
