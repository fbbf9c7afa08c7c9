//! The kinds of rotary positions that `transformers` knows: their parameters, and the angles that they make.
//!
//! Angles are computed in 32 bits, in the order of `modeling_rope_utils.py`: at position 100,000 the last bit of a frequency is
//! a hundredth of a turn.

use serde::Deserialize;

use crate::error::{Error, Result, printable};
use crate::front::hub::arch::blocks::{DynamicBase, Longer, wave_lengths};

/// A kind, by its name in `rope_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As in the paper (arXiv 2104.09864).
    Default,
    /// Positions divided by a factor (arXiv 2306.15595).
    Linear,
    /// A base that grows with texts longer than trained.
    Dynamic,
    /// Long waves slower by a factor, short ones as they were, those between mixed (Llama 3.1).
    Llama3,
    /// The same by the number of turns, and larger scores (arXiv 2309.00071).
    Yarn,
    /// A factor for each frequency, one list for short texts and one for long ones (arXiv 2402.13753).
    LongRope,
}

const KINDS: [(&str, Kind); 6] = [
    ("default", Kind::Default),
    ("linear", Kind::Linear),
    ("dynamic", Kind::Dynamic),
    ("llama3", Kind::Llama3),
    ("yarn", Kind::Yarn),
    ("longrope", Kind::LongRope),
];

impl Kind {
    /// The one of that name. Fails by name where there is none.
    pub fn named(name: &str, place: &str) -> Result<Kind> {
        if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) {
            return Ok(*kind);
        }
        let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        Err(Error::unsupported(format!("rotary positions of the kind `{}` are not built", printable(name)))
            .at(place)
            .hint(format!("known: {}", known.join(", "))))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| *name)
    }
}

/// The parameters of all kinds, of which each reads its own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Parameters {
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    pub original_max_position_embeddings: Option<usize>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
}

impl Parameters {
    /// Whether long texts have the angles of short ones: one list of factors given twice.
    pub fn same_at_all_lengths(&self, kind: Kind) -> bool {
        kind == Kind::LongRope && self.short_factor == self.long_factor
    }
}

/// Their names.
pub(super) const PARAMETERS: [&str; 12] = [
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
];

/// What angles follow from.
pub(super) struct Request<'a> {
    pub kind: Kind,
    pub parameters: &'a Parameters,
    /// Base of the angles.
    pub theta: f64,
    /// How many channels of a head are turned.
    pub turned: usize,
    /// `max_position_embeddings`.
    pub positions: usize,
    /// Positions in training, by the field beside the parameters or among them.
    pub original: Option<usize>,
    /// Whether the family's class runs a text anew once it has other factors.
    pub restarts: bool,
    /// Where the parameters are.
    pub place: &'a str,
}

