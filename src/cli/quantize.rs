//! `kilnc quantize`: one model in fewer bits, compared with FP32.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::{CacheArgs, CalibrationArgs, Screen, SourceArgs, TextArgs};
use kilnc::build::{self, BuildRequest};
use kilnc::bundle::{CalibrationEntry, FileEntry, GateEntry, Manifest, PassEntry};
use kilnc::calibrate::Spec;
use kilnc::error::{Error, Result};
use kilnc::eval::{Check, Gate, short};
use kilnc::precision::Precision;
use kilnc::recipe::{EngineSpec, Recipe};
use kilnc::target::Target;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc quantize checkpoint/ --calibration texts.jsonl -o model_int8.onnx
  kilnc quantize checkpoint/ --scheme int8-fast --calibration texts.csv --text-column body --texts heldout.jsonl \\
        --labels labels.json --gate agreement=0.985,accuracy_drop=0.005 -o model.kiln
  kilnc quantize checkpoint/ --calibration corpus.jsonl --calibration-like domain.jsonl --samples 236 --seed 7 \\
        --save-calibration texts.kcal -o model_int8.onnx
  kilnc quantize checkpoint/ --calibration texts.kcal --scheme int8-fast --texts texts.jsonl -o model_fast.onnx

The result is compared with the model in FP32, text by text. A bound of --gate that is missed is exit code 3, and nothing
is written. An output that ends in .onnx is a model, any other a bundle.")]
pub struct QuantizeArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The scheme: int8 is the most accurate, int8-fast is the fastest; int8-static, int8-weights, int4, fp16, bf16.
    #[arg(long, value_name = "SCHEME", default_value = "int8")]
    scheme: Precision,
    /// Where the model is to run.
    #[arg(long, value_name = "TARGET", default_value = "ort-cpu")]
    target: Target,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    texts: TextArgs,
    /// Its bounds, of agreement, cosine, max_abs, accuracy_drop and greedy, e.g. agreement=0.985,accuracy_drop=0.005.
    #[arg(long, value_name = "BOUNDS")]
    gate: Option<Gate>,
    #[command(flatten)]
    cache: CacheArgs,
    /// A model, if it ends in .onnx, else a bundle.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

/// The engine and its comparison.
#[derive(Serialize)]
struct Quantized {
    schema: &'static str,
    output: PathBuf,
    scheme: Precision,
    reduced_range: bool,
    target: String,
    task: String,
    files: Vec<FileEntry>,
    bytes: u64,
    source_bytes: u64,
    calibration: Option<CalibrationEntry>,
    passes: Vec<PassEntry>,
    /// Against FP32.
    gates: Vec<GateEntry>,
    seconds: f64,
}

pub fn run(args: QuantizeArgs, screen: &Screen) -> Result<()> {
    let start = Instant::now();
    if args.scheme == Precision::Fp32 {
        return Err(Error::bad_input("fp32 is what a quantized model is compared with").at("--scheme"));
    }
    let gate = args.gate.unwrap_or_default();
    let recipe = Recipe {
        engines: vec![EngineSpec {
            gate,
            reduce_range: args.calibration.reduce_range,
            ..EngineSpec::new(args.target.clone(), args.scheme)
        }],
        calibration: args.calibration.over(Spec::default(), args.source.seed),
        texts: args.texts.texts,
        labels: args.texts.labels,
        max_length: args.texts.max_length,
        ..Recipe::default()
    };
    // A model whose outputs could not be compared with FP32 meets no bound.
    let source = args.source.source_beside(None, &recipe.calibration)?;
    let request = BuildRequest { source, recipe, output: args.output, strict: true, cache: args.cache.folder() };
    screen.note(format!("quantizing {}", request.source.checkpoint.display()));
    let manifest = build::build(&request, screen)?;
    let quantized = quantized(manifest, &request, start.elapsed().as_secs_f64())?;
    screen.result(&quantized, report)
}

fn quantized(manifest: Manifest, request: &BuildRequest, seconds: f64) -> Result<Quantized> {
    let engine = manifest.engines.into_iter().next().ok_or_else(|| Error::bug("one engine was requested"))?;
    let is_weights = |file: &&FileEntry| !file.path.ends_with(".json");
    Ok(Quantized {
        schema: "kilnc.quantize/1",
        output: request.output.clone(),
        scheme: engine.precision,
        reduced_range: engine.reduced_range,
        target: engine.target,
        task: manifest.task.to_string(),
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        source_bytes: manifest.sources.iter().filter(is_weights).map(|file| file.bytes).sum(),
        files: manifest.files,
        calibration: manifest.calibration,
        passes: engine.passes,
        gates: engine.gates,
        seconds,
    })
}

fn report(quantized: &Quantized) -> String {
    let Quantized { output, scheme, reduced_range, target, bytes, source_bytes, seconds, .. } = quantized;
    let reduced = if *reduced_range { " in a reduced range" } else { "" };
    let megabytes = |bytes: &u64| *bytes as f64 / 1e6;
    let mut out = format!(
        "{}: {scheme}{reduced} for {target}, {:.1} MB ({:.1} MB of weights before), in {seconds:.1} s\n",
        output.display(),
        megabytes(bytes),
        megabytes(source_bytes)
    );
    if let Some(CalibrationEntry { from, texts, tokens, cut, .. }) = &quantized.calibration {
        let cut = if *cut == 0 { String::new() } else { format!(", {cut} of them cut to the model's length") };
        out += &format!("calibrated on {texts} texts of {from}, {tokens} tokens{cut}\n");
    }
    for PassEntry { name, changed, left } in &quantized.passes {
        let left = match left.as_slice() {
            [] => String::new(),
            [one] => format!(", left {one}"),
            [one, more @ ..] => format!(", left {one} and {} more", more.len()),
        };
        out += &format!("  {name:<18} {changed:>3} changed{left}\n");
    }
    let from = quantized.calibration.as_ref().map(|calibration| calibration.from.as_str());
    quantized.gates.iter().for_each(|gate| out += &gate_line(gate, from));
    out
}

/// The measured values beside their bounds.
fn gate_line(gate: &GateEntry, calibrated_on: Option<&str>) -> String {
    let same = if calibrated_on == Some(&gate.on) { ", which it was calibrated on" } else { "" };
    let mut out = format!("against {} on {} texts of {}{same} ({})\n", gate.against, gate.rows, gate.on, gate.ran_by);
    out += &format!("  {:<18} {:>9}  bound\n", "", "found");
    for check in &gate.checks {
        let Check { measure, found, bound, .. } = check;
        let name = check.name();
        let bound = bound.map_or_else(|| "-".to_owned(), |bound| format!("{} {}", check.sign(), short(bound)));
        let more = match (measure.as_str(), &gate.accuracy) {
            ("agreement", _) => format!("{:.0} of {} predictions are the same", found * gate.rows as f64, gate.rows),
            ("cosine", _) => "the least of any text".to_owned(),
            ("greedy", _) => gate.greedy.map_or_else(String::new, |greedy| {
                format!("{} of {} generated tokens are the same", greedy.equal, greedy.tokens)
            }),
            ("accuracy_drop", Some(share)) => {
                format!("{} → {} are right", short(share.reference), short(share.found))
            }
            _ => String::new(),
        };
        out += format!("  {name:<18} {:>9}  {bound:<9} {more}", short(*found)).trim_end();
        out.push('\n');
    }
    out
}
