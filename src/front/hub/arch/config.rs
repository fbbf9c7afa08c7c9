//! Configurations: `config.json` as `transformers` 4 and 5 write it, over the defaults of a family's class where the
//! file is silent.

use std::cell::RefCell;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::blocks::{Activation, EncoderLayer, heads};
use super::known::unknown;
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::Size;
use crate::json;

const FILE: &str = "config.json";

/// The fields of rotary positions that version 4 has in place of `rope_parameters`.
const OLDER_ROPE: [&str; 2] = ["rope_scaling", "rope_theta"];

/// The fields of a configuration under the current names of its class, with the defaults of the class for those that the
/// file leaves out.
pub(super) struct Fields {
    fields: Map<String, Value>,
    warnings: RefCell<Vec<String>>,
}

/// What is read of a class of `transformers`.
pub(super) struct Class<'a> {
    /// The `model_type` of its configurations.
    pub model_type: &'a str,
    /// The defaults of its fields, as JSON.
    pub defaults: &'a str,
    /// Other names of fields, each with the one that counts.
    pub renamed: &'a [(&'a str, &'a str)],
    /// Whether its models are decoders.
    pub decoder: bool,
}

impl Fields {
    /// Reads the text of `config.json`. Fails, naming the field, where two fields contradict each other, and where one
    /// needs an option that no family supports.
    pub fn read(text: &str, class: &Class) -> Result<Fields> {
        let mut fields: Map<String, Value> = json::parse(text, FILE)?;
        for (other, name) in class.renamed {
            let Some(value) = fields.remove(*other) else { continue };
            match fields.insert((*name).to_owned(), value.clone()) {
                Some(known) if known != value => return Err(contradiction(other, &value, name, &known)),
                _ => {}
            }
        }
        let warnings = match class.decoder {
            false => Vec::new(),
            true => unknown(&fields).map(|name| format!("{FILE}: `{}` is not read", printable(name))).collect(),
        };
        let defaults: Map<String, Value> = serde_json::from_str(class.defaults)
            .map_err(|e| Error::bug(format!("the defaults of {}: {e}", class.model_type)))?;
        let has = |names: &[&str]| names.iter().any(|name| fields.get(*name).is_some_and(|value| !value.is_null()));
        // A file has rotary positions in one version's form; the class's own in the other would contradict it.
        let (newer, older) = (has(&["rope_parameters"]), has(&OLDER_ROPE));
        for (name, value) in defaults {
            let other = (newer && OLDER_ROPE.contains(&name.as_str())) || (older && name == "rope_parameters");
            if !other {
                fields.entry(name).or_insert(value);
            }
        }
        let fields = Fields { fields, warnings: RefCell::new(warnings) };
        fields.refuse_unsupported(class).map(|()| fields)
    }

    /// Those that a family reads.
    pub fn get<T: DeserializeOwned>(&self) -> Result<T> {
        json::from_fields(&self.fields, FILE)
    }

    /// One of them; its default, where the class has one and the file is silent, and null where it has none.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = self.fields.get(name).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|e| {
            Error::bad_input(format!("{FILE}: {name}: {}", crate::error::printable_sentence(&e.to_string())))
                .caused_by(e)
        })
    }

    /// Whether there is one of that name, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// A number of a size, where there is one.
    pub fn size(&self, name: &str) -> Option<usize> {
        self.fields.get(name)?.as_u64()?.try_into().ok()
    }

    /// Adds a warning about the configuration.
    pub fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The warnings, each once.
    pub fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }

    fn refuse_unsupported(&self, class: &Class) -> Result<()> {
        let refused = |field: &str, what: &str| Err(Error::unsupported(what).at(format!("{FILE}: {field}")));
        for field in ["is_decoder", "add_cross_attention", "is_encoder_decoder"] {
            match (self.fields.get(field), class.decoder) {
                (None | Some(Value::Null | Value::Bool(false)), _) => {}
                (Some(_), true) if field == "is_decoder" => {}
                (Some(_), true) => return refused(field, "attention to the outputs of an encoder is not built"),
                (Some(_), false) => return refused(field, "an encoder used as a decoder is not built"),
            }
        }
        let layers = [
            ("pruned_heads", "heads that are cut while the model is loaded are not built"),
            ("per_layer_config", "layers that differ in their sizes are not built"),
        ];
        for (field, what) in layers {
            let empty = match self.fields.get(field) {
                None | Some(Value::Null) => true,
                Some(Value::Object(entries)) => entries.is_empty(),
                Some(_) => false,
            };
            if !empty {
                return refused(field, what);
            }
        }
        Ok(())
    }
}

/// Warns that two fields with one meaning have different values.
pub(super) fn contradiction(field: &str, value: &Value, other: &str, other_value: &Value) -> Error {
    let [value, other_value] = [value, other_value].map(|value| printable(&json::sorted(value.clone()).to_string()));
    Error::bad_input(format!("`{field}` {value} and `{other}` {other_value} contradict each other"))
        .at(FILE)
        .hint("remove the one that the model was not trained with")
}

/// Sizes and options under BERT's names.
#[derive(Deserialize)]
pub(super) struct EncoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub type_vocab_size: usize,
    pub layer_norm_eps: f32,
    #[serde(default = "absolute")]
    position_embedding_type: Option<String>,
}

fn absolute() -> Option<String> {
    Some("absolute".to_owned())
}

/// Checks the epsilon of norms.
pub(super) fn epsilon(layer_norm_eps: f32) -> Result<f32> {
    epsilon_of("layer_norm_eps", layer_norm_eps)
}

/// The same of a field with another name.
pub(super) fn epsilon_of(field: &str, epsilon: f32) -> Result<f32> {
    match epsilon.is_finite() && epsilon >= 0.0 {
        true => Ok(epsilon),
        false => Err(Error::bad_input(format!("expected a small positive number, found {epsilon}"))
            .at(format!("{FILE}: {field}"))),
    }
}

