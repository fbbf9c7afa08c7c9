//! Measures engines side by side.
//!
//! Every engine runs in a process of its own, because thread pools that share one spoil each other, on as many
//! processors as it has threads. Rounds are interleaved in shuffled order, so that a machine that drifts drifts for all
//! equally; ratios are taken round by round, and come with intervals.

mod energy;
mod gate;
mod generation;
mod machine;
mod measured;
mod published;
mod report;
mod server;
mod settings;
mod stats;
mod summary;
mod worker;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::runtime::{self, Device, Options};
use crate::subprocess;

pub use gate::FailIf;
pub use machine::{LibraryFound, Machine};
pub use measured::{Measured, PointMeasured, Report, SCHEMA};
pub use published::{Profile, Published, PublishedLatency};
pub use report::{html, markdown, table};
pub use server::{SERVER_JOB, ServerMeasured, ServerRequest, serve};
pub use settings::{Candidate, Settings};
pub use stats::{Ratio, median, quantile};
pub use worker::{JOB, PointRound, Request, Round, Tokenizer};
pub use workload::{Batching, Generation, PointKey, Scenario, TextStats, TokenBatch, Workload};

/// Measures the engines at every point where nothing but their time on this processor is asked for, on as many threads as
/// engines get: so often, and for so many seconds at each point. The observer hears of each start of an engine.
pub fn time(
    candidates: &[Candidate],
    workloads: &[Workload],
    (rounds, seconds): (usize, f64),
    observer: &dyn Observer,
) -> Result<Report> {
    let threads = Options::default().threads;
    let settings = Settings { threads, rounds, seconds, seed: 1, ..Settings::default() };
    let progress = |_: &str| {
        observer.advance(1);
        true
    };
    measure(candidates, workloads, &settings, &progress)
}

/// Measures the engines at every point. An engine that fails is reported as such; the others' results stay.
///
/// `progress` is called after each start of an engine; where it returns true, no further round is begun.
pub fn measure(
    candidates: &[Candidate],
    workloads: &[Workload],
    settings: &Settings,
    progress: &dyn Fn(&str) -> bool,
) -> Result<Report> {
    let machine = Machine::here();
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); candidates.len()];
    let mut failures: Vec<Option<Error>> = candidates.iter().map(|_| None).collect();
    let mut measured = 0;
    'rounds: for round in 0..settings.rounds {
        for i in stats::shuffled(candidates.len(), settings.seed.wrapping_add(round as u64)) {
            let (Some(candidate), Some(done), Some(failure)) =
                (candidates.get(i), rounds.get_mut(i), failures.get_mut(i))
            else {
                continue;
            };
            let outcome = failure.is_none().then(|| start(candidate, workloads, settings));
            // The signal that ends the measurement may have ended this engine.
            if !progress(&candidate.name) {
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
        let first = candidates.iter().zip(failures).find_map(|(candidate, failure)| Some((candidate, failure?)));
        return Err(match first {
            Some((candidate, failure)) => runtime::explained(candidate.runtime, failure),
            None => Error::bad_input("there is no engine to measure"),
        });
    }
    if measured == 0 {
        return Err(Error::bad_input("the measurement was ended before its first round was over"));
    }
    // A round that was begun and not ended has no partner for its ratios.
    rounds.iter_mut().for_each(|done| done.truncate(measured));
    let first = rounds.first().cloned().unwrap_or_default();
    let engines = candidates.iter().zip(&rounds).zip(failures);
    let mut engines: Vec<Measured> = engines
        .map(|((candidate, rounds), failure)| {
            summary::engine(candidate, rounds, &first, (workloads, settings), failure.map(|e| e.message().to_owned()))
        })
        .collect();
    if let (Some(p99_ms), Some(first)) = (settings.server_p99_ms, workloads.first()) {
        let texts: Vec<TokenBatch> = first.queries.iter().flat_map(TokenBatch::singles).collect();
        for (candidate, engine) in candidates.iter().zip(&mut engines).filter(|(_, engine)| engine.failed.is_none()) {
            let engine_request = request(candidate, vec![texts.clone()], settings);
            let request = ServerRequest { engine: engine_request, p99_ms, seed: settings.seed };
            let outcome = subprocess::call(SERVER_JOB, &request, SERVER_LIMIT, &format!("serving {}", candidate.name));
            if !progress(&candidate.name) {
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
        energy_not_measured: powercap(settings).err(),
        engines,
        ..Report::default()
    })
}

/// The child's side: opens the engine and times it.
pub fn run(request: Request) -> Result<Round> {
    match request.generation.is_empty() {
        true => worker::run(request),
        false => generation::run(&request),
    }
}

/// Most tokens of one text, up to `most`, that an engine takes; `most`, where it takes none. Fails where it cannot be
/// opened.
pub fn longest(candidate: &Candidate, most: usize) -> Result<usize> {
    let Candidate { file, runtime, adapters, .. } = candidate;
    let mut engine = runtime::open_isolated(*runtime, file, Options::default(), adapters)?;
    let mut takes = |length: usize| {
        let inputs = TokenBatch::of_any_vocabulary(1, length).inputs(engine.inputs());
        inputs.and_then(|inputs| engine.run(&inputs)).is_ok()
    };
    if takes(most) {
        return Ok(most);
    }
    let (mut taken, mut refused) = (0, most);
    while taken + 1 < refused {
        let between = taken.midpoint(refused);
        if takes(between) { taken = between } else { refused = between }
    }
    Ok(if taken == 0 { most } else { taken })
}

/// Longest that the search for a rate may take.
const SERVER_LIMIT: Duration = Duration::from_secs(3600);

/// Seconds that a token may take, and runs of a query that are not bounded by the clock: far more than they need, so
/// that only hanging engines are ended.
const PATIENCE: f64 = 0.05 * 20.0;

fn start(candidate: &Candidate, workloads: &[Workload], settings: &Settings) -> Result<Round> {
    let tokens: usize = workloads.iter().map(Workload::padded).sum();
    let seconds = 120.0 + settings.seconds * 20.0 * workloads.len() as f64 + PATIENCE * tokens as f64;
    let points = workloads.iter().map(|workload| workload.queries.clone()).collect();
    let generation = workloads.iter().filter_map(|workload| workload.generation).collect();
    let request = Request { generation, ..request(candidate, points, settings) };
    subprocess::call(JOB, &request, Duration::from_secs_f64(seconds), &format!("measuring {}", candidate.name))
}

fn request(candidate: &Candidate, points: Vec<Vec<TokenBatch>>, settings: &Settings) -> Request {
    Request {
        file: candidate.file.as_path().into(),
        runtime: candidate.runtime,
        device: settings.device,
        adapters: candidate.adapters.iter().map(|path| path.as_path().into()).collect(),
        threads: settings.threads,
        seconds: settings.seconds,
        tokenizer: settings.tokenizer.clone(),
        powercap: powercap(settings).ok(),
        points,
        generation: Vec::new(),
    }
}

/// Where energy is counted, or why it is not.
fn powercap(settings: &Settings) -> Result<PathBuf, String> {
    match settings.device {
        Device::Cpu => energy::Meter::open(Path::new(energy::POWERCAP)).map(|_| energy::POWERCAP.into()),
        device => Err(format!("energy counters are those of processors, and {device} is none")),
    }
}
