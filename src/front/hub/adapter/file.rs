//! Reads an adapter's folder as PEFT saves it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use super::kind::Kind;
use super::source::AdapterSource;
use super::targets::{Targets, ends_with};
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{StateDict, common_prefix, read_weights};
use crate::ir::Weight;
use crate::json;
use crate::presence;

/// PEFT's prefix of the names of the model it wraps.
const WRAPPER: &str = "base_model.model.";

/// The prefixes of the names of tensors that all modules share.
const SHARED: &str = "base_model.";

/// How the rows of trained tokens are called, below an embedding.
const TOKEN_ROWS: [&str; 2] = ["token_adapter.trainable_tokens_delta", "trainable_tokens_delta"];

/// An adapter that has been read: its tensors sorted by use, none computed but to check that they are
/// numbers.
pub(super) struct Adapter {
    /// The kind.
    pub kind: &'static Kind,
    /// The factor of the command line.
    pub scale: f32,
    /// The text of `adapter_config.json`; each kind reads its own fields from it.
    pub config: String,
    /// The fields that every kind has.
    pub common: Common,
    /// Which modules the configuration names.
    pub targets: Targets,
    /// Configuration first.
    pub files: Vec<PathBuf>,
    /// The name of the file with the tensors, as messages call it.
    pub file: String,
    /// The parts of each changed module.
    pub modules: BTreeMap<String, Parts>,
    /// Tensors that all modules share.
    pub shared: BTreeMap<String, Weight>,
    /// The rows of trained tokens, by the embedding.
    pub tokens: Vec<(String, Weight)>,
    /// Tensors that were saved whole.
    pub saved: Vec<(String, Weight)>,
}

/// The fields that the configuration of every kind may have.
#[derive(Default, Deserialize)]
pub(super) struct Common {
    /// The task that the adapter was trained for.
    #[serde(default)]
    pub task_type: Option<String>,
    /// Tokens whose rows were trained beside something else.
    #[serde(default)]
    pub trainable_token_indices: Option<Tokens>,
    /// Modules that were trained and saved whole, by the ends of their names.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// Which biases were trained.
    #[serde(default)]
    pub bias: Option<String>,
    /// Tokens whose rows were trained, and nothing else.
    #[serde(default)]
    pub token_indices: Option<Tokens>,
    /// Parameters that are no module's weight.
    #[serde(default)]
    target_parameters: Option<Vec<String>>,
    /// Whether tensors tied to the embeddings follow them.
    #[serde(default)]
    pub ensure_weight_tying: Option<bool>,
}

/// Tokens of the input embedding, or of embeddings by the ends of their names.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Tokens {
    /// Of the input embedding.
    Input(Vec<usize>),
    /// By embedding.
    Of(BTreeMap<String, Vec<usize>>),
}

impl Common {
    /// The tokens whose rows the file holds for an embedding, in the order of the rows.
    pub fn tokens_of(&self, module: &str) -> Result<Vec<usize>> {
        let found = match self.trainable_token_indices.as_ref().or(self.token_indices.as_ref()) {
            None => None,
            Some(Tokens::Input(tokens)) => Some(tokens),
            Some(Tokens::Of(by_name)) => by_name.iter().find(|(end, _)| ends_with(module, end)).map(|(_, t)| t),
        };
        found.cloned().ok_or_else(|| {
            Error::bad_input("the file holds rows of tokens, and the configuration does not say of which")
                .at("adapter_config.json: trainable_token_indices")
        })
    }
}

#[derive(Deserialize)]
struct Header {
    peft_type: String,
}

