//! The command line: one file for each command.

mod bench;
mod build;
mod bundle;
mod cache;
mod calibration;
mod compile;
mod doctor;
mod eval;
mod export;
mod inspect;
mod merge;
mod prune;
mod quantize;
mod run;
mod screen;
mod texts;
mod tokenizer;
mod trust;
mod tune;
mod units;
mod verify;
mod windows;
mod workload;

use std::io;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::build::Source;
use crate::calibrate::Spec;
use crate::error::{Error, Result};
use crate::front::hub::adapter::AdapterSource;
use crate::front::hub::adapter::combine::{Combine, Method, Options};
use crate::ir::Majority;
use crate::task::Task;
use crate::{bench as harness, runtime, subprocess};

use cache::CacheArgs;
use calibration::CalibrationArgs;
pub use screen::Screen;
use texts::TextArgs;
use tokenizer::GivenTokenizer;
use trust::TrustArgs;
use windows::WindowArgs;

/// The command line of kilnc.
#[derive(Parser)]
#[command(name = "kilnc", version, about, long_about = LONG_ABOUT, after_help = "Documentation: README.md")]
pub struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Turns a trained NLP checkpoint into engines that are ready to ship: reads the weights, merges adapters, draws the \
graph, quantizes, proves that the answers are still the checkpoint's, and packs it all in one bundle.

Exit codes: 0 done, 1 a fault of kilnc's, 2 bad input or usage, 3 a gate was missed, 4 a runtime or device is missing, 5 \
the machine failed (disk full, no permission, out of memory).";

/// What every command takes.
#[derive(Args, Clone, Copy)]
struct Shared {
    /// Print the result as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// No progress, only results, warnings and errors.
    #[arg(long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Build a bundle of engines from a checkpoint.
    Build(build::BuildArgs),
    /// Compile engines for GPUs from an ONNX file, without a GPU.
    Compile(compile::CompileArgs),
    /// Write one ONNX model from a checkpoint.
    Export(export::ExportArgs),
    /// Merge adapters into a checkpoint, as a checkpoint.
    Merge(merge::MergeArgs),
    /// Put a model in fewer bits, and hold its answers against FP32's.
    Quantize(quantize::QuantizeArgs),
    /// Answer texts with a bundle.
    Run(run::RunArgs),
    /// Score a bundle on labelled texts.
    Eval(eval::EvalArgs),
    /// Search the precision of every layer under a bound on what may be lost.
    Tune(tune::TuneArgs),
    /// Cut heads, neurons, layers, weights and tokens that a model can do without.
    Prune(prune::PruneArgs),
    /// Measure engines side by side.
    Bench(bench::BenchArgs),
    /// Say what a checkpoint, an adapter or a bundle is.
    Inspect(inspect::InspectArgs),
    /// Sign, pack and export bundles.
    Bundle(bundle::BundleArgs),
    /// Check that a bundle is what its manifest says, and who signed it.
    Verify(verify::VerifyArgs),
    /// Show and prune what builds have kept for the next ones.
    Cache(cache::CacheCommand),
    /// Say which runtimes are found, and how to get those that are not.
    Doctor,
    /// A part of another command, in a process of its own.
    #[command(name = subprocess::SUBCOMMAND, hide = true)]
    Child {
        /// Which part.
        job: String,
    },
}

/// The model that a command works on.
#[derive(Args)]
struct SourceArgs {
    /// A checkpoint in the Hub layout: a folder with config.json and model.safetensors.
    #[arg(value_name = "SRC")]
    checkpoint: PathBuf,
    /// An adapter to merge, with a factor if not 1; again for another.
    #[arg(long, value_name = "DIR[@SCALE]", value_parser = OsStringValueParser::new().try_map(AdapterSource::of))]
    adapter: Vec<AdapterSource>,
    /// How several adapters become one, as PEFT's add_weighted_adapter does: linear, cat, svd, ties, dare_linear, …;
    /// without it, they are merged one after another.
    #[arg(long, value_name = "METHOD", requires = "adapter")]
    combine: Option<Method>,
    /// The share of elements that ties, magnitude_prune and dare_… keep.
    #[arg(long, value_name = "SHARE", requires = "combine")]
    density: Option<f64>,
    /// How ties finds the sign of the majority: total, frequency.
    #[arg(long, value_name = "HOW", requires = "combine")]
    majority: Option<Majority>,
    /// The rank that svd and …_svd keep; the largest of the adapters', if not given.
    #[arg(long, value_name = "N", requires = "combine")]
    rank: Option<usize>,
    /// What is drawn by: the elements that --combine dare_… drops, the texts of --samples; 0, if not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What the model is for; found out from the weights, if not given.
    #[arg(long, value_name = "TASK")]
    task: Option<Task>,
}

