//! Tokens that must not come next: their score becomes −∞.

use super::context::{Context, score};
use crate::settings::Strategy;

fn forbid<'a>(scores: &mut [f32], tokens: impl IntoIterator<Item = &'a u32>) {
    for token in tokens {
        if let Some(score) = score(scores, *token) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// What would end a sequence of `no_repeat_ngram_size` tokens that has been there.
pub(super) fn ngrams(strategy: &Strategy, context: &Context, scores: &mut [f32]) {
    let Some(size) = strategy.no_repeat_ngram_size.filter(|size| *size > 0) else { return };
    let Some(start) = (context.tokens.len() + 1).checked_sub(size) else { return };
    let Some(last) = context.tokens.get(start..) else { return };
    for ngram in context.tokens.windows(size) {
        if let Some((token, before)) = ngram.split_last()
            && before == last
        {
            forbid(scores, [token]);
        }
    }
}

/// What would end one of `bad_words_ids`. A text may end, even if that is among them.
pub(super) fn words(strategy: &Strategy, context: &Context, scores: &mut [f32]) {
    for word in strategy.bad_words_ids.iter().flatten() {
        let Some((token, before)) = word.split_last() else { continue };
        let ends = before.is_empty() && context.eos.contains(token);
        let is_there = before.is_empty() || word.len() <= context.tokens.len() && context.tokens.ends_with(before);
        if !ends && is_there {
            forbid(scores, [token]);
        }
    }
}

/// The end of a text that is too short.
pub(super) fn early_end(strategy: &Strategy, context: &Context, scores: &mut [f32]) {
    let new = context.tokens.len() - context.prompt.min(context.tokens.len());
    let short = strategy.min_length.is_some_and(|least| context.tokens.len() < least);
    if short || strategy.min_new_tokens.is_some_and(|least| new < least) {
        forbid(scores, context.eos);
    }
}

/// All but the forced tokens: after one token, and for the last token there is room for.
pub(super) fn all_but_forced(strategy: &Strategy, context: &Context, scores: &mut [f32]) {
    let only = |scores: &mut [f32], tokens: &[u32]| {
        scores.fill(f32::NEG_INFINITY);
        for token in tokens {
            if let Some(score) = score(scores, *token) {
                *score = 0.0;
            }
        }
    };
    if let Some(forced) = strategy.forced_bos_token_id.filter(|_| context.tokens.len() == 1) {
        only(scores, &[forced]);
    }
    let last = context.most.is_some_and(|most| context.tokens.len() + 1 == most);
    if let Some(forced) = strategy.forced_eos_token_id.as_ref().filter(|_| last) {
        only(scores, forced.ids());
    }
}

/// `suppress_tokens`, and first of all `begin_suppress_tokens`.
pub(super) fn tokens(strategy: &Strategy, context: &Context, scores: &mut [f32]) {
    forbid(scores, strategy.suppress_tokens.iter().flatten());
    // A forced token is no beginning.
    let begin = context.prompt + usize::from(context.prompt == 1 && strategy.forced_bos_token_id.is_some());
    if context.tokens.len() == begin {
        forbid(scores, strategy.begin_suppress_tokens.iter().flatten());
    }
}
