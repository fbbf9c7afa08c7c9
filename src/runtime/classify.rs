//! Text classification: predictions from the logits of a text.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the logits of a classifier are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemType {
    /// One label, that of the largest logit; its score is its share of the softmax.
    #[default]
    #[serde(alias = "one-label")]
    SingleLabel,
    /// One label, that of the largest logit, which is its score.
    Logits,
    /// Every label whose sigmoid is 0.5 or more, so any number of them.
    #[serde(alias = "many-labels")]
    MultiLabel,
    /// The numbers as they are.
    #[serde(alias = "numbers")]
    Regression,
    /// One number through the sigmoid, as cross-encoders score pairs.
    Score,
}

impl ProblemType {
    /// The classes that are chosen, in order; none for regression.
    pub fn chosen(self, logits: &[f32]) -> Option<Vec<usize>> {
        match self {
            ProblemType::SingleLabel | ProblemType::Logits => {
                Some(largest(logits).into_iter().map(|(class, _)| class).collect())
            }
            ProblemType::MultiLabel => Some((0..logits.len()).filter(|i| logits.get(*i).is_some_and(chosen)).collect()),
            ProblemType::Regression | ProblemType::Score => None,
        }
    }

    /// The selected logits, for regression.
    pub fn numbers(self, logits: &[f32]) -> Option<Vec<f32>> {
        match self {
            ProblemType::Regression => Some(logits.to_vec()),
            ProblemType::Score => Some(logits.iter().map(sigmoid).collect()),
            ProblemType::SingleLabel | ProblemType::Logits | ProblemType::MultiLabel => None,
        }
    }
}

/// `sigmoid(x) ≥ 0.5`
fn chosen(logit: &f32) -> bool {
    *logit >= 0.0
}

fn sigmoid(logit: &f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// `softmax(x)ᵢ = exp(xᵢ − max x) / Σ exp(x − max x)`
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let raised: Vec<f32> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let total: f32 = raised.iter().sum();
    raised.into_iter().map(|x| x / total).collect()
}

fn largest(logits: &[f32]) -> Option<(usize, f32)> {
    logits.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
}

/// A classifier's labels, and its problem type.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    /// The labels, by class.
    pub labels: Vec<String>,
    /// How logits are read.
    pub problem_type: ProblemType,
}

/// A label and how sure it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The label.
    pub label: String,
    /// From 0 to 1; any number, where logits are scores.
    pub score: f32,
    /// The number of the label.
    pub class: usize,
}

/// A model's prediction for a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Classification {
    /// One label, with its share of the softmax or its logit.
    Label(Choice),
    /// Any number of labels, the surest first, and the sigmoid of every label by number.
    Labels {
        /// Those that are chosen.
        labels: Vec<Choice>,
        /// All of them.
        scores: Vec<f32>,
    },
    /// Numbers, in the order of the model's outputs.
    Regression {
        /// The numbers.
        numbers: Vec<f32>,
    },
    /// How well the two texts of a pair go together, from 0 to 1.
    Score {
        /// The score.
        score: f32,
    },
}

impl Classes {
    /// The prediction from the logits of a text.
    pub fn read(&self, logits: &[f32]) -> Result<Classification> {
        // Logits decide: just below 0 a sigmoid rounds to 0.5.
        self.select(&self.scores(logits)?, logits, chosen)
    }

    /// The prediction from scores, where they are not of one row of logits but of several.
    pub fn choose(&self, scores: &[f32]) -> Result<Classification> {
        self.select(scores, scores, |score| *score >= 0.5)
    }

    /// The score of each class: shares of the softmax, or sigmoids; the logits themselves for regression.
    pub fn scores(&self, logits: &[f32]) -> Result<Vec<f32>> {
        if self.labels.len() != logits.len() {
            let (logits, labels) = (logits.len(), self.labels.len());
            return Err(Error::bad_input(format!("the engine gives {logits} logits, but there are {labels} labels")));
        }
        if logits.is_empty() {
            return Err(Error::bad_input("the engine gives no logits"));
        }
        Ok(match self.problem_type {
            ProblemType::SingleLabel => softmax(logits),
            ProblemType::MultiLabel | ProblemType::Score => logits.iter().map(sigmoid).collect(),
            ProblemType::Regression | ProblemType::Logits => logits.to_vec(),
        })
    }

    /// Logits that have these scores. Of shares of a softmax they are the logarithms.
    pub fn logits(&self, scores: &[f32]) -> Vec<f32> {
        // The logarithm of a share that is rounded to 0 would be no number.
        let ln = |share: f32| share.max(f32::MIN_POSITIVE).ln();
        let of = |score: &f32| match self.problem_type {
            ProblemType::SingleLabel => ln(*score),
            ProblemType::MultiLabel | ProblemType::Score => ln(*score) - ln(1.0 - score),
            ProblemType::Regression | ProblemType::Logits => *score,
        };
        scores.iter().map(of).collect()
    }

