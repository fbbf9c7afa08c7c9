//! The arguments that say what engines are asked, and what they can answer.

use std::path::PathBuf;

use clap::Args;

use super::units::length;

/// What engines are asked.
#[derive(Args, Clone, Debug)]
pub struct TextArgs {
    /// Texts on which engines are held against FP32, with `label` for accuracy; those of the calibration, if not given.
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// A JSON list with one label for each answer, where the checkpoint names them otherwise.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Longest text, in tokens.
    #[arg(long, value_name = "N", value_parser = length)]
    pub max_length: Option<usize>,
}
