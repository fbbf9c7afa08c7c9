//! What is done to logits before a token is chosen, as `transformers` does it: first what forbids and punishes tokens
//! (`LogitsProcessor`), then what a draw leaves out ([`warp`]).

mod context;
mod forbid;
mod penalties;
mod warp;

use crate::settings::Strategy;

pub use context::Context;
pub use warp::warp;

/// Forbids tokens (−∞) and punishes them. `scores` has a logit for each token of the vocabulary, or its logarithm of the
/// probability.
pub fn process(strategy: &Strategy, context: &Context, scores: &mut [f32]) {
    penalties::repetition(strategy, context, scores);
    forbid::ngrams(strategy, context, scores);
    forbid::words(strategy, context, scores);
    forbid::early_end(strategy, context, scores);
    forbid::all_but_forced(strategy, context, scores);
    forbid::tokens(strategy, context, scores);
    penalties::presence(strategy, context, scores);
}
