//! Trained tokens: single rows of an embedding, replaced; as a separate kind, or beside a LoRA.

use super::Kind;

/// The rows are replaced before any kind's own merge, so nothing is left to do.
pub(super) const KIND: Kind = Kind {
    peft_type: "TRAINABLE_TOKENS",
    marker: "trainable_tokens_",
    parts: &[],
    idle: &[],
    options: &[&["init_weights", "token_indices"]],
    scales: false,
    conv1d: true,
    merge: |_, _| Ok(()),
};
