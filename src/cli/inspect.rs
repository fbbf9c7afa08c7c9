//! `kilnc inspect`: describes a path.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Screen, compile};
use kilnc::build;
use kilnc::bundle::runtimes::LibraryEntry;
use kilnc::bundle::{self, BenchEntry, BenchedPoint, Bundle, LicenceEntry, Manifest, PoolingEntry};
use kilnc::calibrate;
use kilnc::error::{Error, Result, printable, printable_sentence};
use kilnc::file::check_searchable;
use kilnc::front::hub::adapter::{self, hub};
use kilnc::front::hub::checkpoint::{Checkpoint, Quantized, read_weights};
use kilnc::front::source;
use kilnc::ir::Weight;
use kilnc::passes::Half;
use kilnc::presence;
use kilnc::runtime::ProblemType;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc inspect checkpoint/
  kilnc inspect model.gguf
  kilnc inspect models/sections-lora
  kilnc inspect sections.kiln --json
  kilnc inspect engines/")]
pub struct InspectArgs {
    /// A checkpoint, a GGUF file, an adapter, a bundle, a folder of plans, a safetensors file or saved calibration.
    path: PathBuf,
}

/// A tensor of a file.
#[derive(Serialize)]
struct TensorLine {
    name: String,
    #[serde(rename = "type")]
    ty: String,
}

#[derive(Serialize)]
struct CheckpointReport {
    kind: &'static str,
    model_type: Option<String>,
    architectures: Vec<String>,
    parameters: usize,
    bytes: usize,
    labels: Option<Vec<String>>,
    /// How its weights were quantized.
    quantized: Option<String>,
    tensors: Vec<TensorLine>,
}

pub fn run(args: InspectArgs, screen: &Screen) -> Result<()> {
    let path = &args.path;
    check_searchable(path)?;
    bundle::archive::refuse(path)?;
    if bundle::is_bundle(path)? {
        let bundle = Bundle::read(path)?;
        return screen.result(&bundle.manifest, describe_bundle);
    }
    if let Some(compiled) = build::read_plans(path)? {
        return screen.result(&compiled, compile::describe);
    }
    let report = if hub::is_hub(path)? {
        weights("adapter of AdapterHub", &hub::weights_file(path)?)?
    } else if adapter::is_adapter(path)? {
        weights("adapter", &path.join("adapter_model.safetensors"))?
    } else if path.extension().is_some_and(|extension| extension == "safetensors") {
        weights("safetensors file", path)?
    } else if path.extension().is_some_and(|extension| extension == calibrate::EXTENSION) {
        weights("calibration", path)?
    } else if source::is_file_of_model(path)? || presence::has_file(&path.join("config.json"))? {
        checkpoint(&source::open(path)?)
    } else {
        return Err(Error::bad_input(format!("{} is nothing that kilnc knows", path.display()))
            .hint("known: a checkpoint's folder, a .gguf file, an adapter's folder, a bundle, a safetensors file, a .kcal file"));
    };
    screen.result(&report, describe_weights)
}

fn checkpoint(checkpoint: &Checkpoint) -> CheckpointReport {
    CheckpointReport {
        kind: "checkpoint",
        model_type: checkpoint.common.model_type.clone(),
        architectures: checkpoint.common.architectures.clone().unwrap_or_default(),
        parameters: checkpoint.parameters().0,
        bytes: checkpoint.state.iter().map(|(_, t)| t.weight.stored_len()).sum(),
        labels: checkpoint.common.labels(),
        quantized: checkpoint.quantized.as_ref().map(Quantized::summary),
        tensors: checkpoint.state.iter().map(|(name, t)| line(name, stored(&t.weight))).collect(),
    }
}

fn weights(kind: &'static str, path: &std::path::Path) -> Result<CheckpointReport> {
    let tensors = read_weights(path)?;
    Ok(CheckpointReport {
        kind,
        model_type: None,
        architectures: Vec::new(),
        parameters: tensors.iter().map(|(_, w)| w.shape().iter().product::<usize>()).sum(),
        bytes: tensors.iter().map(|(_, w)| w.stored_len()).sum(),
        labels: None,
        quantized: None,
        tensors: tensors.iter().map(|(name, w)| line(name, stored(w))).collect(),
    })
}

