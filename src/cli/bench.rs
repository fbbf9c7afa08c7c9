//! `kilnc bench`: measures engines side by side.

use std::path::{Path, PathBuf};

use clap::Args;

use super::units::threads;
use super::workload::{Engines, WorkloadArgs};
use super::{Screen, TrustArgs};
use kilnc::bench::{self, FailIf, Report, SCHEMA, Settings, measure};
use kilnc::build::Observer;
use kilnc::error::{Error, Result, printable, printable_sentence};
use kilnc::interrupt;
use kilnc::json::{self, file_name};
use kilnc::output::Stage;
use kilnc::presence;
use kilnc::runtime::{Device, Options};

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc bench sections.kiln
  kilnc bench sections.kiln --batch 1,8 --length 128,384 --threads 2
  kilnc bench sections.kiln peer/model_quantized.onnx --html report.html --markdown report.md
  kilnc bench sections.kiln --texts texts.jsonl --tokenize
  kilnc bench sections.kiln --texts texts.jsonl --batch 8 --batching padded,bucketed
  kilnc bench sections.kiln --multi-stream 8
  kilnc bench gpt2.kiln --prompt 128,512 --generate 64
  kilnc bench sections.kiln --key release.pem.pub
  kilnc bench sections.kiln --server-p99 20
  kilnc bench bert.onnx --device cuda:0 --profile t4 --batch 1,32
  kilnc bench sections.kiln --json > baseline.json
  kilnc bench sections.kiln --baseline baseline.json --fail-if 'p99>1.05x' --fail-if 'throughput<0.95x'
  kilnc bench base.onnx --onnx-adapter sections-lora.onnx_adapter

Each engine runs in its own process, bound to as many processors as it has threads; rounds are interleaved in
shuffled order. Speed is against the first engine, round by round, with an interval of 95 % confidence. Ctrl-C ends the
measurement and reports its results so far; a second one ends all. A condition of --fail-if that holds is exit code 3.
docs/bench.md says what every figure means.")]
pub struct BenchArgs {
    /// Bundles and ONNX files.
    #[arg(required = true, value_name = "ENGINE")]
    engines: Vec<PathBuf>,
    /// Measures each ONNX file also with this adapter, a file that `kilnc export --adapter-as-input` wrote.
    #[arg(long, value_name = "FILE")]
    onnx_adapter: Vec<PathBuf>,
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    trust: TrustArgs,
    /// The device: cpu, cuda:0. On a GPU, ONNX Runtime's CUDA provider runs ONNX files and engines for
    /// ort-cpu, and TensorRT for RTX runs plans.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Threads of each engine; all cores by default.
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    /// How often each engine is started and measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each engine is timed at each point in a round.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// Decides the order in each round, and which texts are sampled.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also finds the highest rate of texts, arriving one by one at random, at which 99 % are done within so many
    /// milliseconds of their arrival.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    server_p99: Option<f64>,
    /// A report that was saved with --json, for --fail-if.
    #[arg(long, value_name = "FILE", requires = "fail_if")]
    baseline: Option<PathBuf>,
    /// A condition that fails the run: a measure and how many times the baseline's, as p99>1.05x; of mean, p50, p90, p95, p99, p99.9,
    /// max, throughput, energy, load, first, memory, size.
    #[arg(long, value_name = "CONDITION", requires = "baseline")]
    fail_if: Vec<FailIf>,
    /// Write the report as Markdown too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the report as a page with plots too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|ms| *ms > 0.0 && *ms <= 60_000.0);
    number.ok_or_else(|| "expected a number of milliseconds, at most 60000".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= 3600.0);
    number.ok_or_else(|| "expected a number of seconds, at most 3600".to_owned())
}

