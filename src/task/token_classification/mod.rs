//! Token classification: the entities of a text.

mod groups;
mod words;

use std::ops::Range;

use serde::Serialize;

use super::batches::{self, Row, Tokenized};
use super::model::Model;
use super::pipeline::{Pipeline, one};
use super::watch::{UNWATCHED, Watch};
use super::{Definition, Task, not_a_pair};
use super::{Predicted, Prediction};
use crate::error::{Error, Result};
use crate::ports::PortKind;
use crate::runtime::{TextEncoder, TextInput, softmax};
use crate::settings::{Aggregation, Settings};

use groups::{Labelled, Token};

pub use words::Word;

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

pub(super) struct TokenClassification;

impl Definition for TokenClassification {
    fn check(&self, input: TextInput) -> Result<()> {
        not_a_pair(Task::TokenClassification, input)
    }

    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let tokenized = pipeline.encode(inputs, watch)?;
        let (engine, parts) = pipeline.parts(watch);
        let head = Head { encoder: parts.encoder, model: parts.model, settings: parts.settings };
        parts.batches.run(engine, &tokenized, &head)
    }
}

impl Pipeline {
    /// Every word of a text with its label, whether it is part of an entity or not: words at the positions `given`, in
    /// characters and in order, each with the label of its first token; or those of the tokenizer, as the options'
    /// aggregation reads them. Fails where the model is not for token classification.
    pub fn words(&mut self, text: &str, given: Option<&[Range<usize>]>) -> Result<Predicted<Vec<Word>>> {
        let tokenized = self.tokenized(text.into(), Task::TokenClassification)?;
        let (engine, parts) = self.parts(&UNWATCHED);
        let tokens = Head { encoder: parts.encoder, model: parts.model, settings: parts.settings };
        one(parts.batches.run(engine, &[tokenized], &words::Head { tokens, given })?)
    }
}

struct Head<'a> {
    pub encoder: &'a TextEncoder,
    pub model: &'a Model,
    pub settings: &'a Settings,
}

impl batches::Head for Head<'_> {
    /// The tokens that the window decides, with the probability of each label.
    type Part = Vec<(usize, Vec<f32>)>;

    type Prediction = Prediction;

    fn read(&self, tokenized: &Tokenized, window: usize, row: &Row) -> Result<Self::Part> {
        let logits = row.per_token(PortKind::Logits)?;
        let labels = self.model.classes.labels.len();
        if let Some(row) = logits.first().filter(|logits| logits.len() != labels) {
            let logits = row.len();
            return Err(Error::bad_input(format!("the engine gives {logits} logits, but there are {labels} labels")));
        }
        let of_text = tokenized.owned(window).filter(|(token, _)| !tokenized.encoded.is_special(*token));
        Ok(of_text.filter_map(|(token, at)| Some((token, softmax(logits.get(at)?)))).collect())
    }

    fn join(&self, tokenized: &Tokenized, parts: Vec<Self::Part>) -> Result<Prediction> {
        let text = Characters::of(tokenized.input.text);
        let (numbers, tokens) = self.scored(tokenized, &text, parts);
        let aggregation = self.settings.aggregation();
        let entities = match aggregation {
            Aggregation::None => self.single(&numbers, &tokens),
            Aggregation::Simple => self.grouped(&tokens.iter().map(groups::labelled).collect::<Vec<_>>())?,
            _ => self.grouped(&self.named(groups::words(&tokens, aggregation))?)?,
        };
        Ok(Prediction::Entities { entities: entities.into_iter().filter(|entity| entity.label() != OUTSIDE).collect() })
    }
}

impl Head<'_> {
    /// The tokens of a text with their numbers, in their order.
    pub fn scored(
        &self,
        tokenized: &Tokenized,
        text: &Characters,
        parts: Vec<Vec<(usize, Vec<f32>)>>,
    ) -> (Vec<usize>, Vec<Token>) {
        let mut scored: Vec<(usize, Vec<f32>)> = parts.into_iter().flatten().collect();
        scored.sort_by_key(|(token, _)| *token);
        scored.into_iter().map(|(token, scores)| (token, self.token(tokenized, text, token, scores))).unzip()
    }

    /// The name of the label of that number.
    pub fn label(&self, number: usize) -> String {
        self.model.classes.labels.get(number).cloned().unwrap_or_default()
    }

    fn token(&self, tokenized: &Tokenized, text: &Characters, token: usize, scores: Vec<f32>) -> Token {
        let (start, end) = tokenized.encoded.offsets(token);
        let id = tokenized.encoded.id(token);
        let (written, known) = (text.slice(start, end), id.map(|id| self.encoder.token(id)).unwrap_or_default());
        let unknown = id.is_some() && id == self.encoder.unknown();
        let goes_on = match self.encoder.marks_subwords() {
            _ if unknown => false,
            // Its mark is not in the text.
            true => known.chars().count() != written.chars().count(),
            // Only spaces define words here.
            false => start > 0 && !text.slice(start - 1, start + 1).contains(' '),
        };
        Token { word: if unknown { written.to_owned() } else { known }, scores, start, end, goes_on }
    }

    fn single(&self, numbers: &[usize], tokens: &[Token]) -> Vec<Entity> {
        let one = |(index, token): (&usize, &Token)| {
            let Labelled { label, score, start, end, .. } = groups::labelled(token);
            Entity::Token { entity: self.label(label), score, index: *index, word: token.word.clone(), start, end }
        };
        numbers.iter().zip(tokens).map(one).collect()
    }

    /// Words with their text in place of their tokens.
    fn named(&self, words: Vec<Labelled>) -> Result<Vec<Labelled>> {
        let texts = self.encoder.joined(words.iter().map(|word| word.words.clone()).collect())?;
        Ok(words.into_iter().zip(texts).map(|(word, text)| Labelled { words: vec![text], ..word }).collect())
    }

    fn grouped(&self, parts: &[Labelled]) -> Result<Vec<Entity>> {
        let groups = groups::groups(parts, &self.model.classes.labels);
        let texts = self.encoder.joined(groups.iter().map(|group| group.words.clone()).collect())?;
        let named = groups.into_iter().zip(texts).map(|(group, word)| {
            let Labelled { label, score, start, end, .. } = group;
            let entity_group = groups::group_name(&self.label(label)).to_owned();
            Entity::Group { entity_group, score, word, start, end }
        });
        Ok(named.collect())
    }
}

/// A text by the numbers of its characters.
pub(super) struct Characters<'a> {
    text: &'a str,
    /// Where each begins, in bytes.
    starts: Vec<usize>,
}

impl<'a> Characters<'a> {
    pub fn of(text: &'a str) -> Characters<'a> {
        Characters { text, starts: text.char_indices().map(|(start, _)| start).collect() }
    }

    /// The characters from `start` up to `end`, as far as there are.
    pub fn slice(&self, start: usize, end: usize) -> &'a str {
        let byte = |character: usize| self.starts.get(character).copied().unwrap_or(self.text.len());
        self.text.get(byte(start)..byte(end)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_and_not_bytes() {
        let text = Characters::of("aé🦀東");
        assert_eq!((text.slice(1, 3), text.slice(2, 9), text.slice(3, 2), text.slice(9, 10)), ("é🦀", "🦀東", "", ""));
    }
}
