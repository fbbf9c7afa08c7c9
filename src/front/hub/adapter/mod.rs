//! Adapters: small trained changes to a model, merged into its weights before the graph is built.
//!
//! Each kind that PEFT trains and that is linear in the weights is one file, which lists the tensors of a change and
//! how it is merged. [`combine`] makes one change of several adapters'.

mod adalora;
mod begin;
pub mod combine;
mod file;
pub mod hub;
mod ia3;
mod kind;
mod ln_tuning;
mod loha;
mod lokr;
mod lora;
mod merged;
mod options;
mod promised;
mod scale;
mod source;
mod targets;
mod tied;
mod tokens;
mod vera;
mod work;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::StateDict;
use crate::presence;

use begin::begin;
pub use combine::Combine;
use file::Adapter;
use kind::{Kind, OTHER_KINDS};
pub use merged::{Lost, Merged, summary};
pub use source::AdapterSource;
use work::Work;

/// Merges an adapter, whose saved tensors have replaced the base's.
type Merge = fn(&mut Work, &Adapter) -> Result<()>;

/// The kinds that are merged, and how.
static KINDS: &[(&Kind, Merge)] = &[
    (&lora::KIND, lora::merge),
    (&adalora::KIND, adalora::merge),
    (&ia3::KIND, ia3::merge),
    (&ln_tuning::KIND, ln_tuning::merge),
    (&loha::KIND, loha::merge),
    (&lokr::KIND, lokr::merge),
    (&tokens::KIND, tokens::merge),
    (&vera::KIND, vera::merge),
];

/// Merges one adapter into the tensors, lazily. Fails, with `state` unchanged, where any part does not fit.
pub fn merge(state: &mut StateDict, source: &AdapterSource) -> Result<Merged> {
    let merged = merge_all(state, std::slice::from_ref(source), None)?;
    merged.into_iter().next().ok_or_else(|| Error::bug("nothing was merged"))
}

/// Merges adapters into the tensors, lazily: one after another, or all at once by `combine`. Fails, with `state`
/// unchanged, where any part does not fit.
pub fn merge_all(state: &mut StateDict, sources: &[AdapterSource], combine: Option<&Combine>) -> Result<Vec<Merged>> {
    let mut adapters = Vec::with_capacity(sources.len());
    for source in sources {
        adapters.push(Adapter::open(source, kind).map_err(|e| name_adapter(e, source, sources))?);
    }
    let mut work = Work::new(state);
    let merged = match combine {
        Some(combine) => combine.merge(&mut work, &adapters, sources)?,
        None => {
            let pairs = adapters.iter().zip(sources);
            let each = pairs
                .map(|(adapter, source)| merge_one(&mut work, adapter).map_err(|e| name_adapter(e, source, sources)));
            each.collect::<Result<_>>()?
        }
    };
    *state = work.into_state();
    Ok(merged)
}

fn merge_one(work: &mut Work, adapter: &Adapter) -> Result<Merged> {
    if adapter.scale != 1.0 && !adapter.kind.scales {
        return Err(Error::unsupported(format!(
            "adapters of type {} have no scale, found @{}",
            adapter.kind.peft_type, adapter.scale
        ))
        .at("--adapter"));
    }
    begin(work, adapter)?;
    merge_of(adapter.kind.peft_type)?(work, adapter)?;
    Ok(std::mem::take(&mut work.merged))
}

/// With several adapters, an error names its adapter.
fn name_adapter(error: Error, source: &AdapterSource, sources: &[AdapterSource]) -> Error {
    if sources.len() > 1 { error.at(source.dir.display().to_string()) } else { error }
}

/// The kind of that name.
fn kind(peft_type: &str) -> Result<&'static Kind> {
    known(peft_type).map(|(kind, _)| *kind)
}

fn merge_of(peft_type: &str) -> Result<Merge> {
    known(peft_type).map(|(_, merge)| *merge)
}

fn known(peft_type: &str) -> Result<&'static (&'static Kind, Merge)> {
    if let Some(known) = KINDS.iter().find(|(kind, _)| kind.peft_type == peft_type) {
        return Ok(known);
    }
    let mut known: Vec<&str> = KINDS.iter().map(|(kind, _)| kind.peft_type).collect();
    known.sort_unstable();
    let location = "adapter_config.json: peft_type";
    if OTHER_KINDS.contains(&peft_type) {
        return Err(Error::unsupported(format!("adapters of type {peft_type} are not merged"))
            .at(location)
            .hint(format!("known: {}", known.join(", "))));
    }
    let unknown = format!("unknown adapter type `{}`; known: {}", printable(peft_type), known.join(", "));
    let error = Error::bad_input(unknown).at(location);
    Err(error.hint_nearest(&peft_type.to_uppercase(), known.into_iter().chain(OTHER_KINDS.iter().copied())))
}

/// Whether the folder looks like an adapter. Fails where it cannot be read.
pub fn is_adapter(dir: &Path) -> Result<bool> {
    Ok(presence::has_file(&dir.join("adapter_config.json"))? || hub::is_hub(dir)?)
}

/// The file that holds the tensors of an adapter's folder.
pub fn weights_file(dir: &Path) -> Result<PathBuf> {
    if hub::is_hub(dir)? { hub::weights_file(dir) } else { file::weights_file(dir) }
}
