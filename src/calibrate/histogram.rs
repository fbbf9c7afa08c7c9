//! A histogram that grows with its data, and the ranges that are read off it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};

/// Bins on each side of zero.
const BINS: usize = 2048;

/// How often elements of each size came, for positive and for negative ones. The width of a bin doubles when a number
/// falls outside, so one pass is enough.
#[derive(Clone, Debug)]
pub struct Histogram {
    width: f32,
    /// `BINS` bins below zero, nearest to zero last, then `BINS` above.
    counts: Vec<u64>,
    lowest: f32,
    highest: f32,
    /// The mean of the ranges of single texts.
    mean: (f32, f32),
    texts: usize,
}

/// The range of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub width: f32,
    pub lowest: f32,
    pub highest: f32,
    pub mean: (f32, f32),
    pub texts: usize,
}

/// How a range is found that is fixed when the engine is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Estimator {
    /// From the lowest to the highest number.
    #[default]
    MinMax,
    /// The mean of the ranges of single texts.
    MovingAverage,
    /// That which holds so many percent of the numbers.
    Percentile(f32),
    /// That whose 8-bit distribution is nearest to the whole one by Kullback and Leibler's divergence.
    Entropy,
    /// That with the least mean square of rounding and clipping.
    Mse,
}

impl Estimator {
    /// The names on the command line.
    pub const NAMES: [&str; 5] = ["min-max", "moving-average", "percentile", "entropy", "mse"];
}

impl fmt::Display for Estimator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Estimator::MinMax => f.write_str("min-max"),
            Estimator::MovingAverage => f.write_str("moving-average"),
            Estimator::Percentile(share) => write!(f, "percentile:{share}"),
            Estimator::Entropy => f.write_str("entropy"),
            Estimator::Mse => f.write_str("mse"),
        }
    }
}

impl From<Estimator> for String {
    fn from(estimator: Estimator) -> String {
        estimator.to_string()
    }
}

impl TryFrom<String> for Estimator {
    type Error = Error;

    fn try_from(text: String) -> Result<Estimator> {
        text.parse()
    }
}

impl FromStr for Estimator {
    type Err = Error;

    fn from_str(text: &str) -> Result<Estimator> {
        if let Some(share) = text.strip_prefix("percentile:") {
            let share = share.parse().ok().filter(|share: &f32| (50.0..=100.0).contains(share));
            return share
                .map(Estimator::Percentile)
                .ok_or_else(|| Error::bad_input(format!("`{}`: the percentile must be in 50…100", printable(text))));
        }
        Ok(match text {
            "min-max" => Estimator::MinMax,
            "moving-average" => Estimator::MovingAverage,
            "percentile" => Estimator::Percentile(99.99),
            "entropy" => Estimator::Entropy,
            "mse" => Estimator::Mse,
            _ => {
                let known = Estimator::NAMES.join(", ");
                let error = Error::bad_input(format!("unknown estimator `{}`; known: {known}", printable(text)));
                return Err(error.hint_nearest(text, Estimator::NAMES));
            }
        })
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { width: 0.0, counts: vec![0; 2 * BINS], lowest: 0.0, highest: 0.0, mean: (0.0, 0.0), texts: 0 }
    }
}

impl Histogram {
    /// A histogram as it was; `None` where there are not as many bins, or the span is none that holds 0.
    pub(super) fn of(span: Span, counts: Vec<u64>) -> Option<Histogram> {
        let Span { width, lowest, highest, mean, texts } = span;
        let holds = width >= 0.0 && lowest <= 0.0 && highest >= 0.0 && counts.len() == 2 * BINS;
        holds.then_some(Histogram { width, counts, lowest, highest, mean, texts })
    }

    pub(super) fn span(&self) -> Span {
        Span { width: self.width, lowest: self.lowest, highest: self.highest, mean: self.mean, texts: self.texts }
    }

