//! Tied tensors: shared between modules, of which adapters change one.

use crate::error::{Error, Result};
use crate::front::hub::adapter::Merged;
use crate::front::hub::arch::{self, Shared};
use crate::front::hub::checkpoint::{Checkpoint, StateDict, Tensor};
use crate::ir::Weight;
use crate::ir::weight::Expr;

/// Copies adapters' changes of a tensor to its other names: rows of tokens, which PEFT trains in all of them, and the
/// bias of the projection to the vocabulary; the whole word embeddings where the projection follows them.
pub(crate) fn follow(
    checkpoint: &Checkpoint,
    before: &StateDict,
    after: &mut StateDict,
    merged: &[Merged],
) -> Result<()> {
    let Some(shared) = shared(checkpoint, before)? else { return Ok(()) };
    if shared.may_differ
        && arch::is_tied(&checkpoint.config)?
        && let (Some(old), Some(new), Some(decoder)) =
            (before.get(shared.embeddings), after.get(shared.embeddings), before.get(shared.decoder))
        && !new.weight.is(&old.weight)
        && (only_tokens(&new.weight, &old.weight) || follows(merged)?)
        && is_unchanged(shared.decoder, before, after)
        && arch::same(&old.weight, &decoder.weight)?
    {
        let tensor = new.clone();
        after.insert(shared.decoder.to_owned(), tensor);
    }
    let Some(head_bias) = shared.head_bias else { return Ok(()) };
    let (bias, head) = (after.get(shared.bias).cloned(), after.get(head_bias).cloned());
    if let (Some(bias), Some(head)) = (bias, head) {
        if !is_unchanged(shared.bias, before, after) {
            after.insert(head_bias.to_owned(), bias);
        } else if !is_unchanged(head_bias, before, after) {
            after.insert(shared.bias.to_owned(), head);
        }
    }
    Ok(())
}

/// Gives the projection to the vocabulary the base's word embeddings where adapters change those that it shares: PEFT
/// changes the look-up only, and the projection stays as it was. Returns the name of the embeddings, if there was
/// anything to do.
pub(crate) fn untie(
    checkpoint: &Checkpoint,
    before: &StateDict,
    after: &mut StateDict,
    merged: &[Merged],
) -> Result<Option<&'static str>> {
    let Some(shared) = shared(checkpoint, after)?.filter(|shared| !after.contains(shared.decoder)) else {
        return Ok(None);
    };
    // A class without its own projection reads the changed embeddings.
    let is_whole = || merged.iter().any(|merged| merged.saved.iter().any(|name| name == shared.embeddings));
    if !shared.may_differ && is_whole() {
        return Ok(None);
    }
    let (Some(old), Some(new)) = (before.get(shared.embeddings), after.get(shared.embeddings)) else {
        return Ok(None);
    };
    if only_tokens(&new.weight, &old.weight) || follows(merged)? {
        return Ok(None);
    }
    let base = old.clone();
    after.insert(shared.decoder.to_owned(), base);
    Ok(Some(shared.embeddings))
}

/// Whether the projection follows changed embeddings. Fails where it would follow those of one adapter only.
fn follows(merged: &[Merged]) -> Result<bool> {
    let follows = || merged.iter().filter_map(|merged| merged.follows);
    match (follows().any(|follows| follows), follows().all(|follows| follows)) {
        (true, false) => Err(Error::unsupported(
            "the projection to the vocabulary follows the word embeddings of one adapter and not of another",
        )
        .at("adapter_config.json: ensure_weight_tying")),
        (any, _) => Ok(any),
    }
}

/// The error where an adapter's embeddings have more tokens than the projection that it leaves out has rows for.
pub(crate) fn grown_alone(checkpoint: &Checkpoint, before: &StateDict, after: &StateDict) -> Result<Option<Error>> {
    let Some(shared) = shared(checkpoint, after)?.filter(|shared| !after.contains(shared.decoder)) else {
        return Ok(None);
    };
    let (Some(old), Some(new)) = (before.get(shared.embeddings), after.get(shared.embeddings)) else {
        return Ok(None);
    };
    let [old_shape, shape] = [old, new].map(|tensor| tensor.weight.shape());
    Ok((shape != old_shape).then(|| {
        Error::bad_input(format!(
            "the adapter has `{}` in the shape {shape:?} in place of {old_shape:?}, and no projection to the vocabulary",
            shared.embeddings
        ))
        .at(new.file.to_string())
    }))
}

