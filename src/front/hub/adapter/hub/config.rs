//! The options of a bottleneck adapter, as `config` of its `adapter_config.json` has them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, Result, printable};
use crate::front::hub::adapter::options::refuse_unknown;
use crate::json;

/// How many times narrower an adapter is than the model.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number, or one for each layer")]
pub(super) enum Reduction {
    Everywhere(f64),
    ByLayer(BTreeMap<String, f64>),
}

/// Projections as sums of Kronecker products (arXiv 2106.04647): `Σᵢ ruleᵢ ⊗ Wᵢ`.
#[derive(Clone, Copy, Debug)]
pub struct Hypercomplex {
    /// Number of terms, and size of the rules.
    pub terms: usize,
    /// Rank of the weights that are products of two tensors.
    pub rank: usize,
    /// Whether the rule is a product of two tensors.
    pub rule_in_two: bool,
    /// Whether all layers share the rule.
    pub rule_shared: bool,
    /// Whether the weights are products of two tensors.
    pub weights_in_two: bool,
    /// Whether all layers share the weights.
    pub weights_shared: bool,
}

/// The part of a layer after which an adapter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Multi-head attention.
    Attention,
    /// The feed-forward block.
    FeedForward,
}

/// Where the residual around an adapter begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// Before the model's residual and norm.
    BeforeSum,
    /// Between the model's residual and its norm.
    AfterSum,
    /// After the model's norm.
    AfterNorm,
}

/// What an adapter's output is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// A number.
    Constant(f32),
    /// A trained number.
    Learned,
    /// A trained number for each channel.
    Channel,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, \"learned\" or \"channel\"")]
enum NumberOrWord {
    Number(f64),
    Word(String),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected true, false or \"post_add\"")]
enum FlagOrWord {
    Flag(bool),
    Word(String),
}

#[derive(Deserialize)]
struct Document {
    config: BTreeMap<String, serde_json::Value>,
}

/// Options that matter only while an adapter is trained.
const TRAINING: [&str; 9] = [
    "architecture",
    "dropout",
    "hypercomplex_nonlinearity",
    "init_weights",
    "init_weights_seed",
    "learn_phm",
    "phm_c_init",
    "phm_init_range",
    "stochastic_depth",
];

/// The other options. An unknown one is refused: it might change the outputs.
#[derive(Deserialize)]
pub(super) struct Config {
    mh_adapter: bool,
    output_adapter: bool,
    #[serde(default)]
    cross_adapter: bool,
    pub reduction_factor: Reduction,
    pub non_linearity: String,
    #[serde(default)]
    pub original_ln_before: bool,
    #[serde(default = "yes")]
    pub original_ln_after: bool,
    #[serde(default)]
    pub ln_before: bool,
    #[serde(default)]
    pub ln_after: bool,
    #[serde(default)]
    pub is_parallel: bool,
    #[serde(default = "one")]
    scaling: NumberOrWord,
    #[serde(default)]
    pub use_gating: bool,
    #[serde(default = "before")]
    residual_before_ln: FlagOrWord,
    #[serde(default)]
    pub adapter_residual_before_ln: bool,
    #[serde(default)]
    inv_adapter: Option<String>,
    #[serde(default)]
    inv_adapter_reduction_factor: Option<f64>,
    /// The field for both in versions before 2.0.
    #[serde(default)]
    invertible_adapter: Option<Invertible>,
    #[serde(default)]
    pub leave_out: Option<BTreeSet<usize>>,
    #[serde(default)]
    phm_layer: bool,
    #[serde(default = "four")]
    phm_dim: usize,
    #[serde(default = "yes", rename = "factorized_phm_W")]
    factorized_phm_w: bool,
    #[serde(default, rename = "shared_W_phm")]
    shared_w_phm: bool,
    #[serde(default = "yes")]
    shared_phm_rule: bool,
    #[serde(default)]
    factorized_phm_rule: bool,
    #[serde(default = "a_rank")]
    phm_rank: usize,
    /// The tensors show it too.
    #[serde(default, rename = "phm_bias")]
    _phm_bias: Option<IgnoredAny>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Invertible {
    block_type: String,
    reduction_factor: f64,
    #[serde(default, rename = "non_linearity")]
    _non_linearity: Option<IgnoredAny>,
}

/// The library's default.
fn yes() -> bool {
    true
}

/// The library's default.
fn four() -> usize {
    4
}

/// The library's default.
fn a_rank() -> usize {
    1
}

/// The library's default.
fn one() -> NumberOrWord {
    NumberOrWord::Number(1.0)
}

/// The library's default.
fn before() -> FlagOrWord {
    FlagOrWord::Flag(true)
}

/// Where the options are, for messages.
pub(super) const LOCATION: &str = "adapter_config.json: config";

/// The location of an option, for messages.
pub(super) fn at(option: &str) -> String {
    format!("{LOCATION}.{option}")
}

impl Config {
    pub fn read(text: &str) -> Result<Config> {
        let Document { mut config } = json::parse(text, "adapter_config.json")?;
        config.retain(|option, _| !TRAINING.contains(&option.as_str()));
        let config: Config = json::from_value(config.into_iter().collect(), LOCATION)?;
        refuse_unknown(&config.rest, LOCATION)?;
        Ok(config)
    }

