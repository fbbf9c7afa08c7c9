//! `kilnc prune`: a smaller model, its agreement and its speed.

mod report;
mod work;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::units::{share, some, speedup};
use super::{CacheArgs, CalibrationArgs, Choice, Screen, SourceArgs, TextArgs, one_of};
use kilnc::bench;
use kilnc::build;
use kilnc::bundle::{FileEntry, GateEntry, Manifest, ZerosEntry};
use kilnc::calibrate;
use kilnc::error::Result;
use kilnc::eval::Gate;
use kilnc::json::file_name;
use kilnc::output::{self, Stage};
use kilnc::precision::Precision;
use kilnc::presence;
use kilnc::prune::{Importance, Report, Sparsity, Spec};
use kilnc::target::Target;
use kilnc::tune::{Aim, CutPoint, search};
use kilnc::vocabulary::CutReport;

use work::Work;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc prune checkpoint/ --heads 0.25 --ffn 0.4 --calibration texts.jsonl -o pruned.kiln
  kilnc prune checkpoint/ --adapter lora/ --labels labels.json --heads 0.25 --ffn 0.4 --scheme int8 \\
        --calibration texts.jsonl --texts heldout.jsonl --report pruned/ -o pruned.kiln
  kilnc prune checkpoint/ --speedup 1.5 --max-drop 0.01 --calibration texts.jsonl -o pruned.kiln
  kilnc prune checkpoint/ --sparsity 2:4 --scheme int8 --target tensorrt-rtx:sm86 --calibration texts.jsonl -o sparse.kiln
  kilnc prune checkpoint/ --vocab corpus.jsonl -o small.kiln

Nothing is trained: the rest is fitted to the model's values on the calibration texts. The result is compared with
the trained model, text by text, and timed beside it. An output that ends in .onnx is a model, any other a bundle.")]
pub struct PruneArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    cut: CutArgs,
    /// Cut as little of heads and neurons together as is so many times as fast as the whole model.
    #[arg(long, value_name = "TIMES", value_parser = speedup,
          conflicts_with_all = ["heads", "ffn", "products", "layers", "drop_layer"])]
    speedup: Option<f64>,
    /// Lose at most so much accuracy, or so many predictions where texts have no labels. Without --speedup, or a share that
    /// goes, as much is cut as this allows.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_drop: Option<f64>,
    /// The number format of the engine.
    #[arg(long, value_name = "SCHEME", default_value = "fp32")]
    scheme: Precision,
    /// Where the model is to run.
    #[arg(long, value_name = "TARGET", default_value = "ort-cpu")]
    target: Target,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    texts: TextArgs,
    /// Its bounds, of agreement, cosine, max_abs, accuracy_drop and greedy, e.g. agreement=0.95,accuracy_drop=0.01.
    #[arg(long, value_name = "BOUNDS")]
    gate: Option<Gate>,
    /// Batch and length for which time counts; 1x128 by default, or what the model reads where that is less.
    #[arg(long, value_name = "BxS", value_parser = super::tune::shape)]
    shape: Option<[usize; 2]>,
    /// How often each engine is started and timed; 0 times none.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    rounds: u32,
    /// A folder for prune.md, prune.svg and prune.json.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
    /// A model, if it ends in .onnx, else a bundle.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

/// The cut.
#[derive(Args)]
#[command(next_help_heading = "Cut")]
struct CutArgs {
    /// The share of attention heads.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, hide_default_value = true)]
    heads: f64,
    /// The share of the inner neurons of feed-forward blocks.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, hide_default_value = true)]
    ffn: f64,
    /// The share of the products of heads and neurons, of those that matter least for their cost.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, hide_default_value = true)]
    products: f64,
    /// How many layers stay; those go that are missed least.
    #[arg(long, value_name = "N", value_parser = some)]
    layers: Option<usize>,
    /// A layer, counted from 0; again for another.
    #[arg(long, value_name = "LAYER", conflicts_with = "layers")]
    drop_layer: Vec<usize>,
    /// Weights inside of layers, which become 0: a share, or 2:4, which sparse kernels of GPUs from Ampere on use.
    #[arg(long, value_name = "SHARE|2:4")]
    sparsity: Option<Sparsity>,
    /// Tokens that a corpus does not use (.jsonl, .csv, .txt): its texts keep their tokens and their predictions.
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// How heads, neurons and weights are ranked.
    #[arg(long, value_name = "HOW", default_value = "reconstruction", value_parser = one_of(&IMPORTANCES))]
    importance: Importance,
    /// Leave the other weights as they are, instead of refitting them.
    #[arg(long)]
    no_refit: bool,
    /// Cut the same share of every block, instead of more where it matters less.
    #[arg(long)]
    even: bool,
}

