//! The heads of an encoder; [`decoder`] has those of decoders.

pub(super) mod decoder;

use super::Context;
use super::blocks::{Activation, Blocks};
use super::flexible::{self, Encoded, start_and_end};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Part, ValueId};
use crate::ports::PortKind;
use crate::task::head::Head;

pub(super) use super::sentence::sentence;

/// The heads of a family: their sizes, and where their weights are.
pub(super) struct Heads<'a> {
    /// The encoder.
    pub encoder: Scope<'a>,
    /// Width of the hidden states.
    pub hidden: Size,
    /// Width of the word embeddings.
    pub embedding: Size,
    /// Number of known tokens.
    pub vocabulary: Size,
    /// The epsilon of norms.
    pub epsilon: f32,
    /// BERT's pooler, in families that may have one.
    pub pooler: Option<Scope<'a>>,
    /// The head of text classification.
    pub classifier: Classifier<'a>,
    /// The head of masked-token prediction.
    pub masked_lm: MaskedLm<'a>,
    /// The non-linearity before it does.
    pub masked_lm_activation: Activation,
}

/// The head of text classification.
pub(super) enum Classifier<'a> {
    /// A linear layer over the pooler's output.
    Pooled(Scope<'a>),
    /// A linear layer over the first token, which goes through a dense layer before it.
    FirstToken {
        /// The dense layer.
        dense: Scope<'a>,
        /// Its non-linearity.
        activation: Activation,
        /// The linear layer.
        out: Scope<'a>,
    },
}

impl<'a> Classifier<'a> {
    /// With both layers below `p`, as RoBERTa has them.
    pub fn first_token(p: &Scope<'a>, activation: Activation) -> Classifier<'a> {
        Classifier::FirstToken { dense: p.sub("dense"), activation, out: p.sub("out_proj") }
    }
}

/// The context's head, over hidden states `[batch, length, hidden]`.
pub(super) fn build(blocks: &mut Blocks, context: &Context, heads: &Heads, x: ValueId, mask: ValueId) -> Result<()> {
    let hidden = heads.hidden;
    if let Some(head) = context.flexible_head() {
        let (embedding, epsilon, pooled) = (heads.embedding, heads.epsilon, heads.pooled(blocks, x)?);
        let given = Encoded { encoder: &heads.encoder, hidden, embedding, epsilon, x, pooled };
        return flexible::build(blocks, context, head, &given);
    }
    match context.head {
        Head::HiddenStates => {
            let pooled = heads.pooled(blocks, x)?;
            features(blocks, x, pooled)
        }
        Head::Embedding => sentence(blocks, context, x, mask),
        Head::TextLogits => match &heads.classifier {
            Classifier::Pooled(out) => {
                let pooled = need_pooler(heads.pooled(blocks, x)?)?;
                labelled(blocks, context, out, hidden, pooled)
            }
            Classifier::FirstToken { dense, activation, out } => {
                blocks.role(Part::Pooler);
                let first = first_token_dense(blocks, dense, hidden, *activation, x)?;
                labelled(blocks, context, out, hidden, first)
            }
        },
        Head::TokenLogits | Head::SpanLogits => per_token(blocks, context, hidden, x),
        Head::MaskedTokens => {
            let sizes = [hidden, heads.embedding, heads.vocabulary];
            masked_lm(blocks, context, &heads.masked_lm, sizes, heads.masked_lm_activation, heads.epsilon, x)
        }
        Head::NextToken => Err(no_decoder()),
    }
}

impl Heads<'_> {
    /// The pooler's output, where there is one.
    fn pooled(&self, blocks: &mut Blocks, x: ValueId) -> Result<Option<ValueId>> {
        self.pooler.as_ref().map_or(Ok(None), |p| pooler(blocks, p, self.hidden, x))
    }
}

/// The bare encoder: its hidden states and, where the checkpoint has a pooler, the pooled first token.
pub(super) fn features(blocks: &mut Blocks, x: ValueId, pooled: Option<ValueId>) -> Result<()> {
    blocks.output(PortKind::Hidden, x)?;
    match pooled {
        Some(pooled) => blocks.output(PortKind::Pooled, pooled),
        None => Ok(()),
    }
}

/// The first token through the dense layer `p` and a non-linearity.
pub(super) fn first_token_dense(
    blocks: &mut Blocks,
    p: &Scope,
    hidden: Size,
    activation: Activation,
    x: ValueId,
) -> Result<ValueId> {
    let first = blocks.first_token(p.path(), x)?;
    let dense = blocks.linear(p, hidden, hidden, first)?;
    blocks.activation(&p.full("activation"), activation, dense)
}

/// BERT's pooler: the first token through `dense` and tanh. Models that were saved without one have none.
pub(super) fn pooler(blocks: &mut Blocks, p: &Scope, hidden: Size, x: ValueId) -> Result<Option<ValueId>> {
    if !p.has("weight") {
        return Ok(None);
    }
    blocks.role(Part::Pooler);
    first_token_dense(blocks, p, hidden, Activation::Tanh, x).map(Some)
}

