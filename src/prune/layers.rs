//! Which layers go whole.

use super::{Request, sensitivity};
use crate::error::{Error, Result};
use crate::ir::Graph;
use crate::passes::{DropLayers, Pass};
use crate::verify::{Verified, verify};

/// The layers that are named, or those whose loss changes the predictions least, found one after another.
pub fn chosen(request: &Request) -> Result<Vec<usize>> {
    let mut dropped = request.spec.drop_layers.clone();
    dropped.sort_unstable();
    dropped.dedup();
    let Some(stay) = request.spec.layers else { return Ok(dropped) };
    let all = of(request.graph);
    if stay > all.len() {
        return Err(Error::bad_input(format!("prune: layers = {stay}, and the model has {}", all.len())));
    }
    let steps = (stay + 1..=all.len()).sum::<usize>();
    request.observer.begin("ranking layers", Some(steps as u64));
    let sample = sensitivity::sample(request);
    let expected = sensitivity::outputs(request, request.graph, &sample)?;
    while all.len() - dropped.len() > stay {
        let mut best: Option<(f64, usize)> = None;
        for layer in all.iter().filter(|layer| !dropped.contains(layer)) {
            let without = without(request.graph, &[dropped.as_slice(), &[*layer]].concat())?;
            let sensitivity = sensitivity::distance(&expected, &sensitivity::outputs(request, &without, &sample)?);
            if best.is_none_or(|(least, _)| sensitivity < least) {
                best = Some((sensitivity, *layer));
            }
            request.observer.advance(1);
        }
        let (_, layer) = best.ok_or_else(|| Error::bug("a layer is left to drop"))?;
        dropped.push(layer);
    }
    dropped.sort_unstable();
    request.observer.done(&format!("layers {dropped:?} are missed least"));
    Ok(dropped)
}

/// The graph without some layers.
pub fn without(graph: &Verified<Graph>, layers: &[usize]) -> Result<Verified<Graph>> {
    if layers.is_empty() {
        return Ok(graph.clone());
    }
    if of(graph).iter().all(|layer| layers.contains(layer)) {
        return Err(Error::bad_input("prune: all layers would go: one has to stay"));
    }
    verify(DropLayers { layers }.run(graph)?.0)
}

fn of(graph: &Graph) -> Vec<usize> {
    let mut layers: Vec<usize> = graph.nodes().filter_map(|(_, node)| node.role?.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}
