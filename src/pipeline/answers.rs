//! Proves that the engines of a bundle still answer like the checkpoint.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::assembly::{Assembly, Made, remove};
use super::fitting::{BUILT_IN, Fitting, probes};
use super::memo::{self, Step};
use super::{Calibrator, Model, Observer, Scheme, classes, compile, limits};
use crate::answer;
use crate::back::onnx;
use crate::bundle::{self, Accuracy, GateEntry};
use crate::checkpoint::json;
use crate::error::{Error, Result};
use crate::eval::{Example, Gate, Golden, PROBES, Parity, Score, Truth, read_examples};
use crate::passes::Manager;
use crate::precision::Precision;
use crate::recipe::Recipe;
use crate::runtime::{self, Classes, Options, Runtime, TextEncoder};
use crate::target::Target;
use crate::task::Task;

/// What engines are asked, and what they have to answer.
pub struct Judge {
    encoder: TextEncoder,
    classes: Classes,
    texts: Vec<Example>,
    texts_name: String,
    fitting: Fitting,
    golden: Option<(String, Golden, Gate)>,
    strict: bool,
}

/// The FP32 engine that the others are held against.
struct Reference {
    name: String,
    onnx: PathBuf,
    answers: Answers,
}

/// What an engine answers.
struct Answers {
    /// The first output's rows, text after text.
    rows: Vec<Vec<f32>>,
    /// Elements of any output that are NaN or infinite, on the built-in texts.
    odd: usize,
}

impl Judge {
    /// Reads all that answers are checked with, and what engines are fitted to. Without texts in the recipe, those of
    /// the calibration are asked, or a few built-in ones.
    pub fn new(recipe: &Recipe, model: &Model, strict: bool, observer: &dyn Observer) -> Result<Judge> {
        let classes = classes::of(recipe, model)?;
        for engine in &recipe.engines {
            engine.gate.check_fits(classes.reading).map_err(|e| e.at(format!("engine {}", engine.name())))?;
        }
        let encoder = encoder(recipe, model)?;
        check_settings(recipe, model, &classes, &encoder)?;
        // Labels of texts that no answer is held against are nobody's business.
        let asked = if recipe.texts.is_none() { classes.clone() } else { Classes::default() };
        let fitting = Fitting::read(&recipe.calibration, &asked, observer)?;
        let (texts_name, texts) = match (&recipe.texts, fitting.texts()) {
            (Some(path), _) => (json::file_name(path), read_examples(path, &classes)?),
            (None, Some((name, texts))) => (name.to_owned(), texts.to_vec()),
            (None, None) => (BUILT_IN.to_owned(), probes()),
        };
        let golden = match &recipe.golden {
            None => None,
            Some(spec) => {
                let gate = Gate { max_abs: Some(spec.max_abs), ..Gate::default() };
                Some((json::file_name(&spec.file), Golden::read(&spec.file)?, gate))
            }
        };
        Ok(Judge { encoder, classes, texts, texts_name, fitting, golden, strict })
    }

