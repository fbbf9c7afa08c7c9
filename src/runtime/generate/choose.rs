//! Which token comes next.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::logits::{Context, process, warp};
use super::schema::Constrained;
use crate::error::{Error, Result};
use crate::random;
use crate::runtime::softmax;
use crate::settings::Strategy;

/// How the tokens of a batch are chosen, and what ends its texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DecodeOptions {
    /// How they are chosen.
    pub strategy: Strategy,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// Most tokens that are generated.
    pub max_new_tokens: Option<usize>,
    /// Most tokens of a text, the prompt among them.
    pub max_length: Option<usize>,
}

impl DecodeOptions {
    /// Always the token with the largest logit; of equals, that with the smallest id.
    pub fn greedy() -> DecodeOptions {
        DecodeOptions::default()
    }

    /// How many tokens a text with that prompt may have at the most.
    pub(super) fn most(&self, prompt: usize, positions: Option<usize>) -> Option<usize> {
        let new = self.max_new_tokens.map(|new| prompt.saturating_add(new));
        [new, self.max_length, positions].into_iter().flatten().min()
    }
}

/// A row of a batch as it is continued.
pub(super) struct Candidate<'a> {
    /// The number of its prompt; what is drawn depends on it.
    pub number: usize,
    /// Its tokens.
    pub context: Context<'a>,
    /// A logit for each token of the vocabulary.
    pub logits: Cow<'a, [f32]>,
    /// What its text has to follow, where it has to.
    pub constrained: Option<&'a mut Constrained>,
}

/// The token that comes next.
pub(super) fn choose(strategy: &Strategy, candidate: Candidate) -> Result<u32> {
    let Candidate { number, context, logits, constrained } = candidate;
    // Logits that are no numbers are found before they are changed.
    let greedy = largest(&logits)?;
    if strategy.is_empty() && constrained.is_none() {
        return id(greedy);
    }
    let mut scores = logits.into_owned();
    let by_schema = constrained.is_some();
    process(strategy, &context, &mut scores);
    if let Some(constrained) = constrained {
        constrained.forbid(&mut scores)?;
    }
    if scores.iter().all(|score| *score == f32::NEG_INFINITY) {
        return Err(all_forbidden(by_schema));
    }
    if !strategy.samples() || strategy.temperature == Some(0.0) {
        return id(largest(&scores)?);
    }
    warp(strategy, &mut scores);
    // A text is the same in every batch: the numbers follow from the seed, its prompt and the place.
    let seed = strategy.seed.unwrap_or_default().wrapping_add(number as u64);
    let generated = context.tokens.len().saturating_sub(context.prompt) as u64;
    id(drawn(&softmax(&scores), random::share(random::at(seed, generated))))
}

/// No token is left to choose.
pub(super) fn all_forbidden(by_schema: bool) -> Error {
    match by_schema {
        false => Error::bad_input("every token is forbidden by bad_words_ids, suppress_tokens or no_repeat_ngram_size"),
        true => Error::bad_input("every token is forbidden: by the JSON schema, or by another setting of generation")
            .hint("settings that forbid tokens: min_new_tokens, no_repeat_ngram_size, bad_words_ids, suppress_tokens"),
    }
}

/// The place at which the sum of probabilities passes a share of all.
fn drawn(probabilities: &[f32], share: f64) -> usize {
    let mut sum = 0.0;
    let passes = |p: &f32| {
        sum += f64::from(*p);
        sum > share
    };
    let found = probabilities.iter().position(passes);
    // Rounding may leave the sum below the share.
    found.or_else(|| probabilities.iter().rposition(|p| *p > 0.0)).unwrap_or_default()
}

pub(super) fn id(place: usize) -> Result<u32> {
    u32::try_from(place).map_err(|_| Error::unsupported("the vocabulary has more tokens than ids of 32 bits"))
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

    fn chosen(strategy: &Strategy, number: usize, logits: &[f32]) -> Result<u32> {
        let context = Context { tokens: &[0], prompt: 1, most: None, eos: &[] };
        choose(strategy, Candidate { number, context, logits: Cow::Borrowed(logits), constrained: None })
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely_and_by_the_seed() {
        let strategy = Strategy { do_sample: Some(true), ..Strategy::default() };
        let logits: Vec<f32> = [0.5f32, 0.3, 0.2].iter().map(|p| p.ln()).collect();
        let draws: Vec<u32> = (0..4000).map(|number| chosen(&strategy, number, &logits).unwrap()).collect();
        for (token, expected) in [(0, 2000), (1, 1200), (2, 800)] {
            let found = draws.iter().filter(|drawn| **drawn == token).count();
            assert!(found.abs_diff(expected) < 120, "token {token}: {found}");
        }
        let again: Vec<u32> = (0..4000).map(|number| chosen(&strategy, number, &logits).unwrap()).collect();
        assert_eq!(again, draws);
        let other = Strategy { seed: Some(1), ..strategy.clone() };
        // The seeds of prompts follow one another.
        assert_eq!(chosen(&other, 0, &logits).unwrap(), draws[1]);
        let cold = Strategy { temperature: Some(0.0), ..strategy };
        assert!((0..50).all(|number| chosen(&cold, number, &logits).unwrap() == 0));
    }

    #[test]
    fn a_strategy_that_leaves_no_token_is_an_error() {
        let strategy = Strategy { suppress_tokens: Some(vec![0, 1]), ..Strategy::default() };
        assert!(chosen(&strategy, 0, &[1.0, 2.0]).unwrap_err().message().starts_with("every token is forbidden"));
        assert_eq!(chosen(&strategy, 0, &[1.0, 2.0, -9.0]).unwrap(), 2);
    }
}
