//! What the cut of one block does to the answers.

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

/// Texts on which single blocks are judged: enough to tell them apart.
const TEXTS: usize = 64;

/// Mean square of the change of the answers, against that of the answers, when each block alone loses so many of its
/// units.
pub fn of_blocks(request: &Request, blocks: &[Block], whole: &Whole, counts: &[usize]) -> Result<Vec<f64>> {
    let sample = sample(request);
    request.observer.begin("measuring blocks", Some(blocks.len() as u64));
    let expected = answers(request, request.graph, &sample)?;
    let mut sensitivities = Vec::new();
    for (((block, problem), order), count) in blocks.iter().zip(&whole.problems).zip(&whole.orders).zip(counts) {
        sensitivities.push(match count {
            0 => 0.0,
            _ => {
                let cut = fit::cut(request, block, problem, order.kept(*count), RIDGE)?;
                let graph = fit::with_cuts(request.graph, &BTreeMap::from([(block.role, cut)]))?;
                distance(&expected, &answers(request, &graph, &sample)?)
            }
        });
        request.observer.advance(1);
    }
    request.observer.done(&format!("{} blocks, each cut alone on {} texts", blocks.len(), sample.len()));
    Ok(sensitivities)
}

/// All outputs of every text, one after another.
pub fn answers(request: &Request, graph: &Verified<Graph>, sample: &[Named]) -> Result<Vec<Vec<f32>>> {
    let mut answers = Vec::with_capacity(sample.len());
    let plan = Collection { inputs: sample, ..request.plan(graph) };
    collect_outputs(&plan, graph.outputs(), |_, seen| {
        let mut row = Vec::new();
        for tensor in seen {
            let Elements::F32(values) = &tensor.elements else { return Err(Error::bug("outputs are floats")) };
            row.extend_from_slice(values);
        }
        answers.push(row);
        Ok(())
    })?;
    Ok(answers)
}

/// Mean square of the differences against that of the expected.
pub fn distance(expected: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    let pairs = || expected.iter().flatten().zip(found.iter().flatten());
    let change: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = pairs().map(|(a, _)| f64::from(*a).powi(2)).sum();
    change / size.max(f64::MIN_POSITIVE)
}

/// The texts on which parts are judged.
pub fn sample(request: &Request) -> Vec<Named> {
    let step = request.inputs.len().div_ceil(TEXTS).max(1);
    request.inputs.iter().step_by(step).cloned().collect()
}
