//! How well masked tokens are guessed.

use serde::Serialize;

/// Among how many guesses the right one may be, where it need not be the first.
const FEW: usize = 5;

/// What a model thinks of the token that a mask stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// The logarithm of its probability.
    pub log_probability: f64,
    /// How many tokens are likelier.
    pub rank: usize,
    /// The likeliest token, by its number.
    pub likeliest: u32,
}

/// How well masked tokens are guessed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MaskScore {
    /// How many texts were asked.
    pub texts: usize,
    /// How many masks they have.
    pub masks: usize,
    /// The share of masks whose likeliest token is the right one.
    pub top_1_accuracy: f64,
    /// The share of masks whose right token is one of the five likeliest.
    pub top_5_accuracy: f64,
    /// The mean of the natural logarithms of the right tokens' probabilities.
    pub mean_log_probability: f64,
    /// `exp(−mean_log_probability)`
    pub perplexity: f64,
}

impl MaskScore {
    /// Scores the guesses of each text.
    pub fn of(texts: &[Vec<TokenScore>]) -> MaskScore {
        let guesses: Vec<&TokenScore> = texts.iter().flatten().collect();
        let count = guesses.len().max(1) as f64;
        let among = |first: usize| guesses.iter().filter(|guess| guess.rank < first).count() as f64 / count;
        let mean = guesses.iter().map(|guess| guess.log_probability).sum::<f64>() / count;
        MaskScore {
            texts: texts.len(),
            masks: guesses.len(),
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
    fn guesses_count_by_rank_and_by_probability() {
        let guess = |probability: f64, rank| TokenScore { log_probability: probability.ln(), rank, likeliest: 0 };
        let score = MaskScore::of(&[vec![guess(0.5, 0), guess(0.125, 4)], vec![guess(0.25, 5), guess(0.25, 1)]]);
        assert_eq!((score.texts, score.masks, score.top_1_accuracy, score.top_5_accuracy), (2, 4, 0.25, 0.75));
        assert!((score.perplexity - 4.0).abs() < 1e-12, "{score:?}");
        assert!((score.mean_log_probability + 4f64.ln()).abs() < 1e-12, "{score:?}");
    }
}
