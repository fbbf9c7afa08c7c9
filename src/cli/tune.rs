//! `kilnc tune`: chooses the precision of every layer.

use std::path::{Path, PathBuf};

use clap::Args;

use super::units::share;
use super::{CalibrationArgs, Screen, SourceArgs, TextArgs};
use kilnc::build::{self, CalibrationOutput, Gates, Observer};
use kilnc::calibrate::{Kind, Spec};
use kilnc::error::{Error, Result};
use kilnc::output::{self, Stage};
use kilnc::precision::Precision;
use kilnc::recipe::Recipe;
use kilnc::runtime::{self, Runtime};
use kilnc::target::Target;
use kilnc::tune::{self, Tuned};

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc tune checkpoint/ --adapter lora/ --calibration texts.jsonl --max-drop 0.002 -o tuned/
  kilnc tune checkpoint/ --calibration texts.jsonl --texts heldout.jsonl --shape 8x128 --max-drop 0.005 -o tuned/
  kilnc tune checkpoint/ --calibration texts.jsonl --target ort-cpu --target openvino --max-drop 0.002 -o tuned/
  kilnc build checkpoint/ --recipe tuned/recipe.toml -o model.kiln

Writes a folder: recipe.toml for `kilnc build`, tune.md and tune.svg to read, tune.json for programs.")]
pub struct TuneArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    texts: TextArgs,
    /// The most that may be lost: accuracy where texts have labels, else the share of changed predictions.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_drop: f64,
    /// Where the engine may run: ort-cpu, openvino, tract; again for another, and the fastest of all is chosen.
    #[arg(long, value_name = "TARGET", default_value = "ort-cpu")]
    target: Vec<Target>,
    /// Batch and length for which time counts; 1x128 by default, or what the model reads where that is less.
    #[arg(long, value_name = "BxS", value_parser = shape)]
    shape: Option<[usize; 2]>,
    /// How often each engine is started and timed.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The folder for the results.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

pub(super) fn shape(text: &str) -> Result<[usize; 2], String> {
    let sizes = text.split_once('x').and_then(|(b, s)| Some([b.parse().ok()?, s.parse().ok()?]));
    sizes
        .filter(|sizes: &[usize; 2]| sizes.iter().all(|n| (1..=4096).contains(n)))
        .ok_or_else(|| "write batch and length as in 1x128".to_owned())
}

/// The batch and length for which time counts, of a model that reads `longest` tokens.
pub(super) fn timed_at(asked: Option<[usize; 2]>, longest: usize) -> Result<[usize; 2]> {
    match asked {
        None => Ok([1, longest.min(128)]),
        Some([_, length]) if length > longest => {
            Err(Error::bad_input(format!("texts of {length} tokens: the model reads 1 to {longest}")).at("--shape"))
        }
        Some(shape) => Ok(shape),
    }
}

pub fn run(args: TuneArgs, screen: &Screen) -> Result<()> {
    let spec = args.calibration.over(Spec::default(), args.source.seed);
    let Some(file) = &spec.file else {
        return Err(Error::bad_input("8-bit layers are calibrated on texts: give some").at("--calibration"));
    };
    if Kind::of(file) != Kind::Texts && args.texts.texts.is_none() {
        return Err(Error::bad_input(format!("{} holds no texts on which a loss could be measured", file.display()))
            .hint("give some with --texts"));
    }
    for target in &args.target {
        runtime::available(Runtime::of(target)).map_err(|e| e.at(format!("--target {target}")))?;
    }
    let source = args.source.source_beside(None, &spec)?;
    let recipe = Recipe {
        labels: args.texts.labels.clone(),
        max_length: args.texts.max_length,
        calibration: spec.clone(),
        texts: args.texts.texts.clone(),
        bounds_accuracy: true,
        ..Recipe::default()
    };
    output::check_disjoint(&args.output, source.inputs().chain(recipe.inputs()))?;
    check_named(&args, &spec)?;
    let stage = Stage::new(&args.output, |dir| output::holds_only(dir, JSON, |name| FILES.contains(&name)))?;
    if args.calibration.reduce_range.is_some() && !args.target.iter().any(|on| on.saturates(Precision::Int8)) {
        return Err(build::nothing_saturates());
    }
    let calibration_output = CalibrationOutput::claim(&spec)?;
    screen.begin("reading", None);
    let model = build::load(&source)?;
    build::warnings(&model).iter().for_each(|line| screen.warn(line));
    let gates = Gates::new(&recipe, &model, true, screen)?;
    let shape = timed_at(args.shape, gates.max_length())?;
    let calibrator = gates.calibrator(&model, stage.dir(), screen)?;
    let request = tune::Request {
        model: &model,
        targets: &args.target,
        calibrator: &calibrator,
        encoder: gates.encoder(),
        texts: gates.texts(),
        classes: gates.classes(),
        reduce_range: args.calibration.reduce_range,
        max_drop: args.max_drop,
        shape,
        rounds: args.rounds as usize,
        scratch: stage.dir(),
        observer: screen,
    };
    let tuned = tune::tune(&request)?;
    write(&stage, &tuned, &args, spec, gates.max_length())?;
    if let Some(calibration_output) = calibration_output {
        calibration_output.put(&calibrator, &model)?;
    }
    stage.commit_dir()?;
    screen.result(&tuned, |tuned| summary(tuned, &args.output))
}

