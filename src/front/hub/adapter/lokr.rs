//! LoKr: `W + (alpha / r) · W₁ ⊗ W₂`, each whole or a product of two factors (arXiv 2309.14859).

use super::file::{Adapter, Parts};
use super::kind::Kind;
use super::loha;
use super::loha::{Config, ranked};
use super::work::Work;
use crate::error::Result;
use crate::ir::Weight;

pub(super) const KIND: Kind = Kind {
    peft_type: "LOKR",
    marker: "lokr_",
    parts: &["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"],
    idle: &[],
    options: &[&loha::OPTIONS, &["decompose_both", "decompose_factor", "rank_dropout_scale"]],
    scales: true,
    conv1d: false,
};

pub(super) fn merge(work: &mut Work, adapter: &Adapter) -> Result<()> {
    let config: Config = adapter.config()?;
    for (module, parts) in &adapter.modules {
        let merged = config.strength().of(module, adapter.scale).and_then(|(rank, own)| {
            let left = factor(parts, ["lokr_w1", "lokr_w1_a", "lokr_w1_b"], rank)?;
            let right = factor(parts, ["lokr_w2", "lokr_w2_a", "lokr_w2_b"], rank)?;
            let change = left.kron(&right)?;
            work.change(module, |base| Weight::sum(vec![(1.0, base.clone()), (own * adapter.scale, change)]))
        });
        merged.map_err(|e| e.at(adapter.location(module)))?;
    }
    Ok(())
}

fn factor(parts: &Parts, [whole, a, b]: [&str; 3], rank: usize) -> Result<Weight> {
    match (parts.get(whole), parts.get(a), parts.get(b)) {
        (Some(whole), None, None) => Ok(whole.clone()),
        (None, Some(a), Some(factor)) => {
            ranked(b, factor, rank)?;
            a.product(factor)
        }
        (_, _, None) => parts.need(b).cloned(),
        _ => parts.need(a).cloned(),
    }
}
