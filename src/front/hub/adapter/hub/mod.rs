//! Adapters as AdapterHub's library `adapters` saves them (arXiv 2311.11077).
//!
//! Linear adapters are merged into the weights. The others have tensors, which join those of the model, and a description
//! of their computation ([`Insertions`]), from which families build nodes. Several adapters are stacked, in
//! their order.

mod bottleneck;
mod config;
mod head;
mod linear;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::file::finite;
use super::{AdapterSource, Merged};
use crate::error::{self, Error, Result, printable};
use crate::front::hub::checkpoint::{StateDict, Tensor, read_weights};
use crate::ir::Weight;
use crate::json;
use crate::presence;

pub use bottleneck::Bottleneck;
pub use config::{Hypercomplex, Place, Residual, Scaling};
pub use head::{AddedHead, FlexibleHead, HeadKind};

/// The additions of AdapterHub's adapters and heads to a model's graph.
#[derive(Clone, Debug, Default)]
pub struct Insertions {
    /// Bottleneck adapters, those nearest to the layers first.
    pub bottlenecks: Vec<Bottleneck>,
    /// A head.
    pub head: Option<AddedHead>,
    /// The labels of the head.
    pub labels: Option<BTreeMap<String, String>>,
    /// The tensors that some part of the graph has to read, and the adapter that has them.
    tensors: BTreeMap<String, String>,
    /// How many adapters there are, of any kind.
    adapters: usize,
    /// The adapter that has been merged into the weights.
    linear: Option<String>,
}

impl Insertions {
    /// The head that is built in place of the family's own, where there is one.
    pub fn flexible(&self) -> Option<&FlexibleHead> {
        match &self.head {
            Some(AddedHead::Flexible(head)) => Some(head),
            Some(AddedHead::OfClass { .. }) | None => None,
        }
    }

    /// The first of the tensors `unread` that an adapter has for new nodes, and the adapter's name.
    pub fn left_over<'a>(&'a self, unread: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, &'a str)> {
        unread.into_iter().find_map(|name| self.tensors.get(name).map(|adapter| (name, adapter.as_str())))
    }
}

/// The fields of AdapterHub's `adapter_config.json` that concern every architecture.
#[derive(Deserialize)]
struct Saved {
    name: String,
    /// `adapters.1.3.0`; none before there was the library.
    #[serde(default)]
    version: Option<String>,
    /// `text_task` or `text_lang`, before 2.0.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    config: Architecture,
}

#[derive(Deserialize)]
struct Architecture {
    #[serde(default)]
    architecture: Option<String>,
}

/// Architectures that the library knows and kilnc does not, to distinguish them from misspellings.
const UNSUPPORTED: [&str; 5] = ["mtl_lora", "prefix_tuning", "prompt_tuning", "reft", "union"];

/// Whether the folder holds an adapter or a head of AdapterHub's library. Fails where it cannot be read.
pub fn is_hub(dir: &Path) -> Result<bool> {
    #[derive(Deserialize)]
    struct Marks {
        #[serde(default)]
        peft_type: Option<IgnoredAny>,
        #[serde(default)]
        model_class: Option<IgnoredAny>,
        #[serde(default)]
        config: Option<IgnoredAny>,
    }
    let config = dir.join(CONFIG);
    if !presence::has_file(&config)? {
        return Ok(!presence::files_of(dir, &[head::CONFIG, FUSION])?.is_empty());
    }
    match json::read::<Marks>(&config) {
        Err(e) if e.kind() == error::Kind::MachineFailed => Err(e),
        // Its reader reports its errors.
        marks => Ok(marks
            .is_ok_and(|marks| marks.peft_type.is_none() && (marks.config.is_some() || marks.model_class.is_some()))),
    }
}

const CONFIG: &str = "adapter_config.json";

/// The file in the folder of several adapters that attention chooses between.
const FUSION: &str = "adapter_fusion_config.json";

/// The file in the folder of an adapter for a model whose parts were described to the library.
const INTERFACE: &str = "adapter_interface.json";

/// The weights of an adapter, the better form first.
const WEIGHTS: [&str; 2] = ["adapter.safetensors", "pytorch_adapter.bin"];

