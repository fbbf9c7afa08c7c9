//! Whether a checkpoint has what its other layers have.

use std::collections::HashSet;

use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::StateDict;

/// Fails where a layer lacks a bias that the same part of another layer has: a file that was cut or edited. Blocks build a
/// linear layer without a bias where there is none, since some families and heads have none.
pub(super) fn check(state: &StateDict) -> Result<()> {
    let names: Vec<&str> = state.iter().map(|(name, _)| name).filter(|name| in_layers(name)).collect();
    let parts = |end: &'static str| names.iter().filter_map(move |name| name.strip_suffix(end));
    let biased: HashSet<String> = parts(".bias").map(without_numbers).collect();
    let with_bias: HashSet<&str> = parts(".bias").collect();
    match parts(".weight").find(|part| biased.contains(&without_numbers(part)) && !with_bias.contains(part)) {
        None => Ok(()),
        Some(part) => Err(Error::bad_input(format!("tensor `{}.bias` is missing", printable(part)))
            .hint("other layers have one: the file may have been cut")),
    }
}

/// Whether a tensor belongs to a list of layers, and not to a list that adapters and their heads have.
fn in_layers(name: &str) -> bool {
    name.split('.').any(is_number)
        && !name.split('.').any(|part| ["heads", "adapters", "prefix_tuning"].contains(&part))
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// A path with a mark in place of every number.
fn without_numbers(path: &str) -> String {
    path.split('.').map(|part| if is_number(part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}
