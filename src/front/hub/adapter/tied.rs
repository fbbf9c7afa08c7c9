//! A projection to the vocabulary that shares the word embeddings, where adapters change one of the two.
//!
//! PEFT changes modules and not tensors: a change of the projection leaves the look-up as it was, and the other way round.
//! With `ensure_weight_tying` both have one change, which PEFT saves twice and other writers once, for the embeddings. Rows of
//! trained tokens are in both always, unless each has its own.

use super::file::{Adapter, Parts};
use super::work::Work;
use crate::error::{Error, Result, printable};

const TIE: &str = "adapter_config.json: ensure_weight_tying";
const TOKENS: &str = "adapter_config.json: trainable_token_indices";

/// Gives the projection a tensor of its own where the adapter changes it by itself.
pub(super) fn part(work: &mut Work, adapter: &Adapter) -> Result<()> {
    let mut own: Vec<&str> = adapter.modules.keys().map(String::as_str).collect();
    for (module, rows) in &adapter.tokens {
        if !work.follows_another(adapter, module, rows)? {
            own.push(module);
        }
    }
    for module in own {
        let name = work.name(module, "weight");
        let Some(embeddings) = work.state().shared_by(&name).map(str::to_owned) else { continue };
        if work.replaced_rows(&embeddings).is_some() {
            return Err(tokens_of_one(&embeddings).at(adapter.location(module)));
        }
        work.part(&name, &embeddings);
    }
    Ok(())
}

/// The projections whose changes are those of the embeddings: PEFT takes them out of `target_modules`, and saves them.
pub(super) fn following(work: &Work, adapter: &Adapter) -> Vec<String> {
    if adapter.common.ensure_weight_tying != Some(true) {
        return Vec::new();
    }
    let changed: Vec<String> = adapter.modules.keys().map(|module| work.name(module, "weight")).collect();
    let ties = work.state().ties().iter().filter(|[_, embeddings]| changed.contains(embeddings));
    ties.map(|[projection, _]| projection.clone()).collect()
}

/// Whether the projection follows the embeddings of an adapter that has replaced its whole tensors and rows; nothing where
/// it does not change them. Fails where what the two become is not defined.
pub(super) fn check(work: &Work, adapter: &Adapter) -> Result<Option<bool>> {
    let mut found = None;
    let modules = adapter.modules.iter().map(|(module, parts)| (work.name(module, "weight"), Some(parts)));
    let saved = adapter.saved.iter().map(|(name, _)| (work.state().resolve(name), None));
    let changed: Vec<(String, Option<&Parts>)> = modules.chain(saved).collect();
    let rows: Vec<String> = adapter.tokens.iter().map(|(module, _)| work.name(module, "weight")).collect();
    for [projection, embeddings] in work.state().ties() {
        let is_changed = |name: &String| changed.iter().any(|(changed, _)| changed == name);
        let by_itself = is_changed(projection) || work.is_changed(projection);
        let lacks_rows = |of: &dyn Fn(&String) -> bool| of(embeddings) && !of(projection);
        let lacking = lacks_rows(&|name| rows.contains(name)) || lacks_rows(&|name| work.replaced_rows(name).is_some());
        if by_itself && lacking {
            return Err(tokens_of_one(embeddings).at(adapter.file.clone()));
        }
        if is_changed(embeddings) {
            let follows = adapter.common.ensure_weight_tying == Some(true) && !is_changed(projection);
            if follows {
                let parts = changed.iter().find(|(name, _)| name == embeddings).and_then(|(_, parts)| *parts);
                can_follow(parts, by_itself, [projection, embeddings])?;
            }
            found = Some(follows);
        }
    }
    Ok(found)
}

/// Fails where a projection cannot follow the embeddings.
fn can_follow(parts: Option<&Parts>, by_itself: bool, [projection, embeddings]: [&String; 2]) -> Result<()> {
    let [projection, embeddings] = [projection, embeddings].map(|name| printable(name));
    let refused = if by_itself {
        format!("`{projection}` follows `{embeddings}`, and another adapter changes it by itself")
    } else if parts.is_some_and(|parts| parts.get("lora_magnitude_vector").is_some()) {
        // The lengths of the look-up are those of columns, those of the projection those of rows.
        format!("DoRA has its own lengths for `{projection}`, and the file holds only those of `{embeddings}`")
    } else {
        return Ok(());
    };
    Err(Error::unsupported(refused).at(TIE))
}

fn tokens_of_one(embeddings: &str) -> Error {
    Error::unsupported(format!(
        "tokens are trained in `{}`, and the projection that shares it is changed by itself",
        printable(embeddings)
    ))
    .at(TOKENS)
    .hint("merge it in PEFT, or train the tokens of both")
}
