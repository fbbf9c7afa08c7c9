//! The heads of a decoder.

use serde::Deserialize;

use super::{features, labelled, per_token, sentence, vocabulary_logits};
use crate::error::{Error, Result};
use crate::front::hub::arch::Context;
use crate::front::hub::arch::blocks::{Blocks, DecoderInputs};
use crate::front::hub::checkpoint::{Pooling, Scope, Size};
use crate::ir::{Part, ValueId};
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
    if !family.has(context.head) {
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
