//! Accuracy, F1, error and correlation of a classifier on labelled texts.

use serde::Serialize;

use super::Truth;
use super::correlation::spearman;
use crate::runtime::ProblemType;

/// The measures of the problem type.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// How many texts were run.
    pub examples: usize,
    /// How many predictions are correct: the label, or exactly the labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct: Option<usize>,
    /// Their share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Multi-label: `2 · hits / (chosen + true)`, over all labels of all texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_f1: Option<f64>,
    /// Regression: the mean absolute error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_abs_error: Option<f64>,
    /// Regression with one number: the correlation of ranks, equal numbers sharing theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spearman: Option<f64>,
}

impl Score {
    /// Scores the logits of each text.
    pub fn of(problem_type: ProblemType, predictions: &[Vec<f32>], truths: &[&Truth]) -> Score {
        let score = Score { examples: predictions.len(), ..Score::default() };
        match problem_type {
            ProblemType::SingleLabel | ProblemType::Logits | ProblemType::MultiLabel => {
                let chosen: Vec<_> =
                    predictions.iter().map(|row| problem_type.chosen(row).unwrap_or_default()).collect();
                let pairs: Vec<_> =
                    chosen.into_iter().zip(truths).filter_map(|(row, truth)| row_of(row, truth)).collect();
                let correct = pairs.iter().filter(|(chosen, expected)| chosen == expected).count();
                let accuracy = Some(correct as f64 / predictions.len() as f64);
                let micro_f1 = (problem_type == ProblemType::MultiLabel).then(|| micro_f1(&pairs));
                Score { correct: Some(correct), accuracy, micro_f1, ..score }
            }
            ProblemType::Regression | ProblemType::Score => {
                let numbers = predictions.iter().map(|row| problem_type.numbers(row).unwrap_or_default());
                let pairs = numbers.zip(truths).filter_map(|(row, truth)| match truth {
                    Truth::Numbers(expected) => Some(row.into_iter().zip(expected.iter().copied())),
                    Truth::Classes(_) | Truth::Names(_) => None,
                });
                let pairs: Vec<(f64, f64)> = pairs.flatten().map(|(a, b)| (f64::from(a), f64::from(b))).collect();
                let off: f64 = pairs.iter().map(|(a, b)| (a - b).abs()).sum();
                let spearman = if pairs.len() == predictions.len() { spearman(&pairs) } else { None };
                Score { mean_abs_error: Some(off / pairs.len() as f64), spearman, ..score }
            }
        }
    }
}

/// Labels that were chosen, and those that are right.
type Labels = (Vec<usize>, Vec<usize>);

fn row_of(chosen: Vec<usize>, truth: &Truth) -> Option<Labels> {
    match truth {
        Truth::Classes(expected) => Some((chosen, expected.clone())),
        Truth::Names(expected) => {
            // Any class of a name is the name's first one.
            let first = |of: &Vec<usize>| of.first().copied();
            let named = |class: usize| expected.iter().find(|of| of.contains(&class)).and_then(first).unwrap_or(class);
            let mut chosen: Vec<usize> = chosen.into_iter().map(named).collect();
            chosen.sort_unstable();
            chosen.dedup();
            Some((chosen, expected.iter().filter_map(first).collect()))
        }
        Truth::Numbers(_) => None,
    }
}

/// 1 where nothing was to be chosen and nothing was.
fn micro_f1(pairs: &[Labels]) -> f64 {
    let hits: usize = pairs.iter().map(|(chosen, truth)| chosen.iter().filter(|c| truth.contains(c)).count()).sum();
    let all: usize = pairs.iter().map(|(chosen, truth)| chosen.len() + truth.len()).sum();
    if all == 0 { 1.0 } else { 2.0 * hits as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(truths: &[&[usize]]) -> Vec<Truth> {
        truths.iter().map(|truth| Truth::Classes(truth.to_vec())).collect()
    }

    fn score(problem_type: ProblemType, predictions: &[&[f32]], truths: &[Truth]) -> Score {
        let predictions: Vec<_> = predictions.iter().map(|row| row.to_vec()).collect();
        Score::of(problem_type, &predictions, &truths.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_single_label_is_correct_or_wrong() {
        let found = score(ProblemType::SingleLabel, &[&[1.0, 2.0], &[3.0, 0.0]], &classes(&[&[1], &[1]]));
        assert_eq!((found.correct, found.accuracy, found.micro_f1), (Some(1), Some(0.5), None));
    }

    #[test]
    fn any_class_of_the_correct_label_is_correct() {
        let pos = || Truth::Names(vec![vec![1, 2]]);
        let predictions: [&[f32]; 3] = [&[0.0, 1.0, 2.0], &[0.0, 2.0, 1.0], &[3.0, 2.0, 1.0]];
        assert_eq!(score(ProblemType::SingleLabel, &predictions, &[pos(), pos(), pos()]).correct, Some(2));
        let many = score(ProblemType::MultiLabel, &[&[-1.0, 1.0, 1.0]], &[pos()]);
        assert_eq!((many.correct, many.micro_f1), (Some(1), Some(1.0)));
    }

    #[test]
    fn many_labels_count_one_by_one_and_as_a_set() {
        let predictions: [&[f32]; 3] = [&[1.0, -1.0, 1.0], &[-1.0, 1.0, -1.0], &[-1.0, -1.0, -1.0]];
        let found = score(ProblemType::MultiLabel, &predictions, &classes(&[&[0, 2], &[0, 1], &[]]));
        // Chosen 2 + 1 + 0, true 2 + 2 + 0, both 2 + 1 + 0.
        assert_eq!((found.correct, found.micro_f1), (Some(2), Some(6.0 / 7.0)));
    }

    #[test]
    fn numbers_have_an_error_and_a_rank_correlation() {
        let truths: Vec<_> = [1.0, 2.0, 2.0, 5.0].map(|n| Truth::Numbers(vec![n])).to_vec();
        let found = score(ProblemType::Regression, &[&[1.5], &[2.0], &[2.5], &[5.0]], &truths);
        assert_eq!(found.mean_abs_error, Some(0.25));
        // scipy.stats.spearmanr([1.5, 2, 2.5, 5], [1, 2, 2, 5])
        assert!((found.spearman.unwrap() - 0.948_683_298).abs() < 1e-9, "{found:?}");
        assert_eq!(score(ProblemType::Regression, &[&[1.0], &[1.0]], &truths[..2]).spearman, None);
    }
}
