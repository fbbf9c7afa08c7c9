//! What a checkpoint says of generation: `generation_config.json`, and `config.json` where it is silent.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{Checkpoint, GENERATION as FILE};
use crate::error::{Error, Result};
use crate::json;
use crate::presence;
use crate::settings::Strategy;

/// The fields of `config.json` that bound the length of a text, by families.
const POSITIONS: [&str; 2] = ["n_positions", "max_position_embeddings"];

/// The tokens of a family's class that begin a text, end it, and fill up a batch, where `config.json` does not name them.
struct ClassTokens {
    bos: Option<u32>,
    eos: &'static [u32],
    pad: Option<u32>,
}

const fn class(bos: u32, eos: &'static [u32], pad: Option<u32>) -> ClassTokens {
    ClassTokens { bos: Some(bos), eos, pad }
}

const CLASS_TOKENS: [(&str, ClassTokens); 19] = [
    ("bloom", class(1, &[2], None)),
    ("cohere", class(5, &[255_001], Some(0))),
    ("gemma", class(2, &[1], Some(0))),
    ("gemma2", class(2, &[1], Some(0))),
    ("gemma3_text", class(2, &[1], Some(0))),
    ("glm4", ClassTokens { bos: None, eos: &[151_329, 151_336, 151_338], pad: Some(151_329) }),
    ("gpt2", class(50_256, &[50_256], None)),
    ("gpt_neox", class(0, &[2], None)),
    ("granite", class(1, &[2], None)),
    ("lfm2", class(1, &[2], Some(0))),
    ("llama", class(1, &[2], None)),
    ("ministral3", class(1, &[2], Some(11))),
    ("mistral", class(1, &[2], None)),
    ("olmo2", ClassTokens { bos: None, eos: &[50_279], pad: Some(1) }),
    ("opt", class(2, &[2], Some(1))),
    ("phi", class(1, &[2], None)),
    ("phi3", class(1, &[32_000], Some(32_000))),
    ("smollm3", class(128_000, &[128_001], Some(128_004))),
    ("starcoder2", class(50_256, &[50_256], None)),
];

/// Fields that change which tokens come next, with the values that change nothing.
const CHANGING: [(&str, &[Neutral]); 13] = [
    ("num_beam_groups", &[Neutral::Number(1.0)]),
    ("penalty_alpha", &[Neutral::Number(0.0)]),
    ("encoder_repetition_penalty", &[Neutral::Number(1.0)]),
    ("encoder_no_repeat_ngram_size", &[Neutral::Number(0.0)]),
    ("force_words_ids", &[]),
    ("constraints", &[]),
    ("forced_decoder_ids", &[]),
    ("sequence_bias", &[]),
    ("exponential_decay_length_penalty", &[]),
    ("guidance_scale", &[Neutral::Number(1.0)]),
    ("epsilon_cutoff", &[Neutral::Number(0.0)]),
    ("eta_cutoff", &[Neutral::Number(0.0)]),
    ("watermarking_config", &[]),
];

/// A value that changes nothing; `null` and empty lists never do.
enum Neutral {
    Number(f64),
}

/// Fields of [`Strategy`] with values that change nothing, which are left out.
const NEUTRAL: [(&str, f64); 10] = [
    ("temperature", 1.0),
    ("top_k", 50.0),
    ("top_p", 1.0),
    ("num_beams", 1.0),
    ("repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("typical_p", 1.0),
    ("length_penalty", 1.0),
];

/// Fields of [`Strategy`] that are of kilnc's own or of other programs', and not read of a checkpoint.
const OURS: [&str; 3] = ["seed", "presence_penalty", "frequency_penalty"];

/// What generation needs to know of a model beside its graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationConfig {
    /// The tokens that end a text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eos: Vec<u32>,
    /// The token that begins a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<u32>,
    /// The token that fills up a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<u32>,
    /// Most tokens of a text, the prompt among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// How the tokens are chosen.
    #[serde(default, skip_serializing_if = "Strategy::is_empty")]
    pub strategy: Strategy,
    /// Fields of `generation_config.json` that change which tokens come next, and that kilnc does not apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_applied: Vec<String>,
}

/// The tokens that a file names. A file that is silent differs from one that says null.
#[derive(Deserialize, Default)]
struct Tokens {
    #[serde(default, deserialize_with = "said")]
    eos_token_id: Option<Ids>,
    #[serde(default, deserialize_with = "said")]
    bos_token_id: Option<Ids>,
    #[serde(default, deserialize_with = "said")]
    pad_token_id: Option<Ids>,
}

