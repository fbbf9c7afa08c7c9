//! Writes the tensors of a checkpoint as `transformers` saves them: one safetensors file, or shards and an index.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};

pub use super::stream::Progress;
use super::stream::{Piece, write_pieces};
use crate::error::{Error, Result};
use crate::ir::Weight;
use crate::json::sorted;
use crate::output::write_json;

/// The file, where one is enough.
pub const WHOLE: &str = "model.safetensors";

/// The index of shards.
const INDEX: &str = "model.safetensors.index.json";

/// The files that were written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The names of the files, in the order of the shards, an index last.
    pub files: Vec<String>,
    /// The length of all tensors.
    pub bytes: u64,
}

/// Writes tensors to a folder, in files of at most `largest` bytes of tensors, or of one tensor that is longer.
///
/// Each tensor is computed when its part of a file is written, in parallel, and freed. The files are complete and
/// synced when this returns; the caller renames them safely.
pub fn write(tensors: &[(String, Weight)], dir: &Path, largest: u64, progress: &Progress<'_>) -> Result<Written> {
    let shards = shards(tensors, largest);
    let names: Vec<String> = match shards.len() {
        0 | 1 => vec![WHOLE.to_owned()],
        n => (1..=n).map(|i| format!("model-{i:05}-of-{n:05}.safetensors")).collect(),
    };
    names.iter().zip(&shards).try_for_each(|(name, shard)| write_file(shard, &dir.join(name), progress))?;
    let bytes = tensors.iter().map(|(_, weight)| weight.byte_len() as u64).sum();
    let mut files = names;
    if files.len() > 1 {
        write_index(&shards, &files, bytes, &dir.join(INDEX))?;
        files.push(INDEX.to_owned());
    }
    Ok(Written { files, bytes })
}

type Shard<'a> = Vec<&'a (String, Weight)>;

/// Fills one shard after another, in the order of the tensors. There is one at least.
fn shards(tensors: &[(String, Weight)], largest: u64) -> Vec<Shard<'_>> {
    let (mut shards, mut room): (Vec<Shard>, u64) = (vec![Vec::new()], largest);
    for tensor in tensors {
        let bytes = tensor.1.byte_len() as u64;
        if bytes > room && shards.last().is_some_and(|shard| !shard.is_empty()) {
            shards.push(Vec::new());
            room = largest;
        }
        room = room.saturating_sub(bytes);
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

fn write_file(shard: &[&(String, Weight)], path: &Path, progress: &Progress<'_>) -> Result<()> {
    // Wide elements first, so that every tensor lies at a multiple of its elements' size.
    let mut order = shard.to_vec();
    order.sort_by_key(|(name, weight)| (std::cmp::Reverse(weight.dtype().size()), name.clone()));
    let (mut entries, mut end) = (BTreeMap::new(), 0);
    entries.insert("__metadata__", json!({"format": "pt"}));
    let mut places = Vec::with_capacity(order.len());
    for (name, weight) in order {
        let begin = end;
        end += weight.byte_len() as u64;
        let dtype = weight.dtype().name().to_uppercase();
        entries.insert(name, json!({"dtype": dtype, "shape": weight.shape(), "data_offsets": [begin, end]}));
        places.push((begin, weight));
    }
    let mut head = encoded(&sorted(json!(entries)))?.into_bytes();
    head.resize(head.len().next_multiple_of(8), b' ');
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head);
    let start = bytes.len() as u64;
    let weights = places.into_par_iter().map(|(at, weight)| Piece::Weight(start + at, weight));
    let mut pieces = vec![Piece::Bytes(0, bytes)];
    pieces.par_extend(weights);
    write_pieces(path, &pieces, start + end, progress)
}

fn write_index(shards: &[Shard], names: &[String], bytes: u64, path: &Path) -> Result<()> {
    let mut places: BTreeMap<&str, &str> = BTreeMap::new();
    for (shard, file) in shards.iter().zip(names) {
        places.extend(shard.iter().map(|(name, _)| (name.as_str(), file.as_str())));
    }
    let numbers: usize = shards.iter().flatten().map(|(_, weight)| weight.shape().iter().product::<usize>()).sum();
    let index = json!({"metadata": {"total_parameters": numbers, "total_size": bytes}, "weight_map": places});
    write_json(path, &sorted(index))
}

fn encoded(value: &Value) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::bug(format!("a header: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    fn tensors() -> Vec<(String, Weight)> {
        let wide = Weight::f32s(vec![2, 3], &[1., 2., 3., 4., 5., 6.]).unwrap();
        let counts = Weight::i64s(vec![2], &[7, -1]).unwrap();
        let half = wide.transpose().unwrap().cast(DType::F16);
        let empty = Weight::f32s(vec![0, 3], &[]).unwrap();
        [
            ("half", half),
            ("wide", wide),
            ("counts", counts),
            ("empty", empty),
            ("one", Weight::scalar(DType::F32, 0.5).unwrap()),
        ]
        .map(|(name, weight)| (name.to_owned(), weight))
        .into()
    }

    /// Checks every tensor of the files against the reference reader's.
    fn check(dir: &Path, files: &[String]) {
        let mut found = 0;
        for file in files.iter().filter(|file| file.ends_with(".safetensors")) {
            let bytes = std::fs::read(dir.join(file)).unwrap();
            let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (name, weight) in tensors().iter().filter(|(name, _)| read.tensor(name).is_ok()) {
                let view = read.tensor(name).unwrap();
                assert_eq!(view.shape(), weight.shape());
                assert_eq!(format!("{:?}", view.dtype()).to_lowercase(), weight.dtype().name());
                assert_eq!(view.data(), weight.evaluate().unwrap().as_bytes());
                found += 1;
            }
        }
        assert_eq!(found, tensors().len());
    }

    #[test]
    fn the_reference_reader_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&tensors(), dir.path(), 1 << 30, &|_| {}).unwrap();
        assert_eq!(
            (written.files.as_slice(), written.bytes),
            (&["model.safetensors".to_owned()][..], 24 + 16 + 12 + 4)
        );
        check(dir.path(), &written.files);
        let bytes = std::fs::read(dir.path().join(WHOLE)).unwrap();
        assert!(String::from_utf8_lossy(&bytes[8..]).starts_with(r#"{"__metadata__":{"format":"pt"},"counts""#));
    }

    #[test]
    fn tensors_beyond_one_file_are_sharded() {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&tensors(), dir.path(), 20, &|_| {}).unwrap();
        let expected = [1, 2, 3].map(|i| format!("model-0000{i}-of-00003.safetensors"));
        assert_eq!(written.files[..3], expected);
        assert_eq!(written.files[3], INDEX);
        check(dir.path(), &written.files);
        let index: Value = serde_json::from_slice(&std::fs::read(dir.path().join(INDEX)).unwrap()).unwrap();
        assert_eq!(index["metadata"], json!({"total_parameters": 15, "total_size": 56}));
        let places = index["weight_map"].as_object().unwrap();
        assert_eq!(places["half"], expected[0]);
        assert_eq!(places["wide"], expected[1]);
        for last in ["counts", "empty", "one"] {
            assert_eq!(places[last], expected[2], "{last}");
        }
    }

    #[test]
    fn no_tensors_are_a_file_too() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(write(&[], dir.path(), 20, &|_| {}).unwrap().files, [WHOLE]);
        let bytes = std::fs::read(dir.path().join(WHOLE)).unwrap();
        assert!(safetensors::SafeTensors::deserialize(&bytes).unwrap().is_empty());
    }
}
