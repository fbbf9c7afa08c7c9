//! Gates: prove that the engines of a bundle still predict like the checkpoint.

use std::path::{Path, PathBuf};

mod classes;
mod comparison;
mod report;

use crate::back::onnx;
use crate::build::calibration::{BUILT_IN, CalibrationSource, Calibrator, Labels, compared, probes};
use crate::build::engines::{Assembly, Made, Scheme, compile, remove};
use crate::build::pair_prompt;
use crate::bundle::{Accuracy, GateEntry};
use crate::error::{Error, Kind, Result};
use crate::eval::{Beginnings, Example, Gate, Golden, Workload};
use crate::front::hub::load::{Model, limits, tokenizer};
use crate::json;
use crate::observer::Observer;
use crate::passes::Manager;
use crate::precision::Precision;
use crate::recipe::Recipe;
use crate::runtime::generate::DecoderLimits;
use crate::runtime::{self, Classes, Runtime, TextEncoder};
use crate::target::Target;
use crate::task::{self, Task};
use comparison::{Baseline, Candidate, Compares, RunBy};
use report::{missed, report, unmade};

/// The inputs of engines, and their expected outputs.
pub struct Gates {
    encoder: TextEncoder,
    classes: Classes,
    texts: Vec<Example>,
    texts_name: String,
    source: CalibrationSource,
    golden: Option<(String, Golden, Gate)>,
    strict: bool,
}

impl Gates {
    /// Reads the texts and outputs of the gates, and those of the calibration. Without texts in the recipe, those of
    /// the calibration are run, or a few built-in ones.
    pub fn new(recipe: &Recipe, model: &Model, strict: bool, observer: &dyn Observer) -> Result<Gates> {
        // Every step after this looks at one graph.
        model.program.only()?;
        let classes = classes::of(recipe, model, observer)?;
        for engine in &recipe.engines {
            engine
                .gate
                .check_problem_type(classes.problem_type)
                .and_then(|()| engine.gate.check_task(model.task))
                .map_err(|e| e.at(format!("engine {}", engine.name())))?;
        }
        let encoder = encoder(recipe, model)?;
        check_settings(recipe, model, &classes, &encoder)?;
        // Labels of texts on which nothing is compared do not matter.
        let asked = if recipe.texts.is_none() { classes.clone() } else { Classes::default() };
        let labels = Labels::of(recipe);
        let source = CalibrationSource::labelled(&recipe.calibration, &asked, labels, observer)?;
        let (texts_name, texts) = match (&recipe.texts, source.texts()) {
            (Some(path), _) => (json::file_name(path), compared(path, &classes, labels, observer)?),
            (None, Some((name, texts))) => (name.to_owned(), texts.to_vec()),
            (None, None) => (BUILT_IN.to_owned(), probes()),
        };
        let golden = match &recipe.golden {
            None => None,
            Some(_) if recipe.engines_or_default().iter().all(|engine| engine.precision != Precision::Fp32) => {
                return Err(Error::bad_input("no engine is in fp32, and only such engines are compared with it")
                    .at("golden")
                    .hint("add an engine in fp32, or leave the golden file out"));
            }
            Some(spec) => {
                let gate = Gate { max_abs: Some(spec.max_abs), ..Gate::default() };
                Some((json::file_name(&spec.file), Golden::read(&spec.file)?, gate))
            }
        };
        Ok(Gates { encoder, classes, texts, texts_name, source, golden, strict })
    }

