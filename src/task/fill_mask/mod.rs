//! Masked tokens: the predicted tokens of each, as in `pipeline("fill-mask")`.

mod token_scores;

use serde::Serialize;

use super::batches::{self, Row, Tokenized};
use super::pipeline::{Pipeline, one};
use super::watch::{UNWATCHED, Watch};
use super::{Definition, Task, not_a_pair};
use super::{Predicted, Prediction};
use crate::error::{Error, Result};
use crate::eval::TokenScore;
use crate::ports::PortKind;
use crate::runtime::{TextEncoder, TextInput, softmax};
use crate::settings::Settings;

pub use token_scores::targets;

/// Most masks of one text: each prediction holds the whole text again.
pub const MOST_MASKS: usize = 100;

/// The default of top-k.
const SUMMARY: usize = 5;

/// A token for a mask, as in the Hub's `fill-mask`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fill {
    /// Its probability.
    pub score: f32,
    /// Its number in the vocabulary.
    pub token: u32,
    /// Its text.
    pub token_str: String,
    /// The text with it in place of the mask. Where there are several masks, the others are left in it, and so are the
    /// tokens around the text.
    pub sequence: String,
}

pub(super) struct FillMask;

impl Definition for FillMask {
    fn check(&self, input: TextInput) -> Result<()> {
        not_a_pair(Task::FillMask, input)
    }

    fn check_tokens(&self, encoder: &TextEncoder, tokens: &Tokenized) -> Result<()> {
        masks(encoder, tokens).map(drop)
    }

    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let tokenized = pipeline.encode(inputs, watch)?;
        let (engine, parts) = pipeline.parts(watch);
        parts.batches.run(engine, &tokenized, &Head { encoder: parts.encoder, settings: parts.settings })
    }
}

impl Pipeline {
    /// The model's scores of the tokens behind a text's masks, by their ids, which
    /// [`targets`] finds. Fails where the model is not for masked tokens, or a mask has no token.
    pub fn token_scores(&mut self, text: &str, targets: &[u32]) -> Result<Predicted<Vec<TokenScore>>> {
        let tokenized = self.tokenized(text.into(), Task::FillMask)?;
        let (engine, parts) = self.parts(&UNWATCHED);
        one(parts.batches.run(engine, &[tokenized], &token_scores::Head { encoder: parts.encoder, targets })?)
    }
}

struct Head<'a> {
    encoder: &'a TextEncoder,
    settings: &'a Settings,
}

/// The likeliest tokens for a mask: their numbers with their probabilities.
type Likeliest = Vec<(u32, f32)>;

impl batches::Head for Head<'_> {
    /// The likeliest tokens of the masks that the window decides.
    type Part = Vec<(usize, Likeliest)>;

    type Prediction = Prediction;

    fn read(&self, tokenized: &Tokenized, window: usize, row: &Row) -> Result<Self::Part> {
        let masks = masks(self.encoder, tokenized)?;
        let logits = row.per_token(PortKind::Logits)?;
        let owned = tokenized.owned(window).filter(|(token, _)| masks.contains(token));
        Ok(owned.filter_map(|(token, at)| Some((token, self.likeliest(logits.get(at)?)))).collect())
    }

    fn join(&self, tokenized: &Tokenized, parts: Vec<Self::Part>) -> Result<Prediction> {
        let mut found: Vec<(usize, Likeliest)> = parts.into_iter().flatten().collect();
        found.sort_by_key(|(token, _)| *token);
        let read = (0..tokenized.encoded.len()).filter(|token| tokenized.encoded.window_of(*token).is_some());
        let ids: Vec<(usize, u32)> = read.filter_map(|token| Some((token, tokenized.encoded.id(token)?))).collect();
        let plain = found.len() == 1;
        let masks = found.into_iter().map(|(mask, likeliest)| self.fills(&ids, mask, likeliest, plain));
        Ok(Prediction::Fills { masks: masks.collect::<Result<_>>()? })
    }
}

/// The tokenizer's token for a mask, and its name.
fn mask_of(encoder: &TextEncoder) -> Result<(u32, &str)> {
    encoder.mask().ok_or_else(|| {
        Error::unsupported("the tokenizer has no token for a mask").hint("the known ones are [MASK] and <mask>")
    })
}

/// The positions of the masks among the tokens of a text. Fails where there are none, or more than are filled.
fn positions(encoder: &TextEncoder, ids: impl Iterator<Item = Option<u32>>) -> Result<Vec<usize>> {
    let (mask, name) = mask_of(encoder)?;
    let masks: Vec<usize> = ids.enumerate().filter(|(_, id)| *id == Some(mask)).map(|(at, _)| at).collect();
    match masks.len() {
        0 => Err(Error::bad_input(format!("there is no {name} in the text"))
            .hint(format!("write {name} for each token to be predicted"))),
        found if found > MOST_MASKS => {
            Err(Error::bad_input(format!("{found} times {name} in one text, at most {MOST_MASKS} are filled")))
        }
        _ => Ok(masks),
    }
}

/// The masks of a text, all of which are in a window.
fn masks(encoder: &TextEncoder, tokenized: &Tokenized) -> Result<Vec<usize>> {
    let masks = positions(encoder, (0..tokenized.encoded.len()).map(|token| tokenized.encoded.id(token)))?;
    match masks.iter().find(|mask| tokenized.encoded.window_of(**mask).is_none()) {
        Some(_) => {
            let (_, name) = mask_of(encoder)?;
            Err(Error::bad_input(format!("a {name} was cut off with the end of the text"))
                .hint("without --truncate a text is read in windows"))
        }
        None => Ok(masks),
    }
}

impl Head<'_> {
    fn likeliest(&self, logits: &[f32]) -> Likeliest {
        let mut scored: Likeliest = (0..).zip(softmax(logits)).collect();
        let k = self.settings.top_k.unwrap_or(SUMMARY).min(scored.len());
        let surest = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if k < scored.len() {
            scored.select_nth_unstable_by(k, surest);
            scored.truncate(k);
        }
        scored.sort_by(surest);
        scored
    }

    fn fills(&self, ids: &[(usize, u32)], mask: usize, likeliest: Likeliest, plain: bool) -> Result<Vec<Fill>> {
        let filled = |(token, _): &(u32, f32)| {
            let put = ids.iter().map(|(at, id)| if *at == mask { *token } else { *id });
            put.filter(|id| *id != self.encoder.padding()).collect()
        };
        let sequences = self.encoder.decoded(likeliest.iter().map(filled).collect(), plain)?;
        let tokens = self.encoder.decoded(likeliest.iter().map(|(token, _)| vec![*token]).collect(), false)?;
        let each = likeliest.into_iter().zip(tokens.into_iter().zip(sequences));
        Ok(each.map(|((token, score), (token_str, sequence))| Fill { score, token, token_str, sequence }).collect())
    }
}
