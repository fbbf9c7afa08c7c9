//! Which token comes next.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How tokens are chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Always the token with the largest logit; of equals, that with the smallest id.
    #[default]
    Greedy,
}

impl Strategy {
    /// What chooses so, for one batch of prompts.
    pub(super) fn chooser(&self) -> Box<dyn Choose> {
        match self {
            Strategy::Greedy => Box::new(Greedy),
        }
    }
}

/// A token that continues a row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The row, as the batch has it. A search may continue a row twice, and another not at all.
    pub row: usize,
    /// The token's id.
    pub token: u32,
}

/// A row of a batch as it is continued.
pub(super) struct Candidate<'a> {
    /// The prompt and the tokens after it.
    #[expect(dead_code, reason = "greedy search has no memory; penalties and beams have")]
    pub tokens: &'a [u32],
    /// A logit for each token of the vocabulary.
    pub logits: Cow<'a, [f32]>,
}

/// Chooses the tokens that come next.
pub(super) trait Choose {
    /// One or more tokens for the rows of a batch.
    fn choose(&mut self, rows: &[Candidate<'_>]) -> Result<Vec<Next>>;
}

struct Greedy;

impl Choose for Greedy {
    fn choose(&mut self, rows: &[Candidate<'_>]) -> Result<Vec<Next>> {
        let next = |(row, candidate): (usize, &Candidate<'_>)| {
            Ok(Next { row, token: u32::try_from(largest(&candidate.logits)?).map_err(|_| too_many())? })
        };
        rows.iter().enumerate().map(next).collect()
    }
}

fn too_many() -> Error {
    Error::unsupported("the vocabulary has more tokens than ids of 32 bits")
}

/// The place of the largest logit. Fails where there is none: a model whose logits are no numbers knows no next token.
pub fn largest(logits: &[f32]) -> Result<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (place, logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return Err(Error::bad_input(format!("the model's logit of token {place} is not a number (NaN)")));
        }
        if best.is_none_or(|(_, largest)| *logit > largest) {
            best = Some((place, *logit));
        }
    }
    best.map(|(place, _)| place).ok_or_else(|| Error::bad_input("the model gives no logits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_logit_wins_and_of_equals_the_first() {
        assert_eq!(largest(&[-2.0, 3.0, 3.0, f32::NEG_INFINITY]).unwrap(), 1);
        assert_eq!(largest(&[f32::NEG_INFINITY]).unwrap(), 0);
        assert!(largest(&[0.0, f32::NAN]).unwrap_err().to_string().contains("token 1 is not a number"));
        assert!(largest(&[]).is_err());
    }
}
