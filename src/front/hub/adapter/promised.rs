//! Tensors that `adapter_config.json` lists as trained, and the file lacks.

use std::collections::BTreeSet;

use super::Lost;
use super::file::{Adapter, Tokens};
use super::targets::ends_with;

use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::StateDict;

/// Finds what the configuration of an adapter promises of a model's tensors besides its kind's own change, and its file
/// does not hold. Whether that matters depends on what the graph reads.
///
/// Fails where the promise names no part of the model, so that the graph cannot show whether it matters.
pub(super) fn lost(adapter: &Adapter, state: &StateDict) -> Result<Vec<Lost>> {
    let held: BTreeSet<String> = adapter.saved.iter().map(|(name, _)| state.resolve(name)).collect();
    let mut lost = saved_modules(adapter, state, &held)?;
    lost.extend(biases(adapter, state, &held)?);
    lost.extend(tokens(adapter, state)?);
    Ok(lost)
}

fn lacking(location: &'static str, name: &str) -> Lost {
    Lost { location, tensor: name.to_owned() }
}

/// The modules that a name is below, from the outermost on.
fn modules(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').filter_map(|(at, _)| name.get(..at))
}

/// Whether PEFT takes a module for one of those to save: it compares the ends of names, and an end need not be a whole
/// name.
fn is_saved(module: &str, ends: &[String]) -> bool {
    ends.iter().any(|end| !end.is_empty() && module.ends_with(end.as_str()))
}

fn saved_modules(adapter: &Adapter, state: &StateDict, held: &BTreeSet<String>) -> Result<Vec<Lost>> {
    const LOCATION: &str = "adapter_config.json: modules_to_save";
    let Some(ends) = adapter.common.modules_to_save.as_ref().filter(|_| adapter.kind.has_option("modules_to_save"))
    else {
        return Ok(Vec::new());
    };
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let is_meant = |name: &&str| modules(name).any(|module| is_saved(module, ends));
    let of_base = state.iter().filter(|(_, tensor)| tensor.weight.dtype().is_float()).map(|(name, _)| name);
    let of_base: Vec<&str> = of_base.filter(is_meant).collect();
    let has_head = state.iter().any(|(name, _)| state.is_head(name));
    let is_saved = || held.iter().map(String::as_str).any(|name| is_meant(&name));
    if of_base.is_empty() && !has_head && !is_saved() {
        let names: Vec<String> = ends.iter().map(|end| format!("`{}`", printable(end))).collect();
        return Err(Error::bad_input(format!(
            "the file holds no tensor of {}, and the base model has none",
            names.join(" or ")
        ))
        .at(LOCATION)
        .hint("the adapter was saved without its head: save it again from the model that was trained"));
    }
    Ok(of_base.into_iter().filter(|name| !held.contains(*name)).map(|name| lacking(LOCATION, name)).collect())
}

fn biases(adapter: &Adapter, state: &StateDict, held: &BTreeSet<String>) -> Result<Vec<Lost>> {
    const LOCATION: &str = "adapter_config.json: bias";
    let promised: Vec<String> = match adapter.common.bias.as_deref().filter(|_| adapter.kind.has_option("bias")) {
        None | Some("none") => return Ok(Vec::new()),
        Some("all") => {
            state.iter().map(|(name, _)| name).filter(|name| name.ends_with(".bias")).map(str::to_owned).collect()
        }
        Some(only) if only.ends_with("_only") => {
            let names = adapter.modules.keys().map(|module| state.resolve(&format!("{module}.bias")));
            names.filter(|name| state.contains(name)).collect()
        }
        Some(other) => {
            return Err(Error::bad_input(format!("unknown value `{}`; known: none, all, lora_only", printable(other)))
                .at(LOCATION));
        }
    };
    Ok(promised.iter().filter(|name| !held.contains(*name)).map(|name| lacking(LOCATION, name)).collect())
}

fn tokens(adapter: &Adapter, state: &StateDict) -> Result<Vec<Lost>> {
    let (location, tokens) = match (&adapter.common.trainable_token_indices, &adapter.common.token_indices) {
        (Some(tokens), _) => ("adapter_config.json: trainable_token_indices", tokens),
        (None, Some(tokens)) => ("adapter_config.json: token_indices", tokens),
        (None, None) => return Ok(Vec::new()),
    };
    let none = |what: String| {
        Err(Error::bad_input(format!("the file holds no rows of tokens{what}"))
            .at(location)
            .hint("the adapter was saved without them: save it again from the model that was trained"))
    };
    let by_name = match tokens {
        Tokens::Input(list) if !list.is_empty() && adapter.tokens.is_empty() => return none(String::new()),
        Tokens::Input(_) => return Ok(Vec::new()),
        Tokens::Of(by_name) => by_name,
    };
    let mut lost = Vec::new();
    for (end, list) in by_name.iter().filter(|(_, list)| !list.is_empty()) {
        if adapter.tokens.iter().any(|(module, _)| ends_with(module, end)) {
            continue;
        }
        if adapter.tokens.is_empty() {
            return none(format!(" of `{}`", printable(end)));
        }
        // A module that shares the weights of another follows it, and PEFT saves it once.
        if by_name.iter().any(|(other, same)| other != end && same == list) {
            continue;
        }
        let modules = state.iter().filter_map(|(name, _)| name.strip_suffix(".weight"));
        lost.extend(
            modules
                .filter(|module| ends_with(module, end))
                .map(|module| lacking(location, &format!("{module}.weight"))),
        );
    }
    Ok(lost)
}
