//! The flexible heads of AdapterHub's library: linear layers with a non-linearity between them.

use super::Context;
use super::blocks::Blocks;
use crate::error::{Error, Result};
use crate::front::hub::adapter::hub::{FlexibleHead, HeadKind};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Part, ValueId};
use crate::ports::PortKind;

/// The inputs of a head from its family.
pub(super) struct Encoded<'a> {
    /// The encoder's scope.
    pub encoder: &'a Scope<'a>,
    /// Its width.
    pub hidden: Size,
    /// The width of its embeddings.
    pub embedding: Size,
    /// The epsilon of its norms.
    pub epsilon: f32,
    /// The hidden states.
    pub x: ValueId,
    /// The pooled first token, in families that have a pooler.
    pub pooled: Option<ValueId>,
}

/// Builds the head and returns its outputs.
pub(super) fn build(blocks: &mut Blocks, context: &Context, head: &FlexibleHead, given: &Encoded) -> Result<()> {
    let p = context.weights.sub(&head.path);
    blocks.role(Part::Head);
    match head.kind {
        HeadKind::Classification => {
            let summary = summary(blocks, head, &p, given)?;
            let logits = layers(blocks, head, &p, given.hidden, None, summary)?;
            blocks.output(PortKind::Logits, logits)
        }
        HeadKind::Tagging => {
            let logits = layers(blocks, head, &p, given.hidden, None, given.x)?;
            blocks.output(PortKind::Logits, logits)
        }
        HeadKind::QuestionAnswering => {
            let two = Size { n: 2, field: "num_labels" };
            let both = layers(blocks, head, &p, given.hidden, Some(two), given.x)?;
            start_and_end(blocks, both)
        }
        HeadKind::MaskedLm => masked_lm(blocks, head, &p, given),
    }
}

/// The two columns of a span head as outputs of their own.
pub(super) fn start_and_end(blocks: &mut Blocks, both: ValueId) -> Result<()> {
    for (i, kind) in [PortKind::StartLogits, PortKind::EndLogits].into_iter().enumerate() {
        let one = blocks.select(&kind.name(), both, 2, i as i64)?;
        blocks.output(kind, one)?;
    }
    Ok(())
}

fn summary(blocks: &mut Blocks, head: &FlexibleHead, p: &Scope, given: &Encoded) -> Result<ValueId> {
    match given.pooled {
        _ if !head.use_pooler => blocks.first_token(p.path(), given.x),
        Some(pooled) => Ok(pooled),
        None => Err(Error::bad_input("the head reads the pooler's output, and the model has no pooler")
            .at("head_config.json: config.use_pooler")),
    }
}

/// Linear layers under the numbers they have among dropouts and non-linearities: a dropout comes before each.
fn layers(
    blocks: &mut Blocks,
    head: &FlexibleHead,
    p: &Scope,
    hidden: Size,
    outputs: Option<Size>,
    x: ValueId,
) -> Result<ValueId> {
    let (mut x, mut number) = (x, 1);
    for _ in 1..head.layers {
        let layer = p.sub(&number.to_string());
        x = blocks.linear(&layer, hidden, hidden, x)?;
        number += 2;
        if let Some(name) = &head.activation {
            x = blocks.non_linearity(&layer.full("activation"), name, x)?;
            number += 1;
        }
    }
    let last = p.sub(&number.to_string());
    let outputs = match outputs {
        Some(outputs) => outputs,
        None => rows(&last, "num_labels")?,
    };
    blocks.linear(&last, hidden, outputs, x)
}

/// The number of rows of a layer's weight, where only the checkpoint knows it.
fn rows(p: &Scope, field: &'static str) -> Result<Size> {
    Ok(Size { n: p.shape("weight")?.first().copied().unwrap_or_default(), field })
}

/// Dense layers with non-linearity and norm, the inverse of the embeddings' invertible adapter, and the decoder.
fn masked_lm(blocks: &mut Blocks, head: &FlexibleHead, p: &Scope, given: &Encoded) -> Result<()> {
    let (mut x, mut width, mut number) = (given.x, given.hidden, 0);
    for _ in 1..head.layers {
        let layer = p.sub(&number.to_string());
        x = blocks.linear(&layer, width, given.embedding, x)?;
        width = given.embedding;
        number += 1;
        if let Some(name) = &head.activation {
            x = blocks.non_linearity(&layer.full("activation"), name, x)?;
            number += 1;
        }
        if head.layer_norm {
            x = blocks.layer_norm(&p.sub(&number.to_string()), width, given.epsilon, x)?;
            number += 1;
        }
    }
    x = blocks.inverse(given.encoder, width, x)?;
    blocks.role(Part::Head);
    let decoder = p.sub(&number.to_string());
    let logits = blocks.linear(&decoder, width, rows(&decoder, "vocab_size")?, x)?;
    blocks.output(PortKind::Logits, logits)
}
