//! A model's scores of the tokens behind masks, where they are known.

use super::masks::{mask_of, masks, positions as places_of};
use crate::error::{Error, Result, printable};
use crate::eval::TokenScore;
use crate::ports::PortKind;
use crate::runtime::{TextEncoder, TextInput};
use crate::task::batches::{self, Row, Tokenized};

pub(super) struct KnownTokens<'a> {
    pub encoder: &'a TextEncoder,
    /// The tokens behind the masks, in their order.
    pub targets: &'a [u32],
}

impl batches::Reader for KnownTokens<'_> {
    /// The masks that the window decides, with the scores of each.
    type Part = Vec<(usize, TokenScore)>;

    type Prediction = Vec<TokenScore>;

    fn read(&self, tokenized: &Tokenized, window: usize, row: &Row) -> Result<Self::Part> {
        let masks = masks(self.encoder, tokenized)?;
        let logits = row.per_token(PortKind::Logits)?;
        let owned =
            tokenized.owned(window).filter_map(|(token, at)| Some((token, at, masks.binary_search(&token).ok()?)));
        let read = |(token, at, number): (usize, usize, usize)| {
            let target = self.targets.get(number).ok_or_else(|| Error::bug("a mask has no target"))?;
            let logits = logits.get(at).copied().unwrap_or_default();
            scored(logits, *target).map(|scored| (token, scored)).ok_or_else(|| {
                let found = logits.len();
                Error::bad_input(format!("the engine gives {found} logits for a mask, none for the token {target}"))
            })
        };
        owned.map(read).collect()
    }

    fn join(&self, _: &Tokenized, parts: Vec<Self::Part>) -> Result<Vec<TokenScore>> {
        let mut found: Vec<(usize, TokenScore)> = parts.into_iter().flatten().collect();
        found.sort_by_key(|(token, _)| *token);
        Ok(found.into_iter().map(|(_, scored)| scored).collect())
    }
}

/// `log p(t) = xₜ − log Σ exp(x)`, and how many tokens come before it; of equals the first in the vocabulary.
fn scored(logits: &[f32], target: u32) -> Option<TokenScore> {
    let position = target as usize;
    let own = *logits.get(position)?;
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    let rank = logits.iter().enumerate().filter(|(at, x)| **x > own || **x == own && *at < position).count();
    let likeliest = logits.iter().position(|logit| *logit == highest)?;
    let log_probability = f64::from(own) - f64::from(highest) - total.ln();
    Some(TokenScore { log_probability, rank, likeliest: u32::try_from(likeliest).ok()? })
}

/// The tokens behind the masks of a text: the token of each word of `labels` in
/// place of its mask, or else the entry of the vocabulary that is written so. Fails where there are not as many
/// labels as masks, or where one is not one token.
pub(super) fn targets(encoder: &TextEncoder, text: &str, labels: &[String]) -> Result<Vec<u32>> {
    let (_, name) = mask_of(encoder)?;
    let open: Vec<u32> = encoder.ids(&[text.into()])?.into_iter().flatten().collect();
    let positions = places_of(encoder, open.iter().map(|id| Some(*id)))?;
    if positions.len() != labels.len() {
        let (labels, masks) = (labels.len(), positions.len());
        return Err(Error::bad_input(format!("there are {labels} labels and {masks} times {name}")));
    }
    let filled: Vec<String> = labels.iter().enumerate().map(|(mask, label)| filled(text, name, mask, label)).collect();
    let filled = encoder.ids(&filled.iter().map(TextInput::from).collect::<Vec<_>>())?;
    let each = labels.iter().zip(positions).zip(filled);
    let target = |((label, position), filled): ((&String, usize), Vec<u32>)| {
        target(encoder, label, (&open, &filled), position).ok_or_else(|| {
            Error::bad_input(format!("`{}` is not one token in place of the {name}", printable(label)))
                .hint("a mask is one token of the vocabulary")
        })
    };
    each.map(target).collect()
}

/// A text with a word in place of one of its masks.
fn filled(text: &str, name: &str, mask: usize, label: &str) -> String {
    let found = text.match_indices(name).nth(mask);
    let around = found.and_then(|(at, _)| Some((text.get(..at)?, text.get(at + name.len()..)?)));
    around.map_or_else(|| text.to_owned(), |(before, after)| [before, label, after].concat())
}

/// The token in place of a mask, where the rest of the text keeps its tokens; or the vocabulary's.
fn target(encoder: &TextEncoder, label: &str, (open, filled): (&[u32], &[u32]), position: usize) -> Option<u32> {
    let same = |(at, (open, filled))| at == position || open == filled;
    let alike = open.len() == filled.len() && open.iter().zip(filled).enumerate().all(same);
    let stands = filled.get(position).filter(|_| alike).copied();
    let known = |id: &u32| Some(*id) != encoder.unknown() && open.get(position) != Some(id);
    stands.filter(known).or_else(|| encoder.number(label).filter(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_ranked_among_all_tokens() {
        let logits = [1.0, 3.0, 1.0, 0.0];
        let found = scored(&logits, 2).unwrap();
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        assert!((found.log_probability - (1f64.exp() / total).ln()).abs() < 1e-12, "{found:?}");
        assert_eq!((found.rank, found.likeliest), (2, 1));
        assert_eq!(scored(&logits, 0).map(|scored| scored.rank), Some(1));
        assert_eq!(scored(&logits, 4), None);
    }

    #[test]
    fn a_word_replaces_its_mask_alone() {
        let text = "é [MASK] and [MASK]!";
        assert_eq!(filled(text, "[MASK]", 1, "東"), "é [MASK] and 東!");
        assert_eq!(filled(text, "[MASK]", 2, "東"), text);
    }
}