    pub(super) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Adds the elements that one text gave: finite ones in the range `low … high`, which holds 0.
    pub fn add(&mut self, elements: &[f32], low: f32, high: f32) {
        self.fit(high.max(-low));
        let scale = if self.width > 0.0 { 1.0 / self.width } else { 0.0 };
        for x in elements {
            // A positive value is rounded down by the conversion; `floor` is a call on processors without SSE 4.1.
            let bin = (x * scale + BINS as f32) as usize;
            if let Some(count) = self.counts.get_mut(bin.min(2 * BINS - 1)) {
                *count += 1;
            }
        }
        self.lowest = self.lowest.min(low);
        self.highest = self.highest.max(high);
        self.texts += 1;
        let share = 1.0 / self.texts as f32;
        self.mean.0 += (low - self.mean.0) * share;
        self.mean.1 += (high - self.mean.1) * share;
    }

    /// Doubles the bins until they reach `magnitude`.
    fn fit(&mut self, magnitude: f32) {
        if self.width == 0.0 {
            self.width = magnitude / BINS as f32;
        }
        while self.width > 0.0 && magnitude > self.width * BINS as f32 {
            let mut wider = vec![0; 2 * BINS];
            for (i, count) in self.counts.iter().enumerate() {
                if let Some(bin) = wider.get_mut(i / 2 + BINS / 2) {
                    *bin += count;
                }
            }
            self.counts = wider;
            self.width *= 2.0;
        }
    }

    /// The histogram of the same elements, all multiplied by a positive factor.
    pub fn stretched(&self, factor: f32) -> Histogram {
        Histogram {
            width: self.width * factor,
            lowest: self.lowest * factor,
            highest: self.highest * factor,
            mean: (self.mean.0 * factor, self.mean.1 * factor),
            ..self.clone()
        }
    }

    /// The range that an estimator finds; it holds 0.
    pub fn range(&self, estimator: Estimator) -> (f32, f32) {
        match estimator {
            Estimator::MinMax => (self.lowest, self.highest),
            Estimator::MovingAverage => self.mean,
            Estimator::Percentile(share) => self.percentile(share / 100.0),
            Estimator::Entropy => self.best_clip(|clipped| self.divergence(clipped)),
            Estimator::Mse => self.best_clip(|clipped| self.square_error(clipped)),
        }
    }

    fn percentile(&self, share: f32) -> (f32, f32) {
        let total: u64 = self.counts.iter().sum();
        let outside = ((1.0 - f64::from(share)) * total as f64) as u64;
        let low = past(self.counts.iter().enumerate(), outside).map_or(self.lowest, |i| self.edge(i));
        let high = past(self.counts.iter().enumerate().rev(), outside).map_or(self.highest, |i| self.edge(i + 1));
        (low.clamp(self.lowest, 0.0), high.clamp(0.0, self.highest))
    }

    /// The lower edge of a bin.
    fn edge(&self, bin: usize) -> f32 {
        (bin as f32 - BINS as f32) * self.width
    }

    /// The range with the least loss, of those cut at one magnitude.
    fn best_clip(&self, loss: impl Fn((f32, f32)) -> f64) -> (f32, f32) {
        let most = self.highest.max(-self.lowest);
        let cut = |i: u32| {
            let end = most * i as f32 / 128.0;
            (self.lowest.max(-end), self.highest.min(end))
        };
        (2..=128).map(cut).min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap_or((self.lowest, self.highest))
    }