/// No token, one, or several.
struct Ids(Vec<u32>);

fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ids>, D::Error> {
    Ids::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ids, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match &value {
            Value::Null => Some(Vec::new()),
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.map(Ids)
            .ok_or_else(|| serde::de::Error::custom(format!("expected a token id or a list of them, not {value}")))
    }
}

impl Ids {
    /// The only one; fails where there are several, naming the field.
    fn one(self, file: &str, field: &str) -> Result<Option<u32>> {
        match self.0.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            _ => Err(Error::bad_input(format!("{file}: {field}: expected one token id, not a list"))),
        }
    }
}

impl GenerationConfig {
    /// Reads what a checkpoint says, and the file that says it where there is one beside `config.json`. A field of
    /// `generation_config.json` counts where it is there and not null; else that of `config.json` does. Fails where a field has another
    /// type than it has in `transformers`, naming file and field.
    pub fn read(checkpoint: &Checkpoint) -> Result<(GenerationConfig, Option<PathBuf>)> {
        let own = if checkpoint.encoder.has(FILE)? { Some(checkpoint.encoder.text(FILE)?) } else { None };
        let path = own.as_ref().and_then(|_| checkpoint.encoder.file(FILE));
        let model_type = checkpoint.common.model_type.as_deref().unwrap_or_default();
        let config = GenerationConfig::of(own.as_deref(), &checkpoint.config, model_type)?;
        Ok((config, path))
    }

    /// What the files in a folder say, those of them that are there.
    pub fn beside(dir: &Path) -> Result<GenerationConfig> {
        let text = |name: &str| {
            let path = dir.join(name);
            if presence::has_file(&path)? { json::read_text(&path).map(Some) } else { Ok(None) }
        };
        let config = text(CONFIG)?.unwrap_or_else(|| "{}".to_owned());
        let model_type = fields(&config, CONFIG)?.get("model_type").and_then(Value::as_str).map(str::to_owned);
        GenerationConfig::of(text(FILE)?.as_deref(), &config, &model_type.unwrap_or_default())
    }

    /// The same after a vocabulary was cut, by the ids of now. Tokens that are gone mean nothing any more.
    pub fn renumbered(self, numbers: &HashMap<u32, u32>) -> GenerationConfig {
        let now = |id: u32| numbers.get(&id).copied();
        GenerationConfig {
            eos: self.eos.into_iter().filter_map(now).collect(),
            bos: self.bos.and_then(now),
            pad: self.pad.and_then(now),
            strategy: self.strategy.renumbered(now),
            ..self
        }
    }

    fn of(own: Option<&str>, config: &str, model_type: &str) -> Result<GenerationConfig> {
        let own =
            own.map(|text| Ok::<_, Error>((json::parse::<Tokens>(text, FILE)?, fields(text, FILE)?))).transpose()?;
        let (own, changing) = own.unwrap_or_default();
        let model: Tokens = json::parse(config, CONFIG)?;
        let of_model = fields(config, CONFIG)?;
        let class = CLASS_TOKENS.iter().find(|(of, _)| *of == model_type).map(|(_, tokens)| tokens);
        let silent = |field: &str| class.filter(|_| !of_model.contains_key(field));
        let first = |own: Option<Ids>, model: Option<Ids>, field: &str| -> Result<Option<u32>> {
            let own = own.map_or(Ok(None), |ids| ids.one(FILE, field))?;
            let model = model.map_or(Ok(None), |ids| ids.one(CONFIG, field))?;
            Ok(own.or(model))
        };
        let eos = own.eos_token_id.filter(|ids| !ids.0.is_empty()).or(model.eos_token_id).map(|ids| ids.0);
        let eos = eos.unwrap_or_else(|| silent("eos_token_id").map(|class| class.eos.to_vec()).unwrap_or_default());
        let bos = first(own.bos_token_id, model.bos_token_id, "bos_token_id")?;
        let bos = bos.or(silent("bos_token_id").and_then(|class| class.bos));
        let pad = first(own.pad_token_id, model.pad_token_id, "pad_token_id")?;
        let pad = pad.or(silent("pad_token_id").and_then(|class| class.pad));
        let positions = POSITIONS.iter().find_map(|field| Some((*field, of_model.get(*field)?)));
        let positions = positions.filter(|(_, value)| !value.is_null()).map(|(field, value)| {
            let n = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
            n.ok_or_else(|| Error::bad_input(format!("{CONFIG}: {field}: expected a number of positions, not {value}")))
        });
        let positions = positions.transpose()?.filter(|_| !grows(&of_model));
        let not_applied = not_applied(&changing);
        Ok(GenerationConfig { eos, bos, pad, positions, strategy: strategy(&changing)?, not_applied })
    }
}