    /// What engines are fitted to. `scratch` is a folder for the time of the build.
    pub fn calibrator<'a>(&self, model: &Model, scratch: &Path, observer: &'a dyn Observer) -> Result<Calibrator<'a>> {
        self.fitting.calibrator(model, Some(&self.encoder), self.encoder.max_length, scratch, observer)
    }

    /// Longest text, in tokens.
    pub fn max_length(&self) -> usize {
        self.encoder.max_length
    }

    /// What a classifier can answer; no labels for another task.
    pub fn into_classes(self) -> Classes {
        self.classes
    }

    /// The tokenizer, with the model's limits.
    pub fn encoder(&self) -> &TextEncoder {
        &self.encoder
    }

    /// The texts that are asked.
    pub fn texts(&self) -> &[Example] {
        &self.texts
    }

    /// What a classifier can answer; no labels for another task.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Checks every engine and enters what was found. Fails where a bound is missed.
    pub(super) fn judge(&self, assembly: &mut Assembly) -> Result<()> {
        let steps = (assembly.made.len() + 1) * self.texts.len();
        assembly.observer.begin_texts("checking answers", steps as u64);
        let reference = self.reference(assembly)?;
        let mut made = std::mem::take(&mut assembly.made);
        for engine in &mut made {
            engine.entry.gates =
                self.gates(engine, &reference, assembly).map_err(|e| e.at(format!("engine {}", engine.entry.name)))?;
            if engine.entry.runtime.runs_plans() {
                remove(&engine.onnx)?;
            }
        }
        if !made.iter().any(|engine| engine.onnx == reference.onnx) {
            let dir = assembly.stage.path(REFERENCE);
            std::fs::remove_dir_all(&dir).map_err(|e| Error::io("removing", &dir, &e))?;
        }
        let line = format!("{} texts of {}, each engine against {}", self.texts.len(), self.texts_name, reference.name);
        assembly.observer.done(&line);
        tell(&made, assembly.observer);
        let missed = missed(&made);
        assembly.made = made;
        missed
    }

    /// One of the bundle's FP32 engines, or one made for the purpose.
    fn reference(&self, assembly: &Assembly) -> Result<Reference> {
        let target = if runtime::available(Runtime::Ort).is_ok() { Target::OrtCpu } else { Target::Tract };
        let runtime = Runtime::of(&target);
        let model = assembly.model;
        let whole = model.trained.is_none();
        let serves = |made: &&Made| whole && made.entry.runtime == runtime && made.entry.precision == Precision::Fp32;
        let (name, onnx) = match assembly.made.iter().find(serves) {
            Some(made) => (made.entry.name.clone(), made.onnx.clone()),
            None => {
                let trained = model.trained.as_ref().unwrap_or(&model.graph);
                let graph = compile(trained, &Scheme::new(&target, Precision::Fp32), &mut Manager::default())?;
                let dir = assembly.stage.path(REFERENCE);
                std::fs::create_dir_all(&dir).map_err(|e| Error::io("writing to", &dir, &e))?;
                let onnx = dir.join("model.onnx");
                onnx::write(&graph, &onnx, &|_| {})?;
                (if whole { format!("{target} fp32") } else { format!("the trained model, {target} fp32") }, onnx)
            }
        };
        Ok(Reference { answers: self.answers(&name, &onnx, runtime, assembly)?, name, onnx })
    }

    fn gates(&self, made: &Made, reference: &Reference, assembly: &Assembly) -> Result<Vec<GateEntry>> {
        let mut gates = Vec::new();
        // A plan needs its GPU, and a page its browser. The ONNX file, in the same operations and precision, runs on the
        // CPU.
        let (runtime, ran_by) = match made.entry.runtime {
            plans if plans.runs_plans() => (Runtime::Ort, format!("the plan's ONNX on {}", Runtime::Ort)),
            Runtime::Web => (Runtime::Ort, format!("the same file on {}", Runtime::Ort)),
            runtime => (runtime, runtime.to_string()),
        };
        let entry = |against: &str, on: &str, rows, ran_by: &str, checks, accuracy| GateEntry {
            against: against.to_owned(),
            on: on.to_owned(),
            rows,
            ran_by: ran_by.to_owned(),
            checks,
            accuracy,
        };
        if let Err(e) = runtime::available(runtime) {
            if self.strict {
                return Err(e);
            }
            assembly.observer.advance(self.texts.len() as u64);
            assembly.observer.warn(&format!("{} was NOT CHECKED: {}", made.entry.name, e.message()));
            return Ok(vec![entry(&reference.name, &self.texts_name, 0, &e.portable(), Vec::new(), None)]);
        }
        if let (Some((name, golden, gate)), Precision::Fp32) = (&self.golden, made.entry.precision) {
            let mut engine = runtime::open_apart(runtime, &made.onnx, Options::default(), &[])?;
            let parity = golden.compare_answers(&mut *engine, self.classes.reading)?;
            gates.push(entry("golden", name, parity.rows, &ran_by, gate.check(&parity, None), None));
        }
        if made.onnx != reference.onnx {
            let found = self.answers(&made.entry.name, &made.onnx, runtime, assembly)?;
            let pairs = reference.answers.rows.iter().zip(&found.rows);
            let pairs = pairs.map(|(expected, found)| (expected.as_slice(), found.as_slice()));
            let mut parity = Parity::of_answers(pairs, self.classes.reading)?;
            parity.non_finite += found.odd;
            let accuracy = self.accuracy(&reference.answers.rows).zip(self.accuracy(&found.rows));
            let accuracy = accuracy.map(|(reference, found)| Accuracy { reference, found });
            let drop = accuracy.map(|share| share.reference - share.found);
            let gate = default_gate(made.entry.precision, assembly.model).overridden_by(made.spec.gate);
            let checks = gate.check(&parity, drop);
            gates.push(entry(&reference.name, &self.texts_name, parity.rows, &ran_by, checks, accuracy));
        }
        Ok(gates)
    }

    /// What a model answers, or answered before.
    fn answers(&self, name: &str, onnx: &Path, runtime: Runtime, assembly: &Assembly) -> Result<Answers> {
        let (stage, observer) = (assembly.stage, assembly.observer);
        let file = stage.path("answers.f32");
        let from = || {
            let texts = self.texts.iter().map(|example| self.encoder.encode(&[example]));
            let probes = self.probed().iter().map(|probe| self.encoder.encode(&[*probe]));
            let asked = texts.chain(probes).collect::<Result<Vec<_>>>()?;
            let of = (self.texts.len(), memo::inputs_digest(&asked));
            Ok((memo::model_digests(onnx)?, runtime, runtime::available(runtime)?, of))
        };
        let mut fresh = None;
        let step = Step { kind: "answers", name, into: stage.dir() };
        let (told, before): (Told, bool) = assembly.memo.made(step, from, || {
            let answers = self.ask(onnx, runtime, observer)?;
            let told = Told { rows: answers.rows.iter().map(Vec::len).collect(), odd: answers.odd };
            let files = match assembly.memo.is_on() {
                true => vec![write_rows(&answers.rows, &file)?],
                false => Vec::new(),
            };
            fresh = Some(answers);
            Ok((told, files))
        })?;
        let answers = match fresh {
            Some(answers) => answers,
            None => Answers { rows: read_rows(&file, &told.rows)?, odd: told.odd },
        };
        if assembly.memo.is_on() {
            std::fs::remove_file(&file).map_err(|e| Error::io("removing", &file, &e))?;
        }
        if before {
            observer.advance(self.texts.len() as u64);
        }
        Ok(answers)
    }

    /// The built-in texts that are asked beside those that were given.
    fn probed(&self) -> &'static [&'static str] {
        if self.texts_name == BUILT_IN { &[] } else { &PROBES }
    }

    /// Asks one text at a time, so that no answer depends on its neighbours. Of each, the rows of the first output
    /// count, or the text's vector where there is one.
    fn ask(&self, onnx: &Path, runtime: Runtime, observer: &dyn Observer) -> Result<Answers> {
        let mut engine = runtime::open_apart(runtime, onnx, Options::default(), &[])?;
        let mut rows = Vec::with_capacity(self.texts.len());
        for example in &self.texts {
            let outputs = engine.run(&self.encoder.encode(&[example])?)?;
            let vector = outputs.iter().find(|(name, _)| name == "sentence_embedding").or(outputs.first());
            let found = vector.and_then(|(_, tensor)| tensor.rows());
            rows.extend(found.ok_or_else(|| Error::bad_input("the engine gives no floats"))?.map(<[f32]>::to_vec));
            observer.advance(1);
        }
        let mut odd = 0;
        for probe in self.probed() {
            let outputs = engine.run(&self.encoder.encode(&[*probe])?)?;
            let elements = outputs.iter().filter_map(|(_, tensor)| tensor.rows()).flatten().flatten();
            odd += elements.filter(|x| !x.is_finite()).count();
        }
        Ok(Answers { rows, odd })
    }

    /// The share of texts that are answered right, where this is a classifier and all texts have labels.
    fn accuracy(&self, answers: &[Vec<f32>]) -> Option<f64> {
        if self.classes.labels.is_empty() || answers.len() != self.texts.len() {
            return None;
        }
        let truths: Vec<&Truth> = self.texts.iter().map(|example| example.truth.as_ref()).collect::<Option<_>>()?;
        Score::of(self.classes.reading, answers, &truths).accuracy
    }
}

