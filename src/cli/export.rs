//! `kilnc export`: a checkpoint becomes one ONNX model.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Screen, SourceArgs};
use crate::back::onnx;
use crate::checkpoint::json::file_name;
use crate::error::{Error, Result};
use crate::output::Stage;
use crate::passes::{self, Manager};
use crate::pipeline::{self, Observer};
use crate::precision::Precision;
use crate::target::Target;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc export checkpoint/ -o model.onnx
  kilnc export checkpoint/ --adapter lora/ --precision int8 -o model_int8.onnx
  kilnc export checkpoint/ --target tract -o plain.onnx        plain ONNX, no contrib operator
  kilnc export checkpoint/ --dump-after fuse-qkv -o model.onnx the graph's text after a pass, on standard error")]
pub struct ExportArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The number format: fp32, fp16, bf16, int8, int8-weights, int4.
    #[arg(long, value_name = "PRECISION", default_value = "fp32")]
    precision: Precision,
    /// Whose operators are used: ort-cpu, openvino, tract (plain ONNX), tensorrt-rtx:smNN.
    #[arg(long, value_name = "TARGET", default_value = "ort-cpu")]
    target: Target,
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
    seconds: f64,
}

pub fn run(args: ExportArgs, screen: &Screen) -> Result<()> {
    let start = std::time::Instant::now();
    if args.output.extension().is_none_or(|extension| extension != "onnx") {
        return Err(Error::bad_input(format!("the output {} does not end in .onnx", args.output.display())));
    }
    args.dump_after.as_deref().map(passes::known).transpose()?;
    let stage = Stage::new(&args.output, |_| false)?;
    screen.begin("reading", None);
    let model = pipeline::load(&args.source.source(None))?;
    let mut manager = Manager { dump_after: args.dump_after, ..Manager::default() };
    let graph = pipeline::compile(&model, &args.target, args.precision, &mut manager)?;
    screen.done(&format!("{} nodes for {} in {}", graph.nodes().count(), args.target, args.precision));
    if let Some(text) = &manager.dump {
        screen.note(text);
    }
    screen.begin("writing", Some(graph.weights().map(|(_, _, w)| w.byte_len() as u64).sum()));
    let name = file_name(&args.output);
    let metadata = pipeline::hints(&args.target, args.precision).metadata();
    let written = onnx::write_with(&graph, &stage.path(&name), &metadata, &|bytes| screen.advance(bytes))?;
    // The model refers to the data beside it, so it comes last.
    let names: Vec<String> = written.files.iter().rev().map(|path| file_name(path)).collect();
    stage.commit_files(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    screen.done(&format!("{:.1} MB", written.bytes as f64 / 1e6));
    let exported = Exported {
        files: names.iter().rev().map(|name| args.output.with_file_name(name)).collect(),
        bytes: written.bytes,
        task: model.task.to_string(),
        seconds: start.elapsed().as_secs_f64(),
    };
    screen.result(&exported, |exported| {
        format!(
            "{} ({:.1} MB, {}) in {:.2} s\n",
            args.output.display(),
            exported.bytes as f64 / 1e6,
            exported.task,
            exported.seconds
        )
    })
}
