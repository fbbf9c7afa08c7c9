//! Tensors that a model's class shares between modules: the word embeddings with the projection to the vocabulary, and
//! that projection's bias with the head around it. A file may have such a tensor under any of its names.

use serde::Deserialize;

use super::families::FAMILIES;
use super::family::{Family, Shared};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::StateDict;
use crate::ir::Weight;
use crate::json;

/// Whether a configuration ties the projection to the word embeddings. Where it is silent, its family's class decides, which
/// most do.
pub fn is_tied(config: &str) -> Result<bool> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        tie_word_embeddings: Option<bool>,
        #[serde(default)]
        model_type: Option<String>,
    }
    let config: Config = json::parse(config, "config.json")?;
    let family = FAMILIES.iter().find(|family| Some(family.model_type) == config.model_type.as_deref());
    let class: Option<Config> =
        family.map(|family| json::parse(family.defaults, "the class's defaults")).transpose()?;
    Ok(config.tie_word_embeddings.or(class.and_then(|class| class.tie_word_embeddings)).unwrap_or(true))
}

/// Renames the word embeddings to their own name where the file has them under the projection's, as
/// `safetensors.torch.save_model` may leave them, and enters that the projection shares them.
pub(super) fn complete(state: &mut StateDict, family: &Family, config: &str) -> Result<()> {
    if !is_tied(config)? {
        return Ok(());
    }
    for shared in family.shared.iter().filter(|shared| shared.may_differ) {
        if let (false, Some(tensor)) = (state.contains(shared.embeddings), state.get(shared.decoder)) {
            let tensor = tensor.clone();
            state.insert(shared.embeddings.to_owned(), tensor);
        }
        state.tie(shared.decoder, shared.embeddings);
    }
    Ok(())
}

impl Family {
    /// The names that a state's head has for the shared tensors: those of the first head that it has a tensor of.
    pub fn shared_in(&self, state: &StateDict) -> Option<&'static Shared> {
        let head = |shared: &&Shared| {
            let of_head = [Some(shared.decoder), Some(shared.bias), shared.head_bias];
            of_head.into_iter().flatten().any(|name| state.contains(name))
        };
        self.shared.iter().find(head).or(self.shared.first())
    }
}

/// Where the file holds other numbers under one name of a tensor than under another, as text: it was saved by a class
/// that does not share it, and versions of `transformers` part on which of the two counts.
pub fn contradictions(state: &StateDict, family: &Family, config: &str) -> Result<Vec<String>> {
    let Some(shared) = family.shared_in(state) else { return Ok(Vec::new()) };
    let mut pairs = Vec::new();
    if shared.may_differ && is_tied(config)? {
        pairs.push((shared.embeddings, shared.decoder));
    }
    pairs.extend(shared.head_bias.map(|name| (name, shared.bias)));
    let mut found = Vec::new();
    for (one, other) in pairs {
        if let (Some(a), Some(b)) = (state.get(one), state.get(other))
            && !same(&a.weight, &b.weight)?
        {
            found.push(format!(
                "`{one}` and `{other}` differ, and models of this kind share them: `{other}` is taken, as transformers 5 \
                 does; transformers 4 may take the other"
            ));
        }
    }
    Ok(found)
}

/// Fails where a head over the vocabulary lacks the projection that its configuration does not tie.
pub(super) fn check(state: &StateDict, family: &Family, config: &str) -> Result<()> {
    match family.shared_in(state).filter(|shared| shared.may_differ && !state.contains(shared.decoder)) {
        Some(shared) if !is_tied(config)? => {
            Err(Error::bad_input(format!("tensor `{}` is missing, and no other replaces it", shared.decoder))
                .at("config.json: tie_word_embeddings")
                .hint("`\"tie_word_embeddings\": true` in config.json takes the word embeddings for it"))
        }
        _ => Ok(()),
    }
}

/// Whether two weights hold the same elements.
pub fn same(a: &Weight, b: &Weight) -> Result<bool> {
    Ok(a.is(b) || a.ty() == b.ty() && a.evaluate()?.as_bytes() == b.evaluate()?.as_bytes())
}