/// The type of a weight as its file has it: that of its blocks, where it is packed.
fn stored(weight: &Weight) -> String {
    match weight.packing() {
        Some((packing, _)) => format!("{packing}{:?}", weight.shape()),
        None => weight.ty().to_string(),
    }
}

fn line(name: &str, ty: String) -> TensorLine {
    TensorLine { name: printable(name), ty }
}

fn describe_weights(report: &CheckpointReport) -> String {
    let mut out = report.kind.to_owned();
    if let Some(model_type) = &report.model_type {
        out += &format!(" of a {} ({})", printable(model_type), printable_sentence(&report.architectures.join(", ")));
    }
    out += &format!(": {:.2} M parameters, {:.1} MB\n", report.parameters as f64 / 1e6, report.bytes as f64 / 1e6);
    if let Some(labels) = &report.labels {
        out += &format!("labels: {}\n", printable_sentence(&labels.join(", ")));
    }
    if let Some(quantized) = &report.quantized {
        out += &format!("quantized by {}\n", printable_sentence(quantized));
    }
    let width = report.tensors.iter().map(|t| t.name.chars().count()).max().unwrap_or(0);
    report.tensors.iter().for_each(|t| out += &format!("  {:width$}  {}\n", t.name, t.ty));
    out
}

fn describe_bundle(manifest: &Manifest) -> String {
    let mut out = format!(
        "bundle {}: {} for {}, {}, up to {} tokens; built by kilnc {}\n",
        printable(&manifest.name),
        printable(&manifest.model_type),
        manifest.task,
        predictions(manifest),
        manifest.max_length,
        printable(&manifest.kilnc)
    );
    if let Some(pooling) = &manifest.pooling {
        let modes: Vec<String> = pooling.modes.iter().map(|mode| printable(mode)).collect();
        let length = if pooling.normalized { ", at length 1" } else { "" };
        out += &format!("pooling  {}{length}\n", modes.join(" + "));
    }
    if !manifest.pipeline.is_empty() {
        out += &format!("pipeline {}\n", manifest.pipeline);
    }
    for prompt in &manifest.prompts {
        out += &format!("prompt   --prompt-name {}: `{}`\n", printable(&prompt.name), printable(&prompt.text));
    }
    if let Some(prompt) = &manifest.prompt {
        out += &format!("prompt   `{}` before every text ({})\n", printable(&prompt.text), printable(&prompt.name));
    }
    if let Some(PoolingEntry { modes, normalized, truncated }) = &manifest.pooling {
        let length = if *normalized { ", of length 1" } else { "" };
        let cut = truncated.map(|kept| format!(", its first {kept} numbers")).unwrap_or_default();
        out += &format!("vector   {}{length}{cut}\n", printable(&modes.join(", ")));
    }
    for file in &manifest.sources {
        out += &format!("source   {} ({} bytes, sha256 {}…)\n", file.path, file.bytes, short(&file.sha256));
    }
    for adapter in &manifest.adapters {
        out += &format!(
            "adapter  {} × {}: {} merged {}\n",
            adapter.name,
            adapter.scale,
            adapter.kind,
            adapter::summary(adapter.changed, adapter.inserted, adapter.tokens, adapter.saved.len())
        );
    }
    if let Some(combined) = &manifest.combined {
        out += &format!("combined by {combined}\n");
    }
    for entry in &manifest.licences {
        out += &format!("licence  {}: {}\n", printable(&entry.of), licence(entry));
    }
    for engine in &manifest.engines {
        let files = manifest.files.iter().filter(|file| engine.files().any(|path| path == file.path));
        let bytes: u64 = files.map(|file| file.bytes).sum();
        let reduced = if engine.reduced_range { " in a reduced range" } else { "" };
        out += &format!(
            "engine   {}: {}{reduced} on {}, {:.1} MB\n",
            engine.name,
            engine.precision,
            engine.runtime,
            bytes as f64 / 1e6
        );
        for pass in &engine.passes {
            out += &format!("           {}: {} changed, {} left\n", pass.name, pass.changed, pass.left.len());
            if pass.name == Half::NAME {
                pass.left.iter().for_each(|line| out += &format!("             {}\n", printable_sentence(line)));
            }
        }
        if let Some(library) = &engine.compiled_by {
            let on = engine.compiled_on.as_ref().map(|gpu| format!(" on {gpu}")).unwrap_or_default();
            out += &format!("           compiled by {library}{on}: {}\n", engine.layers.as_deref().unwrap_or_default());
        }
        for gate in &engine.gates {
            let checks: Vec<_> = gate.checks.iter().map(|check| check.to_string()).collect();
            let checks = if checks.is_empty() { "not checked".to_owned() } else { checks.join(", ") };
            out += &format!("           against {} on {}: {checks} ({})\n", gate.against, gate.on, gate.ran_by);
        }
        let timed = manifest.bench.iter().flat_map(|bench| &bench.engines).find(|timed| timed.engine == engine.name);
        if let Some(timed) = timed {
            let point = |p: &BenchedPoint| format!("{} × {} tokens in {:.2} ms", p.batch, p.length, p.mean_ms);
            out += &format!("           {}\n", timed.points.iter().map(point).collect::<Vec<_>>().join(", "));
        }
    }
    if let Some(bench) = &manifest.bench {
        let BenchEntry { processor, threads, rounds, .. } = bench;
        out += &format!("timed    on {} with {threads} threads in {rounds} rounds\n", printable(processor));
    }
    for entry in &manifest.runtimes.libraries {
        out += &library(entry, manifest);
    }
    for note in &manifest.runtimes.notes {
        out += &format!("runtime  {}\n", printable_sentence(note));
    }
    for skipped in &manifest.skipped {
        out += &format!("skipped  {}: {}\n", skipped.engine, skipped.reason);
    }
    out += &format!("{} files; check them with kilnc verify\n", manifest.files.len());
    out
}

