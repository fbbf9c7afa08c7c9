//! How strong a change is, and of what rank, for the kinds that choose it by patterns.

use super::targets::{is_match, pattern};
use crate::error::{Error, Result};
use crate::json::OrderedMap;

/// Rank and alpha of every module: one for all, and others for those that patterns name.
pub(super) struct Strength<'a> {
    /// The rank of all others.
    pub rank: usize,
    /// Ranks by pattern, in the order of the file; the first that fits counts.
    pub rank_pattern: &'a OrderedMap<usize>,
    /// The alpha of all others, and its field.
    pub alpha: (f64, &'static str),
    /// Alphas by pattern.
    pub alpha_pattern: &'a OrderedMap<f64>,
    /// The divisor of alpha, by the rank.
    pub divisor: fn(f64) -> f64,
}

impl Strength<'_> {
    /// The rank of a module, and the strength of its change. Fails where `given` times that is not finite.
    pub fn of(&self, module: &str, given: f32) -> Result<(usize, f32)> {
        let rank = value(self.rank_pattern, "rank_pattern", module)?.unwrap_or(self.rank);
        let alpha = value(self.alpha_pattern, "alpha_pattern", module)?.unwrap_or(self.alpha.0);
        if rank == 0 {
            return Err(Error::bad_input("the rank must be 1 or more, found 0").at("adapter_config.json: r"));
        }
        // Numbers beyond f32 are no strength that anyone has trained.
        if !(alpha as f32).is_finite() {
            return Err(Error::bad_input(format!("alpha must be a finite number, found {}", alpha as f32))
                .at(format!("adapter_config.json: {}", self.alpha.1)));
        }
        let divisor = (self.divisor)(rank as f64);
        let own = alpha / divisor;
        if !((own * f64::from(given)) as f32).is_finite() {
            return Err(Error::bad_input(format!("the scale {alpha} / {divisor} · {given} is too large for f32")));
        }
        Ok((rank, own as f32))
    }

    /// The largest rank that any module may have.
    pub fn largest_rank(&self) -> usize {
        self.rank_pattern.0.iter().map(|(_, rank)| *rank).fold(self.rank, usize::max)
    }
}

/// The value of the first pattern that a module's name ends with.
fn value<T: Copy>(patterns: &OrderedMap<T>, field: &str, module: &str) -> Result<Option<T>> {
    for (text, value) in &patterns.0 {
        if is_match(&pattern(&format!(r"^(?:.*\.)?(?:{text})$"), text, field)?, module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_of_the_file_counts() {
        let rank_pattern = OrderedMap(vec![("value".to_owned(), 2), (r"layer\.0\..*value".to_owned(), 3)]);
        let strength = Strength {
            rank: 4,
            rank_pattern: &rank_pattern,
            alpha: (8.0, "lora_alpha"),
            alpha_pattern: &OrderedMap::default(),
            divisor: f64::sqrt,
        };
        assert_eq!(strength.of("layer.0.self.value", 1.0).unwrap(), (2, (8.0 / 2f64.sqrt()) as f32));
        assert_eq!(strength.of("layer.0.self.query", 0.5).unwrap(), (4, 4.0));
        assert_eq!(strength.largest_rank(), 4);
    }
}
