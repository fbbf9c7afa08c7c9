//! Quantiles, ratios with their intervals, and the order of rounds.

use crate::random::Random;
use serde::{Deserialize, Serialize};

/// Rounds that an interval needs.
const FEWEST: usize = 5;

/// Samples that an interval is found from.
const RESAMPLES: usize = 2000;

/// The quantile `q` (0 to 1) of sorted numbers, between neighbours in proportion; `None` of nothing.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// The median of numbers in any order; `None` of nothing.
pub fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// A ratio that was found in several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The geometric mean of the rounds.
    pub mean: f64,
    /// The ends of its interval of 95 % confidence; the mean itself, where there are too few rounds for one.
    pub low: f64,
    #[allow(missing_docs)]
    pub high: f64,
}

impl Ratio {
    /// Of the ratios of rounds, which are positive: a studentized bootstrap of the mean of their logarithms (Efron and
    /// Tibshirani, An Introduction to the Bootstrap, ch. 12). `None` of nothing.
    pub fn of(rounds: &[f64], seed: u64) -> Option<Ratio> {
        let logs: Vec<f64> = rounds.iter().map(|ratio| ratio.ln()).collect();
        let (mean, error) = mean_and_error(&logs)?;
        if logs.len() < FEWEST || error == 0.0 {
            return Some(Ratio { mean: mean.exp(), low: mean.exp(), high: mean.exp() });
        }
        let mut random = Random::new(seed);
        let mut sample = vec![0.0; logs.len()];
        let mut studentized = Vec::with_capacity(RESAMPLES);
        for _ in 0..RESAMPLES {
            sample.iter_mut().for_each(|x| *x = logs.get(random.below(logs.len())).copied().unwrap_or(mean));
            if let Some((of_sample, its_error)) = mean_and_error(&sample).filter(|(_, its)| *its > error / 20.0) {
                studentized.push((of_sample - mean) / its_error);
            }
        }
        studentized.sort_by(f64::total_cmp);
        let end = |q| quantile(&studentized, q).map_or(mean, |t: f64| mean - t * error);
        Some(Ratio { mean: mean.exp(), low: end(0.975).exp(), high: end(0.025).exp() })
    }

    /// Whether the interval holds a number.
    pub fn holds(&self, number: f64) -> bool {
        (self.low..=self.high).contains(&number)
    }
}

/// The mean, and its standard error; `None` of nothing.
fn mean_and_error(numbers: &[f64]) -> Option<(f64, f64)> {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
    (!numbers.is_empty()).then(|| (mean, if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 }))
}

/// The numbers `0 … n` in an order that the seed decides (Fisher and Yates).
pub(super) fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut random = Random::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, random.below(i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_their_neighbours() {
        let numbers = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile(&numbers, 0.0), Some(1.0));
        assert_eq!(quantile(&numbers, 0.5), Some(2.5));
        assert_eq!(quantile(&numbers, 1.0), Some(4.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn orders_are_permutations_that_the_seed_decides() {
        let order = shuffled(8, 3);
        assert_eq!(order, shuffled(8, 3));
        assert!((0..8).all(|seed| (0..8).all(|i| shuffled(8, seed).contains(&i))));
        assert!((0..8).any(|seed| shuffled(8, seed) != order));
    }

    #[test]
    fn ratios_of_few_or_equal_rounds_have_no_width() {
        assert_eq!(Ratio::of(&[], 1), None);
        assert_eq!(Ratio::of(&[2.0; 5], 1), Some(Ratio { mean: 2.0, low: 2.0, high: 2.0 }));
        let two = Ratio::of(&[1.0, 4.0], 1).unwrap();
        assert!((two.mean - 2.0).abs() < 1e-12 && two.low == two.high, "{two:?}");
    }

    /// Rounds of an engine against itself, with noise of 5 % and now and then a round that is a fifth slower.
    #[test]
    fn the_interval_of_equal_engines_holds_1_at_its_confidence() {
        let mut random = Random::new(7);
        let mut uniform = move || random.unit();
        let mut time = move || {
            let bell: f64 = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
            (1.0 + 0.05 * bell).max(0.5) * if uniform() < 0.05 { 1.2 } else { 1.0 }
        };
        let mut held = 0;
        for seed in 0..1000 {
            let rounds: Vec<f64> = (0..10).map(|_| time() / time()).collect();
            held += usize::from(Ratio::of(&rounds, seed).unwrap().holds(1.0));
        }
        assert!((930..=975).contains(&held), "{held} of 1000");
    }
}
