//! Chooses the precision of every layer: which layers gain from 8 bits.
//!
//! Every linear layer is quantized alone: the change of the outputs, of all of them, is its sensitivity, the time that it
//! saves is its gain. Layers then return to full precision in the order of sensitivity for gain, and engines along that
//! order are measured whole: their predictions on the texts and their time. The fastest that keeps the bound is chosen; the
//! frontier of all of them is reported. With several targets, all engines of all of them are measured in the same
//! rounds, so that their times can be compared.
//!
//! Engines are compared as the gates of a build compare them ([`crate::eval::Workload`]): with the same reference, on every
//! output, in the batches that an engine is run in. So an engine that is built from the result has the agreement that was
//! found here.

mod cuts;
mod report;
mod request;
mod sensitivity;
mod time;

use std::path::PathBuf;

use serde::Serialize;

use crate::back::onnx;
use crate::build::{Scheme, compile, reference_target};
use crate::bundle;
use crate::error::{Error, Result};
use crate::eval::{Compared, Reference, Workload};
use crate::ir::Role;
use crate::ir::weight::Int8Range;
use crate::passes::Manager;
use crate::precision::Precision;
use crate::runtime::{self, Options, ProblemType, Runtime};
use crate::target::Target;

pub use cuts::{Aim, CutPoint, search};
pub use report::{markdown, plot};
pub use request::{Layer, Request};

/// How many layers may be back in full precision at the points that are measured whole.
const POINTS: [usize; 6] = [0, 1, 2, 4, 8, 16];

impl Request<'_> {
    /// How an engine is made.
    fn scheme<'a>(&'a self, target: &'a Target, precision: Precision, keep: &'a [Role]) -> Scheme<'a> {
        let range = Int8Range::reduced(target.saturates(precision) && self.reduce_range.unwrap_or(true));
        Scheme { keep, calibrator: Some(self.calibrator), range, ..Scheme::new(target, precision) }
    }
}

impl Layer {
    /// Milliseconds that 8 bits win.
    fn gain(&self) -> f64 {
        self.ms_full - self.ms_int8
    }
}

/// The layers of a model on one target.
#[derive(Clone, Debug, Serialize)]
pub struct Searched {
    /// Where they run.
    pub target: String,
    /// In the order in which they return to full precision.
    pub layers: Vec<Layer>,
}

/// A whole engine that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Where it runs.
    pub target: String,
    /// `fp32`, `int8` or `int8-fast`.
    pub precision: Precision,
    /// Whether the weights of 8-bit layers use half of the integers.
    pub reduced_range: bool,
    /// How many layers are in full precision.
    pub fp32_layers: usize,
    /// The share of FP32's predictions that it makes, of the output where it is smallest.
    pub agreement: f64,
    /// Loss of accuracy, or the share of changed predictions where texts have no labels.
    pub drop: f64,
    /// How many numbers of its outputs are NaN or infinite; where there are any, it does not fit.
    #[serde(skip_serializing_if = "is_zero")]
    pub non_finite: usize,
    /// Root mean square of the change of the outputs: see [`Compared::change`]. None where outputs are not finite.
    pub rms: Option<f64>,
    /// Median milliseconds for one batch.
    pub ms: f64,
    /// How many times as fast as the first target's FP32, round by round: the median.
    pub speed: f64,
    /// Whether it keeps the bound.
    pub fits: bool,
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Tuned {
    /// The version of this report.
    pub schema: &'static str,
    /// Batch and length for which time was measured.
    pub shape: [usize; 2],
    /// How many texts were run.
    pub texts: usize,
    /// Whether the drop is one of accuracy, rather than of agreement.
    pub labelled: bool,
    /// The bound.
    pub max_drop: f64,
    /// The measurements of single layers.
    pub targets: Vec<Searched>,
    /// The engines that were measured.
    pub points: Vec<Point>,
    /// Which of them was chosen.
    pub chosen: usize,
    /// The layers that stay in full precision in it.
    pub keep: Vec<String>,
}

/// An engine along the order of layers.
struct Candidate<'a> {
    target: &'a Target,
    precision: Precision,
    keep: Vec<Role>,
}

