//! `kilnc build`: a checkpoint becomes a bundle.

use std::path::PathBuf;

use clap::Args;

use super::{CacheArgs, CalibrationArgs, Screen, SourceArgs, TextArgs};
use kilnc::build::{self, BuildRequest};
use kilnc::bundle::Manifest;
use kilnc::error::{Error, Result};
use kilnc::eval::Gate;
use kilnc::output;
use kilnc::precision::Precision;
use kilnc::recipe::{EngineSpec, Recipe};
use kilnc::runtime::{Platform, Runtime};
use kilnc::target::Target;
use kilnc::task::id::Input;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc build checkpoint/ -o model.kiln
  kilnc build checkpoint/ --adapter lora/ --labels labels.json --recipe deploy.toml -o model.kiln
  kilnc build checkpoint/ --target ort-cpu --target tensorrt-rtx:sm75 --quantize int8 --calibration texts.jsonl \
        -o model.kiln
  kilnc build checkpoint/ --quantize int8 --calibration corpus.csv --calibration-like domain.txt --samples 236 --seed 7 \
        -o model.kiln
  kilnc build checkpoint/ --runtimes linux-x64,windows-x64 --wheels wheels/ -o model.kiln

What this machine cannot make or check is skipped with a warning; --strict makes it an error.")]
pub struct BuildArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// A TOML file: the recipe of the build.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Where engines are to run, instead of the recipe's: ort-cpu, openvino, tract, web, tensorrt-rtx:smNN (several GPUs
    /// separated by commas as in tensorrt-rtx:sm75,sm86), tensorrt.
    #[arg(long, value_name = "TARGET")]
    target: Vec<String>,
    /// Adds an engine in this precision for every target that has it, but for tract, which it does not make faster.
    #[arg(long, value_name = "SCHEME")]
    quantize: Option<Precision>,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    texts: TextArgs,
    /// Bounds for every engine that is quantized, or made of a model that is cut, e.g. agreement=0.985,accuracy_drop=0.005.
    #[arg(long, value_name = "BOUNDS")]
    gate: Option<Gate>,
    /// Times the engines here, side by side: the manifest has their timings, and on such a processor the fastest is
    /// taken.
    #[arg(long)]
    bench: bool,
    /// Takes the native libraries of the engines along for these platforms, separated by commas: linux-x64, linux-arm64,
    /// windows-x64, macos-arm64.
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    runtimes: Vec<Platform>,
    /// The folder of PyPI's wheels that they are taken from; wheels in the folder of runtimes by default.
    #[arg(long, value_name = "DIR")]
    wheels: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
    /// Fail where an engine cannot be made or checked on this machine.
    #[arg(long)]
    strict: bool,
    /// The bundle, a folder; or one model, if it ends in .onnx.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

pub fn run(args: BuildArgs, screen: &Screen) -> Result<()> {
    let mut recipe = args.recipe.as_deref().map(Recipe::read).transpose()?.unwrap_or_default();
    if !args.target.is_empty() || args.quantize.is_some() {
        recipe.engines = engines(&args, &recipe)?;
    }
    if let Some(reduce) = args.calibration.reduce_range {
        let saturating = |engine: &&mut EngineSpec| engine.target.saturates(engine.precision);
        let matching =
            recipe.engines.iter_mut().filter(saturating).map(|engine| engine.reduce_range = Some(reduce)).count();
        if matching == 0 {
            return Err(build::nothing_saturates());
        }
    }
    if let Some(gate) = args.gate {
        recipe.engines = recipe.engines_or_default();
        let cut = recipe.prune.is_some();
        let bound = recipe.engines.iter_mut().filter(|engine| cut || engine.precision != Precision::Fp32);
        if bound.map(|engine| engine.gate = engine.gate.overridden_by(gate)).count() == 0 {
            return Err(Error::bad_input("no engine is quantized, and nothing is cut: there is nothing to bound")
                .at("--gate")
                .hint("FP32 is bounded anyway; --quantize adds engines"));
        }
    }
    recipe.labels = args.texts.labels.or(recipe.labels);
    recipe.calibration = args.calibration.over(recipe.calibration, args.source.seed);
    recipe.texts = args.texts.texts.or(recipe.texts);
    recipe.max_length = args.texts.max_length.or(recipe.max_length);
    if !args.runtimes.is_empty() {
        recipe.runtimes = args.runtimes;
    }
    if args.bench {
        recipe.bench.get_or_insert_default();
    }
    recipe.wheels = args.wheels.or(recipe.wheels);
    output::check_disjoint(&args.output, args.recipe.as_deref())?;
    let source = args.source.source_beside(recipe.task, &recipe.calibration)?;
    let request = BuildRequest { source, recipe, output: args.output, strict: args.strict, cache: args.cache.folder() };
    screen.note(format!("building {}", request.output.display()));
    let manifest = build::build(&request, screen)?;
    screen.result(&manifest, |manifest| summary(manifest, &request))
}

/// One engine for each target, at the precision it runs best, and one more for each that can be quantized.
fn engines(args: &BuildArgs, recipe: &Recipe) -> Result<Vec<EngineSpec>> {
    let mut targets = args.target.iter().map(|text| Target::several(text)).collect::<Result<Vec<_>>>()?.concat();
    if targets.is_empty() {
        for engine in &recipe.engines {
            if !targets.contains(&engine.target) {
                targets.push(engine.target.clone());
            }
        }
    }
    if targets.is_empty() {
        targets = vec![Target::OrtCpu, Target::Tract];
    }
    let mut engines = Vec::new();
    for target in &targets {
        let plain = if target.wants_plan() { Precision::Fp16 } else { Precision::Fp32 };
        engines.push(EngineSpec::new(target.clone(), plain));
        let added = args
            .quantize
            .filter(|precision| *precision != plain && *target != Target::Tract && build::supports(target, *precision));
        engines.extend(added.map(|precision| EngineSpec::new(target.clone(), precision)));
    }
    match args.quantize.filter(|precision| engines.iter().all(|engine| engine.precision != *precision)) {
        None => Ok(engines),
        Some(precision) => {
            let names: Vec<String> = targets.iter().map(Target::to_string).collect();
            Err(Error::unsupported(format!("no engine in {precision} is made for {}", names.join(", ")))
                .at("--quantize")
                .hint("name another target or precision; docs/quantization.md lists what each target has"))
        }
    }
}

fn summary(manifest: &Manifest, request: &BuildRequest) -> String {
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let engines: Vec<&str> = manifest.engines.iter().map(|engine| engine.name.as_str()).collect();
    let skipped: Vec<&str> = manifest.skipped.iter().map(|skipped| skipped.engine.as_str()).collect();
    let skipped = if skipped.is_empty() { String::new() } else { format!("; skipped: {}", skipped.join(", ")) };
    let output = request.output.display();
    let next = match manifest.task {
        _ if manifest.engines.iter().all(|engine| engine.runtime == Runtime::Web) => {
            format!("kilnc bundle export {output} --layout hub -o FOLDER")
        }
        task if task.facts().input == Input::Question => format!("kilnc run {output} --question \"…\" --text \"…\""),
        task if task.facts().input == Input::Prompt => format!("kilnc run {output} --prompt \"…\""),
        _ => format!("kilnc run {output} --text \"…\""),
    };
    format!("{output} ({:.1} MB): {}{skipped}\nnext: {next}\n", bytes as f64 / 1e6, engines.join(", "))
}
