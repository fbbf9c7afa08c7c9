//! A graph as files: its text, and its weights as they are once they are computed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::back;
use crate::error::{Error, Result};
use crate::ir::{Graph, Weight, text};
use crate::passes::{Pass, ReplaceWeights};
use crate::safetensors;
use crate::verify::{Verified, verify};

/// The file of the text.
const TEXT: &str = "graph.txt";

/// Writes a graph into a folder, and returns the files.
pub(super) fn write(graph: &Verified<Graph>, dir: &Path) -> Result<Vec<PathBuf>> {
    let weights: Vec<(String, Weight)> =
        graph.weights().map(|(_, value, weight)| (value.name.clone(), weight.clone())).collect();
    let named = |(name, weight): &(String, Weight)| {
        let named = Weight::source(name.clone(), weight.dtype(), weight.shape().to_vec(), None)?;
        Ok((name.clone(), named))
    };
    let named = weights.iter().map(named).collect::<Result<BTreeMap<_, _>>>()?;
    let (plain, _) = ReplaceWeights { weights: &named }.run(graph)?;
    let path = dir.join(TEXT);
    std::fs::write(&path, plain.to_string()).map_err(|e| Error::io("writing", &path, &e))?;
    let written = back::safetensors::write(&weights, dir, u64::MAX, &|_| {})?;
    Ok(written.files.iter().map(|name| dir.join(name)).chain([path]).collect())
}

/// Reads a graph from a folder into memory.
pub(super) fn read(dir: &Path) -> Result<Verified<Graph>> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(|e| Error::io("reading", &path, &e))
    };
    let plain = String::from_utf8(read(TEXT)?).map_err(|_| Error::bad_input(format!("{TEXT} is not UTF-8")))?;
    let weights = safetensors::parse(Arc::new(read(back::safetensors::WHOLE)?))?.into_iter().collect();
    let (graph, _) = ReplaceWeights { weights: &weights }.run(&text::parse(&plain)?)?;
    verify(graph)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_graph_computes_the_same() {
        let text = r#"graph "g" {
  input %x: f32[b, 2]
  weight %w: f32[2, 2] = transpose(literal x"000000000000803f0000004000004040" f32[2, 2])
  %a: f32[b, 2] = Linear(%x, %w) @ffn-out/0
  %y: f32[b, 2] = Linear(%a, %w)
  output %y
}
"#;
        let graph = verify(text::parse(text).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        write(&graph, dir.path()).unwrap();
        let found = read(dir.path()).unwrap();
        let bytes = |graph: &Graph| {
            let (_, value, weight) = graph.weights().next().unwrap();
            (value.name.clone(), weight.evaluate().unwrap().as_bytes().to_vec())
        };
        assert_eq!(bytes(&found), bytes(&graph));
        let nodes = |graph: &Graph| graph.nodes().map(|(_, node)| format!("{node:?}")).collect::<Vec<_>>();
        assert_eq!(nodes(&found), nodes(&graph));
        // And so once more.
        let again = tempfile::tempdir().unwrap();
        write(&found, again.path()).unwrap();
        assert_eq!(read(again.path()).unwrap().fingerprint().unwrap(), found.fingerprint().unwrap());
    }
}
