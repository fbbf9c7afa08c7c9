//! Times the engines of a bundle on this machine.

use super::assembly::Made;
use crate::bench::{self, Candidate, TokenBatch, Workload};
use crate::bundle::{BenchEntry, BenchedEngine, BenchedPoint};
use crate::error::{Error, Kind, Result};
use crate::observer::Observer;
use crate::recipe::BenchSpec;
use crate::runtime::{self, Options, Processor};

/// Measures every engine that runs here, side by side; none are left out silently.
pub(in crate::build) fn time(
    spec: &BenchSpec,
    made: &[Made],
    max_length: usize,
    observer: &dyn Observer,
) -> Result<BenchEntry> {
    let mut candidates = Vec::new();
    let mut versions = Vec::new();
    for engine in made {
        if engine.entry.runtime.runs_plans() {
            observer.warn(&format!("{} is not timed: kilnc bench times plans", engine.entry.name));
            continue;
        }
        match runtime::available(engine.entry.runtime) {
            Ok(found) => {
                versions.push((engine.entry.name.as_str(), found.version));
                candidates.push(Candidate::new(&engine.entry.name, &engine.onnx, engine.entry.runtime));
            }
            Err(e) if e.kind() == Kind::MachineFailed => return Err(e.at(format!("engine {}", engine.entry.name))),
            Err(e) => observer.warn(&format!("{} is not timed: {}", engine.entry.name, e.message())),
        }
    }
    let threads = Options::default().threads;
    let Processor { name: processor, features } = Processor::here();
    let features = features.into_iter().map(str::to_owned).collect();
    let mut entry = BenchEntry { processor, features, threads, rounds: spec.rounds, engines: Vec::new() };
    if candidates.is_empty() {
        return Ok(entry);
    }
    let shapes = spec.shapes_up_to(max_length).into_iter();
    let workloads: Vec<Workload> =
        shapes.map(|[rows, length]| Workload::full(TokenBatch::of_any_vocabulary(rows, length))).collect();
    observer.begin("timing", Some((spec.rounds * candidates.len()) as u64));
    let report = bench::time(&candidates, &workloads, (spec.rounds, spec.seconds), observer)?;
    for engine in report.engines {
        if let Some(why) = engine.failed {
            return Err(Error::runtime_missing(format!("{} cannot be timed: {why}", engine.name)));
        }
        let point = |point: bench::PointMeasured| BenchedPoint {
            batch: point.key.batch,
            length: point.key.length.unwrap_or_default(),
            mean_ms: point.mean_ms,
            p99_ms: point.p99_ms,
        };
        let version = versions.iter().find(|(name, _)| *name == engine.name).map(|(_, version)| version.clone());
        let points = engine.points.into_iter().map(point).collect();
        entry.engines.push(BenchedEngine { engine: engine.name, version, points });
    }
    observer.done(&format!("{} engines timed in {} rounds", entry.engines.len(), spec.rounds));
    Ok(entry)
}
