//! Checkpoints in several files, by an index of tensors and files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{StateDict, Tensor, read_weights};
use crate::error::{Error, Result, printable};
use crate::json;
use crate::presence;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Which file holds each tensor, by the text of an index that messages call `index_name`. Every file is a name beside
/// the index.
pub fn parse(text: &str, index_name: &str) -> Result<BTreeMap<String, String>> {
    let Index { weight_map } = json::parse(text, index_name)?;
    if weight_map.is_empty() {
        return Err(Error::bad_input("`weight_map` names no tensor").at(index_name));
    }
    for shard in weight_map.values() {
        check_name(shard).map_err(|e| e.at(format!("{index_name}: weight_map")))?;
    }
    Ok(weight_map)
}

/// Reads every file that an index names. Each tensor must be in the index's file, and in no other.
pub(super) fn read(index_path: &Path) -> Result<(StateDict, Vec<PathBuf>)> {
    let index_name = json::file_name(index_path);
    let weight_map = parse(&json::read_text(index_path)?, &index_name)?;
    let dir = index_path.parent().unwrap_or(Path::new(""));
    let mut state = StateDict::default();
    let mut files = vec![index_path.to_owned()];
    let shards: BTreeSet<&String> = weight_map.values().collect();
    for shard in shards {
        let path = dir.join(shard);
        if !presence::has_file(&path).map_err(|e| e.at(format!("{index_name}: weight_map")))? {
            return Err(Error::bad_input(format!("the shard {} is missing", printable(shard)))
                .at(format!("{index_name}: weight_map"))
                .hint("the download is not complete"));
        }
        add(&mut state, &weight_map, shard, &path, &index_name)?;
        files.push(path);
    }
    match weight_map.iter().find(|(name, _)| !state.contains(name)) {
        Some((name, shard)) => Err(Error::bad_input(format!(
            "tensor `{}` is not in {}, where the index has it",
            printable(name),
            printable(shard)
        ))
        .at(index_name)),
        None => Ok((state, files)),
    }
}

fn add(
    state: &mut StateDict,
    weight_map: &BTreeMap<String, String>,
    shard: &str,
    path: &Path,
    index_name: &str,
) -> Result<()> {
    let file: std::sync::Arc<str> = shard.into();
    for (name, weight) in read_weights(path)? {
        if weight_map.get(&name).is_some_and(|place| place != shard) || state.contains(&name) {
            return Err(Error::bad_input(format!("duplicate tensor `{}`, in two shards", printable(&name)))
                .at(format!("{index_name}, {}", printable(shard))));
        }
        state.insert(name, Tensor { weight, file: file.clone() });
    }
    Ok(())
}

/// Fails where a name is not that of a file beside the index.
fn check_name(name: &str) -> Result<()> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) if !name.contains(['/', '\\', '\0']) => Ok(()),
        _ => Err(Error::bad_input(format!("`{}` is no name of a file beside the index", printable(name)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(index: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors.index.json");
        std::fs::write(&path, index).unwrap();
        let two = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![1], &[0]).unwrap();
        for (shard, tensor) in [("a.safetensors", "x"), ("b.safetensors", "y"), ("c.safetensors", "x")] {
            std::fs::write(dir.path().join(shard), safetensors::serialize([(tensor, &two)], None).unwrap()).unwrap();
        }
        read(&path).map(|_| "read".to_owned()).unwrap_or_else(|e| e.message().to_owned())
    }

    #[test]
    fn every_tensor_is_in_the_file_of_the_index_only() {
        let cases = [
            (r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#, "read"),
            (
                r#"{"weight_map": {"x": "../a.safetensors"}}"#,
                "`../a.safetensors` is no name of a file beside the index",
            ),
            (r#"{"weight_map": {"x": "/a.safetensors"}}"#, "`/a.safetensors` is no name of a file beside the index"),
            (r#"{"weight_map": {"x": "z.safetensors"}}"#, "the shard z.safetensors is missing"),
            (r#"{"weight_map": {"z": "a.safetensors"}}"#, "tensor `z` is not in a.safetensors, where the index has it"),
            (r#"{"weight_map": {"x": "a.safetensors", "y": "c.safetensors"}}"#, "duplicate tensor `x`, in two shards"),
            (r#"{"weight_map": {}}"#, "`weight_map` names no tensor"),
        ];
        for (index, expected) in cases {
            assert_eq!(refusal(index), expected, "{index}");
        }
        assert!(refusal(r#"{"weight_map": {"x": "a", "x": "b"}}"#).contains("duplicate `x`"));
    }
}
