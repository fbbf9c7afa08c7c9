//! Measures engines side by side.
//!
//! Every engine runs in a process of its own, because thread pools that share one spoil each other, on as many
//! processors as it has threads. Rounds are interleaved in shuffled order, so that a machine that drifts drifts for all
//! alike; ratios are taken round by round, and come with intervals.

mod gate;
mod machine;
mod report;
mod server;
mod stats;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child;
use crate::error::{Error, Result};
use crate::eval::Parity;
use crate::runtime::{Reading, Runtime};

pub use gate::FailIf;
pub use machine::Machine;
pub use report::{html, markdown, table};
pub use server::{SERVER_JOB, ServerMeasured, ServerRequest, serve};
pub use stats::{Ratio, median, quantile};
pub use worker::{JOB, Request, Round, TokenBatch, run};

/// The version of the report's form; readers refuse another.
pub const SCHEMA: &str = "kilnc.bench/2";

/// How far apart an engine's rounds may be before the machine is called noisy: the slowest against the fastest.
const NOISY: f64 = 1.25;

/// An engine to measure.
#[derive(Clone, Debug)]
pub struct Contestant {
    /// What the report calls it.
    pub name: String,
    /// The file that is opened.
    pub file: PathBuf,
    /// What opens it.
    pub runtime: Runtime,
    /// Files of the adapters that are active in it.
    pub adapters: Vec<PathBuf>,
}

/// How to measure.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Threads of each engine, and processors that it is bound to.
    pub threads: usize,
    /// How often each engine is started and measured.
    pub rounds: usize,
    /// How long each engine runs at each point in a round, in seconds, after its warm-up.
    pub seconds: f64,
    /// Decides the order of the engines in each round.
    pub seed: u64,
    /// What answers are the same.
    pub reading: Reading,
    /// The bound of the server scenario, where it is measured: the 99th percentile in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_p99_ms: Option<f64>,
}

/// All that was measured, and on what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of kilnc.
    pub kilnc: String,
    /// The machine.
    pub machine: Machine,
    /// How it was measured.
    pub settings: Settings,
    /// Rounds that were measured; fewer than were asked for, where it was ended.
    pub rounds: usize,
    /// The engines, the first of which the others are held against.
    pub engines: Vec<Measured>,
}

/// What was measured of one engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The engine.
    pub name: String,
    /// What ran it.
    pub runtime: String,
    /// Its file's length in bytes.
    pub file_bytes: u64,
    /// Median time to open it, in milliseconds.
    pub load_ms: f64,
    /// Median time of its first answer once it is open, in milliseconds.
    pub first_ms: f64,
    /// Largest resident memory of the process, in bytes; 0 where the system does not tell.
    pub peak_bytes: u64,
    /// By batch and length.
    pub points: Vec<PointMeasured>,
    /// What it serves when texts arrive at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerMeasured>,
    /// Why it could not be measured, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What was measured at one batch and length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PointMeasured {
    /// Texts.
    pub batch: usize,
    /// Tokens of each.
    pub length: usize,
    /// How many runs were timed, in all rounds.
    pub runs: usize,
    /// Latency of a batch in milliseconds: percentiles and the longest.
    pub p50_ms: f64,
    #[allow(missing_docs)]
    pub p90_ms: f64,
    #[allow(missing_docs)]
    pub p95_ms: f64,
    #[allow(missing_docs)]
    pub p99_ms: f64,
    #[allow(missing_docs)]
    pub p999_ms: f64,
    #[allow(missing_docs)]
    pub max_ms: f64,
    /// The latency that each hundredth of the runs stays below, for plots.
    pub distribution_ms: Vec<f64>,
    /// Texts per second, one batch after the other.
    pub texts_per_second: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Texts per second and thread.
    pub texts_per_second_per_core: f64,
    /// Speed against the first engine, round by round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Ratio>,
    /// The slowest round against the fastest.
    pub drift: f64,
    /// Its answers held against the first engine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parity: Option<Parity>,
}

impl Report {
    /// What to say of a machine on which rounds differ.
    pub fn noise(&self) -> Option<String> {
        let drift = |engine: &Measured| engine.points.iter().map(|point| point.drift).fold(1.0, f64::max);
        let (engine, drift) = self
            .engines
            .iter()
            .map(|engine| (engine, drift(engine)))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .filter(|(_, drift)| *drift > NOISY)?;
        Some(format!(
            "the machine is noisy: rounds of {} differ by a factor of {drift:.2}; quote ratios, not times",
            engine.name
        ))
    }
}

