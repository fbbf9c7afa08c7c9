//! The special tokens that templates name.

use minijinja::Value;

/// A special token, or several, by the name that templates have for it: `bos_token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// The name.
    pub name: String,
    /// The tokens; one, but for `additional_special_tokens`.
    pub tokens: Vec<String>,
    /// Whether templates have a list of them.
    pub list: bool,
}

impl SpecialToken {
    pub(super) fn value(&self) -> Value {
        match (self.list, self.tokens.first()) {
            (false, Some(token)) => token.as_str().into(),
            _ => self.tokens.iter().map(String::as_str).collect(),
        }
    }
}
