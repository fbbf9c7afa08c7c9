//! Structured and unstructured pruning.
//!
//! [`prune()`] takes heads and inner neurons out of a graph, so that shapes shrink and every target runs fewer
//! products. Nothing is trained: the rest is fitted by least squares to the whole model's values on texts of
//! its task.
//!
//! 1. The whole model runs over the texts once; of every block the normal equations of the layer that reads it are saved
//!    (`normal`), and the sums behind it.
//! 2. Units are ordered by their importance, the least first (`eliminate`, `importance`), which gives the loss that a
//!    block loses as more of it goes.
//! 3. Each block is cut alone, and the change of the outputs is its sensitivity (`sensitivity`). The share that is
//!    to go of all blocks is then taken where it costs least (`allocate`).
//! 4. Blocks are cut one after another, each fitted to the sum that the whole model has there (`fit`).

mod allocate;
mod blocks;
mod eliminate;
mod fit;
mod importance;
mod layers;
mod normal;
mod request;
mod rows;
mod sensitivity;
mod sparse;
mod sparsity;
mod spec;
mod zeros;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ir::Graph;
use crate::verify::Verified;

use allocate::{Curve, allocate};
use blocks::Block;
use eliminate::Order;
use fit::Whole;

pub use request::Request;
pub use sparse::SparseEntry;
pub use sparsity::Sparsity;
pub use spec::{Importance, Spec};

/// The report of a block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlockEntry {
    /// Which, e.g. `attention/3`.
    pub name: String,
    /// Heads or neurons before.
    pub before: usize,
    /// Heads or neurons after.
    pub after: usize,
    /// Mean square of the change of the outputs, relative to that of the outputs, when it alone lost the requested share.
    #[serde(default, alias = "harm", skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<f64>,
}

/// The report of a cut.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The request.
    #[serde(alias = "asked")]
    pub requested: Spec,
    /// Elements of constants before.
    pub parameters_before: usize,
    /// Elements of constants after.
    pub parameters_after: usize,
    /// Layers that went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_layers: Vec<usize>,
    /// Layers with zeros.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sparse: Vec<SparseEntry>,
    /// Block after block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockEntry>,
    /// Blocks that cannot be cut, with the reason.
    pub left: Vec<String>,
}

/// Takes layers, heads and neurons out, and makes zeros. Fails where a share is outside 0…1, where there are no texts, or
/// where the model computes non-finite values.
pub fn prune(request: &Request) -> Result<(Verified<Graph>, Report)> {
    request.spec.check()?;
    if request.inputs.is_empty() {
        return Err(Error::bad_input("pruning needs texts of the task").hint("give some with --calibration FILE"));
    }
    let dropped = layers::chosen(request)?;
    let base = layers::without(request.graph, &dropped)?;
    let (blocks, mut left) = blocks::find(&base);
    let inputs = if request.spec.sparsity.is_some() { sparse::inputs(request.graph, &blocks) } else { Vec::new() };
    if blocks.is_empty() && inputs.is_empty() {
        let why = left.first().map(|why| format!("; {why}")).unwrap_or_default();
        return Err(Error::unsupported(format!("the model has no heads, neurons or products that are cut{why}"))
            .hint("experts, and heads whose keys are cached, stay whole"));
    }
    request.observer.begin("running the trained model", Some(request.inputs.len() as u64));
    let whole = Whole::collect(request, &blocks, &inputs)?;
    request.observer.done(&format!("{} blocks observed on {} texts", blocks.len(), request.inputs.len()));
    let (mut graph, mut entries) = (base.clone(), Vec::new());
    if request.spec.cuts_blocks() || !dropped.is_empty() {
        (graph, entries) = structured(request, &base, &blocks, &whole)?;
    }
    let mut sparse = Vec::new();
    if let Some(sparsity) = request.spec.sparsity {
        let dense;
        (graph, sparse, dense) = sparse::sparsify(request, &graph, sparsity, &blocks, &whole)?;
        left.extend(dense);
    }
    whole.forget()?;
    let report = Report {
        requested: request.spec.portable(),
        parameters_before: parameters(request.graph),
        parameters_after: parameters(&graph),
        dropped_layers: dropped,
        blocks: entries,
        sparse,
        left,
    };
    Ok((graph, report))
}

