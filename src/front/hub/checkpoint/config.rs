//! What `config.json` says of any model.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// The fields of `config.json` that every model has.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CommonConfig {
    /// The family, e.g. `bert`.
    pub model_type: Option<String>,
    /// The classes of `transformers` that the weights were saved from.
    #[serde(default)]
    pub architectures: Option<Vec<String>>,
    /// A classifier's labels, by class.
    #[serde(default, deserialize_with = "scalars")]
    pub id2label: Option<Names>,
    /// A classifier's classes, by label.
    #[serde(default, deserialize_with = "scalars")]
    pub label2id: Option<Names>,
    /// How many classes a classifier has, where no labels are listed.
    #[serde(default)]
    pub num_labels: Option<usize>,
    /// The classes of a checkpoint's own code, by the auto classes of `transformers` that they serve.
    #[serde(default)]
    pub auto_map: Option<BTreeMap<String, Value>>,
    /// A classifier's problem type, where it is stated.
    #[serde(default)]
    pub problem_type: Option<StatedProblem>,
    /// The settings of a cross-encoder by sentence-transformers.
    #[serde(default)]
    pub sentence_transformers: Option<CrossEncoder>,
    /// The same before its version 4.
    #[serde(default)]
    pub sbert_ce_default_activation_function: Option<String>,
    /// Size of the vocabulary.
    #[serde(default)]
    pub vocab_size: Option<usize>,
    /// Longest sequence that the positions cover, in tokens.
    #[serde(default)]
    pub max_position_embeddings: Option<usize>,
    /// How the weights were quantized, where they were.
    #[serde(default)]
    pub quantization_config: Option<Map<String, Value>>,
    /// The same by the name that compressed-tensors had for it first.
    #[serde(default)]
    pub compression_config: Option<Map<String, Value>>,
}

/// A classifier's problem type, by the names of `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatedProblem {
    /// One of the labels.
    SingleLabelClassification,
    /// Any number of the labels.
    MultiLabelClassification,
    /// Numbers.
    Regression,
}

/// The settings of a cross-encoder in config.json, by sentence-transformers.
#[derive(Clone, Debug, Deserialize)]
pub struct CrossEncoder {
    /// The class in `torch.nn` of the activation of the logits.
    #[serde(default)]
    pub activation_fn: Option<String>,
}

impl CommonConfig {
    /// The class of a cross-encoder's activation, where it is stated.
    pub fn cross_encoder_activation(&self) -> Option<&str> {
        let current = self.sentence_transformers.as_ref().and_then(|kept| kept.activation_fn.as_ref());
        current.or(self.sbert_ce_default_activation_function.as_ref()).map(String::as_str)
    }

    /// The models of a checkpoint's own code.
    pub fn own_classes(&self) -> impl Iterator<Item = &str> {
        let models = self.auto_map.iter().flatten().filter(|(stands_for, _)| stands_for.starts_with("AutoModel"));
        models.filter_map(|(_, class)| class.as_str())
    }
}

/// The entries of an object whose values are texts, numbers or truth values, as texts; none is null.
pub type Names = BTreeMap<String, Option<String>>;

/// Reads [`Names`].
pub(super) fn scalars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Names>, D::Error> {
    let Some(entries) = Option::<BTreeMap<String, Scalar>>::deserialize(deserializer)? else { return Ok(None) };
    Ok(Some(entries.into_iter().map(|(key, Scalar(value))| (key, value)).collect()))
}

/// A text, a number, a truth value or null.
struct Scalar(Option<String>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match name(&value) {
            Some(name) => Ok(Scalar(Some(name))),
            None if value.is_null() => Ok(Scalar(None)),
            None => Err(serde::de::Error::custom("expected a text or a number")),
        }
    }
}

/// The label of a JSON value.
pub(super) fn name(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