/// The files of a wheel in a bundle.
fn library(entry: &LibraryEntry, manifest: &Manifest) -> String {
    let of = |paths: &[String]| -> u64 {
        manifest.files.iter().filter(|file| paths.contains(&file.path)).map(|file| file.bytes).sum()
    };
    let LibraryEntry { platform, package, version, wheel, licence, notices, files, .. } = entry;
    let bundled = match files.len() {
        0 => "the texts of its licence alone".to_owned(),
        n => format!("{n} {}, {:.1} MB", if n == 1 { "library" } else { "libraries" }, of(files) as f64 / 1e6),
    };
    let licence = licence.as_deref().map_or_else(|| "not stated".to_owned(), printable_sentence);
    let folder = notices.first().and_then(|notice| notice.rsplit_once('/')).map(|(folder, _)| printable(folder));
    format!(
        "runtime  {platform}: {} {}, {bundled}, from {} (sha256 {}…)\n           licence: {licence}; {} {} in {}\n",
        printable(package),
        printable(version),
        printable(&wheel.path),
        short(&wheel.sha256),
        notices.len(),
        if notices.len() == 1 { "text" } else { "texts" },
        folder.unwrap_or_default()
    )
}

/// A licence's summary.
fn licence(entry: &LicenceEntry) -> String {
    match (&entry.licence, &entry.from) {
        (Some(name), Some(from)) => format!("{} ({from})", printable(name)),
        (Some(name), None) => printable(name),
        (None, Some(from)) => format!("not named; its text is in {from}"),
        (None, None) => "not stated".to_owned(),
    }
}

/// The bundle's kind of prediction.
fn predictions(manifest: &Manifest) -> String {
    let labels = manifest.labels.len();
    match manifest.problem_type {
        None | Some(ProblemType::SingleLabel | ProblemType::Logits) => format!("{labels} labels"),
        Some(ProblemType::MultiLabel) => format!("any of {labels} labels"),
        Some(ProblemType::Regression) if labels == 1 => "a number".to_owned(),
        Some(ProblemType::Regression) => format!("{labels} numbers"),
        Some(ProblemType::Score) => "a score".to_owned(),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