impl Request<'_> {
    /// The frequency of each pair of channels in texts that are not longer than trained, and the factor of cosines and
    /// sines.
    pub fn frequencies(&self) -> Result<(Vec<f32>, f32)> {
        let plain = self.plain();
        match self.kind {
            // Up to the positions in training a dynamic base is the plain one.
            Kind::Dynamic => self.needed("factor", self.parameters.factor).map(|_| (plain, 1.0)),
            Kind::Default => Ok((plain, 1.0)),
            Kind::Linear => {
                let factor = self.needed("factor", self.parameters.factor)? as f32;
                Ok((plain.into_iter().map(|frequency| frequency / factor).collect(), 1.0))
            }
            Kind::Llama3 => self.llama3(plain).map(|frequencies| (frequencies, 1.0)),
            Kind::Yarn => self.yarn(),
            Kind::LongRope => self.long_rope(),
        }
    }

    /// `theta^(−2i/d)`
    fn plain(&self) -> Vec<f32> {
        self.waves().into_iter().map(f32::recip).collect()
    }

    /// `theta^(2i/d)`
    fn waves(&self) -> Vec<f32> {
        wave_lengths(self.theta as f32, self.turned)
    }

    fn llama3(&self, plain: Vec<f32>) -> Result<Vec<f32>> {
        let factor = self.needed("factor", self.parameters.factor)? as f32;
        let low = self.needed("low_freq_factor", self.parameters.low_freq_factor)? as f32;
        let high = self.needed("high_freq_factor", self.parameters.high_freq_factor)? as f32;
        let original = self.needed("original_max_position_embeddings", self.original.map(|n| n as f64))? as f32;
        if high <= low {
            return Err(Error::bad_input(format!(
                "`high_freq_factor` {high} is not more than `low_freq_factor` {low}"
            ))
            .at(self.place));
        }
        let (longest, shortest) = (original / low, original / high);
        let scaled = plain.into_iter().map(|frequency| {
            let wave = 2.0 * std::f32::consts::PI / frequency;
            match () {
                () if wave > longest => frequency / factor,
                () if wave < shortest => frequency,
                () => {
                    let smooth = (original / wave - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        });
        Ok(scaled.collect())
    }

    fn yarn(&self) -> Result<(Vec<f32>, f32)> {
        let p = self.parameters;
        let factor = self.needed("factor", p.factor)?;
        let original = self.original.unwrap_or(self.positions) as f64;
        let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        let attention = match (p.attention_factor, p.mscale, p.mscale_all_dim) {
            (Some(given), ..) => given,
            (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => grown(one) / grown(all),
            _ => grown(1.0),
        };
        let turns = |given: Option<f64>, usual: f64| given.filter(|n| *n != 0.0).unwrap_or(usual);
        let (fast, slow) = (turns(p.beta_fast, 32.0), turns(p.beta_slow, 1.0));
        // The pair that turns so many times in the positions of training.
        let pair = |turns: f64| {
            self.turned as f64 * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (pair(fast), pair(slow));
        if p.truncate.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(self.turned as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let mixed = self.waves().into_iter().enumerate().map(|(i, wave)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let own = 1.0 - ramp;
            (factor as f32 * wave).recip() * (1.0 - own) + wave.recip() * own
        });
        Ok((mixed.collect(), attention as f32))
    }

    fn long_rope(&self) -> Result<(Vec<f32>, f32)> {
        let p = self.parameters;
        let original = self.original.unwrap_or(self.positions);
        for (name, list) in [("short_factor", &p.short_factor), ("long_factor", &p.long_factor)] {
            let list = list.as_ref().ok_or_else(|| self.missing(name))?;
            let pairs = self.turned / 2;
            if list.len() != pairs || list.iter().any(|factor| !(factor.is_finite() && *factor > 0.0)) {
                return Err(Error::bad_input(format!(
                    "expected {pairs} positive numbers, one for each pair of channels, found {}",
                    list.len()
                ))
                .at(format!("{}.{name}", self.place)));
            }
        }
        let share = match self.original {
            Some(original) => self.positions as f64 / original as f64,
            None => self.needed("factor", p.factor)?,
        };
        let attention = match p.attention_factor {
            Some(given) => given,
            None if share <= 1.0 => 1.0,
            None => (1.0 + share.ln() / (original as f64).ln()).sqrt(),
        };
        Ok((self.slowed(p.short_factor.iter().flatten()), attention as f32))
    }

    /// Frequencies, each divided by its factor.
    fn slowed<'f>(&self, factors: impl Iterator<Item = &'f f64>) -> Vec<f32> {
        self.waves().into_iter().zip(factors).map(|(wave, by)| (*by as f32 * wave).recip()).collect()
    }

    /// Those of longer texts, of which there are some where so many positions are more than trained.
    pub fn longer(&self, positions: usize) -> Result<Longer> {
        let trained = match self.kind {
            Kind::LongRope => self.original.unwrap_or(self.positions),
            Kind::Dynamic => self.positions,
            _ => positions,
        };
        if trained == 0 || trained >= positions || self.parameters.same_at_all_lengths(self.kind) {
            return Ok(Longer::Same);
        }
        match self.kind {
            Kind::LongRope => {
                let frequencies = self.slowed(self.parameters.long_factor.iter().flatten());
                Ok(Longer::Others { trained, frequencies, restarts: self.restarts })
            }
            _ if self.turned <= 2 => {
                Err(Error::bad_input("a base that grows needs more than one pair of channels").at(self.place))
            }
            _ => {
                let factor = self.needed("factor", self.parameters.factor)?;
                let (theta, turned) = (self.theta as f32, self.turned);
                Ok(Longer::Growing(DynamicBase { trained, theta, factor, turned }))
            }
        }
    }

    /// A parameter that must be a positive number.
    fn needed(&self, name: &str, value: Option<f64>) -> Result<f64> {
        match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(Error::bad_input(format!("expected a positive number, found {value}"))
                .at(format!("{}.{name}", self.place))),
            None => Err(self.missing(name)),
        }
    }

    fn missing(&self, name: &str) -> Error {
        Error::bad_input(format!("rotary positions of the kind `{}` need `{name}`", self.kind.name())).at(self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: Kind, parameters: &Parameters) -> Request<'_> {
        let place = "config.json: rope_scaling";
        Request {
            kind,
            parameters,
            theta: 10_000.0,
            turned: 8,
            positions: 64,
            original: Some(32),
            restarts: false,
            place,
        }
    }

    fn of(text: &str) -> Parameters {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn frequencies_are_those_of_transformers() {
        // By `ROPE_INIT_FUNCTIONS` of transformers 4.57.6.
        let cases = [
            (Kind::Default, "{}", [1.0, 0.1, 0.01, 0.001], 1.0),
            (Kind::Linear, r#"{"factor": 4.0}"#, [0.25, 0.025, 0.0025, 0.00025], 1.0),
            (
                Kind::Llama3,
                r#"{"factor": 8.0, "low_freq_factor": 0.25, "high_freq_factor": 4.0}"#,
                [1.0, 0.018_550_236, 0.00125, 0.000125],
                1.0,
            ),
            (
                Kind::Yarn,
                r#"{"factor": 4.0, "beta_fast": 4, "beta_slow": 0.125}"#,
                [1.0, 0.0625, 0.0025, 0.00025],
                1.138_629_4,
            ),
            (
                Kind::Yarn,
                r#"{"factor": 4.0, "beta_fast": 4, "beta_slow": 0.125, "truncate": false, "mscale": 2.0,
                    "mscale_all_dim": 1.0}"#,
                [1.0, 0.055_398_636, 0.0025, 0.00025],
                1.121_751_1,
            ),
            (
                Kind::LongRope,
                r#"{"short_factor": [1, 2, 1, 4], "long_factor": [8, 8, 8, 8]}"#,
                [1.0, 0.05, 0.01, 0.00025],
                1.095_445_1,
            ),
        ];
        for (kind, text, expected, factor) in cases {
            let (found, scale) = request(kind, &of(text)).frequencies().unwrap();
            let close = |a: f32, b: f32| (a - b).abs() <= 2e-7 * b.abs();
            assert!(found.iter().zip(expected).all(|(a, b)| close(*a, b)), "{}: {found:?}", kind.name());
            assert!(close(scale, factor), "{}: {scale}", kind.name());
        }
    }

    #[test]
    fn frequencies_of_longer_texts_are_those_of_transformers() {
        // By the same functions with `seq_len`.
        let parameters = of(r#"{"short_factor": [1, 2, 1, 4], "long_factor": [8, 4, 2, 1]}"#);
        let Longer::Others { trained, frequencies, .. } = request(Kind::LongRope, &parameters).longer(64).unwrap()
        else {
            panic!("longer texts have others")
        };
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 5e-7 * b.abs());
        assert_eq!(trained, 32);
        assert!(close(&frequencies, &[0.125, 0.025, 0.005, 0.001]), "{frequencies:?}");
        assert_eq!(request(Kind::LongRope, &parameters).longer(32).unwrap(), Longer::Same);
        let parameters = of(r#"{"factor": 4.0}"#);
        let Longer::Growing(base) = request(Kind::Dynamic, &parameters).longer(80).unwrap() else {
            panic!("longer texts have others")
        };
        let last = base.frequencies(80);
        assert_eq!(base.trained, 64);
        assert!(close(&last, &[1.0, 0.079_370_05, 0.006_299_605, 0.000_5]), "{last:?}");
        let two = Request { turned: 2, ..request(Kind::Dynamic, &parameters) };
        let said = two.longer(80).unwrap_err();
        assert_eq!(said.message(), "a base that grows needs more than one pair of channels");
    }

    #[test]
    fn parameters_that_a_kind_lacks_are_named() {
        let said = |kind, text: &str| request(kind, &of(text)).frequencies().unwrap_err().to_string();
        assert_eq!(
            said(Kind::Linear, "{}"),
            "rotary positions of the kind `linear` need `factor`\n  in config.json: rope_scaling"
        );
        assert_eq!(
            said(Kind::Yarn, r#"{"factor": 0}"#),
            "expected a positive number, found 0\n  in config.json: rope_scaling.factor"
        );
        assert_eq!(
            said(Kind::LongRope, r#"{"short_factor": [1, 1, 1], "long_factor": [1, 1, 1, 1]}"#),
            "expected 4 positive numbers, one for each pair of channels, found 3\n  in config.json: rope_scaling.short_factor"
        );
        assert_eq!(
            Kind::named("mrope", "config.json: rope_scaling").unwrap_err().to_string(),
            "rotary positions of the kind `mrope` are not built\n  in config.json: rope_scaling\n\n\
             hint: known: default, linear, dynamic, llama3, yarn, longrope"
        );
    }
}
