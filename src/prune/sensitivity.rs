//! How the cut of one block changes the outputs.

use std::collections::BTreeMap;

use super::Request;
use super::blocks::Block;
use super::fit::{self, Whole};
use super::normal::RIDGE;
use crate::calibrate::{Collection, collect_outputs};
use crate::error::{Error, Result};
use crate::ir::Graph;
use crate::runtime::{Elements, Named};
use crate::verify::Verified;

/// Texts on which single blocks are measured: enough to rank them.
const TEXTS: usize = 64;

/// Mean square of the change of the outputs, relative to that of the outputs, when each block alone loses so many of its
/// units.
pub fn of_blocks(request: &Request, blocks: &[Block], whole: &Whole, counts: &[usize]) -> Result<Vec<f64>> {
    let sample = sample(request);
    request.observer.begin("measuring blocks", Some(blocks.len() as u64));
    let expected = outputs(request, request.graph, &sample)?;
    let mut sensitivities = Vec::new();
    for (((block, problem), order), count) in blocks.iter().zip(&whole.problems).zip(&whole.orders).zip(counts) {
        sensitivities.push(match count {
            0 => 0.0,
            _ => {
                let cut = fit::cut(request, block, problem, order.kept(*count), RIDGE)?;
                let graph = fit::with_cuts(request.graph, &BTreeMap::from([(block.role, cut)]))?;
                distance(&expected, &outputs(request, &graph, &sample)?)
            }
        });
        request.observer.advance(1);
    }
    request.observer.done(&format!("{} blocks, each cut alone on {} texts", blocks.len(), sample.len()));
    Ok(sensitivities)
}

/// All outputs of every text, one after another.
pub fn outputs(request: &Request, graph: &Verified<Graph>, sample: &[Named]) -> Result<Vec<Vec<f32>>> {
    let mut outputs = Vec::with_capacity(sample.len());
    let plan = Collection { inputs: sample, ..request.plan(graph) };
    collect_outputs(&plan, graph.outputs(), |_, observed| {
        let mut row = Vec::new();
        for tensor in observed {
            let Elements::F32(values) = &tensor.elements else { return Err(Error::bug("outputs are floats")) };
            row.extend_from_slice(values);
        }
        outputs.push(row);
        Ok(())
    })?;
    Ok(outputs)
}

/// Mean square of the differences against that of the expected.
pub fn distance(expected: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    let pairs = || expected.iter().flatten().zip(found.iter().flatten());
    let change: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = pairs().map(|(a, _)| f64::from(*a).powi(2)).sum();
    change / size.max(f64::MIN_POSITIVE)
}

/// The texts on which parts are measured.
pub fn sample(request: &Request) -> Vec<Named> {
    let step = request.inputs.len().div_ceil(TEXTS).max(1);
    request.inputs.iter().step_by(step).cloned().collect()
}
