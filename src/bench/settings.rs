//! What is measured, and how.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::worker::Tokenizer;
use crate::runtime::{Device, ProblemType, Runtime};

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