impl SourceArgs {
    fn source(&self, task: Option<Task>) -> Result<Source> {
        self.source_beside(task, &Spec::default())
    }

    /// The same for a command that may draw texts to calibrate on by the seed.
    fn source_beside(&self, task: Option<Task>, calibration: &Spec) -> Result<Source> {
        let seed = match self.combine {
            Some(method) if method.draws() => self.seed,
            _ if calibration.draw().is_some() => None,
            None if self.seed.is_some() => {
                return Err(Error::bad_input("--seed changes nothing: nothing is drawn")
                    .hint("it goes with --combine dare_…, with --samples and with --calibration-like"));
            }
            _ => self.seed,
        };
        let options = Options { density: self.density, majority: self.majority, rank: self.rank, seed };
        Ok(Source {
            checkpoint: self.checkpoint.clone(),
            adapters: self.adapter.clone(),
            combine: self.combine.map(|method| Combine::new(method, options)).transpose()?,
            task: self.task.or(task),
        })
    }
}

/// Parses the arguments of this process and runs the command. Where they are wrong, says so and ends the process.
pub fn main() -> Result<()> {
    match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(summary) if summary.use_stderr() => {
            let _ = summary.print();
            std::process::exit(i32::from(Error::bad_input("").exit_code()))
        }
        Err(help) => screen::printed(help.print().and_then(|()| screen::print(""))),
    }
}

/// Runs the command.
pub fn run(cli: Cli) -> Result<()> {
    if !matches!(cli.command, Command::Child { .. }) {
        start_threads()?;
    }
    let screen = Screen::new(cli.shared.quiet, cli.shared.json);
    match cli.command {
        Command::Build(args) => build::run(args, &screen),
        Command::Compile(args) => compile::run(args, &screen),
        Command::Export(args) => export::run(args, &screen),
        Command::Merge(args) => merge::run(args, &screen),
        Command::Quantize(args) => quantize::run(args, &screen),
        Command::Run(args) => run::run(args, &screen),
        Command::Eval(args) => eval::run(args, &screen),
        Command::Tune(args) => tune::run(args, &screen),
        Command::Prune(args) => prune::run(args, &screen),
        Command::Bench(args) => bench::run(args, &screen),
        Command::Inspect(args) => inspect::run(args, &screen),
        Command::Bundle(args) => bundle::run(args, &screen),
        Command::Verify(args) => verify::run(args, &screen),
        Command::Cache(args) => cache::run(args, &screen),
        Command::Doctor => doctor::run(&screen),
        Command::Child { job } => serve(&job),
    }
}

/// Starts the threads that share the work, of which nobody else would say why there are none. Those of a child start when
/// they are needed, on the processors that it is bound to.
fn start_threads() -> Result<()> {
    let started = rayon::ThreadPoolBuilder::new().build_global();
    let why = started.err().and_then(|e| {
        let source = std::error::Error::source(&e)?.downcast_ref::<io::Error>()?;
        Some(Error::of_system("threads do not start", source))
    });
    why.map_or(Ok(()), Err)
}

/// Prints an error the way the command line was told to.
pub fn report(error: &Error, json: bool) {
    if json {
        let error = serde_json::json!({ "error": subprocess::SentError::from(error) });
        // That it could not be printed either changes nothing: the exit code tells of the error.
        let _ = screen::print(&format!("{error}\n"));
    }
    screen::say(&format!("error: {error}"));
}

fn serve(job: &str) -> Result<()> {
    match job {
        harness::JOB => subprocess::serve(harness::run),
        harness::SERVER_JOB => subprocess::serve(harness::serve),
        runtime::ENGINE_JOB => runtime::serve_engine(),
        runtime::generate::JOB => runtime::generate::serve(),
        runtime::PROBE_JOB => subprocess::serve(runtime::probe),
        runtime::GPU_JOB => subprocess::serve(runtime::ask_driver),
        #[cfg(feature = "tensorrt")]
        crate::build::TENSORRT_JOB => subprocess::serve(crate::build::compile_tensorrt),
        other => Err(Error::bad_input(format!("no part of kilnc is called `{}`", crate::error::printable(other)))),
    }
}
