//! Times of layers and of whole engines.
//!
//! All that is compared runs in turns, so that a machine that slows down slows all alike; medians are kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Request;
use crate::back::{self, onnx};
use crate::error::Result;
use crate::ir::{Builder, DType, Op, Part, Role, TensorType, Weight};
use crate::passes::{Manager, QuantizeDynamic};
use crate::runtime::{self, Elements, Engine, Named, Options, Runtime, Tensor};
use crate::target::Target;
use crate::verify::verify;

/// Runs of which the median counts.
const ROUNDS: usize = 15;

/// Runs before that.
const WARM_UP: usize = 3;

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

/// Times of layers, each shape once.
pub(super) struct Layers<'a> {
    request: &'a Request<'a>,
    known: BTreeMap<Shape, [f64; 2]>,
}

impl<'a> Layers<'a> {
    pub fn new(request: &'a Request<'a>) -> Layers<'a> {
        Layers { request, known: BTreeMap::new() }
    }

    /// Milliseconds in full precision and in 8 bits.
    pub fn of(&mut self, shape: Shape) -> Result<[f64; 2]> {
        if let Some(known) = self.known.get(&shape) {
            return Ok(*known);
        }
        let files = [false, true].map(|int8| self.write(shape, int8));
        let mut engines = Vec::new();
        for file in files {
            engines.push(open(&file?, self.request.target)?);
        }
        let input = Tensor {
            shape: vec![1, shape.rows, shape.k],
            elements: Elements::F32((0..shape.rows * shape.k).map(|i| (i % 255) as f32 / 255.0 - 0.5).collect()),
        };
        let medians = in_turns(&mut engines, &vec![("x".to_owned(), input)])?;
        let times = [medians.first().copied().unwrap_or_default(), medians.get(1).copied().unwrap_or_default()];
        self.known.insert(shape, times);
        Ok(times)
    }

    /// A model of one layer.
    fn write(&self, shape: Shape, int8: bool) -> Result<PathBuf> {
        let mut builder = Builder::new("layer");
        let x = builder.input("x", TensorType::new(DType::F32, [1, shape.rows, shape.k]));
        let values: Vec<f32> = (0..shape.k * shape.n).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        let w = builder.weight("w", Weight::f32s(vec![shape.k, shape.n], &values)?);
        builder.set_role(Some(Role { part: Part::FeedForwardIn, layer: None }));
        let y = builder.node("y", Op::Linear, &[x, w])?;
        builder.output("y", y)?;
        let mut graph = verify(builder.finish())?;
        if int8 {
            graph = Manager::default().run(&graph, &QuantizeDynamic { calibration: None, keep: &[] })?;
        }
        let file = self.request.scratch.join(if int8 { "layer-int8.onnx" } else { "layer-fp32.onnx" });
        onnx::write(&back::lower(&graph, self.request.target)?, &file, &|_| {})?;
        Ok(file)
    }
}

/// Median milliseconds of whole engines for one batch.
pub(super) fn engines(files: &[PathBuf], request: &Request) -> Result<Vec<f64>> {
    let [batch, length] = request.shape;
    let mut engines = files.iter().map(|file| open(file, request.target)).collect::<Result<Vec<_>>>()?;
    let text = request.texts.iter().map(|text| text.text.as_str()).collect::<Vec<_>>().join(" ");
    let encoded = request.encoder.encode(&[&text])?;
    let stretched = encoded
        .into_iter()
        .map(|(name, tensor)| {
            let Elements::I64(row) = &tensor.elements else { return (name, tensor) };
            let values: Vec<i64> = row.iter().cycle().take(batch * length).copied().collect();
            (name, Tensor { shape: vec![batch, length], elements: Elements::I64(values) })
        })
        .collect();
    in_turns(&mut engines, &stretched)
}

fn open(file: &Path, target: &Target) -> Result<Box<dyn Engine>> {
    let runtime = if *target == Target::Tract { Runtime::Tract } else { Runtime::Ort };
    runtime::open(runtime, file, Options::default())
}

fn in_turns(engines: &mut [Box<dyn Engine>], inputs: &Named) -> Result<Vec<f64>> {
    let mut times = vec![Vec::with_capacity(ROUNDS); engines.len()];
    for round in 0..WARM_UP + ROUNDS {
        for (engine, times) in engines.iter_mut().zip(&mut times) {
            let start = Instant::now();
            engine.run(inputs)?;
            if round >= WARM_UP {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