/// Measures the engines at every batch. An engine that fails is reported as such; the others' results are kept.
///
/// `progress` is called after each start of an engine; where it says so, no further round is begun.
pub fn measure(
    contestants: &[Contestant],
    batches: &[TokenBatch],
    settings: &Settings,
    progress: &dyn Fn(&str) -> bool,
) -> Result<Report> {
    let machine = Machine::here();
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); contestants.len()];
    let mut failures: Vec<Option<Error>> = contestants.iter().map(|_| None).collect();
    let mut measured = 0;
    'rounds: for round in 0..settings.rounds {
        for i in stats::shuffled(contestants.len(), settings.seed.wrapping_add(round as u64)) {
            let (Some(contestant), Some(done), Some(failure)) =
                (contestants.get(i), rounds.get_mut(i), failures.get_mut(i))
            else {
                continue;
            };
            let outcome = failure.is_none().then(|| start(contestant, batches, settings));
            // What ends the measurement may have ended this engine.
            if !progress(&contestant.name) {
                break 'rounds;
            }
            match outcome {
                Some(Ok(found)) => done.push(found),
                Some(Err(e)) => *failure = Some(e),
                None => {}
            }
        }
        measured += 1;
    }
    if failures.iter().all(Option::is_some) {
        return Err(failures
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_else(|| Error::bad_input("there is no engine to measure")));
    }
    if measured == 0 {
        return Err(Error::bad_input("the measurement was ended before its first round was over"));
    }
    // A round that was begun and not ended has no partner for its ratios.
    rounds.iter_mut().for_each(|done| done.truncate(measured));
    let first = rounds.first().cloned().unwrap_or_default();
    let engines = contestants.iter().zip(&rounds).zip(failures);
    let mut engines: Vec<Measured> = engines
        .map(|((contestant, rounds), failure)| {
            summarize(contestant, rounds, &first, (batches, settings), failure.map(|e| e.message().to_owned()))
        })
        .collect();
    if let (Some(p99_ms), Some(text)) = (settings.server_p99_ms, batches.first()) {
        for (contestant, engine) in contestants.iter().zip(&mut engines).filter(|(_, engine)| engine.failed.is_none()) {
            let text =
                TokenBatch { rows: 1, ids: text.ids.iter().copied().take(text.length).collect(), ..text.clone() };
            let request = ServerRequest { engine: request(contestant, &[text], settings), p99_ms, seed: settings.seed };
            let outcome = child::ask(SERVER_JOB, &request, SERVER_LIMIT, &format!("serving {}", contestant.name));
            if !progress(&contestant.name) {
                break;
            }
            match outcome {
                Ok(found) => engine.server = Some(found),
                Err(e) => engine.failed = Some(e.message().to_owned()),
            }
        }
    }
    Ok(Report {
        schema: SCHEMA.to_owned(),
        kilnc: env!("CARGO_PKG_VERSION").to_owned(),
        machine,
        settings: settings.clone(),
        rounds: measured,
        engines,
    })
}

/// Longest that the search for a rate may take.
const SERVER_LIMIT: Duration = Duration::from_secs(3600);

fn start(contestant: &Contestant, batches: &[TokenBatch], settings: &Settings) -> Result<Round> {
    let limit = Duration::from_secs_f64(120.0 + settings.seconds * 20.0 * batches.len() as f64);
    child::ask(JOB, &request(contestant, batches, settings), limit, &format!("measuring {}", contestant.name))
}

fn request(contestant: &Contestant, batches: &[TokenBatch], settings: &Settings) -> Request {
    Request {
        file: contestant.file.clone(),
        runtime: contestant.runtime,
        adapters: contestant.adapters.clone(),
        threads: settings.threads,
        seconds: settings.seconds,
        batches: batches.to_vec(),
    }
}

fn summarize(
    contestant: &Contestant,
    rounds: &[Round],
    first: &[Round],
    (batches, settings): (&[TokenBatch], &Settings),
    failed: Option<String>,
) -> Measured {
    let of = |read: fn(&Round) -> f64| median(&rounds.iter().map(read).collect::<Vec<_>>()).unwrap_or_default();
    let points = batches.iter().enumerate().filter(|_| !rounds.is_empty());
    Measured {
        name: contestant.name.clone(),
        runtime: rounds.first().map_or_else(|| contestant.runtime.to_string(), |round| round.runtime.clone()),
        file_bytes: std::fs::metadata(&contestant.file).map_or(0, |meta| meta.len()),
        load_ms: of(|round| round.load_ms),
        first_ms: of(|round| round.first_ms),
        peak_bytes: rounds.iter().map(|round| round.peak_bytes).max().unwrap_or(0),
        points: points.map(|(i, batch)| point(i, batch, rounds, first, settings)).collect(),
        server: None,
        failed,
    }
}

fn point(i: usize, batch: &TokenBatch, rounds: &[Round], first: &[Round], settings: &Settings) -> PointMeasured {
    let points = |rounds: &[Round]| rounds.iter().filter_map(|round| round.points.get(i).cloned()).collect::<Vec<_>>();
    let (own, base) = (points(rounds), points(first));
    let mut latencies: Vec<f64> = own.iter().flat_map(|point| point.latencies_ms.iter().copied()).collect();
    latencies.sort_by(f64::total_cmp);
    let of = |q| quantile(&latencies, q).unwrap_or_default();
    let medians: Vec<f64> = own.iter().filter_map(|point| median(&point.latencies_ms)).collect();
    let ratios: Vec<f64> = own
        .iter()
        .zip(&base)
        .filter_map(|(own, base)| Some(median(&base.latencies_ms)? / median(&own.latencies_ms)?))
        .collect();
    let texts_per_second = (latencies.len() * batch.rows) as f64 * 1e3 / latencies.iter().sum::<f64>().max(1e-9);
    let parity = base.first().zip(own.first()).and_then(|(base, own)| {
        let width = own.row.max(1);
        Parity::of_answers(base.output.chunks(width).zip(own.output.chunks(width)), settings.reading).ok()
    });
    PointMeasured {
        batch: batch.rows,
        length: batch.length,
        runs: latencies.len(),
        p50_ms: of(0.5),
        p90_ms: of(0.9),
        p95_ms: of(0.95),
        p99_ms: of(0.99),
        p999_ms: of(0.999),
        max_ms: of(1.0),
        distribution_ms: (0..=100).map(|percent| of(f64::from(percent) / 100.0)).collect(),
        texts_per_second,
        tokens_per_second: texts_per_second * batch.length as f64,
        texts_per_second_per_core: texts_per_second / settings.threads.max(1) as f64,
        speed: Ratio::of(&ratios, settings.seed),
        drift: medians.iter().copied().fold(0.0, f64::max) / medians.iter().copied().fold(f64::INFINITY, f64::min),
        parity,
    }
}
