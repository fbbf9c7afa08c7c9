//! LoRA: `W + (alpha / r) · B A` (arXiv 2106.09685), or `alpha / √r` for rsLoRA (arXiv 2312.03732). DoRA scales every
//! output of that to a trained length, the lengths before being those over the base alone (arXiv 2402.09353).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::file::{Adapter, Parts, refuse};
use super::kind::Kind;
use super::options::is_on;
use super::scale::Strength;
use super::work::Work;
use crate::error::{Error, Result};
use crate::ir::Weight;
use crate::json::OrderedMap;

pub(super) const KIND: Kind = Kind {
    peft_type: "LORA",
    marker: "lora_",
    parts: &[A, B, BIAS, EMBEDDING_A, EMBEDDING_B, MAGNITUDE],
    // Of MonteCLoRA and VeLoRA, which differ from LoRA only while they are trained.
    idle: &[".lora_monteclora_sampler.", ".lora_velora_embed"],
    options: &[&OPTIONS],
    scales: true,
    conv1d: true,
};

/// The options of LoRA; those that are on and change the outputs are refused or merged. `merge_weights` is of versions
/// before 0.3.
pub(super) const OPTIONS: [&str; 34] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "merge_weights",
    "modules_to_save",
    "monteclora_config",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
    "velora_config",
];

const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";
const BIAS: &str = "lora_B.bias";
const EMBEDDING_A: &str = "lora_embedding_A";
const EMBEDDING_B: &str = "lora_embedding_B";
const MAGNITUDE: &str = "lora_magnitude_vector";

/// The fields that change the merged weights. `fan_in_fan_out` is not one of them: PEFT sets it by the class of each layer,
/// and the weights of `Conv1D` are turned when they are read.
#[derive(Deserialize)]
struct Config {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    rank_pattern: OrderedMap<usize>,
    #[serde(default)]
    alpha_pattern: OrderedMap<f64>,
    #[serde(default)]
    use_dora: Option<bool>,
    #[serde(default)]
    lora_bias: Option<bool>,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(flatten)]
    unsupported: Unsupported,
}

/// Options that change the outputs where they are on, and are not merged.
#[derive(Deserialize)]
pub(super) struct Unsupported {
    #[serde(default)]
    layer_replication: Value,
    #[serde(default)]
    use_qalora: Option<bool>,
    #[serde(default)]
    use_bdlora: Value,
    #[serde(default)]
    alora_invocation_tokens: Value,
    #[serde(default)]
    arrow_config: Value,
    #[serde(default)]
    kasa_config: Value,
}

impl Unsupported {
    /// Names the first that is on.
    pub fn refuse(&self) -> Result<()> {
        refuse(&[
            ("use_qalora", self.use_qalora == Some(true)),
            ("layer_replication", is_on(&self.layer_replication)),
            ("use_bdlora", is_on(&self.use_bdlora)),
            ("alora_invocation_tokens", is_on(&self.alora_invocation_tokens)),
            ("arrow_config", is_on(&self.arrow_config)),
            ("kasa_config", is_on(&self.kasa_config)),
        ])
    }
}

/// Ways to begin that also change the base: weights that were saved afterwards belong to that other base.
const CHANGE_THE_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

impl Config {
    /// Names the first option that would change the outputs and that is not merged.
    fn refuse_unsupported(&self) -> Result<()> {
        self.unsupported.refuse()?;
        let begun = self.init_lora_weights.as_str().unwrap_or_default().to_lowercase();
        if CHANGE_THE_BASE.iter().any(|way| begun.starts_with(way)) {
            return Err(Error::unsupported(format!(
                "a LoRA that was begun by {begun} belongs to a base that this changed"
            ))
            .at("adapter_config.json: init_lora_weights")
            .hint("save it with path_initial_model_for_weight_conversion, which makes it a LoRA over the plain base"));
        }
        if self.use_dora == Some(true) && self.lora_bias == Some(true) {
            return Err(Error::bad_input("lora_bias does not combine with DoRA").at("adapter_config.json: lora_bias"));
        }
        Ok(())
    }

    fn strength(&self) -> Strength<'_> {
        Strength {
            rank: self.r,
            rank_pattern: &self.rank_pattern,
            alpha: (self.lora_alpha, "lora_alpha"),
            alpha_pattern: &self.alpha_pattern,
            divisor: if self.use_rslora { f64::sqrt } else { |rank| rank },
        }
    }
}