/// Searches. Fails where not even FP32 keeps the bound, which is a bound below 0.
pub fn tune(request: &Request) -> Result<Tuned> {
    if matches!(request.classes.problem_type, ProblemType::Regression | ProblemType::Score) {
        return Err(predicts_nothing());
    }
    let file = request.scratch.join("reference.onnx");
    let on = reference_target()?;
    let graph = compile(request.model.graph(), &Scheme::new(&on, Precision::Fp32), &mut Manager::default())?;
    onnx::write(&graph, &file, &|_| {})?;
    let open = || runtime::open_isolated(Runtime::of(&on), &file, Options::default(), &[]);
    let name = format!("{on} fp32");
    let sample = sensitivity::sampled(request.texts);
    let sample = Workload::new(request.encoder, request.classes, &sample, false)?;
    let mut reference = Reference::new(name.as_str(), &sample, open);
    let mut targets = Vec::new();
    let mut candidates = Vec::new();
    for target in request.targets {
        let mut layers = sensitivity::layers(request, target, &sample, &mut reference)?;
        // A layer that wins no time goes first; then those that are most sensitive for the time they win.
        layers.sort_by(|a, b| priority(b).total_cmp(&priority(a)).then(a.name.cmp(&b.name)));
        candidates.extend(frontier(target, &layers));
        targets.push(Searched { target: target.to_string(), layers });
    }
    let texts = Workload::new(request.encoder, request.classes, request.texts, true)?;
    let mut reference = Reference::new(name, &texts, open);
    let found = compared(request, &candidates, &mut reference)?;
    let labelled = found.iter().any(|found| found.accuracy.is_some());
    let points = measured(request, &candidates, found)?;
    let fitting = points.iter().enumerate().filter(|(_, point)| point.fits);
    let chosen = fitting
        .max_by(|a, b| a.1.speed.total_cmp(&b.1.speed))
        .map(|(i, _)| i)
        .ok_or_else(|| Error::gate_failed(format!("no engine loses at most {}", request.max_drop)))?;
    let kept = candidates.get(chosen).map(|candidate| candidate.keep.clone()).unwrap_or_default();
    targets.iter_mut().for_each(|searched| explain(&mut searched.layers, &kept));
    Ok(Tuned {
        schema: "kilnc.tune/3",
        shape: request.shape,
        texts: request.texts.len(),
        labelled,
        max_drop: request.max_drop,
        keep: kept.iter().map(|role| role.name()).collect(),
        targets,
        points,
        chosen,
    })
}

/// Square of the sensitivity for a millisecond.
fn priority(layer: &Layer) -> f64 {
    if layer.gain() <= 0.0 { f64::INFINITY } else { layer.sensitivity * layer.sensitivity / layer.gain() }
}

/// FP32, and engines in both schemes with more and more layers in full precision.
fn frontier<'a>(target: &'a Target, layers: &[Layer]) -> Vec<Candidate<'a>> {
    let roles: Vec<Role> = layers.iter().filter_map(|layer| layer.role).collect();
    let mut candidates = vec![Candidate { target, precision: Precision::Fp32, keep: Vec::new() }];
    for precision in [Precision::Int8, Precision::Int8Fast] {
        for count in POINTS.into_iter().filter(|count| *count < roles.len()) {
            candidates.push(Candidate { target, precision, keep: roles.iter().take(count).copied().collect() });
        }
    }
    candidates
}

/// The file of a candidate, until it has been timed.
fn file(request: &Request, i: usize) -> PathBuf {
    request.scratch.join(format!("point-{i}.onnx"))
}

/// Whole engines beside the reference.
fn compared(request: &Request, candidates: &[Candidate], reference: &mut Reference) -> Result<Vec<Compared>> {
    request.observer.begin("running engines", Some(candidates.len() as u64));
    let mut found = Vec::new();
    for (i, Candidate { target, precision, keep }) in candidates.iter().enumerate() {
        let scheme = request.scheme(target, *precision, keep);
        let graph = compile(request.model.graph(), &scheme, &mut Manager::default())?;
        let file = file(request, i);
        onnx::write(&graph, &file, &|_| {})?;
        let mut engine = runtime::open_isolated(Runtime::of(target), &file, Options::default(), &[])?;
        found.push(reference.compare(&mut *engine, bundle::batch(*precision, target), &|| {})?);
        request.observer.advance(1);
    }
    let (engines, texts) = (candidates.len(), request.texts.len());
    request.observer.done(&format!("{engines} engines ran {texts} texts each, against {}", reference.name()));
    Ok(found)
}

/// The same with their times.
fn measured(request: &Request, candidates: &[Candidate], found: Vec<Compared>) -> Result<Vec<Point>> {
    let files: Vec<_> = candidates.iter().enumerate().map(|(i, of)| (of.target, file(request, i))).collect();
    let times = time::engines(&files, request)?;
    let mut points = Vec::new();
    for (((candidate, (_, file)), found), [ms, speed]) in candidates.iter().zip(&files).zip(found).zip(times) {
        let (drop, non_finite) = (found.lost().ok_or_else(predicts_nothing)?, found.non_finite());
        points.push(Point {
            target: candidate.target.to_string(),
            precision: candidate.precision,
            reduced_range: request.scheme(candidate.target, candidate.precision, &[]).range == Int8Range::Reduced,
            fp32_layers: candidate.keep.len(),
            agreement: found.agreement().ok_or_else(predicts_nothing)?,
            drop,
            non_finite,
            rms: Some(found.change()).filter(|change| change.is_finite()),
            ms,
            speed,
            fits: drop <= request.max_drop && non_finite == 0,
        });
        std::fs::remove_file(file).map_err(|e| Error::io("removing", file, &e))?;
    }
    Ok(points)
}

fn predicts_nothing() -> Error {
    Error::unsupported("layers are chosen by the predictions they change, and this model predicts numbers")
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn explain(layers: &mut [Layer], kept: &[Role]) {
    for layer in layers {
        let (in_full, gain) = (Role::is_in(layer.role, kept), layer.gain());
        layer.chosen = if in_full { "fp32" } else { "int8" }.to_owned();
        layer.why = match in_full {
            true if gain <= 0.0 => "8 bits win no time here".to_owned(),
            true => format!("its sensitivity, {:.4}, is too high for the {gain:.3} ms it would win", layer.sensitivity),
            false => format!("wins {gain:.3} ms of {:.3} at a sensitivity of {:.4}", layer.ms_full, layer.sensitivity),
        };
    }
}
