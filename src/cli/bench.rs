//! `kilnc bench`: measures engines side by side.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Screen;
use crate::bench::{self, Contestant, FailIf, Report, SCHEMA, Settings, TokenBatch, measure};
use crate::bundle::{self, Bundle};
use crate::checkpoint::json::{self, file_name};
use crate::error::{Error, Result, printable};
use crate::eval::PROBES;
use crate::interrupt;
use crate::output::Stage;
use crate::pipeline::Observer;
use crate::runtime::{self, Elements, Options, Reading, Runtime, TextEncoder};

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc bench sections.kiln
  kilnc bench sections.kiln --batch 1,8 --length 128,384 --threads 2
  kilnc bench sections.kiln peer/model_quantized.onnx --html report.html --markdown report.md
  kilnc bench sections.kiln --server-p99 20
  kilnc bench sections.kiln --json > kept.json
  kilnc bench sections.kiln --baseline kept.json --fail-if 'p99>1.05x' --fail-if 'throughput<0.95x'
  kilnc bench base.onnx --onnx-adapter sections-lora.onnx_adapter

Each engine runs in a process of its own, bound to as many processors as it has threads; rounds are interleaved in
shuffled order. Speed is against the first engine, round by round, with an interval of 95 % confidence. Ctrl-C ends the
measurement and keeps what was measured; a second one ends all. A condition of --fail-if that holds is exit code 3.")]
pub struct BenchArgs {
    /// Bundles and ONNX files.
    #[arg(required = true, value_name = "ENGINE")]
    engines: Vec<PathBuf>,
    /// Measures each ONNX file also with this adapter, a file that `kilnc export --adapter-as-input` wrote.
    #[arg(long, value_name = "FILE")]
    onnx_adapter: Vec<PathBuf>,
    /// Texts in a batch; several, apart by commas, are measured with every length.
    #[arg(long, default_value = "1", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Tokens in a text; several apart by commas.
    #[arg(long, default_value = "128", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65536))]
    length: Vec<u32>,
    /// Threads of each engine; all cores, if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// How often each engine is started and measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each engine is timed at each batch and length in a round.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// Decides the order in each round.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also finds the highest rate of texts, arriving one by one at random, at which 99 % are answered within so many
    /// milliseconds of their arrival.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    server_p99: Option<f64>,
    /// A report that was kept with --json, for --fail-if.
    #[arg(long, value_name = "FILE", requires = "fail_if")]
    baseline: Option<PathBuf>,
    /// What must not be: a measure and how many times the baseline's, as p99>1.05x; of p50, p90, p95, p99, p99.9, max,
    /// throughput, load, first, memory, size.
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
    let stages = pages.map(|path| Ok((path, Stage::new(path, Path::is_file)?))).collect::<Result<Vec<_>>>()?;
    let mut contestants = Vec::new();
    let (mut tokenizer, mut reading) = (None, None);
    for path in &args.engines {
        add(path, &args.onnx_adapter, &mut contestants, (&mut tokenizer, &mut reading), screen)?;
    }
    tell_apart(&mut contestants);
    let mut batches = Vec::new();
    for (rows, length) in args.batch.iter().flat_map(|rows| args.length.iter().map(move |length| (*rows, *length))) {
        let (rows, length) = (rows as usize, length as usize);
        batches.push(TokenBatch { rows, length, ids: tokens(rows, length, tokenizer.as_deref())? });
    }
    let settings = Settings {
        threads: args.threads.unwrap_or(Options::default().threads),
        rounds: args.rounds as usize,
        seconds: args.seconds,
        seed: args.seed,
        reading: reading.unwrap_or_default(),
        server_p99_ms: args.server_p99,
    };
    interrupt::defer();
    let starts = settings.rounds + usize::from(settings.server_p99_ms.is_some());
    screen.begin("measuring", Some((starts * contestants.len()) as u64));
    let progress = |_: &str| {
        screen.advance(1);
        interrupt::noted().is_none()
    };
    let report = measure(&contestants, &batches, &settings, &progress)?;
    screen.done(&format!("{} engines in {} rounds", report.engines.len(), report.rounds));
    report.noise().iter().for_each(|noise| screen.warn(noise));
    for (path, stage) in stages {
        let page = if Some(path) == args.html.as_ref() { bench::html(&report) } else { bench::markdown(&report) };
        let (name, file) = (file_name(path), stage.path(&file_name(path)));
        std::fs::write(&file, page).map_err(|e| Error::io("writing", &file, &e))?;
        stage.commit_files(&[&name])?;
    }
    screen.result(&report, bench::table)?;
    let Some(baseline) = baseline else { return Ok(()) };
    let mut worse = Vec::new();
    for condition in &args.fail_if {
        worse.extend(condition.against(&report, &baseline)?.into_iter().map(|what| format!("{what} ({condition})")));
    }
    match worse.split_first() {
        None => Ok(()),
        Some((first, more)) => Err(more.iter().fold(Error::gate_failed(first.clone()), |error, what| error.at(what))),
    }
}

