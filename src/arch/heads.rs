//! What stands on top of an encoder, by task.

use super::Drawing;
use super::blocks::{Activation, Blocks};
use crate::checkpoint::{Pooling, Scope, Size};
use crate::error::{Error, Result};
use crate::ir::{Part, ValueId};
use crate::task::Task;

/// The bare encoder: its hidden states and, where the checkpoint has a pooler, the pooled first token.
pub(super) fn features(blocks: &mut Blocks, x: ValueId, pooled: Option<ValueId>) -> Result<()> {
    blocks.output("last_hidden_state", x)?;
    match pooled {
        Some(pooled) => blocks.output("pooler_output", pooled),
        None => Ok(()),
    }
}

/// One vector for each text, as sentence-transformers makes it, and the hidden states that it comes from.
pub(super) fn sentence(blocks: &mut Blocks, drawing: &Drawing, x: ValueId, mask: ValueId) -> Result<()> {
    let modules = drawing.sentence.ok_or_else(|| {
        Error::bad_input("sentence similarity needs modules.json, which the checkpoint does not have")
            .hint("save the model with sentence-transformers, or choose --task feature-extraction")
    })?;
    blocks.role(Part::Head);
    let mut vector = match modules.pooling {
        Pooling::Mean => blocks.mean_pool("pooling", x, mask)?,
        Pooling::FirstToken => blocks.first_token("pooling", x)?,
    };
    if modules.normalize {
        vector = blocks.normalize("normalize", vector)?;
    }
    blocks.output("token_embeddings", x)?;
    blocks.output("sentence_embedding", vector)
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

/// One row of logits for each text, by the linear layer `p` over a summary of the text.
pub(super) fn classification(
    blocks: &mut Blocks,
    drawing: &Drawing,
    p: &Scope,
    hidden: Size,
    summary: ValueId,
) -> Result<()> {
    if drawing.common.problem_type.as_deref() == Some("multi_label_classification") {
        return Err(Error::unsupported("multi-label classification is not drawn yet").at("config.json: problem_type"));
    }
    labelled(blocks, p, hidden, summary, drawing.task)
}

/// What is said of every token: its label, or whether an answer begins or ends there.
pub(super) fn per_token(blocks: &mut Blocks, drawing: &Drawing, hidden: Size, x: ValueId) -> Result<()> {
    match drawing.task {
        Task::QuestionAnswering => spans(blocks, &drawing.weights.sub("qa_outputs"), hidden, x),
        _ => labelled(blocks, &drawing.weights.sub("classifier"), hidden, x, drawing.task),
    }
}

/// Where an answer begins and where it ends, by the two rows of the linear layer `p`.
pub(super) fn spans(blocks: &mut Blocks, p: &Scope, hidden: Size, x: ValueId) -> Result<()> {
    present(p, Task::QuestionAnswering)?;
    blocks.role(Part::Head);
    let both = blocks.linear(p, hidden, Size { n: 2, field: "num_labels" }, x)?;
    start_and_end(blocks, both)
}

/// The two columns of a span head as outputs of their own.
pub(super) fn start_and_end(blocks: &mut Blocks, both: ValueId) -> Result<()> {
    for (i, name) in ["start_logits", "end_logits"].into_iter().enumerate() {
        let one = blocks.select(name, both, 2, i as i64)?;
        blocks.output(name, one)?;
    }
    Ok(())
}

/// Logits by a linear layer whose rows are the task's labels.
fn labelled(blocks: &mut Blocks, p: &Scope, hidden: Size, x: ValueId, task: Task) -> Result<()> {
    present(p, task)?;
    blocks.role(Part::Head);
    let labels = Size { n: p.shape("weight")?.first().copied().unwrap_or_default(), field: "id2label" };
    let logits = blocks.linear(p, hidden, labels, x)?;
    blocks.output("logits", logits)
}

fn present(p: &Scope, task: Task) -> Result<()> {
    if p.has("weight") {
        return Ok(());
    }
    let weight = crate::error::printable(&p.full("weight"));
    Err(Error::bad_input(format!("{task} needs a head, and there is no `{weight}`"))
        .hint("add --adapter with a trained head, or choose --task feature-extraction"))
}

/// The weights of a head that guesses masked tokens.
pub(super) struct MaskedLm<'a> {
    /// The transformation before the norm.
    pub dense: Scope<'a>,
    /// The norm.
    pub norm: Scope<'a>,
    /// The projection to the vocabulary; without a weight of its own it is tied to the word embeddings.
    pub decoder: Scope<'a>,
    /// The word embeddings.
    pub tied: Scope<'a>,
    /// Where the bias is, if the decoder has none of its own.
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

/// Logits over the vocabulary for every token: dense, non-linearity, norm, decoder.
pub(super) fn masked_lm(
    blocks: &mut Blocks,
    w: &MaskedLm,
    [hidden, width, vocabulary]: [Size; 3],
    activation: Activation,
    epsilon: f32,
    x: ValueId,
) -> Result<()> {
    present(&w.dense, Task::FillMask)?;
    blocks.role(Part::Head);
    let x = blocks.linear(&w.dense, hidden, width, x)?;
    let x = blocks.activation(&w.dense.full("activation"), activation, x)?;
    let x = blocks.layer_norm(&w.norm, width, epsilon, x)?;
    self::vocabulary(blocks, &w.decoder, &w.tied, &w.bias, [width, vocabulary], x)
}

/// Logits over the vocabulary, by a decoder that may be tied to the word embeddings.
pub(super) fn vocabulary(
    blocks: &mut Blocks,
    decoder: &Scope,
    tied: &Scope,
    bias: &Scope,
    [width, vocabulary]: [Size; 2],
    x: ValueId,
) -> Result<()> {
    let of = if decoder.has("weight") { decoder } else { tied };
    let weight = of.tensor("weight", &[vocabulary, width])?;
    let bias = [decoder, bias].into_iter().find(|p| p.has("bias"));
    let bias = bias.map(|p| blocks.weight(p, "bias", &[vocabulary])).transpose()?;
    let logits = blocks.project(decoder, &weight, bias, x)?;
    blocks.output("logits", logits)
}