/// What is kept of answers beside their numbers.
#[derive(Serialize, Deserialize)]
struct Told {
    /// The length of every row.
    rows: Vec<usize>,
    odd: usize,
}

/// Writes rows one after another.
fn write_rows(rows: &[Vec<f32>], file: &Path) -> Result<PathBuf> {
    let bytes: Vec<u8> = rows.iter().flat_map(|row| bytemuck::cast_slice::<f32, u8>(row)).copied().collect();
    std::fs::write(file, bytes).map_err(|e| Error::io("writing", file, &e))?;
    Ok(file.to_owned())
}

/// Reads rows of those lengths.
fn read_rows(file: &Path, lengths: &[usize]) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(file).map_err(|e| Error::io("reading", file, &e))?;
    let mut values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    Ok(lengths.iter().map(|length| values.by_ref().take(*length).collect()).collect())
}

/// The folder of the stage for a reference that is no part of the bundle.
const REFERENCE: &str = "reference";

/// The model's tokenizer, with the recipe's or the model's longest text.
pub fn encoder(recipe: &Recipe, model: &Model) -> Result<TextEncoder> {
    let tokenizer = model.tokenizer.join(bundle::TOKENIZER);
    let encoder = TextEncoder::open(&tokenizer, max_length(recipe, model)?)?;
    encoder.check_longest()?;
    if let Some(rows) = limits::rows(&model.graph) {
        encoder.check_rows(rows).map_err(|e| e.at(tokenizer.display().to_string()))?;
    }
    Ok(encoder)
}

