//! The labels of tokens, and the entities that they make.

use super::entity::{Entity, OUTSIDE};
use super::groups::{self, Labelled, Token};
use crate::error::{Error, Result};
use crate::ports::PortKind;
use crate::runtime::{TextEncoder, softmax};
use crate::settings::{Aggregation, Settings};
use crate::task::batches::{self, Row, Tokenized};
use crate::task::characters::Characters;
use crate::task::model::Model;
use crate::task::prediction::Prediction;

/// Reads the entities of a text by the labels of its tokens.
pub(super) struct Tokens<'a> {
    pub encoder: &'a TextEncoder,
    pub model: &'a Model,
    pub settings: &'a Settings,
}

impl batches::Reader for Tokens<'_> {
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

impl Tokens<'_> {
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
