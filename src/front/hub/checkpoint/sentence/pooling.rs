//! How the hidden states of a text become one vector, by a pooling's configuration.

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde_json::{Map, Value};

use super::fields::{only_known, yes};
use crate::error::{Error, Result};
use crate::json;

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Pooling {
    /// The first token.
    #[serde(rename = "cls")]
    FirstToken,
    /// The largest values over the tokens that are not padding.
    #[serde(rename = "max")]
    Max,
    /// The mean over the tokens that are not padding.
    #[serde(rename = "mean")]
    Mean,
    /// Their sum, divided by the root of their number.
    #[serde(rename = "mean_sqrt_len_tokens")]
    MeanSqrtLen,
    /// Their mean, each token counting as often as its position.
    #[serde(rename = "weightedmean")]
    WeightedMean,
    /// The last token that is not padding.
    #[serde(rename = "lasttoken")]
    LastToken,
}

/// The switches of versions before 5.4, in the order in which their vectors are concatenated.
const SWITCHES: [(&str, Pooling); 6] = [
    ("pooling_mode_cls_token", Pooling::FirstToken),
    ("pooling_mode_max_tokens", Pooling::Max),
    ("pooling_mode_mean_tokens", Pooling::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
    ("pooling_mode_lasttoken", Pooling::LastToken),
];

/// Fields that do not affect a text's vector.
const SIZES: [&str; 2] = ["embedding_dimension", "word_embedding_dimension"];

impl Pooling {
    /// The name of the mode, as sentence-transformers has it.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::FirstToken => "cls",
            Pooling::Max => "max",
            Pooling::Mean => "mean",
            Pooling::MeanSqrtLen => "mean_sqrt_len_tokens",
            Pooling::WeightedMean => "weightedmean",
            Pooling::LastToken => "lasttoken",
        }
    }
}

/// One mode or several, as `pooling_mode` has them since version 5.4.
#[derive(Deserialize)]
#[serde(untagged)]
enum Modes {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    pooling_mode: Option<Modes>,
    #[serde(default = "yes")]
    include_prompt: bool,
}

/// The modes of a configuration, in the order of their vectors, and whether the tokens of a prompt count.
pub(super) fn read(config: &Map<String, Value>) -> Result<(Vec<Pooling>, bool)> {
    let switches = SWITCHES.iter().map(|(name, _)| *name);
    only_known(
        config,
        &["pooling_mode", "include_prompt"].into_iter().chain(SIZES).chain(switches).collect::<Vec<_>>(),
    )?;
    let Config { pooling_mode, include_prompt } = json::from_value(Value::Object(config.clone()), "config.json")?;
    let modes = match pooling_mode {
        Some(Modes::One(name)) => vec![mode(&name)?],
        Some(Modes::Several(names)) => names.iter().map(|name| mode(name)).collect::<Result<_>>()?,
        None => switched_on(config)?,
    };
    match modes.is_empty() {
        true => Err(Error::bad_input("no mode of pooling is set")),
        false => Ok((modes, include_prompt)),
    }
}

fn mode(name: &str) -> Result<Pooling> {
    let known = SWITCHES.map(|(_, mode)| mode.name()).join(", ");
    Pooling::deserialize(StrDeserializer::<serde::de::value::Error>::new(name)).map_err(|_| {
        Error::unsupported(format!("the `pooling_mode` `{}` is not known", crate::error::printable(name)))
            .hint(format!("known: {known}"))
    })
}

/// The modes whose switches are on; the mean, where no switch is there.
fn switched_on(config: &Map<String, Value>) -> Result<Vec<Pooling>> {
    let mut modes = Vec::new();
    for (name, mode) in SWITCHES {
        let on = match config.get(name) {
            Some(value) => json::from_value(value.clone(), &format!("config.json: {name}"))?,
            None => mode == Pooling::Mean,
        };
        modes.extend(on.then_some(mode));
    }
    Ok(modes)
}
