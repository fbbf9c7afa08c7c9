//! The child's side: open one engine, warm it up, time it.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::energy::Meter;
use super::stats::median;
use super::workload::{Generation, TokenBatch};
use crate::error::{Error, Result};
use crate::eval::{TextOutput, per_text};
use crate::runtime::{self, Device, Elements, Engine, Named, Options, Runtime, Tensor, TextEncoder, TextInput};
use crate::settings::PairPrompt;
use crate::subprocess::SentPath;

/// The name of the child's job.
pub const JOB: &str = "bench";

/// Runs that are compared with those before, until they are steady.
const WARM_UP_RUNS: usize = 5;

/// The bound of their median, relative to the one before.
const STEADY: f64 = 0.97;

/// Runs that are timed, at least.
const TIMED_RUNS: usize = 10;

/// Values of outputs that are sent back to be compared, beside those of the first query.
const ANSWERS: usize = 1 << 16;

/// A tokenizer whose time is part of the measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenizer {
    /// Its file.
    pub file: SentPath,
    /// The text that replaces it, where the files beside it change its tokens.
    pub text: Option<String>,
    /// Longest text, in tokens.
    pub max_length: usize,
    /// The prompt before every text.
    pub prompt: Option<String>,
    /// The prompt around the texts of a pair.
    #[serde(default)]
    pub pair_prompt: Option<PairPrompt>,
}

impl Tokenizer {
    /// Opens it.
    pub fn encoder(&self) -> Result<TextEncoder> {
        let encoder = match &self.text {
            Some(text) => TextEncoder::parse(text.clone(), self.max_length),
            None => TextEncoder::open(&self.file, self.max_length),
        };
        Ok(encoder?.with_prompt(self.prompt.as_deref()).with_pair_prompt(self.pair_prompt.as_ref()))
    }
}

/// The request to a child that measures.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The engine.
    pub file: SentPath,
    /// The runtime that opens it.
    pub runtime: Runtime,
    /// The device it runs on.
    pub device: Device,
    /// Files of the adapters that are active in it.
    pub adapters: Vec<SentPath>,
    /// Its threads.
    pub threads: usize,
    /// How long to time it at each point.
    pub seconds: f64,
    /// The tokenizer of every run; none where inputs are token ids.
    pub tokenizer: Option<Tokenizer>,
    /// Where energy is counted; none where it is not measured.
    pub powercap: Option<PathBuf>,
    /// The inputs, point by point.
    pub points: Vec<Vec<TokenBatch>>,
    /// What is generated at each point instead, where that is measured.
    #[serde(default)]
    pub generation: Vec<Generation>,
}

/// The measurements of one child.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// The runtime that ran the engine.
    pub runtime: String,
    /// Time to open it, in milliseconds.
    pub load_ms: f64,
    /// Time of the first run after that.
    pub first_ms: f64,
    /// Largest resident memory of the process, in bytes; 0 where the system does not report it.
    pub peak_bytes: u64,
    /// By point.
    pub points: Vec<PointRound>,
}

/// The measurements of one child at one point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PointRound {
    /// Time of each run in milliseconds: every query of the point in order, over and over, and never a part of them.
    pub latencies_ms: Vec<f64>,
    /// Energy of all runs that were timed; none where it is not measured.
    pub joules: Option<f64>,
    /// The outputs for each text of the first queries, without the values for padding.
    pub outputs: Vec<Vec<TextOutput>>,
}

impl PointRound {
    /// Milliseconds that so many queries take one after the other, by the median of each; none without a run.
    pub fn pass_ms(&self, queries: usize) -> Option<f64> {
        pass_ms(&self.latencies_ms, queries)
    }
}

/// [`PointRound::pass_ms`] of the latencies themselves.
pub(super) fn pass_ms(latencies_ms: &[f64], queries: usize) -> Option<f64> {
    let of = |i| median(&latencies_ms.iter().skip(i).step_by(queries.max(1)).copied().collect::<Vec<_>>());
    (0..queries.max(1)).map(of).sum()
}

/// An engine that is open.
pub(super) struct Opened {
    engine: Box<dyn Engine>,
    tokenizer: Option<TextEncoder>,
}

/// A query as an engine of that interface takes it.
pub(super) enum Prepared {
    Tokens(Named),
    /// To be tokenized.
    Texts(Vec<(String, Option<String>)>),
}

impl Opened {
    /// Opens an engine on as many processors as it has threads.
    pub fn new(request: &Request) -> Result<Opened> {
        bind(request.threads);
        let tokenizer = request.tokenizer.as_ref().map(Tokenizer::encoder).transpose()?;
        let options = Options { threads: request.threads };
        let adapters: Vec<PathBuf> = request.adapters.iter().cloned().map(PathBuf::from).collect();
        let engine = runtime::open_on(request.device, request.runtime, &request.file, options, &adapters)?;
        Ok(Opened { engine, tokenizer })
    }

    /// Queries of a point, of which there is one at least.
    pub fn prepare(&self, queries: &[TokenBatch]) -> Result<Vec<Prepared>> {
        let one = |query: &TokenBatch| {
            let inputs = query.inputs(self.engine.inputs())?;
            Ok(match self.tokenizer {
                Some(_) => Prepared::Texts(query.texts().to_vec()),
                None => Prepared::Tokens(inputs),
            })
        };
        match queries {
            [] => Err(Error::bad_input("there is nothing to run")),
            queries => queries.iter().map(one).collect(),
        }
    }