/// The tensors of one changed module, by the ends of their names.
#[derive(Default)]
pub(super) struct Parts(BTreeMap<&'static str, Weight>);

impl Parts {
    /// The part of that name, if it is there.
    pub fn get(&self, part: &str) -> Option<&Weight> {
        self.0.get(part)
    }

    /// The part of that name.
    pub fn need(&self, part: &str) -> Result<&Weight> {
        let short = part.strip_suffix(".weight").unwrap_or(part);
        self.get(part).ok_or_else(|| Error::bad_input(format!("{short} is missing")))
    }
}

impl Adapter {
    /// Opens a folder. Fails where a file is missing, malformed or of a kind that is not merged.
    /// `kind` finds a kind by PEFT's name.
    pub fn open(source: &AdapterSource, kind: fn(&str) -> Result<&'static Kind>) -> Result<Adapter> {
        let dir = &source.dir;
        let config_path = dir.join("adapter_config.json");
        if !presence::has_file(&config_path)? {
            return Err(Error::bad_input(format!("{} holds no adapter_config.json", dir.display()))
                .hint("--adapter takes the folder that PEFT's save_pretrained or AdapterHub's save_adapter wrote"));
        }
        let config = json::read_text(&config_path)?;
        let Header { peft_type } = json::parse(&config, "adapter_config.json")?;
        let kind = kind(&peft_type)?;
        let common: Common = json::parse(&config, "adapter_config.json")?;
        common.refuse_unsupported()?;
        let targets = Targets::read(&config)?;
        let path = weights_file(dir)?;
        let file = json::file_name(&path);
        let tokenizer = presence::first_file([dir.join("tokenizer.json")])?;
        let mut adapter = Adapter {
            kind,
            scale: source.scale,
            config,
            common,
            targets,
            files: [config_path, path.clone()].into_iter().chain(tokenizer).collect(),
            file: file.clone(),
            modules: BTreeMap::new(),
            shared: BTreeMap::new(),
            tokens: Vec::new(),
            saved: Vec::new(),
        };
        adapter.sort(read_weights(&path)?).map_err(|e| e.at(file))?;
        Ok(adapter)
    }

    /// The configuration, as the kind reads it.
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        json::parse(&self.config, "adapter_config.json")
    }

    /// Where a module of this adapter is met.
    pub fn location(&self, module: &str) -> String {
        format!("{}: {}", self.file, printable(module))
    }

    /// Fails where all names have a part too many before that of the model's modules, which it says. A name that only is
    /// in no model is found later.
    pub fn check_names(&self, base: &StateDict) -> Result<()> {
        let names = || {
            let whole = self.saved.iter().map(|(name, _)| name.as_str());
            let tokens = self.tokens.iter().map(|(module, _)| module.as_str());
            self.modules.keys().map(String::as_str).chain(tokens).chain(whole)
        };
        let there =
            |name: &str| [name, &format!("{name}.weight")].iter().any(|name| base.contains(&base.resolve(name)));
        // Twice, so that a single name has modules in common, too.
        let common = common_prefix(names().chain(names()));
        let Some(common) = common.filter(|_| !names().any(there)) else { return Ok(()) };
        let ends = common.match_indices('.').map(|(at, _)| at + 1);
        let foreign = |end: &usize| names().filter_map(|name| name.get(*end..)).any(there);
        match ends.into_iter().find(foreign).and_then(|end| common.get(..end)) {
            None => Ok(()),
            Some(foreign) => Err(too_many(&format!("{WRAPPER}{foreign}"))),
        }
    }

    fn sort(&mut self, tensors: Vec<(String, Weight)>) -> Result<()> {
        wrapped_once(tensors.iter().map(|(key, _)| key.as_str()))?;
        tensors.par_iter().try_for_each(|(key, weight)| finite(key, weight))?;
        for (key, weight) in tensors {
            let Some(name) = key.strip_prefix(WRAPPER) else {
                let name = key.strip_prefix(SHARED).filter(|name| name.starts_with(self.kind.marker));
                let name = name.ok_or_else(|| {
                    Error::bad_input(format!("tensor `{}` does not begin with `{WRAPPER}`", printable(&key)))
                        .hint("PEFT puts that before every name: save the adapter with save_pretrained")
                })?;
                self.shared.insert(name.to_owned(), weight);
                continue;
            };
            self.put(&key, &name.replace(".default.", "."), weight)?;
        }
        // Where all biases are trained, a saved module's is in the file twice more.
        let (plain, non_finite): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.saved).into_iter().partition(|(name, _)| !name.contains(".modules_to_save."));
        self.saved = plain;
        for (name, weight) in non_finite {
            let name = name.replace(".modules_to_save.", ".");
            if !self.saved.iter().any(|(saved, _)| *saved == name) {
                self.saved.push((name, weight));
            }
        }
        if self.modules.is_empty() && self.saved.is_empty() && self.tokens.is_empty() {
            return Err(Error::bad_input("the adapter changes nothing: it holds no tensors"));
        }
        Ok(())
    }

    fn put(&mut self, key: &str, name: &str, weight: Weight) -> Result<()> {
        let below = |part: &str| name.strip_suffix(part)?.strip_suffix('.').map(str::to_owned);
        if let Some(module) = TOKEN_ROWS.into_iter().find_map(below) {
            self.tokens.push((module, weight));
        } else if let Some((module, part)) = self.kind.parts.iter().find_map(|part| Some((below(part)?, *part))) {
            self.modules.entry(module).or_default().0.insert(part, weight);
        } else if self.kind.idle.iter().any(|idle| name.contains(idle)) || name.contains(".original_module.") {
            // Only training needs it, or it is the base's own.
        } else if name.contains(&format!(".{}", self.kind.marker)) || name.contains(".token_adapter.") {
            return Err(Error::unsupported(format!("tensor `{}` is of a kind that is not merged yet", printable(key))));
        } else {
            self.saved.push((name.replace(".base_layer.", "."), weight));
        }
        Ok(())
    }
}