impl EncoderConfig {
    /// Reads the fields, and refuses by name options that would change the outputs and are not supported.
    pub fn read(fields: &Fields) -> Result<EncoderConfig> {
        let config: EncoderConfig = fields.get()?;
        // Version 4 adds no positions at all where the field is null, and version 5 does not read it.
        if config.position_embedding_type.as_deref() != Some("absolute") {
            return Err(Error::unsupported("only absolute positions are built for this family")
                .at("config.json: position_embedding_type"));
        }
        epsilon(config.layer_norm_eps)?;
        Ok(config)
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> Size {
        Size { n: self.hidden_size, field: "hidden_size" }
    }

    /// Number of known tokens.
    pub fn vocabulary(&self) -> Size {
        Size { n: self.vocab_size, field: "vocab_size" }
    }

    /// Number of known positions.
    pub fn positions(&self) -> Size {
        Size { n: self.max_position_embeddings, field: "max_position_embeddings" }
    }

    /// Number of token types.
    pub fn token_types(&self) -> Size {
        Size { n: self.type_vocab_size, field: "type_vocab_size" }
    }

    /// The sizes of one layer.
    pub fn layer(&self) -> Result<EncoderLayer> {
        Ok(EncoderLayer {
            hidden: self.hidden(),
            inner: Size { n: self.intermediate_size, field: "intermediate_size" },
            heads: heads(self.num_attention_heads, self.hidden_size)?,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::hub::arch::FAMILIES;

    fn family(model_type: &str) -> &'static crate::front::hub::arch::Family {
        FAMILIES.iter().find(|family| family.model_type == model_type).unwrap()
    }

    #[test]
    fn every_family_has_defaults_for_all_sizes() {
        for family in FAMILIES {
            let fields = family.fields("{}").unwrap_or_else(|e| panic!("{}: {e}", family.model_type));
            assert!(fields.size("vocab_size").is_some(), "{}", family.model_type);
            for (other, name) in family.renamed {
                assert!(fields.fields.contains_key(*name), "{}: {other}", family.model_type);
            }
        }
        // Only ALBERT's class takes another non-linearity than the exact one.
        let act = |model_type| family(model_type).fields("{}").unwrap().get::<EncoderConfig>().unwrap().hidden_act;
        assert_eq!([act("albert"), act("bert")], [Activation::GeluNew, Activation::Gelu]);
    }

    /// Fields that the classes do not have, for which their code takes something.
    const OF_THE_CODE: [&str; 11] = [
        "position_buckets",
        "share_att_key",
        "conv_kernel_size",
        "conv_groups",
        "conv_act",
        "summary_proj_to_labels",
        // Version 4 has them as numbers in its code, or version 5 in `rope_parameters` and under another name.
        "swiglu_alpha",
        "swiglu_limit",
        "rope_scaling",
        "rope_theta",
        "num_experts",
    ];

    #[test]
    fn the_defaults_are_those_of_transformers() {
        for file in ["defaults-4.json", "defaults-5.json"] {
            let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
            let read = |place| -> std::collections::BTreeMap<String, Map<String, Value>> {
                json::read(&fixtures.join(place).join(file)).unwrap()
            };
            let classes: std::collections::BTreeMap<_, _> =
                ["families", "decoders"].into_iter().flat_map(read).collect();
            for family in FAMILIES {
                let Some(class) = classes.get(family.model_type) else {
                    assert_eq!((family.model_type, file), ("ministral3", "defaults-4.json"));
                    continue;
                };
                let ours: Map<String, Value> = serde_json::from_str(family.defaults).unwrap();
                for (field, value) in ours {
                    match class.get(&field) {
                        Some(theirs) => assert_eq!(theirs, &value, "{} {field} in {file}", family.model_type),
                        None => assert!(OF_THE_CODE.contains(&field.as_str()), "{} {field}", family.model_type),
                    }
                }
            }
        }
    }

    #[test]
    fn a_field_has_its_other_name_too() {
        let dim = |text: &str| family("distilbert").fields(text).map(|fields| fields.size("dim"));
        assert_eq!(dim(r#"{"hidden_size": 64}"#).unwrap(), Some(64));
        assert_eq!(dim(r#"{"hidden_size": 64, "dim": 64}"#).unwrap(), Some(64));
        assert_eq!(
            dim(r#"{"hidden_size": 64, "dim": 32}"#).unwrap_err().to_string(),
            "`hidden_size` 64 and `dim` 32 contradict each other\n  in config.json\n\n\
             hint: remove the one that the model was not trained with"
        );
    }

    #[test]
    fn options_that_no_family_supports_are_refused_by_field() {
        for family in FAMILIES {
            let said = |text: &str| family.fields(text).map(drop).map_err(|e| e.locations().join(""));
            for (field, value) in [
                ("add_cross_attention", "true"),
                ("is_encoder_decoder", "true"),
                ("pruned_heads", r#"{"0": [1]}"#),
                ("per_layer_config", r#"{"0": {"hidden_size": 8}}"#),
            ] {
                assert_eq!(said(&format!(r#"{{"{field}": {value}}}"#)), Err(format!("config.json: {field}")));
            }
            let decoder = said(r#"{"is_decoder": true}"#);
            assert_eq!(decoder.is_ok(), family.decoder.is_some(), "{}", family.model_type);
            let harmless = r#"{"is_decoder": false, "pruned_heads": {}, "chunk_size_feed_forward": 2, "dtype": "float16",
                               "torch_dtype": "float32", "bos_token_id": null, "classifier_dropout": null}"#;
            said(harmless).unwrap();
        }
    }
}
