//! Adapters: small trained changes to a model, merged into its weights before the graph is drawn.
//!
//! Each kind that PEFT trains and that is linear in the weights is one file, which says of what tensors a change is
//! made and how it is merged. [`combine`] makes one change of several adapters'.

mod adalora;
pub mod combine;
mod file;
pub mod hub;
mod ia3;
mod ln_tuning;
mod loha;
mod lokr;
mod lora;
mod options;
mod promised;
mod scale;
mod targets;
mod tokens;
mod vera;
mod work;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::StateDict;
use crate::presence;

pub use combine::Combine;
use file::Adapter;
use work::Work;

/// An adapter on the command line: a folder and a factor, `DIR` or `DIR@SCALE`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSource {
    /// The folder that holds `adapter_config.json`.
    pub dir: PathBuf,
    /// What the adapter's own scale is multiplied by.
    pub scale: f32,
}

impl std::str::FromStr for AdapterSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<AdapterSource> {
        AdapterSource::of(text.into())
    }
}

impl AdapterSource {
    /// The same of a path that need not be UTF-8.
    pub fn of(text: OsString) -> Result<AdapterSource> {
        let (dir, scale) = match scaled(&text) {
            Some((dir, scale)) => (dir, scale),
            None => (text.clone(), 1.0),
        };
        // What is too small for its 32 bits would be none.
        if !scale.is_normal() {
            return Err(Error::bad_input(format!(
                "--adapter {}: the scale must be a number of 1.2e-38 to 3.4e38, or one below 0 as large",
                printable(&text.to_string_lossy())
            ))
            .hint("an adapter that is to change nothing is left out"));
        }
        Ok(AdapterSource { dir: PathBuf::from(dir), scale })
    }
}

/// A folder and its scale. A folder may have `@` in its name: what follows the last one is a scale only if it is a number.
#[cfg(unix)]
fn scaled(text: &OsStr) -> Option<(OsString, f32)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = text.as_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b'@')?;
    let scale = str::from_utf8(bytes.get(at + 1..)?).ok()?.parse().ok()?;
    Some((OsStr::from_bytes(bytes.get(..at)?).to_owned(), scale))
}

#[cfg(not(unix))]
fn scaled(text: &OsStr) -> Option<(OsString, f32)> {
    let (dir, scale) = text.to_str()?.rsplit_once('@')?;
    Some((dir.into(), scale.parse().ok()?))
}

/// What was merged, for the manifest and for those who ask.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// PEFT's name of the kind, such as `LORA`.
    pub kind: &'static str,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// How many modules were changed.
    pub changed: usize,
    /// How many tensors of a bottleneck adapter went into the graph.
    pub inserted: usize,
    /// How many rows of embeddings were replaced.
    pub tokens: usize,
    /// The tensors that the adapter brought whole, such as a classifier.
    pub saved: Vec<String>,
    /// Modules of the model that the configuration names and the file does not change.
    pub untouched: Vec<String>,
    /// Tensors of the model that the configuration says were trained and the file does not hold.
    pub lost: Vec<Lost>,
    /// What is said of options that are not known.
    pub unknown: Option<String>,
    /// What the adapter was trained for, in PEFT's words, such as `SEQ_CLS`.
    pub task: Option<String>,
}

/// A tensor of the model that an adapter's configuration says was trained, and that its file does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The file and the field that say so.
    pub place: &'static str,
    /// The tensor, by its name in the model.
    pub tensor: String,
}

impl Merged {
    /// What was done, in words.
    pub fn summary(&self) -> String {
        summary(self.changed, self.inserted, self.tokens, self.saved.len())
    }

    /// What its user has to know.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let more = match self.untouched.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let named = self.untouched.first().map(|module| {
            format!(
                "target_modules in adapter_config.json names `{}`{more}, and the file does not hold what was trained \
                 there: the base's stays",
                printable(module)
            )
        });
        self.unknown.iter().cloned().chain(named)
    }
}

/// How much of a model an adapter changes, in words.
pub fn summary(changed: usize, inserted: usize, tokens: usize, saved: usize) -> String {
    let mut parts = vec![format!("into {changed} weights")];
    if inserted > 0 {
        parts.push(format!("{inserted} tensors inserted"));
    }
    if tokens > 0 {
        parts.push(format!("{tokens} tokens replaced"));
    }
    parts.push(format!("{saved} brought whole"));
    parts.join(", ")
}

/// A kind of adapter.
struct Kind {
    /// PEFT's name.
    peft_type: &'static str,
    /// What stands in the names of all its tensors, so that one which is not known is not taken for a saved one.
    marker: &'static str,
    /// The ends of the names of the tensors that a change is made of.
    parts: &'static [&'static str],
    /// What stands in the names of tensors that only training needs.
    idle: &'static [&'static str],
    /// The options that PEFT has for the kind, besides those of every kind.
    options: &'static [&'static [&'static str]],
    /// Whether a factor has a meaning: twice the change.
    scales: bool,
    /// Whether PEFT trains it in `Conv1D` layers, whose weights are turned.
    conv1d: bool,
    /// Merges an adapter, whose saved tensors are in place.
    merge: fn(&mut Work, &Adapter) -> Result<()>,
}

