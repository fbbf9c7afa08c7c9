//! What adapters change of a model besides its weights: what it is for, and how many tokens it knows.

use std::path::Path;

use serde_json::Value;

use crate::adapter::{AdapterSource, Merged};
use crate::bundle;
use crate::checkpoint::{Checkpoint, StateDict, json};
use crate::error::{Error, Result, printable};
use crate::ir::Weight;
use crate::ir::weight::Expr;
use crate::task::Task;

/// Ends of the names that a projection to the vocabulary has where it has a weight of its own.
const DECODERS: [&str; 4] = ["decoder.weight", "generator_lm_head.weight", "lm_loss.weight", "vocab_projector.weight"];

/// What the adapters were trained for, where one of them brings a head for it.
pub(super) fn task(state: &StateDict, merged: &[Merged]) -> Option<Task> {
    let head = |merged: &&Merged| merged.saved.iter().any(|name| state.is_head(name));
    merged.iter().rev().filter(head).find_map(|merged| Task::of_peft(merged.task.as_deref()?))
}

/// The folder with the tokenizer: an adapter that was saved with one was trained with it.
pub(super) fn tokenizer<'a>(
    checkpoint: &'a Checkpoint,
    adapters: impl DoubleEndedIterator<Item = &'a AdapterSource>,
) -> &'a Path {
    let mut own = adapters.rev().map(|source| source.dir.as_path());
    own.find(|dir| dir.join(bundle::TOKENIZER).is_file()).unwrap_or(&checkpoint.encoder)
}

/// Enters a vocabulary that has grown into the checkpoint's configuration: an adapter may bring embeddings of more
/// tokens than the base has.
pub(super) fn grow(
    checkpoint: &mut Checkpoint,
    before: &StateDict,
    after: &mut StateDict,
    merged: &[Merged],
) -> Result<()> {
    let mut config: Value = json::parse(&checkpoint.config, "config.json")?;
    let Some(known) = vocabulary(&config) else { return Ok(()) };
    let rows = |state: &StateDict, name: &str| state.get(name).and_then(|t| t.weight.shape().first().copied());
    let mut brought = merged.iter().flat_map(|merged| &merged.saved);
    let grown = brought.find(|name| rows(before, name) == Some(known) && rows(after, name) != Some(known));
    if let (Some(name), Some(fields)) = (grown, config.as_object_mut()) {
        fields.insert("vocab_size".to_owned(), rows(after, name).into());
        checkpoint.common.vocab_size = rows(after, name);
        checkpoint.config = config.to_string();
        let twins: Vec<_> = after.iter().filter_map(|(name, tensor)| Some((twin(name)?, tensor.clone()))).collect();
        for (name, bias) in twins {
            if after.contains(&name) {
                after.insert(name, bias);
            }
        }
    }
    Ok(())
}

/// A decoder's bias is also that of the head around it.
fn twin(name: &str) -> Option<String> {
    name.strip_suffix(".decoder.bias").map(|head| format!("{head}.bias"))
}

/// Fails where an adapter changes word embeddings that the projection to the vocabulary shares: as it was trained, the
/// projection kept the base's, and once merged it cannot.
pub(super) fn refuse_half_tied(checkpoint: &Checkpoint, before: &StateDict, after: &StateDict) -> Result<()> {
    let config: Value = json::parse(&checkpoint.config, "config.json")?;
    if after.iter().any(|(name, _)| DECODERS.iter().any(|end| name.ends_with(end))) {
        return Ok(());
    }
    let known = vocabulary(&config);
    let mut shared = after.iter().filter(|(_, tensor)| tensor.weight.shape().first().copied() == known);
    let changed =
        shared.find(|(name, tensor)| before.get(name).is_some_and(|b| !only_tokens(&tensor.weight, &b.weight)));
    match changed {
        None => Ok(()),
        Some((name, _)) => Err(Error::unsupported(format!(
            "the adapter changes `{}`, which the projection to the vocabulary shares; it was trained against the base's",
            printable(name)
        ))
        .hint("train single tokens with trainable_token_indices, which the projection follows")),
    }
}

fn vocabulary(config: &Value) -> Option<usize> {
    config.get("vocab_size")?.as_u64()?.try_into().ok()
}

/// Whether all that was done to `base` is the replacing of rows, which PEFT does to what shares them, too.
fn only_tokens(weight: &Weight, base: &Weight) -> bool {
    match weight.expr() {
        _ if weight.is(base) => true,
        Expr::Rows { of, .. } | Expr::Cast(of) => only_tokens(of, base),
        _ => false,
    }
}
