//! Masked tokens: the predicted tokens of each, as in `pipeline("fill-mask")`.

mod fill;
mod masks;
mod score;
mod token_scores;

use super::batches::{self, Row, Tokenized};
use super::definition::{Definition, not_a_pair};
use super::id::Task;
use super::pipeline::{Pipeline, one};
use super::prediction::{Predicted, Prediction};
use super::scoring::{self, Scoring, ScoringRequest};
use super::watch::{UNWATCHED, Watch};
use crate::error::Result;
use crate::eval::TokenScore;
use crate::ports::PortKind;
use crate::runtime::{TextEncoder, TextInput, softmax};
use crate::settings::Settings;

use masks::masks;

pub use fill::Fill;
pub use masks::MOST_MASKS;

/// The default of top-k.
const SUMMARY: usize = 5;

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
        parts.batches.run(engine, &tokenized, &Fills { encoder: parts.encoder, settings: parts.settings })
    }

    fn rows(&self) -> &'static str {
        score::ROWS
    }

    fn scoring(&self, request: &ScoringRequest) -> Result<Box<dyn Scoring>> {
        Ok(scoring::of(score::MaskedTexts::read(request)?))
    }
}

impl Pipeline {
    /// The model's scores of the tokens behind a text's masks, by their ids. Fails where the model is not for masked
    /// tokens, or a mask has no token.
    pub fn token_scores(&mut self, text: &str, targets: &[u32]) -> Result<Predicted<Vec<TokenScore>>> {
        let tokenized = self.tokenized(text.into(), Task::FillMask)?;
        let (engine, parts) = self.parts(&UNWATCHED);
        one(parts.batches.run(engine, &[tokenized], &token_scores::KnownTokens { encoder: parts.encoder, targets })?)
    }
}

/// Reads the likeliest tokens.
struct Fills<'a> {
    encoder: &'a TextEncoder,
    settings: &'a Settings,
}

/// The likeliest tokens for a mask: their numbers with their probabilities.
type Likeliest = Vec<(u32, f32)>;

impl batches::Reader for Fills<'_> {
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

impl Fills<'_> {
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
