//! An entity of a text.

use serde::Serialize;

/// The label outside of entities.
pub(super) const OUTSIDE: &str = "O";

/// An entity of a text, as in the Hub's `token-classification`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Entity {
    /// One or more words.
    Group {
        /// The label, without a token's position in the entity.
        entity_group: String,
        /// From 0 to 1: the mean over its tokens or words.
        score: f32,
        /// Its tokens as text, which may differ from the text's own.
        word: String,
        /// Where it begins, in characters.
        start: usize,
        /// Where it ends, in characters.
        end: usize,
    },
    /// A token by itself.
    Token {
        /// The label.
        entity: String,
        /// From 0 to 1.
        score: f32,
        /// The index of the token.
        index: usize,
        /// The token, as in the vocabulary.
        word: String,
        /// Where it begins, in characters.
        start: usize,
        /// Where it ends, in characters.
        end: usize,
    },
}

impl Entity {
    /// The label.
    pub fn label(&self) -> &str {
        match self {
            Entity::Group { entity_group, .. } => entity_group,
            Entity::Token { entity, .. } => entity,
        }
    }

    /// How sure it is, from 0 to 1.
    pub fn score(&self) -> f32 {
        match self {
            Entity::Group { score, .. } | Entity::Token { score, .. } => *score,
        }
    }

    /// Its tokens as text.
    pub fn word(&self) -> &str {
        match self {
            Entity::Group { word, .. } | Entity::Token { word, .. } => word,
        }
    }

    /// Where it begins and ends, in characters.
    pub fn position(&self) -> (usize, usize) {
        match self {
            Entity::Group { start, end, .. } | Entity::Token { start, end, .. } => (*start, *end),
        }
    }
}
