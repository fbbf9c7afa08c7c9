//! The special tokens of a folder by their names, as `transformers` has them in `special_tokens_map`.

use serde::Deserialize;

use super::TokenizerUse;
use super::added::PARTS;
use super::options::Options;
use crate::error::Result;
use crate::front::folder::Folder;

/// The special tokens of a folder.
pub struct SpecialTokens {
    /// By the names of their parts.
    pub named: Vec<(String, String)>,
    /// Further ones.
    pub more: Vec<String>,
}

/// Reads the special tokens of the parts that have one, and further ones.
pub fn special_tokens(folder: &Folder) -> Result<SpecialTokens> {
    #[derive(Default, Deserialize)]
    struct Config {
        #[serde(default)]
        model_type: Option<String>,
        #[serde(default)]
        tokenizer_class: Option<String>,
    }
    let config: Config = if folder.has("config.json")? { folder.read("config.json")? } else { Config::default() };
    let usage = TokenizerUse {
        model_type: config.model_type.as_deref().unwrap_or_default(),
        class: config.tokenizer_class.as_deref(),
        ..TokenizerUse::default()
    };
    let options = Options::read(folder, &usage)?;
    let of_part = |part: &&str| Some(((*part).to_owned(), options.special(part)?.to_owned()));
    let more = options.beside.more.iter().flatten().filter_map(|special| special.content()).map(str::to_owned);
    Ok(SpecialTokens { named: PARTS.iter().filter_map(of_part).collect(), more: more.collect() })
}
