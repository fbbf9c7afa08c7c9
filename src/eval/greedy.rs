//! The tokens that decoders generate, one compared with another.

use serde::{Deserialize, Serialize};

use super::dataset::Example;
use super::workload::Reference;
use crate::error::{Error, Result};
use crate::runtime::generate::{DecodeOptions, Decoding};
use crate::runtime::{TextEncoder, TextInput};

/// Most texts whose beginnings are continued.
const TEXTS: usize = 8;

/// Tokens that are generated after each.
const TOKENS: usize = 8;

/// Two logits of the reference that differ by less are no choice: what rounds otherwise takes the other one.
pub const TIE: f32 = 1e-3;

/// How many greedy tokens are those of the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greedy {
    /// The texts whose beginnings were continued.
    pub texts: usize,
    /// The tokens that were compared, of all texts.
    pub tokens: usize,
    /// Those that are the same: in each text all before the first that differs, since what follows it continues another
    /// text.
    pub equal: usize,
    /// The texts that differ first where the two best logits of the reference differ by less than 0.001. Their tokens
    /// from there on are not compared.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ties: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Greedy {
    /// The share of equal tokens, 0 to 1; 1 where none was compared.
    pub fn share(self) -> f64 {
        if self.tokens == 0 { 1.0 } else { self.equal as f64 / self.tokens as f64 }
    }

    /// Adds a text: what the reference and the candidate generate after it. `is_tie` is asked whether the reference hardly
    /// prefers the token at that place.
    fn add(&mut self, expected: &[u32], found: &[u32], is_tie: impl FnOnce(usize) -> Result<bool>) -> Result<()> {
        self.texts += 1;
        let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
        self.equal += same;
        let differs = same < expected.len();
        if differs && is_tie(same)? {
            self.ties += 1;
            self.tokens += same;
        } else {
            self.tokens += expected.len();
        }
        Ok(())
    }
}

/// Beginnings of texts, as tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Beginnings {
    prompts: Vec<Vec<u32>>,
    tokens: usize,
}

impl Beginnings {
    /// The first half of each of the first texts, as far as the positions of a model leave room for what is generated. None
    /// where there is no such text.
    pub fn of(encoder: &TextEncoder, examples: &[Example], positions: Option<usize>) -> Result<Option<Beginnings>> {
        let texts: Vec<TextInput> = examples.iter().take(TEXTS).map(TextInput::from).collect();
        let most = positions.map_or(usize::MAX, |positions| positions.saturating_sub(TOKENS));
        let half = |mut ids: Vec<u32>| {
            ids.truncate((ids.len() / 2).max(1).min(most));
            ids
        };
        let prompts: Vec<Vec<u32>> = encoder.ids(&texts)?.into_iter().map(half).filter(|ids| !ids.is_empty()).collect();
        Ok((!prompts.is_empty()).then_some(Beginnings { prompts, tokens: TOKENS }))
    }

    /// The greedy tokens after each, with so many run at once. One that ends a text is generated past.
    pub fn continued(&self, decoding: &mut dyn Decoding, batch: usize) -> Result<Vec<Vec<u32>>> {
        let mut continued = Vec::with_capacity(self.prompts.len());
        for prompts in self.prompts.chunks(batch.max(1)) {
            let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let rows: Vec<usize> = (0..prompts.len()).collect();
            let mut texts = vec![Vec::with_capacity(self.tokens); prompts.len()];
            let mut step = decoding.begin(&prompts, &DecodeOptions::greedy())?;
            for place in 0..self.tokens {
                if place > 0 {
                    step = decoding.step(&rows)?;
                }
                if step.chosen.len() != texts.len() {
                    return Err(Error::bug("greedy search continues each row once"));
                }
                texts.iter_mut().zip(&step.chosen).for_each(|(text, chosen)| text.push(chosen.token));
            }
            continued.extend(texts);
        }
        Ok(continued)
    }

    /// Compares what two decoders generate. `reference` is the engine of the first, which says where it hardly had a choice.
    pub fn compare(&self, expected: &[Vec<u32>], found: &[Vec<u32>], reference: &mut Reference) -> Result<Greedy> {
        let mut greedy = Greedy::default();
        for ((prompt, expected), found) in self.prompts.iter().zip(expected).zip(found) {
            greedy.add(expected, found, |place| {
                let before: Vec<u32> = prompt.iter().chain(expected.iter().take(place)).copied().collect();
                Ok(margin(&reference.logits_after(&before)?) < TIE)
            })?;
        }
        Ok(greedy)
    }
}

/// By how much the largest number is larger than the next.
fn margin(logits: &[f32]) -> f32 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for logit in logits {
        if *logit > best {
            (best, second) = (*logit, best);
        } else if *logit > second {
            second = *logit;
        }
    }
    best - second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_equal_up_to_the_first_that_differs() {
        let mut greedy = Greedy::default();
        let never = |_| Ok(false);
        greedy.add(&[1, 2, 3, 4], &[1, 2, 3, 4], |_| panic!("nothing differs")).unwrap();
        greedy.add(&[1, 2, 3, 4], &[1, 9, 3, 4], never).unwrap();
        assert_eq!(greedy, Greedy { texts: 2, tokens: 8, equal: 5, ties: 0 });
        greedy.add(&[1, 2, 3, 4], &[1, 2, 9, 9], |place| Ok(place == 2)).unwrap();
        assert_eq!(greedy, Greedy { texts: 3, tokens: 10, equal: 7, ties: 1 });
        assert_eq!(greedy.share(), 0.7);
        assert_eq!(Greedy { ties: 1, texts: 1, ..Greedy::default() }.share(), 1.0);
    }

    #[test]
    fn the_margin_is_between_the_two_largest() {
        assert_eq!(margin(&[1.0, 3.0, -2.0, 2.5]), 0.5);
        assert_eq!(margin(&[3.0, 1.0, 3.0]), 0.0);
        assert_eq!(margin(&[3.0]), f32::INFINITY);
    }
}