    /// What engines are calibrated on. `scratch` is a folder for the time of the build.
    pub fn calibrator<'a>(&self, model: &Model, scratch: &Path, observer: &'a dyn Observer) -> Result<Calibrator<'a>> {
        self.source.calibrator(model, Some(&self.encoder), self.encoder.max_length, scratch, observer)
    }

    /// Longest text, in tokens.
    pub fn max_length(&self) -> usize {
        self.encoder.max_length
    }

    /// A classifier's labels; none for another task.
    pub fn into_classes(self) -> Classes {
        self.classes
    }

    /// The tokenizer, with the model's limits.
    pub fn encoder(&self) -> &TextEncoder {
        &self.encoder
    }

    /// The texts that are run.
    pub fn texts(&self) -> &[Example] {
        &self.texts
    }

    /// A classifier's labels; none for another task.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Checks every engine and records the results. Fails where a bound is missed, or was requested and cannot be
    /// checked here.
    pub(in crate::build) fn check(&self, assembly: &mut Assembly) -> Result<()> {
        let compares = self.compares(assembly.model)?;
        let texts = compares.workload.texts();
        assembly.observer.begin_texts("checking engines", (assembly.made.len() * texts) as u64);
        let (name, onnx, runtime) = self.reference(assembly)?;
        let mut reference = Baseline::new(name, &onnx, runtime, &compares);
        let mut made = std::mem::take(&mut assembly.made);
        for engine in &mut made {
            let found = self.check_engine(engine, &mut reference, assembly);
            engine.entry.gates = found.map_err(|e| e.at(format!("engine {}", engine.entry.name)))?;
            if engine.entry.runtime.runs_plans() {
                remove(&engine.onnx)?;
            }
        }
        if !made.iter().any(|engine| engine.onnx == reference.onnx()) {
            let dir = assembly.stage.path(REFERENCE);
            std::fs::remove_dir_all(&dir).map_err(|e| Error::io("removing", &dir, &e))?;
        }
        let of = &self.texts_name;
        assembly.observer.done(&format!("{texts} texts of {of}, each engine against {}", reference.name()));
        report(&made, assembly.observer);
        let missed = missed(&made);
        // The graph has been compared with the golden file where one of its engines was.
        let compared = made.iter().flat_map(|engine| &engine.entry.gates).any(|gate| gate.against == GOLDEN);
        assembly.unmade.extend(assembly.not_golden.take().filter(|_| !compared));
        assembly.made = made;
        missed.and_then(|()| unmade(&assembly.unmade))
    }

    /// What engines are compared on.
    fn compares(&self, model: &Model) -> Result<Compares<'_>> {
        let probed = self.texts_name != BUILT_IN;
        let long = limits::long_texts(model.graph());
        let workload = Workload::new(&self.encoder, &self.classes, &self.texts, probed)?.with_long_texts(long);
        let generates = match model.task {
            Task::TextGeneration => {
                // Padding is masked, and every vocabulary has a token 0.
                let limits = DecoderLimits { positions: limits::positions(model.graph()), long, pad: 0 };
                let beginnings = Beginnings::of(&self.encoder, &self.texts, limits.positions)?;
                beginnings.map(|beginnings| (beginnings, limits))
            }
            _ => None,
        };
        Ok(Compares { workload, generates })
    }

    /// One of the bundle's FP32 engines, or one made for the purpose: its name, its file and its runtime.
    fn reference(&self, assembly: &Assembly) -> Result<(String, PathBuf, Runtime)> {
        let target = reference_target()?;
        let runtime = Runtime::of(&target);
        let model = assembly.model;
        let whole = model.trained.is_none();
        let serves = |made: &&Made| whole && made.entry.runtime == runtime && made.entry.precision == Precision::Fp32;
        if let Some(made) = assembly.made.iter().find(serves) {
            return Ok((made.entry.name.clone(), made.onnx.clone(), runtime));
        }
        let trained = model.trained.as_ref().unwrap_or(&model.program).first();
        let graph = compile(trained, &Scheme::new(&target, Precision::Fp32), &mut Manager::default())?;
        let dir = assembly.stage.path(REFERENCE);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("writing to", &dir, &e))?;
        let onnx = dir.join("model.onnx");
        onnx::write(&graph, &onnx, &|_| {})?;
        let name = if whole { format!("{target} fp32") } else { format!("the trained model, {target} fp32") };
        Ok((name, onnx, runtime))
    }

    fn check_engine(&self, made: &Made, reference: &mut Baseline, assembly: &mut Assembly) -> Result<Vec<GateEntry>> {
        let mut gates = Vec::new();
        let graph = || Ok(assembly.program(&made.planned, &mut Manager::default())?.first().clone());
        let here = assembly.plan.processor.clone();
        let (runtime, ran_by) = (made.planned.run_by.runtime(), made.planned.run_by.to_string());
        let version = match runtime.map(runtime::available) {
            Some(Err(e)) => {
                assembly.observer.advance(self.texts.len() as u64);
                return self.unchecked(made, reference.name(), e, assembly);
            }
            found => found.transpose()?.map(|found| found.version),
        };
        let features =
            if runtime.is_some() { here.features.iter().map(|name| (*name).to_owned()).collect() } else { Vec::new() };
        let run_by = runtime.map_or(RunBy::Evaluator(&graph), RunBy::Runtime);
        if let (Some((name, golden, gate)), true) = (&self.golden, made.planned.is_golden()) {
            let mut engine = run_by.open(&made.onnx)?;
            let parity = golden.compare_outputs(&mut *engine, self.classes.problem_type)?;
            gates.push(GateEntry {
                against: GOLDEN.to_owned(),
                on: name.clone(),
                rows: parity.rows,
                batch: None,
                ran_by: ran_by.clone(),
                version: version.clone(),
                features: features.clone(),
                exact_8_bits: None,
                checks: gate.check(&parity, None),
                accuracy: None,
                greedy: None,
            });
        }
        let (name, onnx, batch) = (made.entry.name.as_str(), made.onnx.as_path(), made.entry.batch());
        let candidate = Candidate { name, onnx, run_by, batch };
        let itself = made.onnx == reference.onnx();
        let found = reference.compare(&candidate, assembly.step_cache, assembly.stage.dir(), assembly.observer)?;
        let (compared, greedy) = (found.compared, found.greedy);
        let drop = compared.accuracy.map(Accuracy::drop);
        let gate = default_gate(made.entry.precision, assembly.model).overridden_by(made.planned.spec.gate);
        gates.push(GateEntry {
            against: if itself { ITSELF.to_owned() } else { reference.name().to_owned() },
            on: self.texts_name.clone(),
            rows: compared.rows,
            batch: Some(batch),
            ran_by,
            version,
            features,
            exact_8_bits: made.entry.precision.is_calibrated().then(|| {
                let saturates = made.planned.spec.target.saturates(made.entry.precision) && !made.entry.reduced_range;
                runtime.is_none() || !saturates || here.exact_8_bits()
            }),
            checks: gate
                .check_all(&compared.outputs, drop)
                .into_iter()
                .chain(greedy.map(|greedy| gate.check_greedy(greedy)))
                .collect(),
            accuracy: compared.accuracy,
            greedy,
        });
        Ok(gates)
    }

    /// The record of an engine that nothing here runs. Fails where the machine does, or the build is strict.
    fn unchecked(&self, made: &Made, reference: &str, why: Error, assembly: &mut Assembly) -> Result<Vec<GateEntry>> {
        if self.strict || why.kind() == Kind::MachineFailed {
            return Err(why);
        }
        assembly.observer.warn(&format!("{} was NOT CHECKED: {}", made.entry.name, why.message()));
        let entry = GateEntry {
            against: reference.to_owned(),
            on: self.texts_name.clone(),
            rows: 0,
            batch: None,
            ran_by: why.portable(),
            version: None,
            features: Vec::new(),
            exact_8_bits: None,
            checks: Vec::new(),
            accuracy: None,
            greedy: None,
        };
        let golden = self.golden.is_some() && made.planned.is_golden();
        if made.planned.is_gated() {
            assembly.unmade.push((made.entry.name.clone(), why));
        } else if golden {
            assembly.not_golden = Some((made.entry.name.clone(), why));
        }
        Ok(vec![entry])
    }
}

