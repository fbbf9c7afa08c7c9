//! The statistics of values: ranges, second moments and histograms.

use std::collections::BTreeMap;
use std::sync::Arc;

use ndarray::Array2;

use super::histogram::{Estimator, Histogram};

/// Smallest and largest element of a value, by the value's name.
pub type Ranges = BTreeMap<String, (f32, f32)>;

/// The statistics of a graph's values, by their names. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// How many texts were run.
    pub texts: usize,
    /// How many tokens they had.
    pub tokens: usize,
    pub(super) values: BTreeMap<String, Arc<Activations>>,
}

impl Calibration {
    /// The statistics of a value, if it was observed.
    pub fn get(&self, name: &str) -> Option<&Activations> {
        self.values.get(name).map(Arc::as_ref)
    }

    /// Adds the statistics of a value that a pass has made from others.
    pub fn insert(&mut self, name: impl Into<String>, activations: Activations) {
        self.values.insert(name.into(), Arc::new(activations));
    }

    /// The ranges that an estimator finds, for engines with static ranges. Those that cut outliers off
    /// read histograms, which are exact for observed values.
    pub fn ranges(&self, estimator: Estimator) -> Ranges {
        let range = |observed: &Activations| match estimator {
            Estimator::MinMax => observed.extremes.range(),
            _ => observed.histogram.range(estimator),
        };
        self.values().map(|(name, observed)| (name.to_owned(), range(observed))).collect()
    }

    /// The same, for engines whose ranges are the same for all texts.
    pub fn fixed(&self) -> Calibration {
        let fixed =
            |observed: &Activations| Activations { by_text: vec![observed.extremes.clone()], ..observed.clone() };
        let values = self.values.iter().map(|(name, observed)| (name.clone(), Arc::new(fixed(observed)))).collect();
        Calibration { values, texts: self.texts, tokens: self.tokens }
    }

    /// All observed values.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Activations)> {
        self.values.iter().map(|(name, observed)| (name.as_str(), observed.as_ref()))
    }
}

/// The lowest and highest number of every channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Extremes {
    /// The lowest of each channel.
    pub lowest: Vec<f32>,
    /// The highest of each channel.
    pub highest: Vec<f32>,
}

impl Extremes {
    pub(super) fn none(channels: usize) -> Extremes {
        Extremes { lowest: vec![f32::INFINITY; channels], highest: vec![f32::NEG_INFINITY; channels] }
    }

    pub(super) fn include(&mut self, row: &[f32]) {
        self.lowest.iter_mut().zip(row).for_each(|(low, x)| *low = low.min(*x));
        self.highest.iter_mut().zip(row).for_each(|(high, x)| *high = high.max(*x));
    }

    pub(super) fn merge(&mut self, other: &Extremes) {
        self.include(&other.lowest);
        self.include(&other.highest);
    }

    /// The range of all channels, 0 included.
    pub fn range(&self) -> (f32, f32) {
        let ends = |of: &[f32], end: fn(f32, f32) -> f32| of.iter().copied().fold(0.0, end);
        (ends(&self.lowest, f32::min), ends(&self.highest, f32::max))
    }

    /// The step of 8-bit values over the range of all channels, 0 included, once each is multiplied by its factor.
    pub fn step(&self, factors: impl Fn(usize) -> f32) -> f32 {
        let scaled = |ends: &[f32]| ends.iter().enumerate().map(|(c, x)| x * factors(c)).collect::<Vec<_>>();
        let low = scaled(&self.lowest).into_iter().fold(0.0, f32::min);
        let high = scaled(&self.highest).into_iter().fold(0.0, f32::max);
        (high - low) / 255.0
    }
}

/// The statistics of one value, `[…, k]`.
#[derive(Clone, Debug)]
pub struct Activations {
    /// Over all texts.
    pub extremes: Extremes,
    /// Of some texts, one by one: the basis of dynamic ranges.
    pub by_text: Vec<Extremes>,
    /// `[k, k]`: the mean of `xᵀ x` over sampled tokens.
    pub moments: Array2<f32>,
    /// All elements.
    pub histogram: Histogram,
}

impl Activations {
    /// The number of channels.
    pub fn channels(&self) -> usize {
        self.extremes.lowest.len()
    }

    /// The largest magnitude of every channel.
    pub fn magnitudes(&self) -> Vec<f32> {
        self.extremes.lowest.iter().zip(&self.extremes.highest).map(|(low, high)| low.abs().max(high.abs())).collect()
    }

    /// The mean square of the error of rounding an element to 8 bits by dynamic ranges, once each channel is
    /// multiplied by its factor; a factor of 0 leaves a channel out.
    pub fn rounding_noise(&self, factors: impl Fn(usize) -> f32) -> f32 {
        let squares: f32 = self.by_text.iter().map(|text| text.step(&factors).powi(2)).sum();
        squares / (12.0 * self.by_text.len().max(1) as f32)
    }

    /// The statistics of the value once each channel is multiplied by its factor. The histogram is scaled roughly: by
    /// the change of the range.
    pub fn scaled(&self, factors: &[f32]) -> Activations {
        let all: Vec<usize> = (0..self.channels()).collect();
        self.picked(&all, |c| factors.get(c).copied().unwrap_or(1.0))
    }

    /// The statistics of some of the channels, as a separate value.
    pub fn taken(&self, at: &[usize]) -> Activations {
        self.picked(at, |_| 1.0)
    }

    fn picked(&self, at: &[usize], factor: impl Fn(usize) -> f32) -> Activations {
        let pick = |ends: &[f32]| at.iter().filter_map(|c| Some(ends.get(*c)? * factor(*c))).collect::<Vec<f32>>();
        let extremes = |of: &Extremes| Extremes { lowest: pick(&of.lowest), highest: pick(&of.highest) };
        let moments = Array2::from_shape_fn((at.len(), at.len()), |(i, j)| {
            let (Some(a), Some(b)) = (at.get(i), at.get(j)) else { return 0.0 };
            self.moments.get((*a, *b)).copied().unwrap_or_default() * factor(*a) * factor(*b)
        });
        let picked = extremes(&self.extremes);
        let change = picked.step(|_| 1.0) / self.extremes.step(|_| 1.0).max(f32::MIN_POSITIVE);
        Activations {
            by_text: self.by_text.iter().map(extremes).collect(),
            moments,
            histogram: self.histogram.stretched(change),
            extremes: picked,
        }
    }
}
