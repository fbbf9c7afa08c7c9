//! Reads a file of weights.

use std::path::Path;

use super::torch;
use crate::error::Result;
use crate::ir::Weight;
use crate::safetensors;

/// The tensors of one file, by the form of its name.
pub fn read_weights(path: &Path) -> Result<Vec<(String, Weight)>> {
    match path.extension().is_some_and(|extension| extension == "bin") {
        true => torch::read(path),
        false => safetensors::read(path),
    }
}
