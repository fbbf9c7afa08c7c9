//! LoHa: `W + (alpha / r) · (A₁ B₁) ∘ (A₂ B₂)` (arXiv 2108.06098).

use serde::Deserialize;

use super::file::Adapter;
use super::kind::Kind;
use super::scale::Strength;
use super::work::Work;
use crate::error::{Error, Result};
use crate::ir::Weight;
use crate::json::OrderedMap;

pub(super) const KIND: Kind = Kind {
    peft_type: "LOHA",
    marker: "hada_",
    parts: &[A1, B1, A2, B2],
    idle: &[],
    options: &[&OPTIONS],
    scales: true,
    conv1d: false,
};

/// The options of LoHa, which LoKr has, too.
pub(super) const OPTIONS: [&str; 12] = [
    "alpha",
    "alpha_pattern",
    "exclude_modules",
    "init_weights",
    "layers_pattern",
    "layers_to_transform",
    "module_dropout",
    "modules_to_save",
    "r",
    "rank_dropout",
    "rank_pattern",
    "use_effective_conv2d",
];

const A1: &str = "hada_w1_a";
const B1: &str = "hada_w1_b";
const A2: &str = "hada_w2_a";
const B2: &str = "hada_w2_b";

/// The strength of LoHa and LoKr.
#[derive(Deserialize)]
pub(super) struct Config {
    r: usize,
    alpha: f64,
    #[serde(default)]
    rank_pattern: OrderedMap<usize>,
    #[serde(default)]
    alpha_pattern: OrderedMap<f64>,
}

impl Config {
    pub fn strength(&self) -> Strength<'_> {
        Strength {
            rank: self.r,
            rank_pattern: &self.rank_pattern,
            alpha: (self.alpha, "alpha"),
            alpha_pattern: &self.alpha_pattern,
            divisor: |rank| rank,
        }
    }
}

pub(super) fn merge(work: &mut Work, adapter: &Adapter) -> Result<()> {
    let config: Config = adapter.config()?;
    for (module, parts) in &adapter.modules {
        let merged = config.strength().of(module, adapter.scale).and_then(|(rank, own)| {
            let [a1, b1, a2, b2] = [parts.need(A1)?, parts.need(B1)?, parts.need(A2)?, parts.need(B2)?];
            for (name, b) in [(B1, b1), (B2, b2)] {
                ranked(name, b, rank)?;
            }
            let change = a1.product(b1)?.times(&a2.product(b2)?)?;
            work.change(module, |base| Weight::sum(vec![(1.0, base.clone()), (own * adapter.scale, change)]))
        });
        merged.map_err(|e| e.at(adapter.location(module)))?;
    }
    Ok(())
}

/// Fails where a factor is not of the configuration's rank.
pub(super) fn ranked(name: &str, factor: &Weight, rank: usize) -> Result<()> {
    match factor.shape().first() == Some(&rank) {
        true => Ok(()),
        false => Err(Error::bad_input(format!(
            "{name} has shape {:?}, but the configuration says rank {rank}",
            factor.shape()
        ))),
    }
}
