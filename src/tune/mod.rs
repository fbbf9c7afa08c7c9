//! Chooses the precision of every layer: which layers gain from 8 bits.
//!
//! Every linear layer is quantized alone: the predictions that it changes are its sensitivity, the time that it saves
//! is its gain. Layers then return to full precision in the order of sensitivity for gain, and engines along that
//! order are measured whole: their predictions on the texts and their time. The fastest that keeps the bound is chosen; the
//! frontier of all of them is reported. With several targets, all engines of all of them are measured in the same
//! rounds, so that their times can be compared.

mod cuts;
mod report;
mod request;
mod sensitivity;
mod time;

use serde::Serialize;

use crate::build::{Scheme, compile};
use crate::error::{Error, Result};
use crate::ir::Role;
use crate::ir::weight::Int8Range;
use crate::passes::Manager;
use crate::precision::Precision;
use crate::runtime::{Named, ProblemType};
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
    /// The share of texts with FP32's prediction.
    pub agreement: f64,
    /// Loss of accuracy, or the share of changed predictions where texts have no labels.
    pub drop: f64,
    /// Root mean square of the change of the outputs.
    pub rms: f64,
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
        return Err(Error::unsupported(
            "layers are chosen by the predictions they change, and this model predicts numbers",
        ));
    }
    let inputs: Vec<Named> = request.texts.iter().map(|text| request.encoder.encode(&[text])).collect::<Result<_>>()?;
    let reference = sensitivity::Reference::of(request, &inputs)?;
    let mut targets = Vec::new();
    let mut candidates = Vec::new();
    for target in request.targets {
        let mut layers = sensitivity::layers(request, target, &inputs, &reference)?;
        // A layer that wins no time goes first; then those that are most sensitive for the time they win.
        layers.sort_by(|a, b| priority(b).total_cmp(&priority(a)).then(a.name.cmp(&b.name)));
        candidates.extend(frontier(target, &layers));
        targets.push(Searched { target: target.to_string(), layers });
    }
    let points = measured(request, &candidates, &inputs, &reference)?;
    let fitting = points.iter().enumerate().filter(|(_, point)| point.fits);
    let chosen = fitting
        .max_by(|a, b| a.1.speed.total_cmp(&b.1.speed))
        .map(|(i, _)| i)
        .ok_or_else(|| Error::gate_failed(format!("no engine loses at most {}", request.max_drop)))?;
    let kept = candidates.get(chosen).map(|candidate| candidate.keep.clone()).unwrap_or_default();
    targets.iter_mut().for_each(|searched| explain(&mut searched.layers, &kept));
    Ok(Tuned {
        schema: "kilnc.tune/2",
        shape: request.shape,
        texts: request.texts.len(),
        labelled: reference.accuracy.is_some(),
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

/// The predictions and the times of whole engines.
fn measured(
    request: &Request,
    candidates: &[Candidate],
    inputs: &[Named],
    reference: &sensitivity::Reference,
) -> Result<Vec<Point>> {
    request.observer.begin("running engines", Some(candidates.len() as u64));
    let mut files = Vec::new();
    let mut found = Vec::new();
    for (i, Candidate { target, precision, keep }) in candidates.iter().enumerate() {
        let scheme = request.scheme(target, *precision, keep);
        let graph = compile(request.model.graph(), &scheme, &mut Manager::default())?;
        let file = request.scratch.join(format!("point-{i}.onnx"));
        crate::back::onnx::write(&graph, &file, &|_| {})?;
        found.push(reference.compare(&sensitivity::predictions(target, &file, inputs)?));
        files.push((*target, file));
        request.observer.advance(1);
    }
    request.observer.done(&format!("{} engines ran {} texts each", candidates.len(), inputs.len()));
    let times = time::engines(&files, request)?;
    let mut points = Vec::new();
    for (((candidate, (_, file)), found), [ms, speed]) in candidates.iter().zip(&files).zip(found).zip(times) {
        points.push(Point {
            target: candidate.target.to_string(),
            precision: candidate.precision,
            reduced_range: request.scheme(candidate.target, candidate.precision, &[]).range == Int8Range::Reduced,
            fp32_layers: candidate.keep.len(),
            agreement: found.agreement,
            drop: found.drop,
            rms: found.rms,
            ms,
            speed,
            fits: found.drop <= request.max_drop,
        });
        std::fs::remove_file(file).map_err(|e| Error::io("removing", file, &e))?;
    }
    Ok(points)
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