/// The change of one module.
pub(super) struct Change {
    /// `[r, inputs]`; of an embedding, `[r, tokens]`.
    pub a: Weight,
    /// `[outputs, r]`; of an embedding, `[width, r]`.
    pub b: Weight,
    /// The adapter's own strength.
    pub own: f32,
    /// The factor of the command line.
    pub given: f32,
    /// Whether the module is an embedding, whose weight is laid out the other way round.
    pub embedding: bool,
    /// DoRA's lengths.
    pub magnitude: Option<Weight>,
    /// The change of the bias.
    pub bias: Option<Weight>,
}

impl Change {
    /// The left factor of the product, as the weight is laid out.
    pub fn left(&self) -> Result<Weight> {
        if self.embedding { self.a.transpose() } else { Ok(self.b.clone()) }
    }

    /// Its right factor.
    pub fn right(&self) -> Result<Weight> {
        if self.embedding { self.b.transpose() } else { Ok(self.a.clone()) }
    }

    fn scale(&self) -> f32 {
        self.own * self.given
    }

    fn added_to(&self, base: &Weight) -> Result<Weight> {
        base.lora(&self.right()?, &self.left()?, self.scale())
    }
}

/// The changes of an adapter, by module.
pub(super) struct Changes {
    pub modules: BTreeMap<String, Change>,
    /// The largest rank that the configuration names.
    pub largest_rank: usize,
}

/// Reads the changes of an adapter. Fails where configuration and file contradict each other.
pub(super) fn changes(adapter: &Adapter) -> Result<Changes> {
    let config: Config = adapter.config()?;
    config.refuse_unsupported()?;
    let strength = config.strength();
    let mut modules = BTreeMap::new();
    for (module, parts) in &adapter.modules {
        let change = strength
            .of(module, adapter.scale)
            .and_then(|(rank, own)| change(&config, parts, rank, [own, adapter.scale]))
            .map_err(|e| e.at(adapter.location(module)))?;
        modules.insert(module.clone(), change);
    }
    Ok(Changes { modules, largest_rank: strength.largest_rank() })
}

fn change(config: &Config, parts: &Parts, rank: usize, [own, given]: [f32; 2]) -> Result<Change> {
    let embedding = parts.get(EMBEDDING_A).or(parts.get(EMBEDDING_B)).is_some();
    let (name_a, name_b) = if embedding { (EMBEDDING_A, EMBEDDING_B) } else { (A, B) };
    let (a, b) = (parts.need(name_a)?, parts.need(name_b)?);
    if a.shape().first() != Some(&rank) {
        let short = name_a.trim_end_matches(".weight");
        return Err(Error::bad_input(format!(
            "{short} has shape {:?}, but the configuration says rank {rank}",
            a.shape()
        )));
    }
    let as_configured = |part: &str, field: &str, set: bool| match (parts.get(part), set) {
        (Some(_), false) => Err(Error::bad_input(format!("{part} is there, and {field} is not set"))),
        (None, true) => Err(Error::bad_input(format!("{part} is missing, and {field} is set"))),
        (found, _) => Ok(found.cloned()),
    };
    Ok(Change {
        a: a.clone(),
        b: b.clone(),
        own,
        given,
        embedding,
        magnitude: as_configured(MAGNITUDE, "use_dora", config.use_dora == Some(true))?,
        bias: as_configured(BIAS, "lora_bias", config.lora_bias == Some(true))?,
    })
}

pub(super) fn merge(work: &mut Work, adapter: &Adapter) -> Result<()> {
    for (module, change) in changes(adapter)?.modules {
        merge_module(work, &module, &change).map_err(|e| e.at(adapter.location(&module)))?;
    }
    Ok(())
}

/// Merges the change of one module.
pub(super) fn merge_module(work: &mut Work, module: &str, change: &Change) -> Result<()> {
    let origin = work.origin(&work.name(module, "weight"))?.weight.clone();
    work.change(module, |base| {
        let changed = change.added_to(base)?;
        let Some(magnitude) = &change.magnitude else { return Ok(changed) };
        let like = if base.is(&origin) { changed.clone() } else { change.added_to(&origin)? };
        // One length for each output: the rows of a linear layer, the columns of an embedding.
        changed.renorm(&like, magnitude, usize::from(change.embedding))
    })?;
    if let Some(bias) = &change.bias {
        let name = work.name(module, "bias");
        let base = work.base(&name)?.weight.clone();
        work.put(&name, Weight::sum(vec![(1.0, base), (change.scale(), bias.clone())])?);
    }
    Ok(())
}