const JSON: &str = "tune.json";

/// All that is written.
const FILES: [&str; 4] = [JSON, "tune.md", "tune.svg", "recipe.toml"];

fn write(stage: &Stage, tuned: &Tuned, args: &TuneArgs, calibration: Spec, max_length: usize) -> Result<()> {
    output::write_json(&stage.path(JSON), tuned)?;
    let files = [
        ("tune.md", tune::markdown(tuned)),
        ("tune.svg", tune::plot(tuned)),
        ("recipe.toml", recipe(tuned, args, calibration, max_length)?),
    ];
    for (name, text) in files {
        let path = stage.path(name);
        std::fs::write(&path, text).map_err(|e| Error::io("writing", &path, &e))?;
    }
    for name in ["layer-fp32.onnx", "layer-int8.onnx", "layer.onnx", "reference.onnx"] {
        // Engines that were only measured are no part of the result.
        let _ = std::fs::remove_file(stage.path(name));
    }
    Ok(())
}

/// Fails where the recipe that is written could not name a file.
fn check_named(args: &TuneArgs, spec: &Spec) -> Result<()> {
    let given = [("--calibration", &spec.file), ("--calibration-like", &spec.like), ("--labels", &args.texts.labels)];
    for (flag, path) in given.into_iter().filter_map(|(flag, path)| Some((flag, path.as_ref()?))) {
        if output::relative(path, &args.output).to_str().is_none() {
            let what = format!("the path {} is not UTF-8, and a recipe could not name it", path.display());
            return Err(Error::bad_input(what).at(flag));
        }
    }
    Ok(())
}

/// The chosen engine as a recipe.
fn recipe(tuned: &Tuned, args: &TuneArgs, calibration: Spec, max_length: usize) -> Result<String> {
    let chosen = tuned.points.get(tuned.chosen).ok_or_else(|| Error::bug("one of the engines was chosen"))?;
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    // Paths are taken from the recipe's folder: so it holds wherever both are, and names no path of this machine.
    let from_here = |path: &Path| output::relative(path, &args.output);
    let labels =
        args.texts.labels.as_ref().map(|path| format!("labels = {}\n", quoted(&from_here(path).to_string_lossy())));
    let mut calibration = Spec { save: None, ..calibration };
    calibration.paths().for_each(|path| *path = from_here(path));
    let calibration =
        toml::Value::try_from(calibration).map_err(|e| Error::bad_input(format!("--calibration: {e}")))?;
    let keep: Vec<String> = tuned.keep.iter().map(|name| quoted(name)).collect();
    let target: Target = chosen.target.parse()?;
    let reduced = match target.saturates(chosen.precision) {
        true => format!("reduce_range = {}\n", args.calibration.reduce_range.unwrap_or(true)),
        false => String::new(),
    };
    Ok(format!(
        "# Found by `kilnc tune` for at most {} lost.\nmax_length = {max_length}\ncalibration = {calibration}\n{}\n[[engine]]\n\
         target = {}\nprecision = {}\nkeep = [{}]\n{reduced}",
        tuned.max_drop,
        labels.unwrap_or_default(),
        quoted(&chosen.target),
        quoted(chosen.precision.name()),
        keep.join(", ")
    ))
}

fn summary(tuned: &Tuned, output: &Path) -> String {
    let width = tuned.points.iter().map(|point| point.target.len()).max().unwrap_or(0);
    let line = |i: usize| {
        let point = tuned.points.get(i)?;
        Some(format!(
            "{:<width$} {:<10} {:>4} {:>9.2} {:>7.2}x {:>10.4} {:>9.4}{}\n",
            point.target,
            point.precision.name(),
            if point.precision == Precision::Fp32 { "all".to_owned() } else { point.fp32_layers.to_string() },
            point.ms,
            point.speed,
            point.agreement,
            point.drop,
            if i == tuned.chosen {
                "  ← chosen"
            } else if point.fits {
                ""
            } else {
                "  loses too much"
            }
        ))
    };
    let lines: String = (0..tuned.points.len()).filter_map(line).collect();
    let keep = if tuned.keep.is_empty() { "no layer".to_owned() } else { tuned.keep.join(", ") };
    format!(
        "{:<width$} engine     FP32        ms    speed     agrees      lost\n{lines}in full precision: {keep}\n\
         next: kilnc build … --recipe {}/recipe.toml -o model.kiln\n",
        "target",
        output.display()
    )
}
