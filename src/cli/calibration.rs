//! The arguments of the calibration of 8-bit layers.

use std::path::PathBuf;

use clap::Args;

use super::units::some;
use kilnc::calibrate::{Estimator, Spec};

/// What 8-bit layers are calibrated on.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Calibration")]
pub struct CalibrationArgs {
    /// Texts of the task that 8-bit layers are calibrated on (.jsonl, .csv, .tsv, .txt), inputs that were tokenized
    /// elsewhere (.npz), or saved calibration (.kcal).
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Texts of a domain: of a larger file, those are taken that are most like them.
    #[arg(long, value_name = "FILE")]
    calibration_like: Option<PathBuf>,
    /// How many texts of the file are taken; all by default, or 256 with --calibration-like.
    #[arg(long, value_name = "N", value_parser = some)]
    samples: Option<usize>,
    /// The column or field that holds the texts, if it is not called text.
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// How ranges are found that are fixed in the engine: min-max, moving-average, percentile[:99.99], entropy, mse. For
    /// int8-static, and for int8 on targets that take no other; min-max by default.
    #[arg(long, value_name = "HOW")]
    ranges: Option<Estimator>,
    /// Whether weights of 8-bit layers use half of the integers (-64…64), with which no sum saturates on x86 processors
    /// without VNNI. They do for ort-cpu and openvino; with --reduce-range=false an engine is a little closer to FP32 on
    /// processors with VNNI, and may predict wrongly on others.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub reduce_range: Option<bool>,
    /// Save the statistics of the model on the texts, for --calibration in another run; ends in .kcal.
    #[arg(long, value_name = "FILE")]
    save_calibration: Option<PathBuf>,
}

impl CalibrationArgs {
    /// The recipe's table, with the command line's changes: another file replaces it, without what the
    /// recipe said of its own. The seed counts where texts are sampled.
    pub fn over(&self, recipe: Spec, seed: Option<u64>) -> Spec {
        let given = self.clone();
        let below = match given.calibration {
            None => recipe,
            Some(_) => Spec { ranges: recipe.ranges, save: recipe.save, ..Spec::default() },
        };
        let spec = Spec {
            file: given.calibration.or(below.file),
            like: given.calibration_like.or(below.like),
            samples: given.samples.or(below.samples),
            seed: below.seed,
            text_column: given.text_column.or(below.text_column),
            ranges: given.ranges.or(below.ranges),
            save: given.save_calibration.or(below.save),
        };
        match seed.filter(|_| spec.sampling().is_some()) {
            None => spec,
            seed => Spec { seed, ..spec },
        }
    }
}
