//! The child's side: open one engine, warm it up, time it.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::stats::median;
use crate::error::{Error, Result};
use crate::runtime::{self, Elements, Engine, Named, Options, Runtime, Tensor};

/// The name of the child's job.
pub const JOB: &str = "bench";

/// Runs that are compared with those before, until they are steady.
const WARM_UP_RUNS: usize = 5;

/// What their median may be of the one before.
const STEADY: f64 = 0.97;

/// Runs that are timed, at least.
const TIMED_RUNS: usize = 10;

/// A batch of tokens, row after row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenBatch {
    /// Number of texts.
    pub rows: usize,
    /// Tokens of each text.
    pub length: usize,
    /// The token numbers.
    pub ids: Vec<i64>,
}

impl TokenBatch {
    /// The inputs that an engine of that interface wants: every token counts, all of the first segment.
    fn inputs(&self, names: &[String]) -> Result<Named> {
        let filled = |value| Elements::I64(vec![value; self.rows * self.length]);
        let elements = |name: &str| match name {
            "input_ids" => Ok(Elements::I64(self.ids.clone())),
            "attention_mask" => Ok(filled(1)),
            "token_type_ids" => Ok(filled(0)),
            other => Err(Error::unsupported(format!(
                "no values are known for the engine's input `{}`",
                crate::error::printable(other)
            ))),
        };
        let tensor = |name: &String| {
            Ok((name.clone(), Tensor { shape: vec![self.rows, self.length], elements: elements(name)? }))
        };
        names.iter().map(tensor).collect()
    }
}

/// What a child is asked to measure.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The engine.
    pub file: PathBuf,
    /// What opens it.
    pub runtime: Runtime,
    /// Files of the adapters that are active in it.
    pub adapters: Vec<PathBuf>,
    /// Its threads.
    pub threads: usize,
    /// How long to time it at each point.
    pub seconds: f64,
    /// What to run.
    pub batches: Vec<TokenBatch>,
}

/// What one child measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// What ran the engine.
    pub runtime: String,
    /// Time to open it, in milliseconds.
    pub load_ms: f64,
    /// Time of the first run after that.
    pub first_ms: f64,
    /// Largest resident memory of the process, in bytes; 0 where the system does not tell.
    pub peak_bytes: u64,
    /// By batch.
    pub points: Vec<PointRound>,
}

/// What one child measured of one batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PointRound {
    /// Time of each run, in milliseconds.
    pub latencies_ms: Vec<f64>,
    /// The first output.
    pub output: Vec<f32>,
    /// The length of its rows.
    pub row: usize,
}

/// An engine that is open, and what it is asked.
pub(super) struct Opened {
    engine: Box<dyn Engine>,
    inputs: Named,
}

impl Opened {
    /// Opens an engine on as many processors as it has threads, for its first batch.
    pub fn new(request: &Request) -> Result<Opened> {
        bind(request.threads);
        let options = Options { threads: request.threads };
        let engine = runtime::open_with(request.runtime, &request.file, options, &request.adapters)?;
        let batch = request.batches.first().ok_or_else(|| Error::bad_input("there is nothing to ask"))?;
        let inputs = batch.inputs(engine.inputs())?;
        Ok(Opened { engine, inputs })
    }

    /// Milliseconds of every run, once they are steady.
    pub fn steady(&mut self, seconds: f64) -> Result<Vec<f64>> {
        time(&mut *self.engine, &self.inputs, seconds)
    }

    /// Asks once.
    pub fn answer(&mut self) -> Result<()> {
        self.engine.run(&self.inputs).map(drop)
    }
}

/// Opens the engine and times it.
pub fn run(request: Request) -> Result<Round> {
    let start = Instant::now();
    let mut opened = Opened::new(&request)?;
    let load_ms = milliseconds(start);
    let mut first_ms = 0.0;
    let mut points = Vec::new();
    for batch in &request.batches {
        opened.inputs = batch.inputs(opened.engine.inputs())?;
        let start = Instant::now();
        let (output, row) = first_output(&mut *opened.engine, &opened.inputs)?;
        if points.is_empty() {
            first_ms = milliseconds(start);
        }
        points.push(PointRound { latencies_ms: opened.steady(request.seconds)?, output, row });
    }
    let described = opened.engine.describe();
    let runtime = format!("{} {}", request.runtime, described.split(" (").next().unwrap_or_default());
    Ok(Round { runtime, load_ms, first_ms, peak_bytes: peak_bytes(), points })
}

/// Milliseconds of every run, once they are steady.
fn time(engine: &mut dyn Engine, inputs: &Named, seconds: f64) -> Result<Vec<f64>> {
    let mut one = || -> Result<f64> {
        let start = Instant::now();
        engine.run(inputs)?;
        Ok(milliseconds(start))
    };
    let warm = Instant::now();
    let mut before = f64::INFINITY;
    loop {
        let window: Vec<f64> = (0..WARM_UP_RUNS).map(|_| one()).collect::<Result<_>>()?;
        let now = median(&window).unwrap_or_default();
        let elapsed = warm.elapsed().as_secs_f64();
        // Steady is what no longer gets faster; what never is does not keep the clock from starting.
        if (elapsed >= seconds / 4.0 && now > before * STEADY) || elapsed >= seconds.max(1.0) * 2.0 {
            break;
        }
        before = now;
    }
    let mut latencies = Vec::new();
    let clock = Instant::now();
    while latencies.len() < TIMED_RUNS || clock.elapsed().as_secs_f64() < seconds {
        latencies.push(one()?);
    }
    Ok(latencies)
}

/// Binds this process to as many of its processors as it has threads, so that they do not wander.
#[cfg(target_os = "linux")]
fn bind(threads: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut bound = CpuSet::new();
    (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(threads.max(1)).for_each(|cpu| bound.set(cpu));
    // Where the system refuses, threads wander: a little noise, and no error.
    let _ = sched_setaffinity(None, &bound);
}

#[cfg(not(target_os = "linux"))]
fn bind(_threads: usize) {}

fn first_output(engine: &mut dyn Engine, inputs: &Named) -> Result<(Vec<f32>, usize)> {
    let outputs = engine.run(inputs)?;
    match outputs.into_iter().next() {
        Some((_, Tensor { shape, elements: Elements::F32(values) })) => {
            Ok((values, shape.last().copied().unwrap_or(1)))
        }
        _ => Err(Error::bad_input("the engine gives no floats")),
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// `VmHWM` of Linux.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
