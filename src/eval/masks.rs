//! How well masked tokens are predicted.

use serde::Serialize;

/// The k of top-k accuracy.
const FEW: usize = 5;

/// A model's scores for the token behind a mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// The logarithm of its probability.
    pub log_probability: f64,
    /// How many tokens are likelier.
    pub rank: usize,
    /// The likeliest token, by its number.
    pub likeliest: u32,
}

/// How well masked tokens are predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MaskScore {
    /// How many texts were run.
    pub examples: usize,
    /// How many masks they have.
    pub masks: usize,
    /// The share of masks whose likeliest token is the correct one.
    pub top_1_accuracy: f64,
    /// The share of masks whose correct token is one of the five likeliest.
    pub top_5_accuracy: f64,
    /// The mean of the natural logarithms of the correct tokens' probabilities.
    pub mean_log_probability: f64,
    /// `exp(−mean_log_probability)`
    pub perplexity: f64,
}

impl MaskScore {
    /// Scores the predicted tokens of each text.
    pub fn of(texts: &[Vec<TokenScore>]) -> MaskScore {
        let token_scores: Vec<&TokenScore> = texts.iter().flatten().collect();
        let count = token_scores.len().max(1) as f64;
        let among = |first: usize| token_scores.iter().filter(|scored| scored.rank < first).count() as f64 / count;
        let mean = token_scores.iter().map(|scored| scored.log_probability).sum::<f64>() / count;
        MaskScore {
            examples: texts.len(),
            masks: token_scores.len(),
            top_1_accuracy: among(1),
            top_5_accuracy: among(FEW),
            mean_log_probability: mean,
            perplexity: (-mean).exp(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_count_by_rank_and_by_probability() {
        let scored = |probability: f64, rank| TokenScore { log_probability: probability.ln(), rank, likeliest: 0 };
        let score = MaskScore::of(&[vec![scored(0.5, 0), scored(0.125, 4)], vec![scored(0.25, 5), scored(0.25, 1)]]);
        assert_eq!((score.examples, score.masks, score.top_1_accuracy, score.top_5_accuracy), (2, 4, 0.25, 0.75));
        assert!((score.perplexity - 4.0).abs() < 1e-12, "{score:?}");
        assert!((score.mean_log_probability + 4f64.ln()).abs() < 1e-12, "{score:?}");
    }
}
