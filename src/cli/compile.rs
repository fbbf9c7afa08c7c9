//! `kilnc compile`: engines from an ONNX file.

use std::path::PathBuf;

use clap::Args;

use super::Screen;
use kilnc::build::{CompileRequest, Compiled, TensorRtOptions, compile_plans};
use kilnc::error::Result;
use kilnc::shapes::Shapes;
use kilnc::target::Target;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc compile model.onnx --target tensorrt-rtx:sm75 -o engines/
  kilnc compile model.onnx --target tensorrt-rtx:sm75,sm86,sm89 --shapes 1x8..8x128..32x512 -o engines/
  kilnc compile model.onnx --target tensorrt-rtx:sm75 --shapes t4 --workspace 1073741824 -o engines/
  kilnc compile model.onnx --target tensorrt-rtx:sm75 --shapes input_ids=8x128,attention_mask=8x128 -o engines/
  kilnc compile decoder.onnx --target tensorrt-rtx:sm75 --shapes 1x1..1x128..8x1024,past=0 \
                --shapes 1x1..1x1..8x1,past=1..512..1023 -o engines/
  kilnc inspect engines/

No GPU is needed, but for tensorrt, which a kilnc with the feature `enterprise` has. The file has to be in the operations
and the precision that TensorRT runs, as kilnc export --target tensorrt-rtx:sm75 --precision fp16 writes it. Writes a
folder: a plan and a list of its layers for every target, and compile.json with the digests.")]
pub struct CompileArgs {
    /// The model.
    #[arg(value_name = "MODEL.onnx")]
    onnx: PathBuf,
    /// The GPUs: tensorrt-rtx:smNN, several separated by commas as in tensorrt-rtx:sm75,sm86; or tensorrt, for the one
    /// that is there.
    #[arg(long, value_name = "TARGET", required = true)]
    target: Vec<String>,
    /// The shapes of the inputs: smallest, fastest at, largest, as in 1x8..8x128..32x512; NAME=… for one input, past=… for
    /// the tokens in a decoder's cache, t4 for the grid of NVIDIA's published figures; again for another profile.
    #[arg(long, value_name = "SHAPES", default_value = "1x8..8x128..32x512")]
    shapes: Vec<String>,
    /// Upper bound on scratch memory on the device, in bytes.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    workspace: Option<u64>,
    /// How long the library searches: 0 to 5.
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=5))]
    optimization_level: Option<u8>,
    /// Let kernels be chosen that skip zeros in a pattern of 2:4, which GPUs have from SM80 on.
    #[arg(long)]
    sparse_weights: bool,
    /// The folder for the plans.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

pub fn run(args: CompileArgs, screen: &Screen) -> Result<()> {
    let targets = args.target.iter().map(|text| Target::several(text)).collect::<Result<Vec<_>>>()?.concat();
    let shapes = args.shapes.iter().map(|text| Shapes::profiles(text)).collect::<Result<Vec<_>>>()?.concat();
    let options = TensorRtOptions {
        workspace_bytes: args.workspace,
        optimization_level: args.optimization_level,
        sparse_weights: args.sparse_weights,
    };
    let request = CompileRequest { onnx: args.onnx, targets, shapes, options, output: args.output };
    let compiled = compile_plans(&request, screen)?;
    screen.result(&compiled, |compiled| {
        format!("{}next: run them with the library that compiled them on such a GPU\n", describe(compiled))
    })
}

/// The kind of a folder of plans.
pub(super) fn describe(compiled: &Compiled) -> String {
    let shapes: Vec<String> = compiled.shapes.iter().map(Shapes::to_string).collect();
    let mut out = format!(
        "plans of {} (sha256 {}…) for {}\n",
        compiled.source.path,
        compiled.source.sha256.get(..12).unwrap_or_default(),
        shapes.join(" and ")
    );
    if shapes.len() > 1 {
        out += &format!("kernels are counted over all {} profiles\n", shapes.len());
    }
    for plan in &compiled.plans {
        let on = plan.compiled_on.as_ref().map(|gpu| format!(" on {gpu}")).unwrap_or_default();
        out += &format!(
            "{:<20} {:.1} MB, {} ({}{on})\n",
            plan.target,
            plan.file.bytes as f64 / 1e6,
            plan.summary,
            plan.compiled_by
        );
    }
    out
}