/// The pooled first token, which a classifier needs.
pub(super) fn need_pooler(pooled: Option<ValueId>) -> Result<ValueId> {
    pooled.ok_or_else(|| {
        Error::bad_input("a classifier needs the pooler, which the checkpoint does not have")
            .hint("was the model saved with add_pooling_layer=False?")
    })
}

/// The head of every token: its label, or whether an answer begins or ends there.
pub(super) fn per_token(blocks: &mut Blocks, context: &Context, hidden: Size, x: ValueId) -> Result<()> {
    match context.head {
        Head::SpanLogits => spans(blocks, context, &context.weights.sub("qa_outputs"), hidden, x),
        _ => labelled(blocks, context, &context.weights.sub("classifier"), hidden, x),
    }
}

/// Where an answer begins and where it ends, by the two rows of the linear layer `p`.
pub(super) fn spans(blocks: &mut Blocks, context: &Context, p: &Scope, hidden: Size, x: ValueId) -> Result<()> {
    present(context, p)?;
    blocks.role(Part::Head);
    let both = blocks.linear(p, hidden, Size { n: 2, field: "num_labels" }, x)?;
    start_and_end(blocks, both)
}

/// Logits by the linear layer `p`, which has a row for each label: of a summary of the text, or of each token.
pub(super) fn labelled(blocks: &mut Blocks, context: &Context, p: &Scope, hidden: Size, x: ValueId) -> Result<()> {
    present(context, p)?;
    blocks.role(Part::Head);
    let labels = Size { n: p.shape("weight")?.first().copied().unwrap_or_default(), field: "id2label" };
    let logits = blocks.linear(p, hidden, labels, x)?;
    blocks.output(PortKind::Logits, logits)
}

/// Fails, naming the task, where the checkpoint has no such layer.
fn present(context: &Context, p: &Scope) -> Result<()> {
    if p.has("weight") {
        return Ok(());
    }
    let weight = crate::error::printable(&p.full("weight"));
    Err(Error::bad_input(format!("{} needs a head, and there is no `{weight}`", context.task_name))
        .hint("add --adapter with a trained head, or choose --task feature-extraction"))
}

/// The weights of a head that predicts masked tokens.
pub(super) struct MaskedLm<'a> {
    /// The transformation before the norm.
    pub dense: Scope<'a>,
    /// The norm.
    pub norm: Scope<'a>,
    /// The projection to the vocabulary; without its own weight it is tied to the word embeddings.
    pub decoder: Scope<'a>,
    /// The word embeddings.
    pub tied: Scope<'a>,
    /// Where the bias is, if the decoder has no own one.
    pub bias: Scope<'a>,
}

impl<'a> MaskedLm<'a> {
    /// RoBERTa's names, tied to the word embeddings below `encoder`.
    pub fn roberta(p: Scope<'a>, encoder: &Scope<'a>) -> MaskedLm<'a> {
        MaskedLm {
            dense: p.sub("dense"),
            norm: p.sub("layer_norm"),
            decoder: p.sub("decoder"),
            tied: encoder.sub("embeddings.word_embeddings"),
            bias: p,
        }
    }
}

/// The error of a family whose tokens attend to those after them.
pub(super) fn no_decoder() -> Error {
    Error::unsupported("an encoder generates no text: its tokens attend to those after them")
        .hint("choose --task feature-extraction")
}

/// Logits over the vocabulary for every token: dense, non-linearity, norm, decoder.
pub(super) fn masked_lm(
    blocks: &mut Blocks,
    context: &Context,
    w: &MaskedLm,
    [hidden, width, vocabulary]: [Size; 3],
    activation: Activation,
    epsilon: f32,
    x: ValueId,
) -> Result<()> {
    present(context, &w.dense)?;
    blocks.role(Part::Head);
    let x = blocks.linear(&w.dense, hidden, width, x)?;
    let x = blocks.activation(&w.dense.full("activation"), activation, x)?;
    let x = blocks.layer_norm(&w.norm, width, epsilon, x)?;
    self::vocabulary(blocks, &w.decoder, &w.tied, &w.bias, [width, vocabulary], x)
}

/// Logits over the vocabulary, as many as there are word embeddings, by a decoder that may be tied to them.
pub(super) fn vocabulary(
    blocks: &mut Blocks,
    decoder: &Scope,
    tied: &Scope,
    bias: &Scope,
    [width, vocabulary]: [Size; 2],
    x: ValueId,
) -> Result<()> {
    let logits = vocabulary_logits(blocks, decoder, tied, bias, [width, vocabulary], x)?;
    blocks.output(PortKind::Logits, logits)
}

/// The same, not given out yet.
fn vocabulary_logits(
    blocks: &mut Blocks,
    decoder: &Scope,
    tied: &Scope,
    bias: &Scope,
    [width, vocabulary]: [Size; 2],
    x: ValueId,
) -> Result<ValueId> {
    let vocabulary = tied.rows("weight", vocabulary);
    let of = if decoder.has("weight") { decoder } else { tied };
    let weight = of.tensor("weight", &[vocabulary, width])?;
    let bias = [decoder, bias].into_iter().find(|p| p.has("bias"));
    let bias = bias.map(|p| blocks.weight(p, "bias", &[vocabulary])).transpose()?;
    blocks.project(decoder, &weight, bias, x)
}
