//! Which modules a configuration names, by PEFT's rules.

use std::collections::BTreeSet;

use fancy_regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::kind::Kind;
use crate::error::{Error, Result, by_nearness, printable};
use crate::front::hub::checkpoint::{StateDict, Tensor};
use crate::json;

/// Steps that a pattern may take to match one name.
const LONGEST_SEARCH: usize = 100_000;

/// The word for every linear layer.
const ALL_LINEAR: &str = "all-linear";

/// A list of ends of names, or one pattern for whole names.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Names {
    /// A pattern.
    Pattern(String),
    /// Names, or their last parts after a point.
    Ends(Vec<String>),
}

impl Names {
    /// Whether there is neither a pattern nor a name.
    pub fn is_empty(&self) -> bool {
        match self {
            Names::Pattern(text) => text.is_empty(),
            Names::Ends(ends) => ends.is_empty(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(more) => more,
        }
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    target_modules: Option<Names>,
    #[serde(default)]
    exclude_modules: Option<Names>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    layers_to_transform: Option<OneOrMore<usize>>,
    #[serde(default)]
    layers_pattern: Option<OneOrMore<String>>,
}

/// Which modules a configuration names.
pub(super) struct Targets {
    named: Option<Matcher>,
    excluded: Option<Matcher>,
    /// Patterns of modules that were saved whole; PEFT does not adapt those.
    saved: Vec<Regex>,
    layers: Vec<usize>,
    /// Where the number of a layer is in a name.
    numbers: Vec<Regex>,
    /// The names as the configuration has them, for messages.
    summary: Vec<String>,
}

enum Matcher {
    Pattern(Box<Regex>),
    Ends(Vec<String>),
    Everything,
}

impl Matcher {
    fn new(names: &Names, field: &str) -> Result<Matcher> {
        Ok(match names {
            Names::Pattern(text) if text.eq_ignore_ascii_case(ALL_LINEAR) => Matcher::Everything,
            Names::Pattern(text) => Matcher::Pattern(Box::new(pattern(&format!("^(?:{text})$"), text, field)?)),
            Names::Ends(ends) => Matcher::Ends(ends.clone()),
        })
    }

    fn fits(&self, module: &str) -> Result<bool> {
        match self {
            Matcher::Everything => Ok(true),
            Matcher::Pattern(regex) => is_match(regex, module),
            Matcher::Ends(ends) => Ok(ends.iter().any(|end| ends_with(module, end))),
        }
    }
}

/// Whether the last names of a path are these.
pub(super) fn ends_with(module: &str, end: &str) -> bool {
    module.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Compiles a pattern of Python's; `summary` is how the file has it.
pub(super) fn pattern(text: &str, summary: &str, field: &str) -> Result<Regex> {
    RegexBuilder::new(text).backtrack_limit(LONGEST_SEARCH).build().map_err(|_| {
        Error::bad_input(format!("`{}` is not a pattern", printable(summary)))
            .at(format!("adapter_config.json: {field}"))
    })
}

/// Whether a pattern matches, in bounded time.
pub(super) fn is_match(regex: &Regex, name: &str) -> Result<bool> {
    regex.is_match(name).map_err(|_| {
        Error::bad_input(format!(
            "the pattern `{}` searches `{}` for too long",
            printable(regex.as_str()),
            printable(name)
        ))
        .at("adapter_config.json")
    })
}

impl Targets {
    /// Reads the fields of a configuration.
    pub fn read(config: &str) -> Result<Targets> {
        let config: Config = json::parse(config, "adapter_config.json")?;
        let matcher = |names: &Option<Names>, field: &str| {
            names.as_ref().filter(|names| !names.is_empty()).map(|names| Matcher::new(names, field)).transpose()
        };
        let layers = config.layers_to_transform.map(OneOrMore::into_vec).unwrap_or_default();
        let mut numbers = config.layers_pattern.map(OneOrMore::into_vec).unwrap_or_default();
        numbers.retain(|text| !text.is_empty());
        if matches!(config.target_modules, Some(Names::Pattern(_))) && !(layers.is_empty() && numbers.is_empty()) {
            return Err(Error::bad_input("layers are chosen where target_modules is a pattern")
                .at("adapter_config.json: layers_to_transform"));
        }
        let numbers = match numbers.as_slice() {
            [] => vec![pattern(r"^.*?\.[^.]*\.(?P<idx>\d+)\.", "", "layers_pattern")?],
            given => given
                .iter()
                .map(|text| pattern(&format!(r"^(?:.*?\.)?(?:{text})\.(?P<idx>\d+)\."), text, "layers_pattern"))
                .collect::<Result<_>>()?,
        };
        let saved = config.modules_to_save.unwrap_or_default();
        let saved =
            saved.iter().map(|text| pattern(&format!(r"^(?:|.*\.)(?:{text})(?:$|\..*)"), text, "modules_to_save"));
        Ok(Targets {
            named: matcher(&config.target_modules, "target_modules")?,
            excluded: matcher(&config.exclude_modules, "exclude_modules")?,
            saved: saved.collect::<Result<_>>()?,
            layers,
            numbers,
            summary: match config.target_modules {
                Some(Names::Pattern(text)) => vec![text],
                Some(Names::Ends(ends)) => ends,
                None => Vec::new(),
            },
        })
    }

    /// Fails where the configuration names no module of the model, or not one that the file changes, but for those that
    /// `follow` another. Returns those that it names and the file does not change.
    pub fn check(&self, state: &StateDict, changed: &[&str], follow: &[String], kind: &Kind) -> Result<Vec<String>> {
        // Trained tokens are no change of whole modules.
        if kind.parts.is_empty() || self.named.is_none() {
            return Ok(Vec::new());
        }
        let mut named = Vec::new();
        for (name, tensor) in state.iter() {
            if let Some(module) = name.strip_suffix(".weight")
                && (!self.names_all() || is_of_layer(state, module, tensor))
                && self.fits_in(state, module)?
            {
                named.push(module);
            }
        }
        if changed.is_empty() {
            return if named.is_empty() { Ok(Vec::new()) } else { Err(self.no_change(kind)) };
        }
        if named.is_empty() && !self.names_all() {
            return Err(self.no_module(state));
        }
        for module in changed {
            let follows = || follow.contains(&state.resolve(&format!("{module}.weight")));
            if !self.fits_in(state, module)? && !follows() {
                return Err(Error::bad_input(format!(
                    "the file changes `{}`, which the configuration does not name",
                    printable(module)
                ))
                .at("adapter_config.json: target_modules"));
            }
        }
        let changed: BTreeSet<String> =
            changed.iter().map(|module| state.resolve(&format!("{module}.weight"))).collect();
        named.retain(|module| !changed.contains(&format!("{module}.weight")));
        Ok(named.into_iter().map(str::to_owned).collect())
    }

    /// Whether every linear layer is meant.
    fn names_all(&self) -> bool {
        matches!(self.named, Some(Matcher::Everything))
    }

    fn quoted(&self) -> Vec<String> {
        self.summary.iter().map(|name| format!("`{}`", printable(name))).collect()
    }

    fn no_change(&self, kind: &Kind) -> Error {
        Error::bad_input(format!(
            "the file holds no {} tensors, and the configuration names {}",
            kind.peft_type,
            self.quoted().join(", ")
        ))
        .at("adapter_config.json: target_modules")
        .hint("the adapter was saved without them: save it again from the model that was trained")
    }

    fn no_module(&self, state: &StateDict) -> Error {
        let summary = self.quoted();
        let modules = state.iter().filter_map(|(name, _)| name.strip_suffix(".weight")?.rsplit('.').next());
        let ends: BTreeSet<&str> = modules.collect();
        let near = by_nearness(self.summary.first().map_or("", String::as_str), ends);
        Error::bad_input(format!("{} matches no module of the model", summary.join(", ")))
            .at("adapter_config.json: target_modules")
            .hint(format!("modules of the model, nearest first: {}", near.join(", ")))
    }

    /// Whether a module is named, by the name that it has here or by the one that it has in the bare encoder.
    fn fits_in(&self, state: &StateDict, module: &str) -> Result<bool> {
        let full = state.resolve(module);
        let names = [Some(module), state.within_encoder(module), Some(full.as_str())];
        any(names.iter().flatten(), |name| self.fits(name))
    }

    /// PEFT's rule.
    fn fits(&self, module: &str) -> Result<bool> {
        let Some(named) = &self.named else { return Ok(true) };
        if let Some(excluded) = &self.excluded
            && excluded.fits(module)?
        {
            return Ok(false);
        }
        if any(self.saved.iter(), |saved| is_match(saved, module))? || !named.fits(module)? {
            return Ok(false);
        }
        // A module that is named in full needs no check of its layer.
        if self.layers.is_empty() || self.summary.iter().any(|name| name == module) {
            return Ok(true);
        }
        let layer = self.numbers.iter().find_map(|regex| {
            let number = regex.captures(module).ok()??.name("idx")?;
            number.as_str().parse().ok()
        });
        Ok(layer.is_some_and(|layer: usize| self.layers.contains(&layer)))
    }
}

/// Whether a module is surely a linear layer: a matrix of one of the encoder's layers.
fn is_of_layer(state: &StateDict, module: &str, tensor: &Tensor) -> bool {
    let within = state.within_encoder(module).unwrap_or_default();
    tensor.weight.shape().len() == 2 && within.split('.').any(|part| part.parse::<usize>().is_ok())
}

/// Whether one of the items passes.
fn any<T>(items: impl Iterator<Item = T>, passes: impl Fn(T) -> Result<bool>) -> Result<bool> {
    for item in items {
        if passes(item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(config: &str, module: &str) -> bool {
        Targets::read(config).unwrap().fits(module).unwrap()
    }

    const QUERY: &str = "bert.encoder.layer.1.attention.self.query";

    #[test]
    fn ends_are_whole_names_and_patterns_match_whole_paths() {
        assert!(fits(r#"{"target_modules": ["query"]}"#, QUERY));
        assert!(fits(r#"{"target_modules": ["self.query"]}"#, QUERY));
        assert!(!fits(r#"{"target_modules": ["uery"]}"#, QUERY));
        assert!(fits(r#"{"target_modules": ".*(query|value)"}"#, QUERY));
        assert!(!fits(r#"{"target_modules": "query"}"#, QUERY));
        assert!(fits(r#"{"target_modules": "^(?!.*layer\\.0).*query$"}"#, QUERY));
        assert!(!fits(r#"{"target_modules": "^(?!.*layer\\.1).*query$"}"#, QUERY));
        assert!(fits(r#"{"target_modules": "ALL-linear"}"#, QUERY));
    }

    #[test]
    fn exclusions_and_saved_modules_are_not_adapted() {
        assert!(!fits(r#"{"target_modules": ["query"], "exclude_modules": ["self.query"]}"#, QUERY));
        assert!(!fits(r#"{"target_modules": ["query"], "exclude_modules": ".*layer.1.*"}"#, QUERY));
        assert!(fits(r#"{"target_modules": ["query"], "exclude_modules": "layer.1"}"#, QUERY));
        assert!(!fits(r#"{"target_modules": ["query"], "modules_to_save": ["attention"]}"#, QUERY));
    }

    #[test]
    fn layers_are_those_of_the_first_number_in_the_name() {
        assert!(fits(r#"{"target_modules": ["query"], "layers_to_transform": 1}"#, QUERY));
        assert!(!fits(r#"{"target_modules": ["query"], "layers_to_transform": [0, 2]}"#, QUERY));
        assert!(fits(r#"{"target_modules": ["query"], "layers_to_transform": [1], "layers_pattern": "layer"}"#, QUERY));
        assert!(!fits(
            r#"{"target_modules": ["query"], "layers_to_transform": [1], "layers_pattern": ["block"]}"#,
            QUERY
        ));
        assert!(!fits(r#"{"target_modules": ["dense"], "layers_to_transform": [1]}"#, "bert.pooler.dense"));
        assert!(fits(r#"{"target_modules": ["query"], "layers_to_transform": [1], "layers_pattern": ""}"#, QUERY));
        let full = format!(r#"{{"target_modules": ["{QUERY}"], "layers_to_transform": [0]}}"#);
        assert!(fits(&full, QUERY));
    }

    #[test]
    fn a_pattern_that_searches_for_ever_is_refused() {
        let targets = Targets::read(r#"{"target_modules": "(?=(a+)+$)(a|aa)+\\1b"}"#).unwrap();
        let error = targets.fits(&"a".repeat(60)).unwrap_err();
        assert!(error.message().starts_with("the pattern `"), "{error}");
        assert!(error.message().ends_with("for too long"), "{error}");
    }
}
