//! `kilnc bench`: measures engines side by side.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Screen;
use crate::bench::{Contestant, Measured, Settings, TokenBatch, measure, table};
use crate::bundle::{self, Bundle};
use crate::checkpoint::json::file_name;
use crate::error::{Error, Result};
use crate::eval::PROBES;
use crate::pipeline::Observer;
use crate::runtime::{self, Elements, Options, Reading, Runtime, TextEncoder};

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc bench sections.kiln
  kilnc bench sections.kiln --batch 8 --length 128 --threads 2 --rounds 5
  kilnc bench sections.kiln peer/model_quantized.onnx --json
  kilnc bench base.onnx --onnx-adapter sections-lora.onnx_adapter

Each engine runs in a process of its own; rounds are interleaved in shuffled order. Speed is against the first
engine, round by round: the median, and the smallest and largest of the rounds.")]
pub struct BenchArgs {
    /// Bundles and ONNX files.
    #[arg(required = true, value_name = "ENGINE")]
    engines: Vec<PathBuf>,
    /// Measures each ONNX file also with this adapter, a file that `kilnc export --adapter-as-input` wrote.
    #[arg(long, value_name = "FILE")]
    onnx_adapter: Vec<PathBuf>,
    /// Texts in a batch.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Tokens in a text.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65536))]
    length: u32,
    /// Threads of each engine; all cores, if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// How often each engine is started and measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each engine is timed in a round.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Decides the order in each round.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= 3600.0);
    number.ok_or_else(|| "expected a number of seconds, at most 3600".to_owned())
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    batch: usize,
    length: usize,
    threads: usize,
    rounds: usize,
    seconds: f64,
    cpu: String,
    engines: Vec<Measured>,
}

pub fn run(args: BenchArgs, screen: &Screen) -> Result<()> {
    let mut contestants = Vec::new();
    let (mut tokenizer, mut reading) = (None, None);
    for path in &args.engines {
        add(path, &args.onnx_adapter, &mut contestants, (&mut tokenizer, &mut reading), screen)?;
    }
    let (rows, length) = (args.batch as usize, args.length as usize);
    let batch = TokenBatch { rows, length, ids: tokens(rows, length, tokenizer.as_deref())? };
    let threads = args.threads.unwrap_or(Options::default().threads);
    let settings = Settings {
        threads,
        rounds: args.rounds as usize,
        seconds: args.seconds,
        seed: args.seed,
        reading: reading.unwrap_or_default(),
    };
    screen.note(format!(
        "batch {rows}, {length} tokens, {threads} threads, {} rounds of {} s each",
        settings.rounds, settings.seconds
    ));
    screen.begin("measuring", Some((settings.rounds * contestants.len()) as u64));
    let engines = measure(&contestants, &batch, &settings, &|_| screen.advance(1))?;
    screen.done("measured");
    let report = Report {
        schema: "kilnc.bench/1",
        batch: rows,
        length,
        threads,
        rounds: settings.rounds,
        seconds: settings.seconds,
        cpu: cpu(),
        engines,
    };
    screen.result(&report, |report| {
        format!(
            "{} · batch {} · {} tokens · {} threads\n{}",
            report.cpu,
            report.batch,
            report.length,
            report.threads,
            table(&report.engines)
        )
    })
}

/// The engines of a bundle that run here, or an ONNX file, alone and with each of the adapters.
fn add(
    path: &Path,
    adapters: &[PathBuf],
    contestants: &mut Vec<Contestant>,
    (tokenizer, reading): (&mut Option<PathBuf>, &mut Option<Reading>),
    screen: &Screen,
) -> Result<()> {
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

/// The processor's name, where the system tells it.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