impl Kind {
    /// Whether PEFT has that option for the kind.
    fn has_option(&self, option: &str) -> bool {
        self.options.iter().any(|options| options.contains(&option))
    }
}

/// The kinds that are merged.
static KINDS: &[&Kind] =
    &[&lora::KIND, &adalora::KIND, &ia3::KIND, &ln_tuning::KIND, &loha::KIND, &lokr::KIND, &tokens::KIND, &vera::KIND];

/// Kinds that PEFT knows and kilnc does not merge, to tell them from a misspelling.
const OTHER_KINDS: &[&str] = &[
    "ADAMSS",
    "ADAPTION_PROMPT",
    "BEFT",
    "BOFT",
    "BONE",
    "C3A",
    "CARTRIDGE",
    "CPT",
    "DEFT",
    "DELORA",
    "FOURIERFT",
    "FROD",
    "GLORA",
    "GRALORA",
    "HIRA",
    "HRA",
    "LILY",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "OSF",
    "PEANUT",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "PSOFT",
    "PVERA",
    "P_TUNING",
    "RANDLORA",
    "ROAD",
    "SHADOW",
    "SHIRA",
    "SUPERTUNING",
    "TINYLORA",
    "UNILORA",
    "VBLORA",
    "WAVEFT",
    "XLORA",
];

/// Merges one adapter into the tensors, lazily. Fails, with `state` unchanged, where any part does not fit.
pub fn merge(state: &mut StateDict, source: &AdapterSource) -> Result<Merged> {
    let merged = merge_all(state, std::slice::from_ref(source), None)?;
    merged.into_iter().next().ok_or_else(|| Error::bug("nothing was merged"))
}

/// Merges adapters into the tensors, lazily: one after another, or all at once as `combine` says. Fails, with `state`
/// unchanged, where any part does not fit.
pub fn merge_all(state: &mut StateDict, sources: &[AdapterSource], combine: Option<&Combine>) -> Result<Vec<Merged>> {
    let mut adapters = Vec::with_capacity(sources.len());
    for source in sources {
        adapters.push(Adapter::open(source).map_err(|e| told_apart(e, source, sources))?);
    }
    let mut work = Work::new(state);
    let merged = match combine {
        Some(combine) => combine.merge(&mut work, &adapters, sources)?,
        None => {
            let pairs = adapters.iter().zip(sources);
            let each = pairs
                .map(|(adapter, source)| merge_one(&mut work, adapter).map_err(|e| told_apart(e, source, sources)));
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
    work.begin(adapter)?;
    (adapter.kind.merge)(work, adapter)?;
    Ok(std::mem::take(&mut work.merged))
}

/// With several adapters, an error says which it is about.
fn told_apart(error: Error, source: &AdapterSource, sources: &[AdapterSource]) -> Error {
    if sources.len() > 1 { error.at(source.dir.display().to_string()) } else { error }
}

/// The kind of that name.
fn kind(peft_type: &str) -> Result<&'static Kind> {
    if let Some(kind) = KINDS.iter().find(|kind| kind.peft_type == peft_type) {
        return Ok(kind);
    }
    let mut known: Vec<&str> = KINDS.iter().map(|kind| kind.peft_type).collect();
    known.sort_unstable();
    let place = "adapter_config.json: peft_type";
    if OTHER_KINDS.contains(&peft_type) {
        return Err(Error::unsupported(format!("adapters of type {peft_type} are not merged"))
            .at(place)
            .hint(format!("known: {}", known.join(", "))));
    }
    let unknown = format!("unknown adapter type `{}`; known: {}", printable(peft_type), known.join(", "));
    let error = Error::bad_input(unknown).at(place);
    Err(error.hint_nearest(&peft_type.to_uppercase(), known.into_iter().chain(OTHER_KINDS.iter().copied())))
}

/// Whether the folder looks like an adapter. Fails where it cannot be looked at.
pub fn is_adapter(dir: &Path) -> Result<bool> {
    Ok(presence::has_file(&dir.join("adapter_config.json"))? || hub::is_hub(dir)?)
}

/// The file that holds the tensors of an adapter's folder.
pub fn weights_file(dir: &Path) -> Result<PathBuf> {
    if hub::is_hub(dir)? { hub::weights_file(dir) } else { file::weights_file(dir) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_follows_the_last_at_sign() {
        let parse = |text: &str| text.parse::<AdapterSource>().unwrap();
        assert_eq!(parse("lora@0.7"), AdapterSource { dir: "lora".into(), scale: 0.7 });
        assert_eq!(parse("me@home"), AdapterSource { dir: "me@home".into(), scale: 1.0 });
        for scale in ["inf", "nan", "0", "-0.0", "1e-400", "1e-40", "1e39"] {
            let said = format!("lora@{scale}").parse::<AdapterSource>().unwrap_err();
            assert!(said.message().starts_with(&format!("--adapter lora@{scale}: the scale must be")), "{said}");
        }
        assert_eq!(parse("lora@-0.5").scale, -0.5);
    }
}
