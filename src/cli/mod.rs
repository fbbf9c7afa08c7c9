//! The command line: one file for each command.

mod bench;
mod build;
mod bundle;
mod cache;
mod calibration;
mod choice;
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
mod source;
mod texts;
mod tokenizer;
mod trust;
mod tune;
mod units;
mod verify;
mod windows;
mod workload;

use std::io;

use clap::{Args, Parser, Subcommand};

use kilnc::error::{Error, Result};
use kilnc::{bench as harness, runtime, subprocess};

use cache::CacheArgs;
use calibration::CalibrationArgs;
use choice::{Choice, one_of};
pub use screen::Screen;
use source::SourceArgs;
use texts::TextArgs;
use tokenizer::LoneTokenizer;
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
Turns a trained NLP checkpoint into engines that are ready to ship: reads the weights, merges adapters, builds the \
graph, quantizes, proves that the predictions are still the checkpoint's, and packs it all in one bundle.

Exit codes: 0 done, 1 a fault of kilnc's, 2 bad input or usage, 3 a gate was missed, 4 a runtime or device is missing, 5 \
the machine failed (disk full, no permission, out of memory).";

/// The arguments of every command.
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
    /// Put a model in fewer bits, and compare its outputs with FP32's.
    Quantize(quantize::QuantizeArgs),
    /// Run texts through a bundle.
    Run(run::RunArgs),
    /// Score a bundle on labelled texts.
    Eval(eval::EvalArgs),
    /// Search the precision of every layer under a bound on the loss.
    Tune(tune::TuneArgs),
    /// Cut heads, neurons, layers, weights and tokens that a model can do without.
    Prune(prune::PruneArgs),
    /// Measure engines side by side.
    Bench(bench::BenchArgs),
    /// Describe a checkpoint, an adapter or a bundle.
    Inspect(inspect::InspectArgs),
    /// Sign, pack and export bundles.
    Bundle(bundle::BundleArgs),
    /// Check a bundle against its manifest, and who signed it.
    Verify(verify::VerifyArgs),
    /// Show and prune the cached outputs of builds.
    Cache(cache::CacheCommand),
    /// List the runtimes that are found, and how to install the others.
    Doctor,
    /// A part of another command, in its own process.
    #[command(name = subprocess::SUBCOMMAND, hide = true)]
    Child {
        /// Which part.
        job: String,
    },
}

/// Parses the arguments of this process and runs the command. Where they are wrong, prints the error and ends the process.
pub fn main() -> Result<()> {
    match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) if error.use_stderr() => {
            let _ = error.print();
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

/// Starts the threads that share the work, whose failure would otherwise go unexplained. Those of a child start when
/// they are needed, on the processors that it is bound to.
fn start_threads() -> Result<()> {
    let started = rayon::ThreadPoolBuilder::new().build_global();
    let why = started.err().and_then(|e| {
        let source = std::error::Error::source(&e)?.downcast_ref::<io::Error>()?;
        Some(Error::of_system("threads do not start", source))
    });
    why.map_or(Ok(()), Err)
}

/// Prints an error by the command line's flags.
pub fn report(error: &Error, json: bool) {
    if json {
        let error = serde_json::json!({ "error": subprocess::SentError::from(error) });
        // A failure to print changes nothing: the exit code shows the error.
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
        runtime::GPU_JOB => subprocess::serve(runtime::query_driver),
        #[cfg(feature = "tensorrt")]
        kilnc::build::TENSORRT_JOB => subprocess::serve(kilnc::build::compile_tensorrt),
        other => Err(Error::bad_input(format!("no part of kilnc is called `{}`", kilnc::error::printable(other)))),
    }
}