/// A merged checkpoint's tensors under all the names that `transformers` 4 and 5 read, and whether its
/// projection to the vocabulary is no longer the word embeddings. `dropped` are not written.
pub(crate) fn separate(
    checkpoint: &Checkpoint,
    state: &mut StateDict,
    kinds: &[&str],
    dropped: &[String],
) -> Result<bool> {
    let written = |name: &str, state: &StateDict| state.contains(name) && !dropped.iter().any(|other| other == name);
    let Some(shared) = shared(checkpoint, state)?.filter(|shared| written(shared.decoder, state)) else {
        return align(checkpoint, state).map(|()| false);
    };
    if !shared.may_differ {
        return Err(Error::unsupported(format!(
            "the {} adapter changes `{}`, which the class also projects to the vocabulary by: a checkpoint has one tensor \
             for the two",
            kinds.join(" and "),
            shared.embeddings
        ))
        .hint("build or export with it instead: the graph has both"));
    }
    let differs = match (state.get(shared.embeddings), state.get(shared.decoder)) {
        (Some(embeddings), Some(decoder)) => !arch::same(&embeddings.weight, &decoder.weight)?,
        _ => false,
    };
    if let (Some(head_bias), true) = (shared.head_bias, differs || !arch::is_tied(&checkpoint.config)?) {
        // An untied tensor is read under either name.
        let found = state.get(shared.bias).or(state.get(head_bias)).cloned();
        for name in [shared.bias, head_bias] {
            if let (false, Some(bias)) = (state.contains(name), &found) {
                state.insert(name.to_owned(), bias.clone());
            }
        }
    }
    align(checkpoint, state).map(|()| differs)
}

/// The bias under both of its names, where it has two: that of the projection counts.
fn align(checkpoint: &Checkpoint, state: &mut StateDict) -> Result<()> {
    let pair = shared(checkpoint, state)?.and_then(|shared| Some((shared.bias, shared.head_bias?)));
    if let Some((bias, head_bias)) = pair
        && state.contains(head_bias)
        && let Some(tensor) = state.get(bias).cloned()
    {
        state.insert(head_bias.to_owned(), tensor);
    }
    Ok(())
}

/// The tensor of that name in the base, or the one that it shares.
pub(crate) fn in_base<'a>(checkpoint: &Checkpoint, base: &'a StateDict, name: &str) -> Option<&'a Tensor> {
    let shared = shared(checkpoint, base).ok().flatten();
    let twins = shared.map(|shared| {
        let head_bias = shared.head_bias.unwrap_or(shared.bias);
        [[shared.decoder, shared.embeddings], [shared.bias, head_bias], [head_bias, shared.bias]]
    });
    let twin = twins.iter().flatten().find(|[one, _]| *one == name).map(|[_, other]| *other);
    base.get(name).or_else(|| base.get(twin?))
}

fn shared(checkpoint: &Checkpoint, state: &StateDict) -> Result<Option<&'static Shared>> {
    Ok(arch::family(&checkpoint.common)?.shared_in(state))
}

fn is_unchanged(name: &str, before: &StateDict, after: &StateDict) -> bool {
    match (before.get(name), after.get(name)) {
        (Some(old), Some(new)) => old.weight.is(&new.weight),
        (old, new) => old.is_none() && new.is_none(),
    }
}

/// Whether all that was done to `base` is the replacing of rows.
fn only_tokens(weight: &Weight, base: &Weight) -> bool {
    match weight.expr() {
        _ if weight.is(base) => true,
        Expr::Rows { of, .. } | Expr::Cast(of) => only_tokens(of, base),
        _ => false,
    }
}