/// Gives engines of one name a number: reports are read by name.
fn tell_apart(contestants: &mut [Contestant]) {
    let names: Vec<String> = contestants.iter().map(|contestant| contestant.name.clone()).collect();
    for (i, contestant) in contestants.iter_mut().enumerate() {
        let before = names.iter().take(i).filter(|name| **name == contestant.name).count();
        if before > 0 {
            contestant.name = format!("{} ({})", contestant.name, before + 1);
        }
    }
}

/// A report of another run.
fn kept(path: &Path) -> Result<Report> {
    let report: Report = json::read(path)?;
    match report.schema == SCHEMA {
        true => Ok(report),
        false => Err(Error::unsupported(format!(
            "{}: schema `{}`, expected `{SCHEMA}`",
            file_name(path),
            printable(&report.schema)
        ))
        .hint("keep a new one with kilnc bench … --json")),
    }
}

/// The engines of a bundle that run here, or an ONNX file, alone and with each of the adapters.
fn add(
    path: &Path,
    adapters: &[PathBuf],
    contestants: &mut Vec<Contestant>,
    (tokenizer, reading): (&mut Option<PathBuf>, &mut Option<Reading>),
    screen: &Screen,
) -> Result<()> {
    bundle::archive::refuse(path)?;
    if path.is_file() {
        let alone = path.display().to_string();
        let file = |name, adapters| Contestant { name, file: path.to_owned(), runtime: Runtime::Ort, adapters };
        contestants.push(file(alone.clone(), Vec::new()));
        for adapter in adapters {
            contestants.push(file(format!("{alone} + {}", file_name(adapter)), vec![adapter.clone()]));
        }
        return Ok(());
    }
    let bundle = Bundle::open(path)?;
    for engine in &bundle.manifest.engines {
        match runtime::available(engine.runtime) {
            Ok(_) => contestants.push(Contestant {
                name: engine.name.clone(),
                file: bundle.engine(engine)?,
                runtime: engine.runtime,
                adapters: Vec::new(),
            }),
            Err(e) => screen.warn(&format!("{} is left out: {}", engine.name, e.message())),
        }
    }
    tokenizer.get_or_insert(bundle.file(bundle::TOKENIZER)?);
    reading.get_or_insert(bundle.manifest.reading.unwrap_or_default());
    Ok(())
}

/// Real tokens, repeated until every text has its length; small numbers, where there is no tokenizer.
fn tokens(rows: usize, length: usize, tokenizer: Option<&Path>) -> Result<Vec<i64>> {
    let mut pool: Vec<i64> = (5..100).collect();
    if let Some(path) = tokenizer {
        let encoder = TextEncoder::open(path, 512)?;
        let named = encoder.encode(&[&PROBES.join(" ")])?;
        if let Some((_, tensor)) = named.first()
            && let Elements::I64(ids) = &tensor.elements
        {
            pool = ids.clone();
        }
    }
    let total = rows.checked_mul(length).ok_or_else(|| Error::bad_input("the batch is too large"))?;
    Ok(pool.iter().copied().cycle().take(total).collect())
}