/// Takes heads and neurons out of `base`, which may lack layers.
fn structured(
    request: &Request,
    base: &Verified<Graph>,
    blocks: &[Block],
    whole: &Whole,
) -> Result<(Verified<Graph>, Vec<BlockEntry>)> {
    let (counts, sensitivities) = counts(request, blocks, whole)?;
    let cuts = fit::in_order(request, base, blocks, whole, &counts)?;
    let entry = |((block, count), sensitivity): ((&Block, &usize), &Option<f64>)| BlockEntry {
        name: block.name(),
        before: block.units,
        after: block.units - count,
        sensitivity: *sensitivity,
    };
    let entries = blocks.iter().zip(&counts).zip(&sensitivities).map(entry).collect();
    Ok((fit::with_cuts(base, &cuts)?, entries))
}

/// How many units of each block go, and the sensitivity that was measured of each.
fn counts(request: &Request, blocks: &[Block], whole: &Whole) -> Result<(Vec<usize>, Vec<Option<f64>>)> {
    let spec = request.spec;
    let share = |block: &Block| match spec.products {
        0.0 if block.has_heads() => spec.heads,
        0.0 => spec.ffn,
        products => products,
    };
    let even: Vec<usize> = blocks.iter().map(|block| rounded(block, share(block))).collect();
    if spec.even || blocks.iter().all(|block| [0.0, 1.0].contains(&share(block))) {
        return Ok((even, vec![None; blocks.len()]));
    }
    let sensitivities = sensitivity::of_blocks(request, blocks, whole, &even)?;
    let mut counts = even.clone();
    // Each kind has its own budget, unless there is one for both.
    let kinds: &[&dyn Fn(&Block) -> bool] = match spec.products > 0.0 {
        true => &[&|_| true],
        false => &[&Block::has_heads, &|block: &Block| !block.has_heads()],
    };
    for is_of in kinds {
        let mut curves = Vec::new();
        let mut budget = 0.0;
        for (i, block) in blocks.iter().enumerate().filter(|(_, block)| is_of(block)) {
            let at = (whole.orders.get(i), even.get(i), sensitivities.get(i));
            let (Some(order), Some(at), Some(sensitivity)) = at else { continue };
            let priority = if spec.products > 0.0 { block.products_of_unit() } else { 1.0 };
            budget += share(block) * block.units as f64 * priority;
            curves.push((i, curve(block, order, *at, *sensitivity, priority)));
        }
        let (places, curves): (Vec<usize>, Vec<Curve>) = curves.into_iter().unzip();
        for (i, steps) in places.into_iter().zip(allocate(&curves, budget)) {
            if let (Some(count), Some(block)) = (counts.get_mut(i), blocks.get(i)) {
                *count = (steps * block.grain).min(block.units);
            }
        }
    }
    Ok((counts, sensitivities.into_iter().map(Some).collect()))
}

/// Elements of all constants, each counted once.
fn parameters(graph: &Graph) -> usize {
    graph.weights().map(|(_, _, weight)| weight.shape().iter().product::<usize>()).sum()
}

fn rounded(block: &Block, share: f64) -> usize {
    let steps = (share * block.units as f64 / block.grain as f64).round() as usize;
    (steps * block.grain).min(block.units)
}

/// A block's loss, in terms of the outputs: its own loss, to the scale of the sensitivity that was measured at one point.
/// Every unit is `priority` so much of the budget.
fn curve(block: &Block, order: &Order, at: usize, sensitivity: f64, priority: f64) -> Curve {
    let loss = |count: usize| order.losses.get(count).copied().unwrap_or(f64::INFINITY);
    let scale = if at == 0 { 1.0 } else { sensitivity / loss(at).max(f64::MIN_POSITIVE) };
    let steps = (order.losses.len() - 1) / block.grain;
    Curve {
        steps,
        gain: block.grain as f64 * priority,
        losses: (0..=steps).map(|step| scale * loss(step * block.grain)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_with_the_old_names_are_read() {
        let old = r#"{"asked": {"heads": 0.5}, "parameters_before": 2, "parameters_after": 1, "left": [],
                      "blocks": [{"name": "ffn/0", "before": 2, "after": 1, "harm": 0.25}]}"#;
        let report: Report = serde_json::from_str(old).unwrap();
        assert_eq!((report.requested.heads, report.blocks[0].sensitivity), (0.5, Some(0.25)));
        let written = serde_json::to_string(&report).unwrap();
        assert!(written.contains("\"requested\"") && written.contains("\"sensitivity\""), "{written}");
    }
}
