//! Text classification: the labels of a text.

mod labels;
mod score;

use super::batches::{self, Row, Tokenized, mean};
use super::definition::Definition;
use super::id::Task;
use super::model::Model;
use super::pipeline::{Pipeline, one};
use super::prediction::{Predicted, Prediction};
use super::scoring::{self, Scoring, ScoringRequest};
use super::watch::{UNWATCHED, Watch};
use crate::error::Result;
use crate::ports::PortKind;
use crate::runtime::{Classes, TextInput};
use crate::settings::{Join, Settings};

pub use labels::Labels;

pub(super) struct TextClassification;

impl Definition for TextClassification {
    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let tokenized = pipeline.encode(inputs, watch)?;
        let (engine, parts) = pipeline.parts(watch);
        parts.batches.run(engine, &tokenized, &Scores::new(parts.model, parts.settings))
    }

    fn rows(&self) -> &'static str {
        score::ROWS
    }

    fn scoring(&self, request: &ScoringRequest) -> Result<Box<dyn Scoring>> {
        Ok(scoring::of(score::LabelledTexts::read(request)?))
    }
}

impl Pipeline {
    /// The logits of a text or a pair. One that is read in several windows has those whose scores are the joined scores of
    /// its windows become; their sum is not known, which changes no score. Fails where the model is not for text
    /// classification.
    pub fn logits(&mut self, input: TextInput) -> Result<Predicted<Vec<f32>>> {
        let tokenized = self.tokenized(input, Task::TextClassification)?;
        let (engine, parts) = self.parts(&UNWATCHED);
        one(parts.batches.run(engine, &[tokenized], &Logits(Scores::new(parts.model, parts.settings)))?)
    }
}

/// Reads the scores of labels.
struct Scores<'a> {
    classes: &'a Classes,
    join: Join,
    top_k: Option<usize>,
}

impl<'a> Scores<'a> {
    fn new(model: &'a Model, settings: &Settings) -> Scores<'a> {
        Scores { classes: &model.classes, join: settings.join.unwrap_or_default(), top_k: settings.top_k }
    }
}

impl batches::Reader for Scores<'_> {
    /// The logits, and how many tokens they are of.
    type Part = (Vec<f32>, usize);

    type Prediction = Prediction;

    fn read(&self, _: &Tokenized, _: usize, row: &Row) -> Result<Self::Part> {
        Ok((row.numbers(PortKind::Logits)?.to_vec(), row.tokens()))
    }

    fn join(&self, _: &Tokenized, parts: Vec<Self::Part>) -> Result<Prediction> {
        let scores = self.scores(&parts)?;
        let prediction = match parts.as_slice() {
            [(logits, _)] => self.classes.read(logits)?,
            _ => self.classes.choose(&scores)?,
        };
        let top = self.top_k.map(|k| self.classes.top(&scores, k));
        Ok(Prediction::Labels(Labels { prediction, top }))
    }
}

impl Scores<'_> {
    /// The scores of a text by the logits of its windows.
    fn scores(&self, parts: &[(Vec<f32>, usize)]) -> Result<Vec<f32>> {
        let scored = parts.iter().map(|(logits, tokens)| Ok((self.classes.scores(logits)?, *tokens)));
        let scored = scored.collect::<Result<Vec<_>>>()?;
        Ok(match (scored.as_slice(), self.join) {
            ([(scores, _)], _) => scores.clone(),
            (_, Join::Mean) => mean(&scored),
            (_, Join::Max) => largest(&scored),
        })
    }
}

/// Reads logits, to score a model by them.
struct Logits<'a>(Scores<'a>);

impl batches::Reader for Logits<'_> {
    type Part = (Vec<f32>, usize);

    type Prediction = Vec<f32>;

    fn read(&self, tokenized: &Tokenized, window: usize, row: &Row) -> Result<Self::Part> {
        self.0.read(tokenized, window, row)
    }

    fn join(&self, _: &Tokenized, mut parts: Vec<Self::Part>) -> Result<Vec<f32>> {
        match parts.len() {
            1 => Ok(parts.remove(0).0),
            _ => Ok(self.0.classes.logits(&self.0.scores(&parts)?)),
        }
    }
}

/// The largest score of each label.
fn largest(scored: &[(Vec<f32>, usize)]) -> Vec<f32> {
    let width = scored.iter().map(|(scores, _)| scores.len()).min().unwrap_or(0);
    let of = |label: usize| scored.iter().filter_map(move |(scores, _)| scores.get(label).copied());
    (0..width).map(|label| of(label).fold(f32::NEG_INFINITY, f32::max)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_score_of_each_label_is_found() {
        assert_eq!(largest(&[(vec![0.1, 0.9], 4), (vec![0.5, 0.5], 1)]), [0.5, 0.9]);
    }
}
