//! Adapters: small trained changes to a model, merged into its weights before the graph is drawn.

pub mod hub;
mod lora;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::checkpoint::{StateDict, json};
use crate::error::{Error, Result, nearest, printable};

/// An adapter on the command line: a folder and a factor, `DIR` or `DIR@SCALE`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSource {
    /// The folder that holds `adapter_config.json`.
    pub dir: PathBuf,
    /// What the adapter's own scale is multiplied by.
    pub scale: f32,
}

impl std::str::FromStr for AdapterSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<AdapterSource> {
        // A folder may have `@` in its name: what follows the last one is a scale only if it is a number.
        let scaled = text.rsplit_once('@').and_then(|(dir, scale)| Some((dir, scale.parse::<f32>().ok()?)));
        let (dir, scale) = scaled.unwrap_or((text, 1.0));
        if !scale.is_finite() {
            return Err(Error::bad_input(format!("--adapter {text}: the scale must be a finite number")));
        }
        Ok(AdapterSource { dir: PathBuf::from(dir), scale })
    }
}

/// What was merged, for the manifest and for those who ask.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// How many weights got a low-rank change.
    pub changed: usize,
    /// How many tensors of a bottleneck adapter went into the graph.
    pub inserted: usize,
    /// The tensors that the adapter brought whole, such as a classifier.
    pub saved: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    peft_type: String,
}

/// Types of adapter that PEFT knows, to tell a misspelling from one that kilnc does not merge.
const PEFT_TYPES: &[&str] = &[
    "ADALORA",
    "ADAPTION_PROMPT",
    "BOFT",
    "BONE",
    "C3A",
    "CPT",
    "FOURIERFT",
    "HRA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "LORA",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "RANDLORA",
    "SHIRA",
    "TRAINABLE_TOKENS",
    "VBLORA",
    "VERA",
    "XLORA",
];

/// Merges the adapter into the tensors, lazily. Fails, with `state` unchanged, where any part does not fit.
pub fn merge(state: &mut StateDict, source: &AdapterSource) -> Result<Merged> {
    let config_path = source.dir.join("adapter_config.json");
    if !config_path.is_file() {
        return Err(Error::bad_input(format!("{} holds no adapter_config.json", source.dir.display()))
            .hint("--adapter takes the folder that PEFT's save_pretrained or AdapterHub's save_adapter wrote"));
    }
    let text = json::read_text(&config_path)?;
    let Kind { peft_type } = json::parse(&text, "adapter_config.json")?;
    match peft_type.as_str() {
        "LORA" => lora::merge(state, source, &text, config_path),
        other if PEFT_TYPES.contains(&other) => {
            Err(Error::unsupported(format!("adapters of type {other} are not merged yet"))
                .at("adapter_config.json: peft_type")
                .hint("known: LORA"))
        }
        other => {
            let error = Error::bad_input(format!("unknown adapter type `{}`; known: LORA", printable(other)))
                .at("adapter_config.json: peft_type");
            Err(match nearest(&other.to_uppercase(), PEFT_TYPES.iter().copied()) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error,
            })
        }
    }
}

/// Whether the folder looks like an adapter.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join("adapter_config.json").is_file() || hub::is_hub(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_follows_the_last_at_sign() {
        let parse = |text: &str| text.parse::<AdapterSource>().unwrap();
        assert_eq!(parse("lora@0.7"), AdapterSource { dir: "lora".into(), scale: 0.7 });
        assert_eq!(parse("me@home"), AdapterSource { dir: "me@home".into(), scale: 1.0 });
        assert!("lora@inf".parse::<AdapterSource>().is_err());
    }
}
