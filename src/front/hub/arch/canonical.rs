//! The tensors of a checkpoint under the names of its family's model with a head.

use super::families::family;
use super::shared::complete;
use crate::error::Result;
use crate::front::hub::checkpoint::{Checkpoint, StateDict};

/// The paths under which any family's heads are saved.
pub(super) const HEADS: &[&str] = &[
    "answer_class",
    "classifier",
    "cls",
    "decoder",
    "discriminator_predictions",
    "end_logits",
    "generator_lm_head",
    "generator_predictions",
    "head",
    "lm_head",
    "lm_loss",
    "lm_predictions",
    "logits_proj",
    "mask_predictions",
    "multiple_choice_head",
    "pre_classifier",
    "predictions",
    "qa_outputs",
    "score",
    "sequence_summary",
    "sop_classifier",
    "start_logits",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_transform",
];

/// The same of decoders, whose models are called `decoder` themselves in some families.
const DECODERS_HEADS: &[&str] =
    &["classifier", "embed_out", "lm_head", "multiple_choice_head", "qa_outputs", "score", "sequence_summary"];

/// The checkpoint's tensors under the names that the family's model with a head has, every weight of a linear layer as
/// `[outputs, inputs]`.
pub fn canonical_state(checkpoint: &Checkpoint) -> Result<StateDict> {
    let family = family(&checkpoint.common)?;
    let mut state = checkpoint.state.clone();
    if family.decoder.is_some() && family.prefix == "model" {
        // Models that answer questions are saved under an older name.
        state = state.moved("transformer", family.prefix)?;
    }
    let heads = if family.decoder.is_some() { DECODERS_HEADS } else { HEADS };
    state = state.with_prefix(family.prefix, heads)?;
    if let Some(decoder) = family.decoder {
        state = state.with_conv1d(decoder.conv1d)?;
    }
    complete(&mut state, family, &checkpoint.config)?;
    Ok(state)
}