    pub fn places(&self) -> Result<Vec<Place>> {
        if self.cross_adapter {
            return Err(Error::unsupported("adapters after cross-attention are not supported").at(at("cross_adapter")));
        }
        let places = [(self.mh_adapter, Place::Attention), (self.output_adapter, Place::FeedForward)];
        Ok(places.into_iter().filter(|(on, _)| *on).map(|(_, location)| location).collect())
    }

    pub fn scaling(&self) -> Result<Scaling> {
        match &self.scaling {
            NumberOrWord::Number(factor) if (*factor as f32).is_finite() => Ok(Scaling::Constant(*factor as f32)),
            NumberOrWord::Word(word) if word == "learned" => Ok(Scaling::Learned),
            NumberOrWord::Word(word) if word == "channel" => Ok(Scaling::Channel),
            NumberOrWord::Number(factor) => {
                Err(Error::bad_input(format!("{factor:e} is too large for f32")).at(at("scaling")))
            }
            NumberOrWord::Word(word) => {
                let message = format!("expected a number, \"learned\" or \"channel\", found `{}`", printable(word));
                Err(Error::bad_input(message).at(at("scaling")))
            }
        }
    }

    pub fn residual(&self) -> Result<Residual> {
        match &self.residual_before_ln {
            FlagOrWord::Flag(true) => Ok(Residual::BeforeSum),
            FlagOrWord::Flag(false) => Ok(Residual::AfterNorm),
            FlagOrWord::Word(word) if word == "post_add" && (self.original_ln_before || self.is_parallel) => {
                Ok(Residual::AfterSum)
            }
            FlagOrWord::Word(word) if word == "post_add" => {
                Err(Error::bad_input("\"post_add\" needs original_ln_before, which is off")
                    .at(at("residual_before_ln")))
            }
            FlagOrWord::Word(word) => {
                let message = format!("expected true, false or \"post_add\", found `{}`", printable(word));
                Err(Error::bad_input(message).at(at("residual_before_ln")))
            }
        }
    }

    pub fn hypercomplex(&self) -> Result<Option<Hypercomplex>> {
        if !self.phm_layer {
            return Ok(None);
        }
        if self.phm_dim == 0 {
            return Err(Error::bad_input("expected 1 or more, found 0").at(at("phm_dim")));
        }
        Ok(Some(Hypercomplex {
            terms: self.phm_dim,
            rank: self.phm_rank,
            rule_in_two: self.factorized_phm_rule,
            rule_shared: self.shared_phm_rule,
            weights_in_two: self.factorized_phm_w,
            weights_shared: self.shared_w_phm,
        }))
    }

    /// The kind of the invertible part and how much narrower it is inside.
    pub fn invertible(&self) -> Result<Option<f64>> {
        let legacy =
            self.invertible_adapter.as_ref().map(|part| (part.block_type.as_str(), Some(part.reduction_factor)));
        let named = self.inv_adapter.as_deref().map(|kind| (kind, self.inv_adapter_reduction_factor));
        match named.or(legacy) {
            None => Ok(None),
            Some(("nice", Some(factor))) => {
                positive(factor).map(Some).map_err(|e| e.at(at("inv_adapter_reduction_factor")))
            }
            Some(("nice", None)) => {
                Err(Error::bad_input("expected a number, found none").at(at("inv_adapter_reduction_factor")))
            }
            Some(("glow", _)) => {
                Err(Error::unsupported("invertible adapters of the kind glow are not supported").at(at("inv_adapter")))
            }
            Some((other, _)) => {
                Err(Error::bad_input(format!("unknown kind `{}`; known: nice", printable(other))).at(at("inv_adapter")))
            }
        }
    }
}

pub(super) fn positive(factor: f64) -> Result<f64> {
    match factor.is_finite() && factor > 0.0 {
        true => Ok(factor),
        false => Err(Error::bad_input(format!("expected a number above 0, found {factor}"))),
    }
}
