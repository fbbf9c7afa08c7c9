//! Trained tokens: single rows of an embedding, replaced; as a separate kind, or beside a LoRA.

use super::file::Adapter;
use super::kind::Kind;
use super::work::Work;
use crate::error::Result;

pub(super) const KIND: Kind = Kind {
    peft_type: "TRAINABLE_TOKENS",
    marker: "trainable_tokens_",
    parts: &[],
    idle: &[],
    options: &[&["init_weights", "token_indices"]],
    scales: false,
    conv1d: true,
};

/// The rows are replaced before any kind's own merge, so nothing is left to do.
pub(super) fn merge(_work: &mut Work, _adapter: &Adapter) -> Result<()> {
    Ok(())
}