    /// The `k` surest labels.
    pub fn top(&self, scores: &[f32], k: usize) -> Vec<Choice> {
        let mut all: Vec<Choice> = scores.iter().enumerate().map(|(class, score)| self.choice(class, *score)).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(k);
        all
    }

    /// The selected scores; labels are chosen by the numbers `by`.
    fn select(&self, scores: &[f32], by: &[f32], chosen: fn(&f32) -> bool) -> Result<Classification> {
        let (class, _) = largest(by).ok_or_else(|| Error::bad_input("the engine gives no logits"))?;
        let highest = scores.get(class).copied().unwrap_or_default();
        Ok(match self.problem_type {
            ProblemType::SingleLabel | ProblemType::Logits => Classification::Label(self.choice(class, highest)),
            ProblemType::MultiLabel => {
                let mut labels = self.top(scores, scores.len());
                labels.retain(|choice| by.get(choice.class).is_some_and(chosen));
                Classification::Labels { labels, scores: scores.to_vec() }
            }
            ProblemType::Regression => Classification::Regression { numbers: scores.to_vec() },
            ProblemType::Score => Classification::Score { score: highest },
        })
    }

    fn choice(&self, class: usize, score: f32) -> Choice {
        Choice { label: self.labels.get(class).cloned().unwrap_or_default(), score, class }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(problem_type: ProblemType, logits: &[f32]) -> Classification {
        let labels = ["a", "b", "c"].map(str::to_owned)[..logits.len()].to_vec();
        Classes { labels, problem_type }.read(logits).unwrap()
    }

    #[test]
    fn the_highest_logit_wins_and_scores_are_a_softmax() {
        assert_eq!(softmax(&[1000.0, 1000.0]), [0.5, 0.5]);
        let Classification::Label(found) = read(ProblemType::SingleLabel, &[1.0, 3.0]) else { panic!() };
        assert_eq!((found.label.as_str(), found.class), ("b", 1));
        assert!((found.score - 0.880_797).abs() < 1e-6);
    }

    #[test]
    fn logits_are_scores_without_an_activation() {
        let Classification::Label(found) = read(ProblemType::Logits, &[1.0, 3.5]) else { panic!() };
        assert_eq!((found.label.as_str(), found.score), ("b", 3.5));
        assert_eq!(ProblemType::Logits.chosen(&[1.0, 3.5]), Some(vec![1]));
    }

    #[test]
    fn many_labels_are_those_of_half_or_more_the_surest_first() {
        let Classification::Labels { labels, scores } = read(ProblemType::MultiLabel, &[0.0, -1.0, 2.0]) else {
            panic!()
        };
        assert_eq!(labels.iter().map(|choice| choice.label.as_str()).collect::<Vec<_>>(), ["c", "a"]);
        assert_eq!((labels[1].score, scores.len()), (0.5, 3));
        let Classification::Labels { labels, .. } = read(ProblemType::MultiLabel, &[-1.0, -2.0, -0.1]) else {
            panic!()
        };
        assert_eq!(labels, []);
        assert_eq!(ProblemType::MultiLabel.chosen(&[0.0, -1.0, 2.0]), Some(vec![0, 2]));
    }

    #[test]
    fn regression_returns_numbers_and_scores_pass_the_sigmoid() {
        assert_eq!(
            read(ProblemType::Regression, &[-3.5, 7.0]),
            Classification::Regression { numbers: vec![-3.5, 7.0] }
        );
        assert_eq!(read(ProblemType::Score, &[0.0]), Classification::Score { score: 0.5 });
        assert_eq!(ProblemType::Score.numbers(&[0.0]), Some(vec![0.5]));
        assert_eq!(ProblemType::Score.chosen(&[0.0]), None);
    }

    #[test]
    fn logits_have_the_scores_that_they_are_made_of() {
        for problem_type in [ProblemType::SingleLabel, ProblemType::MultiLabel, ProblemType::Regression] {
            let classes = Classes { labels: vec!["a".to_owned(), "b".to_owned()], problem_type };
            let scores = classes.scores(&[2.0, -1.0]).unwrap();
            let again = classes.scores(&classes.logits(&scores)).unwrap();
            assert!(scores.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-6), "{scores:?} {again:?}");
        }
    }

    #[test]
    fn labels_that_do_not_fit_the_problem_type_are_refused() {
        let classes = Classes { labels: vec!["a".to_owned()], problem_type: ProblemType::SingleLabel };
        assert!(classes.read(&[0.0, 1.0]).unwrap_err().message().contains("2 logits, but there are 1 labels"));
    }
}
