//! Inputs that must be refused, each with the message that its sender reads.

mod adapter;
mod checkpoint;
mod decoders;
mod families;
mod hub;
mod quantized;
mod sentence;
mod tokenizer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A folder of one's own with what a model or an adapter of the fixtures is made of.
fn copied(name: &str, files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(fixture(name).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// Replaces `from`, which must be there, in a text file.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} has no {from}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Tensors of one file: shape and little-endian floats.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn floats(shape: &[usize], value: f32) -> (Vec<usize>, Vec<u8>) {
    (shape.to_vec(), value.to_le_bytes().repeat(shape.iter().product()))
}

fn read_tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entry = |(name, view): (String, TensorView)| {
        assert_eq!(view.dtype(), Dtype::F32);
        (name, (view.shape().to_vec(), view.data().to_vec()))
    };
    file.tensors().into_iter().map(entry).collect()
}

fn write_json(path: &Path, value: &serde_json::Value) {
    fs::write(path, value.to_string()).unwrap();
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (shape, data))| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
