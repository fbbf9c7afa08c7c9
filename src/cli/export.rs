//! `kilnc export`: a checkpoint becomes one ONNX model.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{CalibrationArgs, Screen, SourceArgs};
use kilnc::back::onnx;
use kilnc::build::{
    self, CalibrationOutput, CalibrationSource, Calibrator, Model, Observer, RuntimeAdapter, RuntimeAdapters, Scheme,
};
use kilnc::calibrate::Spec;
use kilnc::error::{Error, Result};
use kilnc::json::file_name;
use kilnc::output::Stage;
use kilnc::passes::{self, Half, Manager};
use kilnc::precision::Precision;
use kilnc::presence;
use kilnc::recipe::EngineSpec;
use kilnc::recipe::Recipe;
use kilnc::runtime::Classes;
use kilnc::target::Target;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc export checkpoint/ -o model.onnx
  kilnc export checkpoint/ --adapter lora/ --precision int8 --calibration texts.jsonl -o model_int8.onnx
  kilnc export checkpoint/ --target tract -o plain.onnx        plain ONNX, no contrib operator
  kilnc export checkpoint/ --adapter a/ --adapter b/ --adapter-as-input -o base.onnx
                                                               one base, with a.onnx_adapter and b.onnx_adapter beside
  kilnc export checkpoint/ --dump-after fuse-qkv -o model.onnx the graph's text after a pass, on standard error")]
pub struct ExportArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The number format: fp32, fp16, bf16, int8, int8-fast, int8-static, int8-weights, int4.
    #[arg(long, value_name = "PRECISION", default_value = "fp32")]
    precision: Precision,
    /// Whose operators are used: ort-cpu, openvino, tract (plain ONNX), web, tensorrt-rtx:smNN, tensorrt.
    #[arg(long, value_name = "TARGET", default_value = "ort-cpu")]
    target: Target,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// Write the base, with the tensors that the adapters change as inputs, and each adapter as a file for ONNX Runtime
    /// beside it.
    #[arg(long)]
    adapter_as_input: bool,
    /// Print the graph as text after this pass.
    #[arg(long, value_name = "PASS")]
    dump_after: Option<String>,
    /// The model, a file that ends in .onnx.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Exported {
    files: Vec<PathBuf>,
    bytes: u64,
    task: String,
    adapters: Vec<ExportedAdapter>,
    seconds: f64,
}

/// An adapter that is active where its file is loaded for a run.
#[derive(Serialize)]
struct ExportedAdapter {
    file: PathBuf,
    bytes: u64,
    inputs: usize,
}

