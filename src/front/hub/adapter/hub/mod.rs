//! Adapters as AdapterHub's library `adapters` saves them (arXiv 2311.11077).
//!
//! Linear adapters are merged into the weights. The others have tensors, which join those of the model, and a description
//! of their computation ([`Insertions`]), from which families build nodes. Several adapters are stacked, in
//! their order.

mod bottleneck;
mod config;
mod head;
mod insertions;
mod linear;
mod saved;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::merged::Merged;
use super::source::AdapterSource;
use crate::error::{self, Error, Result, printable};
use crate::front::hub::checkpoint::StateDict;
use crate::json;
use crate::presence;
use saved::{CONFIG, Saved, WEIGHTS, one_of};

pub use config::{Hypercomplex, Place, Residual, Scaling};
pub use insertions::{AddedHead, Bottleneck, FlexibleHead, HeadKind, Insertions};

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

/// The file in the folder of several adapters that attention chooses between.
const FUSION: &str = "adapter_fusion_config.json";

/// The file in the folder of an adapter for a model whose parts were described to the library.
const INTERFACE: &str = "adapter_interface.json";

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
    let tensors = saved::tensors(state, &path, &saved.name).map_err(|e| e.at(file.clone()))?;
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
