//! Whole layers that go.
//!
//! `layer(x) ≈ x`

use std::collections::BTreeMap;

use super::{Pass, Report};
use crate::error::{Error, Result};
use crate::ir::{Action, Graph, Node, Op, ValueId, rewrite};

/// The pass.
pub struct DropLayers<'a> {
    /// The layers, counted from 0.
    pub layers: &'a [usize],
}

impl Pass for DropLayers<'_> {
    fn name(&self) -> &'static str {
        "drop-layers"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut replacements = BTreeMap::new();
        for layer in self.layers {
            let (out, x) = ends(graph, *layer)?;
            replacements.insert(out, x);
        }
        let after = rewrite(graph, |rw, node| match node.outputs.as_slice() {
            [out] => match replacements.get(out) {
                Some(x) => Ok(Action::Replace(vec![rw.get(*x)?])),
                None => Ok(Action::Keep),
            },
            _ => Ok(Action::Keep),
        })?;
        Ok((after, Report { changed: replacements.len(), left: Vec::new() }))
    }
}

/// A layer's output, and the input of the same type.
fn ends(graph: &Graph, layer: usize) -> Result<(ValueId, ValueId)> {
    let inside = |node: &Node| node.role.and_then(|role| role.layer) == Some(layer);
    let nodes: Vec<&Node> = graph.nodes().map(|(_, node)| node).filter(|node| inside(node)).collect();
    if nodes.is_empty() {
        let count = graph.nodes().filter_map(|(_, node)| node.role?.layer).max().map_or(0, |last| last + 1);
        return Err(Error::bad_input(format!("there is no layer {layer} to drop: the model has {count}"))
            .hint("layers are counted from 0"));
    }
    let refused = |why: &str| Err(Error::unsupported(format!("layer {layer} cannot be dropped: {why}")));
    let made: Vec<ValueId> = nodes.iter().flat_map(|node| node.outputs.iter().copied()).collect();
    // Its cache would be an input and an output without a layer.
    if nodes.iter().any(|node| matches!(node.op, Op::Attention { .. }) && node.outputs.len() > 1) {
        return refused("its keys and values are outputs of the model");
    }
    let leaves = |id: &&ValueId| graph.outputs().contains(id) || graph.consumers(**id).any(|node| !inside(node));
    let [out] = made.iter().filter(leaves).collect::<Vec<_>>()[..] else {
        return refused("other parts of the model read more of it than its output");
    };
    let mut given: Vec<ValueId> = Vec::new();
    for id in nodes.iter().flat_map(|node| node.inputs.iter().flatten()) {
        let same = graph.value(*id).ty == graph.value(*out).ty;
        if same && graph.weight(*id).is_none() && !made.contains(id) && !given.contains(id) {
            given.push(*id);
        }
    }
    // Where a layer reads values of several earlier layers, the latest is its input.
    match given.iter().max() {
        Some(x) => Ok((*out, *x)),
        None => refused("it reads no value that could replace its output"),
    }
}

#[cfg(test)]
mod tests {
    use super::DropLayers;
    use crate::passes::Pass;
    use crate::passes::tests::run;

    const TWO_LAYERS: &str = r#"graph "g" {
  input %x: f32[b, s, 2]
  weight %w: f32[2, 2] = source "w"
  %a: f32[b, s, 2] = Linear(%x, %w) @ffn-in/0
  %y0: f32[b, s, 2] = Add(%a, %x) @ffn-norm/0
  %b: f32[b, s, 2] = Linear(%y0, %w) @ffn-in/1
  %y1: f32[b, s, 2] = Add(%b, %y0) @ffn-norm/1
  output %y1
}
"#;

    #[test]
    fn the_input_of_a_layer_replaces_its_output() {
        let (after, _) = run(&DropLayers { layers: &[0] }, TWO_LAYERS);
        let lines: Vec<&str> = after.lines().map(str::trim).filter(|line| line.starts_with('%')).collect();
        assert_eq!(
            lines,
            ["%b: f32[b, s, 2] = Linear(%x, %w) @ffn-in/1", "%y1: f32[b, s, 2] = Add(%b, %x) @ffn-norm/1"]
        );
    }

    #[test]
    fn a_layer_that_is_not_there_is_named() {
        let graph = crate::ir::text::parse(TWO_LAYERS).unwrap();
        let error = DropLayers { layers: &[2] }.run(&graph).err().unwrap();
        assert_eq!(error.message(), "there is no layer 2 to drop: the model has 2");
    }

    #[test]
    fn a_layer_with_a_cache_stays() {
        let text = r#"graph "g" {
  input %x: f32[b, s, 2]
  input %past: f32[b, 1, p, 2]
  %y: f32[b, s, 2], %pk: f32[b, 1, p + s, 2], %pv: f32[b, 1, p + s, 2] = Attention {heads=1, scale=0.5} (%x, %x, %x, _, _, %past, %past) @attention/0
  output %y
  output %pk
  output %pv
}
"#;
        let graph = crate::ir::text::parse(text).unwrap();
        let error = DropLayers { layers: &[0] }.run(&graph).err().unwrap();
        assert_eq!(error.message(), "layer 0 cannot be dropped: its keys and values are outputs of the model");
    }

    #[test]
    fn a_layer_that_is_read_twice_stays() {
        let graph = crate::ir::text::parse(&TWO_LAYERS.replace("Add(%b, %y0)", "Add(%b, %a)")).unwrap();
        let error = DropLayers { layers: &[0] }.run(&graph).err().unwrap();
        assert_eq!(
            error.message(),
            "layer 0 cannot be dropped: other parts of the model read more of it than its output"
        );
    }
}
