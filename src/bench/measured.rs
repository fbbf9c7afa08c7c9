//! The figures of a report, of its engines and of each of their points.

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::published::Published;
use super::server::ServerMeasured;
use super::settings::Settings;
use super::stats::Ratio;
use super::workload::{PointKey, TextStats};
use crate::eval::Parity;

/// The version of the report's form, which `docs/bench.md` describes; readers refuse another.
pub const SCHEMA: &str = "kilnc.bench/3";

/// How much an engine's rounds may differ before the machine is called noisy: the slowest against the fastest.
const NOISY: f64 = 1.25;

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