    /// Runs one query.
    pub fn run_query(&mut self, query: &Prepared) -> Result<Named> {
        match (query, &self.tokenizer) {
            (Prepared::Texts(texts), Some(encoder)) => {
                let inputs: Vec<TextInput> =
                    texts.iter().map(|(text, pair)| TextInput { text, pair: pair.as_deref() }).collect();
                self.engine.run(&encoder.encode(&inputs)?)
            }
            (Prepared::Tokens(inputs), _) => self.engine.run(inputs),
            (Prepared::Texts(_), None) => Err(Error::bug("there are texts and no tokenizer")),
        }
    }

    fn timed(&mut self, query: &Prepared) -> Result<f64> {
        let start = Instant::now();
        self.run_query(query)?;
        Ok(milliseconds(start))
    }

    /// Runs the queries over and over until they are steady, at most twice as long as they are timed since `since`.
    pub fn warm_up(&mut self, queries: &[Prepared], seconds: f64, since: Instant) -> Result<()> {
        let window = queries.len().max(1) * WARM_UP_RUNS.div_ceil(queries.len().max(1));
        let mut before = f64::INFINITY;
        let mut times = Vec::with_capacity(window);
        for query in queries.iter().cycle() {
            let elapsed = since.elapsed().as_secs_f64();
            if elapsed >= seconds.max(1.0) * 2.0 {
                break;
            }
            times.push(self.timed(query)?);
            if times.len() == window {
                let now = median(&times).unwrap_or_default();
                // Runs are steady when they no longer get faster; the clock starts in any case after a while.
                if elapsed >= seconds / 4.0 && now > before * STEADY {
                    break;
                }
                before = now;
                times.clear();
            }
        }
        Ok(())
    }

    /// Milliseconds of every run: all queries over and over, until the time is up. The meter keeps up with them.
    pub fn time(&mut self, queries: &[Prepared], seconds: f64, meter: &mut Option<Meter>) -> Result<Vec<f64>> {
        let mut latencies = Vec::new();
        let clock = Instant::now();
        while latencies.len() < TIMED_RUNS || clock.elapsed().as_secs_f64() < seconds {
            for query in queries {
                latencies.push(self.timed(query)?);
                meter.iter_mut().for_each(Meter::keep_up);
            }
        }
        Ok(latencies)
    }
}

/// Opens the engine and times it.
pub(super) fn run(request: Request) -> Result<Round> {
    let start = Instant::now();
    let mut opened = Opened::new(&request)?;
    let load_ms = milliseconds(start);
    let mut meter = request.powercap.as_deref().and_then(|folder| Meter::open(folder).ok());
    let mut first_ms = None;
    let mut points = Vec::new();
    for queries in &request.points {
        let prepared = opened.prepare(queries)?;
        let start = Instant::now();
        let mut outputs: Vec<Vec<TextOutput>> = Vec::new();
        for (query, key) in prepared.iter().zip(queries) {
            let named = opened.run_query(query)?;
            first_ms.get_or_insert(milliseconds(start));
            outputs.extend(per_text(&key.mask(), &of_texts(named, key.rows)?)?);
            if outputs.iter().flatten().map(|output| output.values.len()).sum::<usize>() >= ANSWERS {
                break;
            }
        }
        opened.warm_up(&prepared, request.seconds, start)?;
        meter.iter_mut().for_each(Meter::restart);
        let latencies_ms = opened.time(&prepared, request.seconds, &mut meter)?;
        points.push(PointRound { latencies_ms, joules: meter.as_mut().map(Meter::joules), outputs });
    }
    let described = opened.engine.describe();
    let device = if request.device == Device::Cpu { String::new() } else { format!(" on {}", request.device) };
    let runtime = format!("{} {}{device}", request.runtime, described.split(" (").next().unwrap_or_default());
    Ok(Round { runtime, load_ms, first_ms: first_ms.unwrap_or_default(), peak_bytes: peak_bytes(), points })
}

/// The outputs that have floats for each of so many texts; none, where the first has not. Fails where the first has no
/// floats.
fn of_texts(outputs: Named, rows: usize) -> Result<Named> {
    let floats = |tensor: &Tensor| matches!(tensor.elements, Elements::F32(_));
    let of_texts = |tensor: &Tensor| floats(tensor) && tensor.shape.first() == Some(&rows);
    match outputs.first() {
        Some((_, first)) if of_texts(first) => Ok(outputs.into_iter().filter(|(_, tensor)| of_texts(tensor)).collect()),
        Some((_, first)) if floats(first) => Ok(Vec::new()),
        _ => Err(Error::bad_input("the engine gives no floats")),
    }
}

/// Binds this process to as many of its processors as it has threads, so that they do not wander.
#[cfg(target_os = "linux")]
pub(super) fn bind(threads: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut bound = CpuSet::new();
    (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(threads.max(1)).for_each(|cpu| bound.set(cpu));
    // Where the system refuses, threads wander: a little noise, and no error.
    let _ = sched_setaffinity(None, &bound);
}

#[cfg(not(target_os = "linux"))]
pub(super) fn bind(_threads: usize) {}

pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// `VmHWM` of Linux.
pub(super) fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_every_query_by_its_own_median() {
        // Two queries of 1 and 10 ms; one run of each was slow.
        assert_eq!(pass_ms(&[1.0, 10.0, 1.0, 90.0, 5.0, 10.0], 2), Some(11.0));
        assert_eq!(pass_ms(&[3.0, 1.0, 2.0], 1), Some(2.0));
        assert_eq!(pass_ms(&[1.0], 2), None);
    }
}