    fn bins(&self) -> impl Iterator<Item = (f32, f64)> {
        let centre = |i: usize| (i as f32 + 0.5 - BINS as f32) * self.width;
        self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(i, n)| (centre(i), *n as f64))
    }

    fn square_error(&self, (low, high): (f32, f32)) -> f64 {
        let step = f64::from(high - low) / 255.0;
        let beyond = |x: f32| f64::from((x - high).max(low - x).max(0.0));
        self.bins().map(|(x, n)| n * (beyond(x).powi(2) + if beyond(x) > 0.0 { 0.0 } else { step * step / 12.0 })).sum()
    }

    /// Kullback and Leibler's divergence of the distribution in 255 steps from the whole one.
    fn divergence(&self, (low, high): (f32, f32)) -> f64 {
        let step = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
        let place = |x: f32| (((x.clamp(low, high) - low) / step) as usize).min(254);
        let mut mass = vec![0.0; 255];
        let mut inside = vec![0.0; 255];
        let mut bins = vec![0.0; 255];
        let mut total = 0.0;
        for (x, n) in self.bins() {
            let i = place(x);
            mass[i] += n;
            total += n;
            if (low..=high).contains(&x) {
                inside[i] += n;
                bins[i] += 1.0;
            }
        }
        // Clipped values pile up at the ends: the fixed grid spreads only the values inside.
        self.bins()
            .filter(|(x, _)| (low..=high).contains(x))
            .map(|(x, n)| {
                let i = place(x);
                let spread = (inside[i] / bins[i]).max(f64::MIN_POSITIVE);
                let share = if inside[i] > 0.0 { n * mass[i] / inside[i] } else { n };
                share / total * (share / spread).ln()
            })
            .sum()
    }
}

/// The first bin with which more than `outside` elements have been passed.
fn past<'a>(bins: impl Iterator<Item = (usize, &'a u64)>, outside: u64) -> Option<usize> {
    let mut observed = 0;
    for (i, count) in bins {
        observed += count;
        if observed > outside {
            return Some(i);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(histogram: &mut Histogram, text: &[f32]) {
        let low = text.iter().copied().fold(0.0, f32::min);
        histogram.add(text, low, text.iter().copied().fold(0.0, f32::max));
    }

    fn of(elements: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        elements.chunks(100).for_each(|text| add(&mut histogram, text));
        histogram
    }

    /// A bell and one far outlier.
    fn bell() -> Histogram {
        let mut elements: Vec<f32> = (0..20_000u64)
            .map(|i| ((i * 2_654_435_761 % 4001) as f32 + (i * 40_503 % 4001) as f32) / 2000.0 - 2.0)
            .collect();
        elements.push(100.0);
        of(&elements)
    }

    #[test]
    fn the_whole_range_holds_zero() {
        assert_eq!(of(&[1.0, 3.0]).range(Estimator::MinMax), (0.0, 3.0));
        assert_eq!(of(&[-2.0]).range(Estimator::MinMax), (-2.0, 0.0));
        assert_eq!(of(&[0.0, 0.0]).range(Estimator::Mse), (0.0, 0.0));
    }

    #[test]
    fn an_outlier_is_clipped_by_those_that_clip() {
        let histogram = bell();
        assert_eq!(histogram.range(Estimator::MinMax).1, 100.0);
        let (low, high) = histogram.range(Estimator::Percentile(99.9));
        assert!((-2.1..-1.8).contains(&low) && (1.8..2.2).contains(&high), "{low} {high}");
        let (_, high) = histogram.range(Estimator::Entropy);
        assert!(high < 60.0, "{high}");
        // One number that is off by 98 costs more than 20 000 coarse ones.
        let (_, high) = histogram.range(Estimator::Mse);
        assert!(high > 90.0, "{high}");
    }

    #[test]
    fn the_average_is_that_of_texts() {
        let mut histogram = Histogram::default();
        add(&mut histogram, &[-1.0, 2.0]);
        add(&mut histogram, &[-3.0, 4.0]);
        assert_eq!(histogram.range(Estimator::MovingAverage), (-2.0, 3.0));
    }

    #[test]
    fn bins_widen_without_losing_any() {
        let histogram = of(&[0.5, -0.5, 1.0, 64.0, -1000.0]);
        assert_eq!(histogram.counts.iter().sum::<u64>(), 5);
        assert!(histogram.width * BINS as f32 >= 1000.0);
    }

    #[test]
    fn names_parse_and_print_back() {
        for name in ["min-max", "moving-average", "percentile:99.5", "entropy", "mse"] {
            assert_eq!(name.parse::<Estimator>().unwrap().to_string(), name);
        }
        assert_eq!("entropie".parse::<Estimator>().unwrap_err().hints(), ["did you mean entropy?"]);
        assert!("percentile:12".parse::<Estimator>().is_err());
    }
}
