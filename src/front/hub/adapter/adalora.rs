//! AdaLoRA: `W + alpha / r · B (E ∘ A)`, where ranks were pruned while training (arXiv 2303.10512).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::file::{Adapter, Parts, refuse};
use super::kind::Kind;
use super::lora;
use super::work::Work;

use crate::error::{Error, Result};
use crate::ir::Weight;

pub(super) const KIND: Kind = Kind {
    peft_type: "ADALORA",
    marker: "lora_",
    parts: &[A, B, E],
    idle: &[],
    options: &[
        &lora::OPTIONS,
        &["beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step"],
    ],
    scales: true,
    conv1d: true,
};

const A: &str = "lora_A";
const B: &str = "lora_B";
const E: &str = "lora_E";

/// The term that PEFT adds to the rank before it divides by it.
const EPSILON: f64 = 1e-5;

#[derive(Deserialize)]
struct Config {
    /// The rank before any pruning; the change stays divided by it.
    init_r: usize,
    lora_alpha: f64,
    /// The ranks that stayed, by `MODULE.lora_E`.
    #[serde(default)]
    rank_pattern: Option<BTreeMap<String, Vec<bool>>>,
    #[serde(default)]
    use_dora: Option<bool>,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    lora_bias: Option<bool>,
    #[serde(flatten)]
    unsupported: lora::Unsupported,
}

impl Config {
    fn rank(&self, module: &str) -> usize {
        let kept = self.rank_pattern.as_ref().and_then(|pattern| pattern.get(&format!("{module}.{E}")));
        kept.map_or(self.init_r, |kept| kept.iter().filter(|kept| **kept).count())
    }

    fn scale(&self, rank: usize, extra: f32) -> Result<f32> {
        let alpha = if self.lora_alpha > 0.0 { self.lora_alpha } else { rank as f64 };
        let scale = (alpha / (self.init_r as f64 + EPSILON) * f64::from(extra)) as f32;
        match scale.is_finite() {
            true => Ok(scale),
            false => {
                Err(Error::bad_input(format!("the scale {alpha} / {} · {extra} is too large for f32", self.init_r)))
            }
        }
    }
}

pub(super) fn merge(work: &mut Work, adapter: &Adapter) -> Result<()> {
    let config: Config = adapter.config()?;
    refuse(&[
        ("use_dora", config.use_dora == Some(true)),
        ("use_rslora", config.use_rslora == Some(true)),
        ("lora_bias", config.lora_bias == Some(true)),
    ])?;
    config.unsupported.refuse()?;
    for (module, parts) in &adapter.modules {
        merge_module(work, &config, adapter.scale, module, parts).map_err(|e| e.at(adapter.location(module)))?;
    }
    Ok(())
}

fn merge_module(work: &mut Work, config: &Config, extra: f32, module: &str, parts: &Parts) -> Result<()> {
    let (a, b, e) = (parts.need(A)?, parts.need(B)?, parts.need(E)?);
    let rank = config.rank(module);
    if a.shape().first() != Some(&rank) || e.shape() != [rank, 1] {
        return Err(Error::bad_input(format!(
            "lora_A has shape {:?} and lora_E {:?}, but the configuration says rank {rank}",
            a.shape(),
            e.shape()
        )));
    }
    let weighted: Weight = a.scale(&e.reshape(vec![rank])?, 0)?;
    let scale = config.scale(rank, extra)?;
    work.change(module, |base| base.lora(&weighted, b, scale))
}