/// The file with the weights of an adapter or, where there is no adapter, a head.
pub fn weights_file(dir: &Path) -> Result<PathBuf> {
    let adapter = presence::has_file(&dir.join(CONFIG))?;
    one_of(dir, if adapter { WEIGHTS } else { head::WEIGHTS })
}

/// Adds an adapter, its head, or both. Fails, with nothing changed, where any part does not fit.
pub fn add(state: &mut StateDict, source: &AdapterSource, insertions: &mut Insertions) -> Result<Merged> {
    let (mut next, mut extended) = (state.clone(), insertions.clone());
    let mut merged = Merged { kind: "ADAPTERHUB", ..Merged::default() };
    let folder = |e: Error| e.at(source.dir.display().to_string());
    for (name, what) in [(FUSION, "the fusion of adapters"), (INTERFACE, "an adapter with its own interface")] {
        if presence::has_file(&source.dir.join(name)).map_err(folder)? {
            return Err(folder(Error::unsupported(format!("{what} is not supported")).at(name)));
        }
    }
    if presence::has_file(&source.dir.join(CONFIG)).map_err(folder)? {
        add_adapter(&mut next, source, &mut extended, &mut merged).map_err(folder)?;
    }
    if presence::has_file(&source.dir.join(head::CONFIG)).map_err(folder)? {
        head::add(&mut next, &source.dir, &mut extended, &mut merged).map_err(folder)?;
    }
    (*state, *insertions) = (next, extended);
    Ok(merged)
}

fn add_adapter(
    state: &mut StateDict,
    source: &AdapterSource,
    insertions: &mut Insertions,
    merged: &mut Merged,
) -> Result<()> {
    let config_path = source.dir.join(CONFIG);
    let text = json::read_text(&config_path)?;
    let saved: Saved = json::parse(&text, CONFIG)?;
    let architecture = architecture(saved.config.architecture.as_deref())?;
    let path = one_of(&source.dir, WEIGHTS)?;
    let file = json::file_name(&path);
    let tensors = tensors(state, &path, &saved.name).map_err(|e| e.at(file.clone()))?;
    merged.files.extend([config_path, path]);
    match architecture {
        Kind::Linear => {
            let merge = linear::merge(state, &tensors, source.scale, &saved, &text, insertions)?;
            (merged.changed, merged.untouched) = (merge.changed, merge.untouched);
        }
        Kind::Bottleneck if source.scale != 1.0 => {
            return Err(Error::unsupported(format!(
                "a bottleneck adapter is not linear, so it cannot be taken {} times",
                source.scale
            ))
            .hint("leave the factor out"));
        }
        Kind::Bottleneck => {
            merged.inserted = tensors.len();
            bottleneck::insert(state, tensors, &saved, &text, &file, insertions)?;
        }
    }
    insertions.adapters += 1;
    Ok(())
}

enum Kind {
    Bottleneck,
    Linear,
}

fn architecture(name: Option<&str>) -> Result<Kind> {
    let location = "adapter_config.json: config.architecture";
    match name {
        None => Ok(Kind::Bottleneck),
        Some("lora") => Ok(Kind::Linear),
        Some(known) if UNSUPPORTED.contains(&known) => {
            Err(Error::unsupported(format!("adapters of the architecture {known} are not supported"))
                .at(location)
                .hint("known: bottleneck adapters, lora"))
        }
        Some(other) => {
            let error = Error::bad_input(format!("unknown architecture `{}`", printable(other))).at(location);
            Err(error.hint_nearest_or(
                other,
                UNSUPPORTED.into_iter().chain(["lora"]),
                "known: none (a bottleneck adapter), lora",
            ))
        }
    }
}

fn one_of(dir: &Path, names: [&str; 2]) -> Result<PathBuf> {
    presence::first_file(names.map(|name| dir.join(name)))?
        .ok_or_else(|| Error::bad_input(format!("neither {} nor {} is there", names[0], names[1])))
}

type Tensors = BTreeMap<String, Weight>;

/// The tensors of an adapter by the names they have in the model.
fn tensors(state: &StateDict, path: &Path, adapter: &str) -> Result<Tensors> {
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

/// Puts a tensor that the graph has to read into the model.
fn insert(state: &mut StateDict, insertions: &mut Insertions, name: String, weight: Weight, file: &str, adapter: &str) {
    insertions.tensors.insert(name.clone(), adapter.to_owned());
    state.insert(name, Tensor { weight, file: file.into() });
}
