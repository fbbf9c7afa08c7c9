//! How well numbers go together with those that are known: the measures of sentence similarity.

use serde::Serialize;

/// How well a model's similarities correlate with people's scores.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Correlation {
    /// How many pairs of texts were run.
    pub examples: usize,
    /// `Σ(a − ā)(b − b̄) / √(Σ(a − ā)² · Σ(b − b̄)²)`; none where either side is all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pearson: Option<f64>,
    /// The same of the ranks, equal numbers sharing theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spearman: Option<f64>,
}

impl Correlation {
    /// Of numbers that were found, each with the one that is known.
    pub fn of(pairs: &[(f64, f64)]) -> Correlation {
        Correlation { examples: pairs.len(), pearson: pearson(pairs), spearman: spearman(pairs) }
    }
}

/// The correlation of numbers; none where either side is all the same.
fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    let count = pairs.len().max(1) as f64;
    let mean = |side: fn(&(f64, f64)) -> f64| pairs.iter().map(side).sum::<f64>() / count;
    let (a, b) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|(x, y)| of(x - a, y - b)).sum::<f64>();
    let spread = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    (spread > 0.0).then(|| sum(&|x, y| x * y) / spread)
}

/// The correlation of the ranks; none where either side is all the same.
pub(super) fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    pearson(&ranks(&a).into_iter().zip(ranks(&b)).collect::<Vec<_>>())
}

/// From 0 on; equal numbers get the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<(f64, usize)> = values.iter().copied().zip(0..).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut ranks = Vec::with_capacity(values.len());
    for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
        let rank = ranks.len() as f64 + (equal.len() as f64 - 1.0) / 2.0;
        ranks.extend(equal.iter().map(|(_, location)| (*location, rank)));
    }
    ranks.sort_by_key(|(location, _)| *location);
    ranks.into_iter().map(|(_, rank)| rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_ranks_are_correlated() {
        let found = Correlation::of(&[(0.1, 1.0), (0.4, 2.0), (0.4, 4.0), (0.9, 3.5)]);
        // scipy.stats.pearsonr and spearmanr of the same numbers.
        assert!((found.pearson.unwrap() - 0.675_186_978_456_676_2).abs() < 1e-12, "{found:?}");
        assert!((found.spearman.unwrap() - 0.632_455_532_033_675_8).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn constant_values_correlate_with_nothing() {
        let none = Correlation { examples: 2, ..Correlation::default() };
        assert_eq!(Correlation::of(&[(0.5, 1.0), (0.5, 2.0)]), none);
        assert_eq!(Correlation::of(&[]), Correlation::default());
    }
}
