//! The arguments of the texts that engines run on, and of their labels.

use std::path::PathBuf;

use clap::Args;

use super::units::length;

/// The texts that engines run on.
#[derive(Args, Clone, Debug)]
pub struct TextArgs {
    /// Texts on which engines are compared with FP32, with `label` for accuracy; those of the calibration by default.
    /// Labels that the model lacks are left out with a warning, unless a gate or --max-drop bounds accuracy.
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// The labels of a classifier, where the checkpoint names them otherwise: a JSON list, an object as id2label or
    /// label2id, a config.json, or a text file with a label on each line.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Longest text, in tokens.
    #[arg(long, value_name = "N", value_parser = length)]
    pub max_length: Option<usize>,
}
