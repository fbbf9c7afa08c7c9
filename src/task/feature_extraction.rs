//! Feature extraction: hidden states, a vector for each token.

use super::batches::{self, Row, Tokenized, mean};
use super::definition::{Definition, not_a_pair};
use super::id::Task;
use super::pipeline::{Pipeline, one};
use super::prediction::{Predicted, Prediction};
use super::scoring::{self, Scoring, ScoringRequest};
use super::sentence_similarity;
use super::vectors::joined;
use super::watch::{UNWATCHED, Watch};
use crate::error::Result;
use crate::ports::PortKind;
use crate::runtime::TextInput;

pub(super) struct FeatureExtraction;

impl Definition for FeatureExtraction {
    fn check(&self, input: TextInput) -> Result<()> {
        not_a_pair(Task::FeatureExtraction, input)
    }

    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let tokenized = pipeline.encode(inputs, watch)?;
        let (engine, parts) = pipeline.parts(watch);
        parts.batches.run(engine, &tokenized, &Features)
    }

    fn rows(&self) -> &'static str {
        sentence_similarity::ROWS
    }

    /// By the similarity of the means of the tokens' vectors.
    fn scoring(&self, request: &ScoringRequest) -> Result<Box<dyn Scoring>> {
        Ok(scoring::of(sentence_similarity::Pairs::read(request)?))
    }
}

impl Pipeline {
    /// The mean of the vectors of a text's tokens, those around the text too.
    pub(super) fn mean_of_tokens(&mut self, text: &str) -> Result<Predicted> {
        let tokenized = self.tokenized(text.into(), Task::FeatureExtraction)?;
        let (engine, parts) = self.parts(&UNWATCHED);
        let predicted = one(parts.batches.run(engine, &[tokenized], &Features)?)?;
        Ok(match predicted.prediction {
            Prediction::Features { features, .. } => {
                let weighted: Vec<(Vec<f32>, usize)> = features.into_iter().map(|vector| (vector, 1)).collect();
                Predicted { prediction: Prediction::Vector { embedding: mean(&weighted) }, ..predicted }
            }
            _ => predicted,
        })
    }
}

/// A vector for each token, and one for the text where the model has a pooler.
struct Features;

impl batches::Reader for Features {
    /// The vectors of the tokens that the window decides, and the text's with how many tokens it is of.
    type Part = (Vec<(usize, Vec<f32>)>, Option<(Vec<f32>, usize)>);

    type Prediction = Prediction;

    fn read(&self, tokenized: &Tokenized, window: usize, row: &Row) -> Result<Self::Part> {
        let vectors = row.per_token(PortKind::Hidden)?;
        let owned = tokenized.owned(window).filter_map(|(token, at)| Some((token, vectors.get(at)?.to_vec())));
        let pooled = row.has(PortKind::Pooled).then(|| row.numbers(PortKind::Pooled)).transpose()?;
        Ok((owned.collect(), pooled.map(|vector| (vector.to_vec(), row.tokens()))))
    }

    fn join(&self, _: &Tokenized, parts: Vec<Self::Part>) -> Result<Prediction> {
        let (tokens, pooled): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let mut tokens: Vec<(usize, Vec<f32>)> = tokens.into_iter().flatten().collect();
        tokens.sort_by_key(|(token, _)| *token);
        let pooled: Option<Vec<_>> = pooled.into_iter().collect();
        let features = tokens.into_iter().map(|(_, vector)| vector).collect();
        Ok(Prediction::Features { features, pooled: pooled.filter(|pooled| !pooled.is_empty()).map(joined) })
    }
}