/// The comparison of the reference itself: its outputs for one text at a time.
const ITSELF: &str = "itself, text by text";

/// The golden outputs that engines in FP32 are compared with, where a recipe names them.
const GOLDEN: &str = "golden";

/// The folder of the stage for a reference that is no part of the bundle.
const REFERENCE: &str = "reference";

/// The model's tokenizer, with the recipe's or the model's longest text.
pub fn encoder(recipe: &Recipe, model: &Model) -> Result<TextEncoder> {
    let text = model.tokenizer.text()?.to_owned();
    let location = |e: Error| e.at(model.tokenizer.path().display().to_string());
    let encoder = TextEncoder::parse(text, max_length(recipe, model)?).map_err(location)?;
    encoder.check_longest()?;
    if let Some(rows) = limits::rows(model.graph()) {
        encoder.check_rows(rows).map_err(location)?;
    }
    let prompt = model.prompt.as_ref().map(|prompt| prompt.text.as_str());
    let mask = model.tokenizer.mask.as_deref().filter(|_| model.task == Task::FillMask);
    let pair_prompt = pair_prompt::of(model)?;
    Ok(encoder.with_prompt(prompt).with_pair_prompt(pair_prompt.as_ref()).with_mask(mask))
}

/// The target of the FP32 engine that others are compared with.
pub fn reference_target() -> Result<Target> {
    Ok(if runtime::is_available(Runtime::Ort)? { Target::OrtCpu } else { Target::Tract })
}

/// The default bounds of an engine: in FP32 the numbers, and every token that is generated; in other precisions, and where
/// something was cut, only that they are numbers.
fn default_gate(precision: Precision, model: &Model) -> Gate {
    match precision {
        Precision::Fp32 if model.trained.is_none() => {
            Gate { max_abs: Some(1e-3), greedy: Some(1.0), ..Gate::default() }
        }
        _ => Gate::default(),
    }
}

/// Fails where a recipe's settings of predictions do not fit the model.
fn check_settings(recipe: &Recipe, model: &Model, classes: &Classes, encoder: &TextEncoder) -> Result<()> {
    let file = recipe.file.as_deref().unwrap_or("the recipe");
    recipe.pipeline.check_in(file, model.task, encoder.max_length)?;
    let asked = task::Model { context_first: model.context_first(), ..task::Model::new(model.task, classes.clone()) };
    asked.check_room(&recipe.pipeline, encoder).map_err(|e| e.at(format!("{file}: pipeline")))
}

/// Longest text, in tokens: the recipe's; or what sentence-transformers or the tokenizer's configuration says, up to what
/// the model's positions cover.
pub fn max_length(recipe: &Recipe, model: &Model) -> Result<usize> {
    let said = model.checkpoint.common.max_position_embeddings.unwrap_or(512);
    let graph = model.graph();
    // Angles that follow the length of a text go beyond what the configuration says.
    let grows = limits::long_texts(graph).is_some();
    let limit = limits::positions(graph).map_or(said, |covered| if grows { covered } else { covered.min(said) });
    let sentence = tokenizer::sentence(&model.checkpoint, model.task);
    let said = sentence.and_then(|modules| modules.encoder_config.max_seq_length).or(model.tokenizer.max_length);
    let usual = said.map_or(limit, |n| n.clamp(2, limit));
    match recipe.max_length {
        Some(n) if n > limit || n < 2 => {
            Err(Error::bad_input(format!("max_length {n} is outside 2…{limit}, the positions that the model has")))
        }
        Some(n) => Ok(n),
        None => Ok(usual),
    }
}
