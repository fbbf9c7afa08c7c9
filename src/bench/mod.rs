//! Measures engines side by side.
//!
//! Every engine runs in a process of its own, because thread pools that share one spoil each other, on as many
//! processors as it has threads. Rounds are interleaved in shuffled order, so that a machine that drifts drifts for all
//! equally; ratios are taken round by round, and come with intervals.

mod energy;
mod gate;
mod generation;
mod machine;
mod published;
mod report;
mod server;
mod stats;
mod summary;
mod worker;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::eval::Parity;
use crate::observer::Observer;
use crate::runtime::{self, Device, Options, ProblemType, Runtime};
use crate::subprocess;

pub use gate::FailIf;
pub use machine::{LibraryFound, Machine};
pub use published::{Profile, Published, PublishedLatency};
pub use report::{html, markdown, table};
pub use server::{SERVER_JOB, ServerMeasured, ServerRequest, serve};
pub use stats::{Ratio, median, quantile};
pub use worker::{JOB, PointRound, Request, Round, Tokenizer};
pub use workload::{Batching, Generation, PointKey, Scenario, TextStats, TokenBatch, Workload};

/// The version of the report's form, which `docs/bench.md` describes; readers refuse another.
pub const SCHEMA: &str = "kilnc.bench/3";

/// How much an engine's rounds may differ before the machine is called noisy: the slowest against the fastest.
const NOISY: f64 = 1.25;

/// An engine to measure.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name in the report.
    pub name: String,
    /// The file that is opened.
    pub file: PathBuf,
    /// The runtime that opens it.
    pub runtime: Runtime,
    /// Files of the adapters that are active in it.
    pub adapters: Vec<PathBuf>,
}

impl Candidate {
    /// An engine without adapters of its own.
    pub fn new(name: impl Into<String>, file: impl Into<PathBuf>, runtime: Runtime) -> Candidate {
        Candidate { name: name.into(), file: file.into(), runtime, adapters: Vec::new() }
    }
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
    /// The device of engines.
    pub device: Device,
    /// Which predictions count as the same.
    pub problem_type: ProblemType,
    /// The tokenizer, when its time is part of each latency; none where inputs are token ids.
    #[serde(skip)]
    pub tokenizer: Option<Tokenizer>,
    /// The bound of the server scenario, where it is measured: the 99th percentile in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_p99_ms: Option<f64>,
}

/// All measurements, and the machine.
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
    /// Rounds that were measured; fewer than requested, where it was interrupted.
    pub rounds: usize,
    /// The texts of a file that were run; none where inputs are token ids of one length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextStats>,
    /// Why energy is not in it, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_not_measured: Option<String>,
    /// Published figures of the same shapes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// The engines, the first of which is the baseline of the others.
    pub engines: Vec<Measured>,
}

/// The measurements of one engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The engine.
    pub name: String,
    /// The runtime that ran it.
    pub runtime: String,
    /// Its file's length in bytes.
    pub file_bytes: u64,
    /// Median time to open it, in milliseconds.
    pub load_ms: f64,
    /// Median time of its first run once it is open, in milliseconds.
    pub first_ms: f64,
    /// Largest resident memory of the process, in bytes; 0 where the system does not report it.
    pub peak_bytes: u64,
    /// By point.
    pub points: Vec<PointMeasured>,
    /// The server scenario, where texts arrive at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerMeasured>,
    /// Why it could not be measured, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The measurements at one point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PointMeasured {
    /// The inputs of the point.
    #[serde(flatten)]
    pub key: PointKey,
    /// How many queries were timed, in all rounds.
    pub runs: usize,
    /// Latency of a query in milliseconds: the mean, percentiles and the longest.
    pub mean_ms: f64,
    #[allow(missing_docs)]
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
    /// Tokens per second, without padding.
    pub tokens_per_second: f64,
    /// Tokens per second, padding among them.
    pub padded_tokens_per_second: f64,
    /// Texts per second and thread.
    pub texts_per_second_per_core: f64,
    /// Energy of the processors' packages for each text; none where it is not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_per_text: Option<f64>,
    /// Speed against the first engine, round by round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Ratio>,
    /// The slowest round against the fastest.
    pub drift: f64,
    /// Its outputs compared with the first engine's: of each measure the worst of any output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parity: Option<Parity>,
}

impl Report {
    /// Notes that a reader needs before any figure: noise, and figures of others that are of another device.
    pub fn warnings(&self) -> Vec<String> {
        let foreign = self.published.as_ref().and_then(|published| published.foreign.clone());
        self.noise().into_iter().chain(foreign).collect()
    }

    /// The warning for a machine on which rounds differ.
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
