//! Trained tokens: single rows of an embedding, replaced; as a kind of its own, or beside a LoRA.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Kind;
use super::file::Common;
use super::targets::ends_with;

use crate::error::{Error, Result};

/// The rows are put in place before any kind's own merge, so nothing is left to do.
pub(super) const KIND: Kind = Kind {
    peft_type: "TRAINABLE_TOKENS",
    marker: "trainable_tokens_",
    parts: &[],
    idle: &[],
    options: &[&["init_weights", "token_indices"]],
    scales: false,
    conv1d: true,
    merge: |_, _| Ok(()),
};

/// Tokens of the input embedding, or of embeddings by the ends of their names.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Tokens {
    /// Of the input embedding.
    Input(Vec<usize>),
    /// By embedding.
    Of(BTreeMap<String, Vec<usize>>),
}

impl Common {
    /// The tokens whose rows the file holds for an embedding, in the order of the rows.
    pub fn tokens_of(&self, module: &str) -> Result<Vec<usize>> {
        let found = match self.trainable_token_indices.as_ref().or(self.token_indices.as_ref()) {
            None => None,
            Some(Tokens::Input(tokens)) => Some(tokens),
            Some(Tokens::Of(by_name)) => by_name.iter().find(|(end, _)| ends_with(module, end)).map(|(_, t)| t),
        };
        found.cloned().ok_or_else(|| {
            Error::bad_input("the file holds rows of tokens, and the configuration does not say of which")
                .at("adapter_config.json: trainable_token_indices")
        })
    }
}
