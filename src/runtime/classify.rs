//! Text classification: which label, and how sure.

use serde::Serialize;

use super::{Engine, TextEncoder};
use crate::error::{Error, Result};

/// A model's answer to a text.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// The label with the highest score.
    pub label: String,
    /// Its share of the softmax, 0 to 1.
    pub score: f32,
    /// The number of the label.
    pub class: usize,
    /// What the model gave.
    #[serde(skip)]
    pub logits: Vec<f32>,
}

/// Classifies a batch of texts. The engine must have an output `logits` with one column for each label.
pub fn classify(
    engine: &mut dyn Engine,
    encoder: &TextEncoder,
    labels: &[String],
    texts: &[&str],
) -> Result<Vec<Answer>> {
    let outputs = engine.run(&encoder.encode(texts)?)?;
    let logits = outputs.iter().find(|(name, _)| name == "logits").and_then(|(_, tensor)| tensor.rows());
    let rows = logits.ok_or_else(|| Error::bad_input("the engine gives no `logits`, so it is no classifier"))?;
    rows.map(|row| answer(row, labels)).collect()
}

fn answer(logits: &[f32], labels: &[String]) -> Result<Answer> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::bad_input("the engine answered NaN or infinity"));
    }
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    let (class, highest) = best.ok_or_else(|| Error::bad_input("the engine gives no logits"))?;
    let label = labels.get(class).ok_or_else(|| {
        Error::bad_input(format!("the engine gives {} logits, but there are {} labels", logits.len(), labels.len()))
    })?;
    let total: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    Ok(Answer { label: label.clone(), score: 1.0 / total, class, logits: logits.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_logit_wins_and_scores_are_a_softmax() {
        let labels = ["a", "b"].map(str::to_owned);
        let found = answer(&[1.0, 3.0], &labels).unwrap();
        assert_eq!((found.label.as_str(), found.class), ("b", 1));
        assert!((found.score - 0.880_797).abs() < 1e-6);
    }

    #[test]
    fn answers_that_mean_nothing_are_refused() {
        let labels = ["a"].map(str::to_owned);
        assert!(answer(&[f32::NAN], &labels).unwrap_err().message().contains("NaN"));
        assert!(answer(&[0.0, 1.0], &labels).unwrap_err().message().contains("2 logits, but there are 1 labels"));
    }
}
