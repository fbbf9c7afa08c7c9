//! Times of layers and of whole engines, by the harness: each in its own process, in rounds that take turns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Request;
use crate::back::{self, onnx};
use crate::bench::{self, Candidate, PointMeasured, TokenBatch, Workload};
use crate::calibrate::Ranges;
use crate::error::{Error, Result};
use crate::ir::weight::Int8Range;
use crate::ir::{Builder, DType, Dim, Op, Part, Role, TensorType, Weight};
use crate::passes::{ActivationType, Manager, QuantizeDynamic, QuantizeStatic};
use crate::runtime::{Elements, Runtime};
use crate::target::{DynamicQuantForm, Target};
use crate::verify::verify;

/// How long each is timed in a round, in seconds.
const SECONDS: f64 = 0.2;

/// Rows that the input of a layer is made of.
const ROWS: usize = 256;

/// A linear layer's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    rows: usize,
    k: usize,
    n: usize,
}

impl Shape {
    /// Of a weight `[k, n]` that reads `batch × length` rows, or one for each text.
    pub fn of(weight: &Weight, one_row: bool, [batch, length]: [usize; 2]) -> Shape {
        let size = |i: usize| weight.shape().get(i).copied().unwrap_or(1);
        Shape { rows: if one_row { batch } else { batch * length }, k: size(0), n: size(1) }
    }
}

/// Milliseconds of layers of these shapes in full precision and in 8 bits.
pub(super) fn layers(shapes: BTreeSet<Shape>, target: &Target, request: &Request) -> Result<BTreeMap<Shape, [f64; 2]>> {
    let mut times = BTreeMap::new();
    request.observer.begin(&format!("timing layers on {target}"), Some((shapes.len() * 2 * request.rounds) as u64));
    for shape in shapes {
        let mut files = Vec::new();
        for (name, int8) in [("layer-fp32", false), ("layer-int8", true)] {
            let file = request.scratch.join(format!("{name}.onnx"));
            write(shape, int8, target, &file)?;
            files.push((target, file));
        }
        let ids = (0..shape.rows as i64).map(|i| i % ROWS as i64).collect();
        let measured = in_rounds(&files, TokenBatch::full(1, shape.rows, ids), request)?;
        if let [full, int8] = measured.as_slice() {
            times.insert(shape, [full.p50_ms, int8.p50_ms]);
        }
    }
    request.observer.done(&format!("{} shapes of layers timed on {target}", times.len()));
    Ok(times)
}

/// A model of one layer, `[1, rows] → [1, rows, n]`: rows of a table, and the product.
fn write(shape: Shape, int8: bool, target: &Target, file: &Path) -> Result<()> {
    let numbers = |n: usize| (0..n).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect::<Vec<f32>>();
    let mut builder = Builder::new("layer");
    let ids = builder.input("input_ids", TensorType::new(DType::I64, [Dim::from(1), Dim::from("sequence_length")]));
    let table = builder.weight("table", Weight::f32s(vec![ROWS, shape.k], &numbers(ROWS * shape.k))?);
    let x = builder.node("x", Op::Embed, &[table, ids])?;
    let w = builder.weight("w", Weight::f32s(vec![shape.k, shape.n], &numbers(shape.k * shape.n))?);
    builder.set_role(Some(Role { part: Part::FeedForwardIn, layer: None }));
    let y = builder.node("y", Op::Linear, &[x, w])?;
    builder.output("y", y)?;
    let mut graph = verify(builder.finish())?;
    let can = target.capabilities();
    if int8 && can.dynamic_quant != DynamicQuantForm::None {
        graph = Manager::default().run(&graph, &QuantizeDynamic::default())?;
    } else if int8 {
        let ranges = Ranges::from([("x".to_owned(), (-0.5, 0.5))]);
        let activations = if can.symmetric_activations { ActivationType::S8 } else { ActivationType::U8 };
        let pass =
            QuantizeStatic { ranges: &ranges, calibration: None, activations, keep: &[], range: Int8Range::Full };
        graph = Manager::default().run(&graph, &pass)?;
    }
    onnx::write(&back::lower(&graph, target)?, file, &|_| {})?;
    Ok(())
}

/// Median milliseconds of whole engines for one batch, and their speed against the first.
pub(super) fn engines(files: &[(&Target, PathBuf)], request: &Request) -> Result<Vec<[f64; 2]>> {
    let [rows, length] = request.shape;
    let text = request.texts.iter().map(|text| text.text.as_str()).collect::<Vec<_>>().join(" ");
    let encoded = request.encoder.encode(&[text.as_str()])?;
    let Some(Elements::I64(tokens)) = encoded.first().map(|(_, tensor)| &tensor.elements) else {
        return Err(Error::bug("a text has tokens"));
    };
    let ids = tokens.iter().copied().cycle().take(rows * length).collect();
    request.observer.begin("timing engines", Some((files.len() * request.rounds) as u64));
    let measured = in_rounds(files, TokenBatch::full(rows, length, ids), request)?;
    request.observer.done(&format!("{} engines timed in {} rounds", files.len(), request.rounds));
    Ok(measured.iter().map(|engine| [engine.p50_ms, engine.speed.map_or(f64::NAN, |ratio| ratio.mean)]).collect())
}

fn in_rounds(files: &[(&Target, PathBuf)], batch: TokenBatch, request: &Request) -> Result<Vec<PointMeasured>> {
    let candidate = |(target, file): &(&Target, PathBuf)| Candidate::new(target.to_string(), file, Runtime::of(target));
    let candidates: Vec<Candidate> = files.iter().map(candidate).collect();
    let report = bench::time(&candidates, &[Workload::full(batch)], (request.rounds, SECONDS), request.observer)?;
    let timed = report.engines.into_iter().map(|engine| match (engine.failed, engine.points.into_iter().next()) {
        (None, Some(point)) => Ok(point),
        (why, _) => {
            let why = why.unwrap_or_default();
            Err(Error::unsupported(format!("an engine for {} was not timed: {why}", engine.name)))
        }
    });
    timed.collect()
}
