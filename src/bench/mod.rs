//! Measures engines side by side.
//!
//! Every engine runs in a process of its own, because thread pools that share one spoil each other. Rounds are
//! interleaved in shuffled order, so that a machine that drifts drifts for all alike; ratios are taken round by round.

mod report;
mod stats;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::child;
use crate::error::{Error, Result};
use crate::eval::Parity;
use crate::runtime::{Reading, Runtime};

pub use report::table;
pub use stats::{median, quantile};
pub use worker::{JOB, Request, Round, TokenBatch, run};

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
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads of each engine.
    pub threads: usize,
    /// How often each engine is started and measured.
    pub rounds: usize,
    /// How long each engine runs in a round, in seconds, after its warm-up.
    pub seconds: f64,
    /// Decides the order of the engines in each round.
    pub seed: u64,
    /// What answers are the same.
    pub reading: Reading,
}

/// What was measured of one engine.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The engine.
    pub name: String,
    /// What ran it.
    pub runtime: String,
    /// Its file's length in bytes.
    pub file_bytes: u64,
    /// How many runs were timed, in all rounds.
    pub runs: usize,
    /// Latency of a batch in milliseconds: median, 90th and 99th percentile.
    pub p50_ms: f64,
    #[allow(missing_docs)]
    pub p90_ms: f64,
    #[allow(missing_docs)]
    pub p99_ms: f64,
    /// Texts per second, one batch after the other.
    pub texts_per_second: f64,
    /// Median time to open the engine, in milliseconds.
    pub load_ms: f64,
    /// Largest resident memory of the process, in bytes; 0 where the system does not tell.
    pub peak_bytes: u64,
    /// Speed against the first engine, round by round: median, smallest, largest.
    pub speedup: [f64; 3],
    /// Its answers held against the first engine's.
    pub parity: Option<Parity>,
    /// Why it could not be measured, if it could not.
    pub failed: Option<String>,
}

/// Measures the engines on one batch. An engine that fails is reported as such; the others' results are kept.
///
/// `progress` is called after each run of an engine.
pub fn measure(
    contestants: &[Contestant],
    batch: &TokenBatch,
    settings: &Settings,
    progress: &dyn Fn(&str),
) -> Result<Vec<Measured>> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); contestants.len()];
    let mut failures: Vec<Option<Error>> = contestants.iter().map(|_| None).collect();
    for round in 0..settings.rounds {
        for i in stats::shuffled(contestants.len(), settings.seed.wrapping_add(round as u64)) {
            let (Some(contestant), Some(done), Some(failure)) =
                (contestants.get(i), rounds.get_mut(i), failures.get_mut(i))
            else {
                continue;
            };
            if failure.is_some() {
                continue;
            }
            let request = Request {
                file: contestant.file.clone(),
                runtime: contestant.runtime,
                adapters: contestant.adapters.clone(),
                threads: settings.threads,
                seconds: settings.seconds,
                batch: batch.clone(),
            };
            let limit = Duration::from_secs_f64(120.0 + settings.seconds * 20.0);
            match child::ask(JOB, &request, limit, &format!("measuring {}", contestant.name)) {
                Ok(measured) => done.push(measured),
                Err(e) => *failure = Some(e),
            }
            progress(&contestant.name);
        }
    }
    if failures.iter().all(Option::is_some) {
        return Err(failures
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_else(|| Error::bad_input("there is no engine to measure")));
    }
    let first = rounds.first().cloned().unwrap_or_default();
    let measured = contestants.iter().zip(&rounds).zip(failures);
    Ok(measured
        .map(|((contestant, rounds), failure)| {
            summarize(contestant, rounds, &first, (batch, settings.reading), failure)
        })
        .collect())
}

fn summarize(
    contestant: &Contestant,
    rounds: &[Round],
    first: &[Round],
    (batch, reading): (&TokenBatch, Reading),
    failure: Option<Error>,
) -> Measured {
    let mut latencies: Vec<f64> = rounds.iter().flat_map(|round| round.latencies_ms.iter().copied()).collect();
    latencies.sort_by(f64::total_cmp);
    let total: f64 = latencies.iter().sum();
    let of = |q| quantile(&latencies, q).unwrap_or(f64::NAN);
    let mut ratios: Vec<f64> = rounds
        .iter()
        .zip(first)
        .filter_map(|(own, base)| Some(median(&base.latencies_ms)? / median(&own.latencies_ms)?))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let edge = |x: Option<&f64>| x.copied().unwrap_or(f64::NAN);
    let loads: Vec<f64> = rounds.iter().map(|round| round.load_ms).collect();
    let parity = match (first.first(), rounds.first()) {
        (Some(base), Some(own)) => {
            let width = own.row.max(1);
            Parity::of_answers(base.output.chunks(width).zip(own.output.chunks(width)), reading).ok()
        }
        _ => None,
    };
    Measured {
        name: contestant.name.clone(),
        runtime: rounds.first().map_or_else(|| contestant.runtime.to_string(), |round| round.runtime.clone()),
        file_bytes: std::fs::metadata(&contestant.file).map_or(0, |meta| meta.len()),
        runs: latencies.len(),
        p50_ms: of(0.5),
        p90_ms: of(0.9),
        p99_ms: of(0.99),
        texts_per_second: latencies.len() as f64 * batch.rows as f64 * 1e3 / total,
        load_ms: median(&loads).unwrap_or(f64::NAN),
        peak_bytes: rounds.iter().map(|round| round.peak_bytes).max().unwrap_or(0),
        speedup: [median(&ratios).unwrap_or(f64::NAN), edge(ratios.first()), edge(ratios.last())],
        parity,
        failed: failure.map(|e| e.message().to_owned()),
    }
}
