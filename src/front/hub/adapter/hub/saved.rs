//! What AdapterHub's library saves of an adapter: its configuration and its tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, printable};
use crate::front::hub::adapter::file::finite;
use crate::front::hub::checkpoint::{StateDict, read_weights};
use crate::ir::Weight;
use crate::presence;

/// The file with the configuration of an adapter.
pub(super) const CONFIG: &str = "adapter_config.json";

/// The weights of an adapter, the better form first.
pub(super) const WEIGHTS: [&str; 2] = ["adapter.safetensors", "pytorch_adapter.bin"];

/// The fields of AdapterHub's `adapter_config.json` that concern every architecture.
#[derive(Deserialize)]
pub(super) struct Saved {
    pub name: String,
    /// `adapters.1.3.0`; none before there was the library.
    #[serde(default)]
    pub version: Option<String>,
    /// `text_task` or `text_lang`, before 2.0.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    pub config: Architecture,
}

#[derive(Deserialize)]
pub(super) struct Architecture {
    #[serde(default)]
    pub architecture: Option<String>,
}

/// The first of two files of a folder that is there.
pub(super) fn one_of(dir: &Path, names: [&str; 2]) -> Result<PathBuf> {
    presence::first_file(names.map(|name| dir.join(name)))?
        .ok_or_else(|| Error::bad_input(format!("neither {} nor {} is there", names[0], names[1])))
}

/// Tensors by the names that they have in the model.
pub(super) type Tensors = BTreeMap<String, Weight>;

/// The tensors of an adapter, in the file `path`.
pub(super) fn tensors(state: &StateDict, path: &Path, adapter: &str) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    let read = read_weights(path)?;
    if let Some(outer) = state.outer(read.iter().map(|(key, _)| key.as_str())) {
        return Err(Error::bad_input(format!(
            "every name begins with `{}`, which is not the model's",
            printable(&outer)
        ))
        .hint("the adapter was saved from within a wrapper: save it again from the model inside"));
    }
    for (key, weight) in read {
        finite(&key, &weight)?;
        let name = state.within(&current_name(&key));
        if !name.contains(&format!(".{adapter}.")) {
            return Err(Error::bad_input(format!(
                "tensor `{}` is not of the adapter `{}`",
                printable(&key),
                printable(adapter)
            )));
        }
        tensors.insert(name, weight);
    }
    match tensors.is_empty() {
        true => Err(Error::bad_input("the adapter changes nothing: it holds no tensors")),
        false => Ok(tensors),
    }
}

/// A tensor's name in the words of today's library.
fn current_name(key: &str) -> String {
    const BEFORE: [(&str, &str); 5] = [
        ("attention_text_task_adapters", "adapters"),
        ("attention_text_lang_adapters", "adapters"),
        ("layer_text_task_adapters", "adapters"),
        ("layer_text_lang_adapters", "adapters"),
        ("invertible_lang_adapters", "invertible_adapters"),
    ];
    BEFORE.iter().fold(key.to_owned(), |name, (old, new)| name.replace(old, new))
}