/// Fails where not all names begin with PEFT's own prefix, once; names the prefix that they have.
fn wrapped_once<'a>(keys: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    let twice = format!("{WRAPPER}{SHARED}");
    let begins = |prefix: &str| keys.clone().next().is_some() && keys.clone().all(|key| key.starts_with(prefix));
    if begins(&twice) {
        let inner = format!("{WRAPPER}{WRAPPER}");
        return Err(too_many(if begins(&inner) { &inner } else { &twice }));
    }
    let outer = |key: &'a str| key.find(WRAPPER).and_then(|at| key.get(..at)).filter(|outer| outer.ends_with('.'));
    let Some(outer) = keys.clone().next().and_then(outer) else { return Ok(()) };
    let prefix = format!("{outer}{WRAPPER}");
    if begins(&prefix) { Err(too_many(&prefix)) } else { Ok(()) }
}

fn too_many(prefix: &str) -> Error {
    let twice = prefix.matches(WRAPPER).count() > 1;
    let error = Error::bad_input(format!(
        "every name begins with `{}`, and PEFT puts `{WRAPPER}` before the names of the model{}",
        printable(prefix),
        if twice { " once" } else { "" }
    ));
    error.hint(match twice {
        true => "the adapter was saved from a PeftModel within another, or renamed: save it again from the inner one",
        false => "the adapter was saved from within a wrapper: save it again from the model inside",
    })
}

impl Common {
    fn refuse_unsupported(&self) -> Result<()> {
        refuse(&[("target_parameters", self.target_parameters.as_ref().is_some_and(|names| !names.is_empty()))])
    }
}

/// Names the first option that is set: it would change the outputs, and is not merged.
pub(super) fn refuse(options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, set)| *set) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Error::unsupported("this option is not merged yet").at(format!("adapter_config.json: {name}")))
        }
    }
}

/// The file with an adapter's tensors; safetensors before pickles, as PEFT does.
pub(super) fn weights_file(dir: &Path) -> Result<PathBuf> {
    let files = ["adapter_model.safetensors", "adapter_model.bin"].map(|name| dir.join(name));
    presence::first_file(files)?.ok_or_else(|| {
        Error::bad_input("neither adapter_model.safetensors nor adapter_model.bin is there")
            .at(dir.display().to_string())
    })
}

/// Refuses NaN and infinity.
pub(super) fn finite(key: &str, weight: &Weight) -> Result<()> {
    if !weight.dtype().is_float() {
        return Err(Error::bad_input(format!("tensor `{}` holds {}, expected floats", printable(key), weight.dtype())));
    }
    match weight.to_f32s()?.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::bad_input(format!("tensor `{}` holds NaN or infinity", printable(key)))),
    }
}