/// What any engine has to keep: in FP32 the numbers; in other precisions, and where something was cut, only that they are
/// numbers.
fn default_gate(precision: Precision, model: &Model) -> Gate {
    match precision {
        Precision::Fp32 if model.trained.is_none() => Gate { max_abs: Some(1e-3), ..Gate::default() },
        _ => Gate::default(),
    }
}

/// Says for every engine what was found.
fn tell(made: &[Made], observer: &dyn Observer) {
    for engine in made {
        let name = &engine.entry.name;
        for gate in &engine.entry.gates {
            let checks: Vec<_> = gate.checks.iter().map(ToString::to_string).collect();
            if gate.rows > 0 {
                observer.done(&format!("{name} against {}: {} ({})", gate.against, checks.join(", "), gate.ran_by));
            }
        }
    }
}

/// All bounds that were missed, in one error.
fn missed(made: &[Made]) -> Result<()> {
    let gates = made.iter().flat_map(|engine| engine.entry.gates.iter().map(move |gate| (&engine.entry.name, gate)));
    let mut missed = gates.flat_map(|(name, gate)| {
        let failed = gate.checks.iter().filter(|check| !check.passed);
        failed.map(move |check| format!("{name}: {check} against {} on {}", gate.against, gate.on))
    });
    match missed.next() {
        None => Ok(()),
        Some(first) => {
            let error = Error::gate_failed(format!("a gate was missed: {first}"));
            Err(missed.fold(error, |error, other| error.at(format!("also {other}"))).hint(
                "nothing was written; loosen the bound in the recipe or with --gate, or choose a finer precision",
            ))
        }
    }
}

/// Fails where what a recipe says of answers cannot be with the model.
fn check_settings(recipe: &Recipe, model: &Model, classes: &Classes, encoder: &TextEncoder) -> Result<()> {
    let file = recipe.file.as_deref().unwrap_or("the recipe");
    recipe.answers.check_in(file, model.task, encoder.max_length)?;
    let model_type = model.checkpoint.common.model_type.as_deref().unwrap_or_default();
    let asked = answer::Model::new(model.task, classes.clone(), model_type);
    asked.check_room(&recipe.answers, encoder).map_err(|e| e.at(format!("{file}: answers")))
}

/// Longest text, in tokens: the recipe's, or what the model's positions cover.
pub fn max_length(recipe: &Recipe, model: &Model) -> Result<usize> {
    let said = model.checkpoint.common.max_position_embeddings.unwrap_or(512);
    let limit = limits::positions(&model.graph).map_or(said, |covered| covered.min(said));
    let sentence = model.checkpoint.sentence.as_ref().filter(|_| model.task == Task::SentenceSimilarity);
    if sentence.is_some_and(|modules| modules.do_lower_case) {
        return Err(Error::unsupported("texts are not put in lower case before the tokenizer")
            .at("sentence_bert_config.json: do_lower_case")
            .hint("put the lower case into tokenizer.json as its normalizer, and set do_lower_case to false"));
    }
    let usual = sentence.and_then(|modules| modules.max_seq_length).map_or(limit, |n| n.clamp(2, limit));
    match recipe.max_length {
        Some(n) if n > limit || n < 2 => {
            Err(Error::bad_input(format!("max_length {n} is outside 2…{limit}, the positions that the model has")))
        }
        Some(n) => Ok(n),
        None => Ok(usual),
    }
}
