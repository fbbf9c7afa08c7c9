//! How likely a model thinks given tokens: what perplexity is made of.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Tokens that are run at a time: logits of a long text are not all in memory at once.
pub(super) const PIECE: usize = 256;

/// A part of a text whose tokens are scored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The tokens, in order.
    pub tokens: Vec<u32>,
    /// How many of the first only give context. The first token of all follows nothing, and is never scored.
    pub context: usize,
}

/// Negative log likelihood of tokens, each given those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nll {
    /// The sum over the tokens, in nats.
    pub sum: f64,
    /// How many tokens there are.
    pub tokens: usize,
}

impl Nll {
    /// The exponential of the mean; none where no token was scored.
    pub fn perplexity(self) -> Option<f64> {
        (self.tokens > 0).then(|| (self.sum / self.tokens as f64).exp())
    }
}

impl std::ops::Add for Nll {
    type Output = Nll;

    fn add(self, other: Nll) -> Nll {
        Nll { sum: self.sum + other.sum, tokens: self.tokens + other.tokens }
    }
}

/// Adds up what logits say of the tokens of windows.
pub(super) struct Scorer<'a> {
    windows: &'a [Window],
    found: Vec<Nll>,
}

impl<'a> Scorer<'a> {
    pub fn new(windows: &'a [Window]) -> Scorer<'a> {
        Scorer { windows, found: vec![Nll::default(); windows.len()] }
    }

    /// Takes the logits after a token of a window.
    pub fn take(&mut self, window: usize, place: usize, logits: &[f32]) -> Result<()> {
        let (Some(of), Some(found)) = (self.windows.get(window), self.found.get_mut(window)) else {
            return Err(Error::bug("a window is shown that was not asked for"));
        };
        let target = place + 1;
        let Some(token) = of.tokens.get(target).filter(|_| target >= of.context) else { return Ok(()) };
        found.sum += nll(logits, *token)?;
        found.tokens += 1;
        Ok(())
    }

    /// What was found, window by window.
    pub fn found(self) -> Vec<Nll> {
        self.found
    }
}

/// Minus the logarithm of a token's softmax.
fn nll(logits: &[f32], token: u32) -> Result<f64> {
    let logit = usize::try_from(token).ok().and_then(|place| logits.get(place)).ok_or_else(|| {
        Error::bad_input(format!("token {token} is outside of the model's vocabulary of {} tokens", logits.len()))
    })?;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let nll = sum.ln() + f64::from(largest) - f64::from(*logit);
    match (nll.is_finite(), logit.is_finite()) {
        (true, _) => Ok(nll),
        (false, true) => Err(Error::bad_input("the model's logits are not finite")),
        (false, false) => Err(Error::bad_input(format!("the model's logit of token {token} is {logit}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelihood_is_that_of_the_softmax() {
        let found = nll(&[1000.0, 999.0, 998.0], 1).unwrap();
        let expected = -(1.0_f64.exp() / (2.0_f64.exp() + 1.0_f64.exp() + 1.0)).ln();
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        assert!(nll(&[0.0], 1).unwrap_err().to_string().contains("vocabulary of 1 tokens"));
        assert_eq!(nll(&[f32::NAN, 0.0], 1).unwrap_err().to_string(), "the model's logits are not finite");
        let never = nll(&[0.0, f32::NEG_INFINITY], 1).unwrap_err().to_string();
        assert_eq!(never, "the model's logit of token 1 is -inf");
        let all = Nll { sum: 2.0, tokens: 2 } + Nll { sum: 1.0, tokens: 1 };
        assert_eq!(all.perplexity(), Some(1.0_f64.exp()));
        assert_eq!(Nll::default().perplexity(), None);
    }
}