/// Whether the base of rotary positions grows with a text: there are more positions then than the configuration says.
fn grows(config: &Map<String, Value>) -> bool {
    let parameters = ["rope_parameters", "rope_scaling"].into_iter().filter_map(|field| config.get(field));
    let kinds = parameters.flat_map(|parameters| [parameters.get("rope_type"), parameters.get("type")]);
    kinds.flatten().any(|kind| kind == "dynamic")
}

const CONFIG: &str = "config.json";

fn fields(text: &str, file: &str) -> Result<Map<String, Value>> {
    json::parse(text, file)
}

/// The fields that change which tokens come next.
fn not_applied(fields: &Map<String, Value>) -> Vec<String> {
    let changes = |(name, neutral): &&(&str, &[Neutral])| {
        fields.get(*name).is_some_and(|value| {
            let is = |neutral: &Neutral| match neutral {
                Neutral::Number(of) => value.as_f64() == Some(*of),
            };
            !(value.is_null() || value.as_array().is_some_and(Vec::is_empty) || neutral.iter().any(is))
        })
    };
    CHANGING.iter().filter(changes).map(|(name, _)| (*name).to_owned()).collect()
}

/// How tokens are chosen, by the fields of `generation_config.json`. Fails where one has another type or a value that means
/// nothing, naming it.
fn strategy(fields: &Map<String, Value>) -> Result<Strategy> {
    let known = serde_json::to_value(Strategy::all()).map_err(|e| Error::bug(format!("a strategy: {e}")))?;
    let neutral = |name: &str, value: &Value| {
        let is = NEUTRAL.iter().any(|(field, of)| *field == name && value.as_f64() == Some(*of));
        is || value.is_null() || value.as_array().is_some_and(Vec::is_empty) || *value == Value::Bool(false)
    };
    let mut strategy = Strategy::default();
    for (name, value) in fields {
        let is_ours = OURS.contains(&name.as_str());
        if is_ours || known.get(name).is_none() || neutral(name, value) {
            continue;
        }
        let one = Map::from_iter([(name.clone(), value.clone())]);
        let read: Strategy = serde_json::from_value(Value::Object(one))
            .map_err(|e| Error::bad_input(format!("{FILE}: {name}: {value}: {e}")))?;
        strategy = read.over(strategy);
    }
    // What a file says of drawing and of beams counts where the user draws or searches, too.
    strategy.check().map_err(|e| e.at(FILE))?;
    Ok(strategy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(own: Option<&str>, config: &str) -> Result<GenerationConfig> {
        GenerationConfig::of(own, config, "gpt2")
    }

    #[test]
    fn the_file_for_generation_counts_before_the_configuration() {
        let config = r#"{"eos_token_id": 5, "bos_token_id": 6, "pad_token_id": null, "n_positions": 64}"#;
        let alone = of(None, config).unwrap();
        assert_eq!((alone.eos, alone.bos, alone.pad, alone.positions), (vec![5], Some(6), None, Some(64)));
        let own = of(Some(r#"{"eos_token_id": [7, 8], "pad_token_id": 0, "bos_token_id": null}"#), config).unwrap();
        assert_eq!((own.eos, own.bos, own.pad, own.positions), (vec![7, 8], Some(6), Some(0), Some(64)));
        // A missing field has the default of its class; null is a value.
        let class = of(None, "{}").unwrap();
        assert_eq!((class.eos, class.bos, class.positions), (vec![50256], Some(50256), None));
        assert_eq!(of(None, r#"{"eos_token_id": null, "bos_token_id": null}"#).unwrap(), GenerationConfig::default());
        assert_eq!(GenerationConfig::of(None, "{}", "openai-gpt").unwrap(), GenerationConfig::default());
        let glm = GenerationConfig::of(None, "{}", "glm4").unwrap();
        assert_eq!((glm.eos, glm.bos, glm.pad), (vec![151_329, 151_336, 151_338], None, Some(151_329)));
    }

    #[test]
    fn fields_of_other_types_are_refused_by_name() {
        let said = |own: &str, config: &str| of(Some(own), config).unwrap_err().message().to_owned();
        let expected = |what: &str| format!("expected a token id or a list of them, not {what}");
        for what in ["true", "-1", "1.5", "\"</s>\"", "4294967296", "[1,null]", "{}"] {
            let own = format!(r#"{{"eos_token_id": {what}}}"#);
            let (of_own, of_class) = (said(&own, "{}"), said("{}", &own));
            let expected = expected(what);
            assert!(of_own.starts_with(&format!("generation_config.json: eos_token_id: {expected}")), "{of_own}");
            assert!(of_class.starts_with(&format!("config.json: eos_token_id: {expected}")), "{of_class}");
        }
        let list = said(r#"{"pad_token_id": [1, 2]}"#, "{}");
        assert!(list.starts_with("generation_config.json: pad_token_id: expected one token id, not a list"), "{list}");
        let positions = said("{}", r#"{"n_positions": "many"}"#);
        let expected = "config.json: n_positions: expected a number of positions, not \"many\"";
        assert!(positions.starts_with(expected), "{positions}");
    }

    #[test]
    fn fields_that_would_change_the_tokens_are_named() {
        let neutral = r#"{"do_sample": false, "num_beams": 1, "repetition_penalty": 1.0, "suppress_tokens": [],
            "temperature": 1.0, "bad_words_ids": null, "max_length": 50, "epsilon_cutoff": 0.0, "top_k": 50}"#;
        let found = of(Some(neutral), "{}").unwrap();
        assert!(found.not_applied.is_empty() && found.strategy.is_empty(), "{found:?}");
        let changing = r#"{"guidance_scale": 1.2, "sequence_bias": [[[3], 1.0]], "penalty_alpha": 0.6}"#;
        let found = of(Some(changing), "{}").unwrap().not_applied;
        assert_eq!(found, ["penalty_alpha", "sequence_bias", "guidance_scale"]);
    }

    /// As in `transformers`, where `generate(do_sample=True)` changes that field alone.
    #[test]
    fn what_a_file_says_of_drawing_and_beams_counts_where_the_user_chooses_them() {
        let own = r#"{"do_sample": false, "temperature": 0.6, "top_p": 0.9, "length_penalty": 0.5}"#;
        let file = of(Some(own), "{}").unwrap().strategy;
        assert!(!file.samples());
        let flag: Strategy = serde_json::from_str(r#"{"do_sample": true}"#).unwrap();
        let drawn = flag.over(file.clone());
        assert_eq!((drawn.samples(), drawn.temperature, drawn.top_p), (true, Some(0.6), Some(0.9)));
        let flag: Strategy = serde_json::from_str(r#"{"num_beams": 4}"#).unwrap();
        assert_eq!(flag.over(file).length_penalty, Some(0.5));
    }

    #[test]
    fn the_strategy_is_that_of_the_file() {
        let own = r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2, "bos_token_id": 1,
            "suppress_tokens": [3], "min_length": 5, "forced_eos_token_id": [2], "transformers_version": "4.57.6"}"#;
        let found = serde_json::to_value(of(Some(own), "{}").unwrap().strategy).unwrap();
        let expected = serde_json::json!({
            "do_sample": true, "temperature": 0.6f32, "top_p": 0.9f32, "repetition_penalty": 1.2f32, "min_length": 5,
            "suppress_tokens": [3], "forced_eos_token_id": [2]
        });
        assert_eq!(found, expected);
        let beams = r#"{"num_beams": 4, "early_stopping": "never", "length_penalty": 0.8, "top_k": 5}"#;
        let found = of(Some(beams), "{}").unwrap().strategy;
        assert_eq!((found.beams(), found.length_penalty, found.top_k), (4, Some(0.8), Some(5)));
        let said = |own: &str| of(Some(own), "{}").unwrap_err().to_string();
        assert!(
            said(r#"{"num_beams": "many"}"#).starts_with("generation_config.json: num_beams: \"many\": invalid type")
        );
        assert!(
            said(r#"{"do_sample": true, "top_p": 2.0}"#).contains("top_p: expected more than 0 and at most 1, found 2")
        );
    }
}
