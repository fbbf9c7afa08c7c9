//! The arguments of `kilnc prune`.

use std::path::PathBuf;

use clap::Args;

use super::super::units::{share, some, speedup};
use super::super::{CacheArgs, CalibrationArgs, Choice, SourceArgs, TextArgs, one_of, tune};
use kilnc::eval::Gate;
use kilnc::precision::Precision;
use kilnc::prune::{Importance, Sparsity, Spec};
use kilnc::target::Target;

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
    pub source: SourceArgs,
    #[command(flatten)]
    pub cut: CutArgs,
    /// Cut as little of heads and neurons together as is so many times as fast as the whole model.
    #[arg(long, value_name = "TIMES", value_parser = speedup,
          conflicts_with_all = ["heads", "ffn", "products", "layers", "drop_layer"])]
    pub speedup: Option<f64>,
    /// Lose at most so much accuracy, or so many predictions where texts have no labels. Without --speedup, or a share that
    /// goes, as much is cut as this allows.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub max_drop: Option<f64>,
    /// The number format of the engine.
    #[arg(long, value_name = "SCHEME", default_value = "fp32")]
    pub scheme: Precision,
    /// Where the model is to run.
    #[arg(long, value_name = "TARGET", default_value = "ort-cpu")]
    pub target: Target,
    #[command(flatten)]
    pub calibration: CalibrationArgs,
    #[command(flatten)]
    pub texts: TextArgs,
    /// Its bounds, of agreement, cosine, max_abs, accuracy_drop and greedy, e.g. agreement=0.95,accuracy_drop=0.01.
    #[arg(long, value_name = "BOUNDS")]
    pub gate: Option<Gate>,
    /// Batch and length for which time counts; 1x128 by default, or what the model reads where that is less.
    #[arg(long, value_name = "BxS", value_parser = tune::shape)]
    pub shape: Option<[usize; 2]>,
    /// How often each engine is started and timed; 0 times none.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub rounds: u32,
    /// A folder for prune.md, prune.svg and prune.json.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub cache: CacheArgs,
    /// A model, if it ends in .onnx, else a bundle.
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
}

/// The cut.
#[derive(Args)]
#[command(next_help_heading = "Cut")]
pub struct CutArgs {
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
    pub vocab: Option<PathBuf>,
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
    pub fn spec(&self) -> Spec {
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
