//! The files of a tokenizer, and who reads them.

use serde_json::{Map, Value};

/// The file of the tokenizer.
pub const FILE: &str = "tokenizer.json";

/// The file with the arguments of the class.
pub(super) const CONFIG: &str = "tokenizer_config.json";

/// The file that numbered added tokens before [`CONFIG`] did.
pub(super) const ADDED: &str = "added_tokens.json";

/// The file with special tokens by their parts.
pub(super) const SPECIAL: &str = "special_tokens_map.json";

/// A version of `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 4, and versions before it.
    Four,
    /// 5.
    Five,
}

impl Version {
    pub fn number(self) -> u8 {
        if self == Version::Four { 4 } else { 5 }
    }

    pub fn other(self) -> Version {
        if self == Version::Four { Version::Five } else { Version::Four }
    }
}

/// The use of a tokenizer.
#[derive(Clone, Debug, Default)]
pub struct TokenizerUse<'a> {
    /// The model's family, whose class is taken where the files name none.
    pub model_type: &'a str,
    /// The class that the model's configuration names.
    pub class: Option<&'a str>,
    /// How many tokens the model has embeddings of.
    pub rows: Option<usize>,
    /// Whether the model reads token types.
    pub token_types: bool,
    /// Whether it reads pairs of texts.
    pub pairs: bool,
    /// Whether texts are put in lower case before all else.
    pub lower_case: bool,
    /// Arguments that go over those of the configuration.
    pub arguments: Map<String, Value>,
}
