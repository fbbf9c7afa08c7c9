//! Vectors of several windows, and of two texts.

use super::batches::mean;
use super::prediction::{Predicted, Prediction};
use crate::settings::Similarity;

/// How far from 1 the length of a vector may be that a model has put at length 1, in the number formats there are.
const NEAR: f32 = 1e-2;

/// The mean of the windows' vectors, of length 1 where all of theirs are.
pub(super) fn joined(vectors: Vec<(Vec<f32>, usize)>) -> Vec<f32> {
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

/// The similarity of two texts' vectors.
pub(super) fn similarity(how: Similarity, a: &Predicted, b: &Predicted) -> Predicted {
    let score = match (&a.prediction, &b.prediction) {
        (Prediction::Vector { embedding: a }, Prediction::Vector { embedding: b }) => how.of(a, b),
        _ => 0.0,
    };
    let (windows, tokens_cut) = (a.windows.max(b.windows), a.tokens_cut + b.tokens_cut);
    Predicted { prediction: Prediction::Similarity { score }, windows, tokens_cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(embedding: &[f32]) -> Predicted {
        Predicted { prediction: Prediction::Vector { embedding: embedding.to_vec() }, windows: 1, tokens_cut: 0 }
    }

    #[test]
    fn a_mean_has_length_1_only_where_every_vector_has() {
        assert_eq!(joined(vec![(vec![1.0, 0.0], 2), (vec![0.0, 1.0], 2)]), [0.5_f32.sqrt(), 0.5_f32.sqrt()]);
        assert_eq!(joined(vec![(vec![2.0, 0.0], 1), (vec![0.0, 1.0], 3)]), [0.5, 0.75]);
    }

    #[test]
    fn texts_are_as_similar_as_their_vectors() {
        let score = |how, a: &[f32], b: &[f32]| similarity(how, &vector(a), &vector(b)).prediction;
        assert_eq!(score(Similarity::Cosine, &[2.0, 0.0], &[3.0, 0.0]), Prediction::Similarity { score: 1.0 });
        assert_eq!(score(Similarity::Dot, &[2.0, 0.0], &[3.0, 0.0]), Prediction::Similarity { score: 6.0 });
    }
}