pub fn run(args: ExportArgs, screen: &Screen) -> Result<()> {
    let start = std::time::Instant::now();
    if args.output.extension().is_none_or(|extension| extension != "onnx") {
        return Err(Error::bad_input(format!("the output {} does not end in .onnx", args.output.display())));
    }
    args.dump_after.as_deref().map(passes::known).transpose()?;
    let stage = Stage::new(&args.output, presence::is_file)?;
    let spec = args.calibration.over(Spec::default(), args.source.seed);
    let source = args.source.source_beside(None, &spec)?;
    let calibration_output = CalibrationOutput::claim(&spec)?;
    screen.begin("reading", None);
    let mut manager = Manager { dump_after: args.dump_after, ..Manager::default() };
    let (model, adapters) = match args.adapter_as_input {
        false => (build::load(&source)?, Vec::new()),
        true => {
            only_onnx_runtime(&args.target)?;
            let RuntimeAdapters { model, adapters } = build::load_runtime_adapters(&source, &mut manager)?;
            (model, adapters)
        }
    };
    build::warnings(&model).iter().for_each(|line| screen.warn(line));
    let calibrator = match args.adapter_as_input {
        false => calibrator(&model, &spec, (&args.target, args.precision), stage.dir(), screen)?,
        true if spec == Spec::default() => None,
        true => {
            return Err(Error::unsupported("a base that takes adapters as inputs is calibrated on no texts")
                .at("--calibration")
                .hint("merge the adapters: leave --adapter-as-input out"));
        }
    };
    let reduce_range = args.calibration.reduce_range;
    let range = EngineSpec { reduce_range, ..EngineSpec::new(args.target.clone(), args.precision) }.range();
    let scheme = Scheme { calibrator: calibrator.as_ref(), range, ..Scheme::new(&args.target, args.precision) };
    let graph = build::compile(model.graph(), &scheme, &mut manager)?;
    let half = manager.ran.iter().filter(|ran| ran.name == Half::NAME);
    half.flat_map(|ran| &ran.report.left).for_each(|line| screen.warn(line));
    screen.done(&format!("{} nodes for {} in {}", graph.nodes().count(), args.target, args.precision));
    if let Some(text) = &manager.dump {
        screen.note(text);
    }
    screen.begin("writing", Some(graph.weights().map(|(_, _, w)| w.byte_len() as u64).sum()));
    let name = file_name(&args.output);
    let metadata = build::hints(&args.target, args.precision).metadata();
    let written = onnx::write_with(&graph, &stage.path(&name), &metadata, &|bytes| screen.advance(bytes))?;
    let adapters =
        adapters.iter().map(|given| write_adapter(given, &stage, &args.output)).collect::<Result<Vec<_>>>()?;
    if let (Some(calibration_output), Some(calibrator)) = (calibration_output, &calibrator) {
        calibration_output.put(calibrator, &model)?;
    }
    // The model refers to the data beside it, so it comes last.
    let names: Vec<String> = written.files.iter().rev().map(|path| file_name(path)).collect();
    let beside = adapters.iter().map(|adapter| file_name(&adapter.file));
    let all: Vec<String> = beside.chain(names.iter().cloned()).collect();
    stage.commit_files(&all.iter().map(String::as_str).collect::<Vec<_>>())?;
    screen.done(&format!("{:.1} MB", written.bytes as f64 / 1e6));
    let exported = Exported {
        files: names.iter().rev().map(|name| args.output.with_file_name(name)).collect(),
        bytes: written.bytes,
        task: model.task.to_string(),
        adapters,
        seconds: start.elapsed().as_secs_f64(),
    };
    screen.result(&exported, |exported| {
        let mut out = format!(
            "{} ({:.1} MB, {}) in {:.2} s\n",
            args.output.display(),
            exported.bytes as f64 / 1e6,
            exported.task,
            exported.seconds
        );
        for ExportedAdapter { file, bytes, inputs } in &exported.adapters {
            out += &format!("{} ({:.1} MB, {inputs} inputs)\n", file.display(), *bytes as f64 / 1e6);
        }
        out
    })
}

fn only_onnx_runtime(target: &Target) -> Result<()> {
    match target {
        Target::OrtCpu => Ok(()),
        other => Err(Error::unsupported(format!("{other} takes no adapters as inputs; only ONNX Runtime does"))
            .hint("merge them: leave --adapter-as-input out")),
    }
}

/// Writes an adapter's tensors into the stage, for a path beside the model.
fn write_adapter(given: &RuntimeAdapter, stage: &Stage, output: &Path) -> Result<ExportedAdapter> {
    let name = format!("{}.onnx_adapter", given.name);
    let bytes = onnx::write_adapter(&given.tensors, &stage.path(&name))?;
    Ok(ExportedAdapter { file: output.with_file_name(name), bytes, inputs: given.tensors.len() })
}

/// What 8-bit layers are calibrated on, and the range of half precision is checked on. Fails where something is given
/// and there is neither.
fn calibrator<'a>(
    model: &Model,
    spec: &Spec,
    (target, precision): (&Target, Precision),
    scratch: &Path,
    screen: &'a Screen,
) -> Result<Option<Calibrator<'a>>> {
    if !precision.is_calibrated() && !build::computes_in_half(target, precision) {
        return match *spec == Spec::default() {
            true => Ok(None),
            false => Err(Error::bad_input(format!("{precision} is calibrated on no texts"))
                .at("--calibration")
                .hint("--precision int8 is")),
        };
    }
    let fitting = CalibrationSource::read(spec, &Classes::default(), screen)?;
    let recipe = Recipe::default();
    let encoder = match fitting.needs_tokenizer().then(|| build::encoder(&recipe, model)).transpose() {
        Err(e) if !precision.is_calibrated() && *spec == Spec::default() => {
            let why = "no text can be tokenized, so no layer stays in FP32 for the range of its values";
            screen.warn(&format!("{why}: {}", e.message()));
            return Ok(None);
        }
        encoder => encoder?,
    };
    let max_length = build::max_length(&recipe, model)?;
    fitting.calibrator(model, encoder.as_ref(), max_length, scratch, screen).map(Some)
}
