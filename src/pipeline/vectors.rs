//! Vectors: one for a text, or one for each of its tokens.

use super::batches::{self, Row, Tokenized, mean};
use super::{Predicted, Prediction};
use crate::error::Result;
use crate::ports::PortKind;
use crate::settings::Similarity;

/// How far from 1 the length of a vector may be that a model has put at length 1, in the number formats there are.
const NEAR: f32 = 1e-2;

/// One vector for each text, by the modules of sentence-transformers.
pub(super) struct Sentence;

impl batches::Head for Sentence {
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

/// A vector for each token, and one for the text where the model has a pooler.
pub(super) struct Features;

impl batches::Head for Features {
    /// The vectors of the tokens that the window answers for, and the text's with how many tokens it is of.
    type Part = (Vec<(usize, Vec<f32>)>, Option<(Vec<f32>, usize)>);

    type Prediction = Prediction;

    fn read(&self, asked: &Tokenized, window: usize, row: &Row) -> Result<Self::Part> {
        let vectors = row.per_token(PortKind::Hidden)?;
        let owned = asked.owned(window).filter_map(|(token, at)| Some((token, vectors.get(at)?.to_vec())));
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

/// The mean of the windows' vectors, of length 1 where all of theirs are.
fn joined(vectors: Vec<(Vec<f32>, usize)>) -> Vec<f32> {
    if let [(only, _)] = vectors.as_slice() {
        return only.clone();
    }
    let at_length_1 = vectors.iter().all(|(vector, _)| (length(vector) - 1.0).abs() < NEAR);
    let mut mean = mean(&vectors);
    let length = length(&mean);
    if at_length_1 && length > 0.0 {
        mean.iter_mut().for_each(|x| *x /= length);
    }
    mean
}

/// `√Σ x²`
pub(super) fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32
}

/// How alike two texts are by their vectors.
pub(super) fn similarity(how: Similarity, a: &Predicted, b: &Predicted) -> Predicted {
    let score = match (&a.answer, &b.answer) {
        (Prediction::Vector { embedding: a }, Prediction::Vector { embedding: b }) => how.of(a, b),
        _ => 0.0,
    };
    let (windows, tokens_cut) = (a.windows.max(b.windows), a.tokens_cut + b.tokens_cut);
    Predicted { answer: Prediction::Similarity { score }, windows, tokens_cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(embedding: &[f32]) -> Predicted {
        Predicted { answer: Prediction::Vector { embedding: embedding.to_vec() }, windows: 1, tokens_cut: 0 }
    }

    #[test]
    fn a_mean_has_length_1_only_where_every_vector_has() {
        assert_eq!(joined(vec![(vec![1.0, 0.0], 2), (vec![0.0, 1.0], 2)]), [0.5_f32.sqrt(), 0.5_f32.sqrt()]);
        assert_eq!(joined(vec![(vec![2.0, 0.0], 1), (vec![0.0, 1.0], 3)]), [0.5, 0.75]);
    }

    #[test]
    fn texts_are_as_alike_as_their_vectors() {
        let score = |how, a: &[f32], b: &[f32]| similarity(how, &vector(a), &vector(b)).answer;
        assert_eq!(score(Similarity::Cosine, &[2.0, 0.0], &[3.0, 0.0]), Prediction::Similarity { score: 1.0 });
        assert_eq!(score(Similarity::Dot, &[2.0, 0.0], &[3.0, 0.0]), Prediction::Similarity { score: 6.0 });
    }
}
