//! The heads of a decoder.

use serde::Deserialize;

use super::{features, labelled, per_token, sentence, vocabulary_logits};
use crate::error::{Error, Result};
use crate::front::hub::arch::Context;
use crate::front::hub::arch::blocks::{Blocks, DecoderInputs};
use crate::front::hub::checkpoint::{LogitScore, Pooling, Scope, Size};
use crate::ir::{Part, ValueId, Weight};
use crate::ports::PortKind;
use crate::task::head::Head;

/// The heads of a decoder: their sizes, and where their weights are.
pub(in super::super) struct DecoderHeads<'a> {
    /// Width of the hidden states.
    pub hidden: Size,
    /// Number of known tokens.
    pub vocabulary: Size,
    /// The projection to the vocabulary; without a weight of its own it is the word embeddings.
    pub projection: Scope<'a>,
    /// The word embeddings.
    pub tied: Scope<'a>,
}

/// What becomes of the logits of tokens.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Logits {
    /// Nothing.
    Plain,
    /// They are multiplied by a number: the hidden states are, which are fewer.
    Times(f32),
    /// None is beyond a number.
    Capped(f32),
}

/// The context's head, over hidden states `[batch, length, hidden]`. Fails where the family has no class for it.
pub(in super::super) fn build(
    blocks: &mut Blocks,
    context: &Context,
    heads: &DecoderHeads,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<()> {
    build_with(blocks, context, heads, Logits::Plain, x, inputs)
}

/// The same with changed logits of tokens.
pub(in super::super) fn build_with(
    blocks: &mut Blocks,
    context: &Context,
    heads: &DecoderHeads,
    logits: Logits,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<()> {
    let DecoderHeads { hidden, vocabulary: tokens, projection, tied } = heads;
    let Context { family, task_name, .. } = context;
    let head = if logit_score(context).is_some() { Head::NextToken } else { context.head };
    if !family.has(head) {
        return Err(Error::unsupported(format!("{} models are for no {task_name}", family.model_type))
            .hint(format!("its classes are {}", family.class_names())));
    }
    match context.head {
        Head::HiddenStates => features(blocks, x, None),
        Head::Embedding => sentence(blocks, context, x, inputs.mask),
        Head::NextToken => {
            blocks.role(Part::Head);
            let x = match logits {
                Logits::Times(factor) => blocks.times("logits.scaled", factor, x)?,
                Logits::Plain | Logits::Capped(_) => x,
            };
            let mut scores = vocabulary_logits(blocks, projection, tied, projection, [*hidden, *tokens], x)?;
            if let Logits::Capped(cap) = logits {
                scores = blocks.capped("logits.capped", cap, scores)?;
            }
            blocks.output(PortKind::Logits, scores)?;
            blocks.cache_outputs()
        }
        Head::TextLogits => {
            blocks.role(Part::Pooler);
            if let Some(score) = logit_score(context) {
                let last = blocks.pool("last_token", Pooling::LastToken, x, inputs.mask)?;
                return score_of(blocks, heads, logits, score, last);
            }
            let kept = classified(blocks, context, inputs)?;
            let last = blocks.pool("last_token", Pooling::LastToken, x, kept)?;
            labelled(blocks, context, &context.weights.sub("score"), *hidden, last)
        }
        // The classes of newer families have one name for both heads of labels.
        Head::TokenLogits if !context.weights.sub("classifier").has("weight") => {
            labelled(blocks, context, &context.weights.sub("score"), *hidden, x)
        }
        Head::TokenLogits | Head::SpanLogits => per_token(blocks, context, *hidden, x),
        Head::MaskedTokens => Err(Error::unsupported("a decoder fills no masks: its tokens see nothing after them")),
    }
}

/// The module of a reranker that is a language model.
fn logit_score<'c>(context: &'c Context) -> Option<&'c LogitScore> {
    context.sentence.as_ref().and_then(|(modules, _)| modules.logit_score())
}

/// `[batch, 1]`: the logit of one token, less that of another where there is one. No other row of the vocabulary is read.
fn score_of(
    blocks: &mut Blocks,
    heads: &DecoderHeads,
    logits: Logits,
    score: &LogitScore,
    last: ValueId,
) -> Result<()> {
    let DecoderHeads { hidden, vocabulary, projection, tied } = heads;
    blocks.role(Part::Head);
    let last = match logits {
        Logits::Times(factor) => blocks.times("logits.scaled", factor, last)?,
        Logits::Plain | Logits::Capped(_) => last,
    };
    let tokens: Vec<usize> = [score.true_token_id].into_iter().chain(score.false_token_id).collect();
    let of = if projection.has("weight") { projection } else { tied };
    let size = of.rows("weight", *vocabulary);
    let rows = |tensor: &Weight| {
        tensor.take(0, tokens.clone()).map_err(|e| e.at("modules.json: LogitScore: true_token_id, false_token_id"))
    };
    let weight = rows(&of.tensor("weight", &[size, *hidden])?)?;
    let bias = match projection.has("bias") {
        true => Some(blocks.constant("logit_score.bias", rows(&projection.tensor("bias", &[size])?)?)),
        false => None,
    };
    let mut scores = blocks.multiply("logit_score.tokens", "logit_score.rows", weight.transpose()?, bias, last)?;
    if let Logits::Capped(cap) = logits {
        scores = blocks.capped("logits.capped", cap, scores)?;
    }
    if score.false_token_id.is_some() {
        let difference = Weight::f32s(vec![2, 1], &[1.0, -1.0])?;
        scores = blocks.multiply("logit_score", "logit_score.difference", difference, None, scores)?;
    }
    blocks.output(PortKind::Logits, scores)
}

/// The mask of the tokens of which the last one is classified: those that are not the padding token, as `transformers` has
/// it, be they masked or not; the first token of a text without any other.
fn classified(blocks: &mut Blocks, context: &Context, inputs: &DecoderInputs) -> Result<ValueId> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        pad_token_id: Option<i64>,
    }
    match context.config.get::<Config>()?.pad_token_id {
        None => Ok(inputs.mask),
        Some(pad) => blocks.other_tokens(pad, inputs),
    }
}