const IMPORTANCES: [Choice<Importance>; 3] = [
    (
        Importance::Reconstruction,
        "reconstruction",
        "By what the outputs of a layer lose once the others are fitted to do without",
    ),
    (Importance::Activation, "activation", "By the size of activations times that of the weights that read them"),
    (Importance::Magnitude, "magnitude", "By the size of the weights alone"),
];

impl CutArgs {
    fn spec(&self) -> Spec {
        Spec {
            heads: self.heads,
            ffn: self.ffn,
            products: self.products,
            layers: self.layers,
            drop_layers: self.drop_layer.clone(),
            sparsity: self.sparsity,
            vocabulary: self.vocab.clone(),
            importance: self.importance,
            refit: !self.no_refit,
            even: self.even,
        }
    }
}

/// The result, its path, and the time.
#[derive(Serialize)]
struct Done {
    output: PathBuf,
    seconds: f64,
    #[serde(flatten)]
    pruned: Pruned,
}

/// The engine and its comparison.
#[derive(Serialize)]
pub struct Pruned {
    schema: &'static str,
    target: String,
    scheme: Precision,
    pruning: Option<Report>,
    vocabulary: Option<CutReport>,
    files: Vec<FileEntry>,
    bytes: u64,
    /// Of the same engine of the trained model.
    trained_bytes: Option<u64>,
    /// Batch and length for which time was measured.
    shape: [usize; 2],
    /// How many times as fast as the same engine of the trained model, with its interval.
    speed: Option<bench::Ratio>,
    /// Against the trained model in FP32.
    gates: Vec<GateEntry>,
    /// The measurements of the search.
    searched: Vec<CutPoint>,
    /// The zeros in the file that was written, where they make a pattern.
    zeros: Option<ZerosEntry>,
}

pub fn run(args: PruneArgs, screen: &Screen) -> Result<()> {
    let start = Instant::now();
    let mut spec = args.cut.spec();
    spec.check_shares()?;
    let calibration = args.calibration.over(calibrate::Spec::default(), args.source.seed);
    let source = args.source.source_beside(None, &calibration)?;
    let work = Work::new(&args, source, calibration)?;
    let stage = args
        .report
        .as_ref()
        .map(|dir| Stage::new(dir, |dir| output::holds_only(dir, report::JSON, report::is_own)))
        .transpose()?;
    let aim = Aim { speed: args.speedup, drop: args.max_drop };
    let searches = args.speedup.is_some() || (args.max_drop.is_some() && !spec.needs_texts());
    let mut searched = Vec::new();
    screen.note(format!("pruning {}", work.source.checkpoint.display()));
    if searches {
        searched = search(aim, |products| {
            screen.note(format!("trying without {:.0} % of the products", products * 100.0));
            work.point(&Spec { products, ..spec.clone() }, screen)
        })?;
        spec.products = searched.last().map_or(0.0, |point| point.products);
    }
    let mut gate = args.gate.unwrap_or_default();
    gate.accuracy_drop = [gate.accuracy_drop, args.max_drop].into_iter().flatten().reduce(f64::min);
    // The output is not renamed before its report is on the disk, too.
    let name = file_name(&args.output);
    let made = work.place.path(&name);
    let manifest = work.build(Some(&spec), gate, &made, screen)?;
    let speed = work.speed(&manifest, &made, screen)?;
    let pruned = pruned(manifest, &args, &work, speed, searched);
    if let Some(stage) = stage {
        report::write(&stage, &pruned)?;
        work.place.sync()?;
        stage.commit_dir()?;
    }
    let Work { place, .. } = work;
    match presence::is_dir(&made)? {
        true => place.commit_folder(&name)?,
        false => place.commit_files(&build::model_files(&pruned.files, &name))?,
    }
    let done = Done { output: args.output, seconds: start.elapsed().as_secs_f64(), pruned };
    screen.result(&done, |done| report::text(&done.pruned, &done.output, done.seconds))
}

fn pruned(
    manifest: Manifest,
    args: &PruneArgs,
    work: &Work,
    speed: Option<bench::Ratio>,
    searched: Vec<CutPoint>,
) -> Pruned {
    let zeros = manifest.engines.iter().find_map(|engine| engine.zeros.clone());
    let engine = |file: &&FileEntry| file.path.contains(".onnx") || file.path.ends_with(".plan");
    Pruned {
        schema: "kilnc.prune/1",
        target: args.target.to_string(),
        scheme: args.scheme,
        bytes: manifest.files.iter().filter(engine).map(|file| file.bytes).sum(),
        pruning: manifest.pruning,
        vocabulary: manifest.vocabulary,
        files: manifest.files,
        trained_bytes: work.trained_bytes(),
        shape: work.shape,
        speed,
        gates: manifest.engines.into_iter().flat_map(|engine| engine.gates).collect(),
        searched,
        zeros,
    }
}
