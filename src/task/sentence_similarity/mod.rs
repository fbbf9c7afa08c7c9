//! Sentence similarity: one vector for each text, and how similar the vectors of two are.

mod score;

use super::batches::{self, Row, Tokenized};
use super::definition::Definition;
use super::id::Task;
use super::pipeline::Pipeline;
use super::prediction::{Predicted, Prediction};
use super::scoring::{self, Scoring, ScoringRequest};
use super::vectors::{self, joined};
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::ports::PortKind;
use crate::runtime::TextInput;

pub(super) use score::{Pairs, ROWS};

pub(super) struct SentenceSimilarity;

impl Definition for SentenceSimilarity {
    /// Vectors of texts, and the similarities of pairs, whose texts are run one by one.
    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let texts = inputs.iter().enumerate().flat_map(|(number, input)| {
            [Some(input.text), input.pair].into_iter().flatten().map(move |text| (number, text))
        });
        let (numbers, texts): (Vec<usize>, Vec<TextInput>) =
            texts.map(|(number, text)| (number, TextInput::from(text))).unzip();
        let number = |text: usize| numbers.get(text).copied().unwrap_or_default();
        let is_first = |text: usize| text == 0 || number(text - 1) != number(text);
        let done = |text: usize| {
            if is_first(text) {
                (watch.done)(number(text))
            }
        };
        let watch = Watch { location: &|text| (watch.location)(number(text)), done: &done };
        let tokenized = pipeline.encode(&texts, &watch)?;
        let (engine, parts) = pipeline.parts(&watch);
        let how = parts.settings.similarity.unwrap_or_default();
        let mut vectors = parts.batches.run(engine, &tokenized, &Vectors)?.into_iter();
        let mut next = || vectors.next().ok_or_else(|| Error::bug("a text was not run"));
        let mut predictions = Vec::with_capacity(inputs.len());
        for input in inputs {
            let first = next()?;
            predictions.push(match input.pair {
                Some(_) => vectors::similarity(how, &first, &next()?),
                None => first,
            });
        }
        Ok(predictions)
    }

    fn rows(&self) -> &'static str {
        ROWS
    }

    fn scoring(&self, request: &ScoringRequest) -> Result<Box<dyn Scoring>> {
        Ok(scoring::of(Pairs::read(request)?))
    }
}

impl Pipeline {
    /// The similarity of two texts' vectors, by the settings: the vectors that a model for sentence
    /// similarity gives, or the means of the token vectors of a model for feature extraction, those around the
    /// text too. Fails for models of other tasks.
    pub fn similarity(&mut self, text: &str, pair: &str) -> Result<f32> {
        let compared = match self.task() {
            Task::SentenceSimilarity => self.predict(TextInput { text, pair: Some(pair) })?,
            _ => {
                let how = self.settings().similarity.unwrap_or_default();
                vectors::similarity(how, &self.mean_of_tokens(text)?, &self.mean_of_tokens(pair)?)
            }
        };
        match compared.prediction {
            Prediction::Similarity { score } => Ok(score),
            _ => Err(Error::bug("a pair was not compared")),
        }
    }
}

/// One vector for each text, by the modules of sentence-transformers.
struct Vectors;

impl batches::Reader for Vectors {
    /// The vector, and how many tokens it is of.
    type Part = (Vec<f32>, usize);

    type Prediction = Prediction;

    fn read(&self, _: &Tokenized, _: usize, row: &Row) -> Result<Self::Part> {
        Ok((row.numbers(PortKind::Embedding)?.to_vec(), row.tokens()))
    }

    fn join(&self, _: &Tokenized, parts: Vec<Self::Part>) -> Result<Prediction> {
        Ok(Prediction::Vector { embedding: joined(parts) })
    }
}
