//! The model that a command works on.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use kilnc::build::Source;
use kilnc::calibrate::Spec;
use kilnc::error::{Error, Result};
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::front::hub::adapter::combine::{Combine, CombineOptions, Method};
use kilnc::ir::Majority;
use kilnc::task::Task;

/// The model that a command works on.
#[derive(Args)]
pub(super) struct SourceArgs {
    /// A checkpoint in the Hub layout, a folder with config.json and model.safetensors; or a model.gguf of llama.cpp.
    #[arg(value_name = "SRC")]
    pub checkpoint: PathBuf,
    /// An adapter to merge, with a factor if not 1; again for another.
    #[arg(long, value_name = "DIR[@SCALE]", value_parser = OsStringValueParser::new().try_map(AdapterSource::of))]
    pub adapter: Vec<AdapterSource>,
    /// How several adapters become one, as PEFT's add_weighted_adapter does: linear, cat, svd, ties, dare_linear, …;
    /// without it, they are merged one after another.
    #[arg(long, value_name = "METHOD", requires = "adapter")]
    pub combine: Option<Method>,
    /// The share of elements that ties, magnitude_prune and dare_… keep.
    #[arg(long, value_name = "SHARE", requires = "combine")]
    pub density: Option<f64>,
    /// How ties finds the sign of the majority: total, frequency.
    #[arg(long, value_name = "HOW", requires = "combine")]
    pub majority: Option<Majority>,
    /// The rank of the result of svd and …_svd; the largest of the adapters' by default.
    #[arg(long, value_name = "N", requires = "combine")]
    pub rank: Option<usize>,
    /// The seed of random choices: the elements that --combine dare_… drops, the texts of --samples; 0 by default.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The task; taken from the checkpoint by default.
    #[arg(long, value_name = "TASK")]
    pub task: Option<Task>,
}

impl SourceArgs {
    pub fn source(&self, task: Option<Task>) -> Result<Source> {
        self.source_beside(task, &Spec::default())
    }

    /// The same for a command that may sample texts to calibrate on by the seed.
    pub fn source_beside(&self, task: Option<Task>, calibration: &Spec) -> Result<Source> {
        let seed = match self.combine {
            Some(method) if method.is_random() => self.seed,
            _ if calibration.sampling().is_some() => None,
            None if self.seed.is_some() => {
                return Err(Error::bad_input("--seed changes nothing: nothing is random")
                    .hint("it is for --combine dare_…, with --samples and with --calibration-like"));
            }
            _ => self.seed,
        };
        let options = CombineOptions { density: self.density, majority: self.majority, rank: self.rank, seed };
        Ok(Source {
            checkpoint: self.checkpoint.clone(),
            adapters: self.adapter.clone(),
            combine: self.combine.map(|method| Combine::new(method, options)).transpose()?,
            task: self.task.or(task),
        })
    }
}
