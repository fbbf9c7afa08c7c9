//! Logits of tokens that have been there become smaller.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, score};
use crate::settings::Strategy;

/// `s → s / p` where a token has been there and `s ≥ 0`, and `s · p` where `s < 0`.
pub(super) fn repetition(strategy: &Strategy, context: &Context, scores: &mut [f32]) {
    let Some(penalty) = strategy.repetition_penalty.filter(|penalty| *penalty != 1.0) else { return };
    for token in context.tokens.iter().copied().collect::<BTreeSet<u32>>() {
        if let Some(score) = score(scores, token) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// `s → s − presence − count · frequency` where a token was generated, the prompt left out.
pub(super) fn presence(strategy: &Strategy, context: &Context, scores: &mut [f32]) {
    let (presence, frequency) =
        (strategy.presence_penalty.unwrap_or_default(), strategy.frequency_penalty.unwrap_or_default());
    if presence == 0.0 && frequency == 0.0 {
        return;
    }
    let mut counts: BTreeMap<u32, f32> = BTreeMap::new();
    for token in context.tokens.get(context.prompt..).unwrap_or_default() {
        *counts.entry(*token).or_default() += 1.0;
    }
    for (token, count) in counts {
        if let Some(score) = score(scores, token) {
            *score -= presence + count * frequency;
        }
    }
}