pub fn run(args: BenchArgs, screen: &Screen) -> Result<()> {
    let baseline = args.baseline.as_deref().map(kept).transpose()?;
    let pages = [&args.markdown, &args.html].into_iter().flatten();
    let stages = pages.map(|path| Ok((path, Stage::new(path, presence::is_file)?))).collect::<Result<Vec<_>>>()?;
    args.device.check()?;
    let engines = Engines::of(&args.engines, &args.onnx_adapter, args.device, &args.trust, screen)?;
    let report = measured(&args, &engines, screen)?;
    for (path, stage) in &stages {
        let page = if Some(*path) == args.html.as_ref() { bench::html(&report) } else { bench::markdown(&report) };
        let file = stage.path(&file_name(path));
        std::fs::write(&file, page).map_err(|e| Error::io("writing", &file, &e))?;
        stage.sync()?;
    }
    for (path, stage) in stages {
        stage.commit_files(&[&file_name(path)])?;
    }
    screen.result(&report, bench::table)?;
    match baseline {
        Some(baseline) => {
            let differences = report.machine.differences(&baseline.machine);
            if !differences.is_empty() {
                screen.warn(&format!(
                    "the baseline was measured elsewhere: {}",
                    printable_sentence(&differences.join("; "))
                ));
            }
            compare(&args.fail_if, &report, &baseline)
        }
        None => Ok(()),
    }
}

fn measured(args: &BenchArgs, engines: &Engines, screen: &Screen) -> Result<Report> {
    let work = args.workload.work(engines, args.seed, screen).map_err(|e| engines.named(e))?;
    let generates = work.workloads.iter().any(|workload| workload.generation.is_some());
    if generates && (args.server_p99.is_some() || args.device != Device::Cpu || !args.onnx_adapter.is_empty()) {
        return Err(Error::unsupported(
            "of models that generate, the first and the next token are measured, on the processor: --server-p99, \
             --device and --onnx-adapter are not for them",
        ));
    }
    let settings = Settings {
        threads: args.threads.unwrap_or(Options::default().threads),
        rounds: args.rounds as usize,
        seconds: args.seconds,
        seed: args.seed,
        device: args.device,
        problem_type: engines.problem_type.unwrap_or_default(),
        tokenizer: work.tokenizer,
        server_p99_ms: args.server_p99,
    };
    interrupt::defer();
    let starts = settings.rounds + usize::from(settings.server_p99_ms.is_some());
    screen.begin("measuring", Some((starts * engines.candidates.len()) as u64));
    let progress = |_: &str| {
        screen.advance(1);
        interrupt::noted().is_none()
    };
    let measured = measure(&engines.candidates, &work.workloads, &settings, &progress);
    let mut report = measured.map_err(|e| engines.named(e))?;
    engines.check_unchanged()?;
    for engine in &mut report.engines {
        if let Some(why) = &mut engine.failed {
            let all = engines.named(Error::runtime_missing(why.as_str()));
            screen.warn(&format!("{} was not measured: {}", engine.name, all.message()));
            *why = all.portable();
        }
    }
    report.texts = work.texts;
    report.published = args.workload.profile().map(|profile| {
        let shapes: Vec<(usize, usize)> =
            work.workloads.iter().filter_map(|it| Some((it.key.batch, it.key.length?))).collect();
        profile.beside(&shapes, &report.machine, args.device)
    });
    screen.done(&format!("{} engines in {} rounds", report.engines.len(), report.rounds));
    report.warnings().iter().for_each(|warning| screen.warn(warning));
    Ok(report)
}

fn compare(conditions: &[FailIf], report: &Report, baseline: &Report) -> Result<()> {
    let mut worse = Vec::new();
    for condition in conditions {
        worse.extend(condition.against(report, baseline)?.into_iter().map(|what| format!("{what} ({condition})")));
    }
    match worse.split_first() {
        None => Ok(()),
        Some((first, more)) => Err(more.iter().fold(Error::gate_failed(first.clone()), |error, what| error.at(what))),
    }
}

/// A report of another run.
fn kept(path: &Path) -> Result<Report> {
    #[derive(serde::Deserialize)]
    struct Form {
        schema: String,
    }
    let Form { schema } = json::read(path)?;
    match schema == SCHEMA {
        true => json::read(path),
        false => Err(Error::unsupported(format!(
            "{}: schema `{}`, expected `{SCHEMA}`",
            file_name(path),
            printable(&schema)
        ))
        .hint("keep a new one with kilnc bench … --json")),
    }
}
