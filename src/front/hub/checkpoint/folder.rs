//! Reads the weights of a folder, in the best of the forms that it has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::shards;
use super::state::{StateDict, Tensor};
use super::weights::read_weights;
use crate::error::{Error, Result};
use crate::presence;

/// The tensors of a folder, in the best of the forms that it has, and the files that were read.
pub(super) fn read_state(dir: &Path) -> Result<(StateDict, Vec<PathBuf>)> {
    for stem in ["model.safetensors", "pytorch_model.bin"] {
        let one = dir.join(stem);
        if presence::has_file(&one)? {
            let file: Arc<str> = stem.into();
            let mut state = StateDict::default();
            for (name, weight) in read_weights(&one)? {
                state.insert(name, Tensor { weight, file: file.clone() });
            }
            return Ok((state, vec![one]));
        }
        let index = dir.join(format!("{stem}.index.json"));
        if presence::has_file(&index)? {
            return shards::read(&index);
        }
    }
    Err(Error::bad_input("neither model.safetensors nor pytorch_model.bin is there").at(dir.display().to_string()))
}
