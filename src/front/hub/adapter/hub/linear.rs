//! AdapterHub's linear adapters, merged: LoRA (arXiv 2106.09685), `W + (alpha / r) · B A`, and (IA)³ (arXiv
//! 2205.05638), which scales the outputs of a layer and so the rows of its weight and its bias.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::config::LOCATION;
use super::insertions::Insertions;
use super::saved::{Saved, Tensors};
use crate::error::{Error, Result, printable};
use crate::front::hub::adapter::options::refuse_unknown;
use crate::front::hub::checkpoint::{StateDict, Tensor};
use crate::ir::Weight;
use crate::json;

#[derive(Deserialize)]
struct Document {
    config: Config,
}

/// Options that matter only while an adapter is trained.
const TRAINING: [&str; 5] = ["architecture", "dropout", "dtype", "init_weights", "init_weights_seed"];

/// The other options. An unknown one is refused: it might change the outputs.
#[derive(Deserialize)]
struct Config {
    r: usize,
    alpha: f64,
    #[serde(default)]
    composition_mode: Option<String>,
    #[serde(default)]
    use_gating: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    vera_d: Option<f64>,
    #[serde(default)]
    vera_b: Option<f64>,
    /// The parts of a layer that were trained; older versions have other fields for it.
    #[serde(default)]
    selfattn_lora: bool,
    #[serde(default)]
    intermediate_lora: bool,
    #[serde(default)]
    output_lora: bool,
    /// Of which of the projections of attention: `q`, `k`, `v`.
    #[serde(default)]
    attn_matrices: Vec<String>,
    /// Layers of which nothing was trained.
    #[serde(default)]
    leave_out: Option<Vec<usize>>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// The merged adapters.
pub(super) struct Linear {
    /// The number of weights that were changed.
    pub changed: usize,
    /// Modules that the configuration means and the file does not change.
    pub untouched: Vec<String>,
}

impl Config {
    fn refuse_unsupported(&self) -> Result<()> {
        let rest = self.rest.iter().filter(|(option, _)| !TRAINING.contains(&option.as_str()));
        refuse_unknown(&rest.map(|(option, value)| (option.clone(), value.clone())).collect(), LOCATION)?;
        let options = [
            ("use_gating", self.use_gating),
            ("use_dora", self.use_dora),
            ("vera_d", self.vera_d.is_some()),
            ("vera_b", self.vera_b.is_some()),
        ];
        match options.iter().find(|(_, set)| *set) {
            None => self.scales().map(drop),
            Some((name, _)) => Err(Error::unsupported("this option of AdapterHub's LoRA is not merged")
                .at(format!("adapter_config.json: config.{name}"))),
        }
    }

    /// The modules that the configuration means and that are not among those changed: the same part of another layer.
    /// Fails where nothing was trained of a part that the configuration names.
    fn untouched<'a>(
        &self,
        state: &StateDict,
        changed: impl Iterator<Item = &'a String> + Clone,
    ) -> Result<Vec<String>> {
        let last = |module: &'a String| module.rsplit('.').next().unwrap_or_default();
        let of_attention = |letter: &String| {
            changed.clone().any(|module| module.contains("att") && last(module).starts_with(letter.as_str()))
        };
        let ends = |parts: &[&str]| changed.clone().any(|module| parts.iter().any(|part| module.ends_with(part)));
        let lacks = |field: &str, what: &str| {
            Err(Error::bad_input(format!("the file holds nothing for `{}`", printable(what)))
                .at(format!("{LOCATION}.{field}"))
                .hint("the adapter was saved without it: save it again from the model that was trained"))
        };
        if let Some(letter) =
            self.attn_matrices.iter().filter(|_| self.selfattn_lora).find(|letter| !of_attention(letter))
        {
            return lacks("attn_matrices", letter);
        }
        if self.intermediate_lora && !ends(&["intermediate.dense", ".ffn", "ffn.lin1"]) {
            return lacks("intermediate_lora", "intermediate");
        }
        if self.output_lora && !ends(&[".output.dense", ".ffn_output", "ffn.lin2"]) {
            return lacks("output_lora", "output");
        }
        let kinds: BTreeSet<String> = changed.clone().map(|module| without_numbers(module)).collect();
        let changed: BTreeSet<&str> = changed.map(String::as_str).collect();
        let left_out = |module: &str| {
            let mut numbers = module.split('.').filter_map(|part| part.parse::<usize>().ok());
            numbers.any(|number| self.leave_out.iter().flatten().any(|left| *left == number))
        };
        let modules = state.iter().filter_map(|(name, _)| name.strip_suffix(".weight"));
        let meant = modules.filter(|module| kinds.contains(&without_numbers(module)) && !left_out(module));
        Ok(meant.filter(|module| !changed.contains(module)).map(str::to_owned).collect())
    }

    /// Whether outputs are scaled, rather than something added to them.
    fn scales(&self) -> Result<bool> {
        match self.composition_mode.as_deref() {
            None | Some("add") => Ok(false),
            Some("scale") => Ok(true),
            Some(other) => Err(Error::bad_input(format!("unknown mode `{}`; known: add, scale", printable(other)))
                .at("adapter_config.json: config.composition_mode")),
        }
    }

    /// The factor of the product. Before 1.1.0 the library computed without `alpha`.
    fn scale(&self, version: Option<&str>, extra: f32) -> Result<f32> {
        if self.r == 0 {
            return Err(Error::bad_input("the rank must be 1 or more, found 0").at("adapter_config.json: config.r"));
        }
        let alpha = if without_alpha(version) { self.r as f64 } else { self.alpha };
        let scale = (alpha / self.r as f64) as f32 * extra;
        match scale.is_finite() {
            true => Ok(scale),
            false => Err(Error::bad_input(format!("the scale {alpha:e} / {} · {extra} is too large for f32", self.r))
                .at("adapter_config.json: config.alpha")),
        }
    }
}

/// Whether that is a version of the library (`adapters.MAJOR.MINOR.PATCH`) before 1.1.0.
fn without_alpha(version: Option<&str>) -> bool {
    let Some(numbers) = version.and_then(|version| version.strip_prefix("adapters.")) else { return false };
    let mut parts = numbers.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    (major, minor) < (1, 1)
}

/// Merges the factors of every module.
pub(super) fn merge(
    state: &mut StateDict,
    tensors: &Tensors,
    extra: f32,
    saved: &Saved,
    text: &str,
    insertions: &mut Insertions,
) -> Result<Linear> {
    let Document { config } = json::parse(text, "adapter_config.json")?;
    config.refuse_unsupported()?;
    if let Some(other) = insertions.linear.replace(saved.name.clone()) {
        return Err(Error::unsupported(format!(
            "`{}` after `{}`: AdapterHub feeds one LoRA into the next, which is not supported",
            printable(&saved.name),
            printable(&other)
        )));
    }
    let modules = by_module(tensors, &saved.name)?;
    let merged = Linear { changed: modules.len(), untouched: config.untouched(state, modules.keys())? };
    let in_module = |module: &str| {
        let location = printable(module);
        move |e: Error| e.at(location)
    };
    if config.scales()? {
        if extra != 1.0 {
            return Err(Error::unsupported(format!("(IA)³ multiplies, so it cannot be taken {extra} times"))
                .hint("leave the factor out"));
        }
        for (module, factors) in &modules {
            scale_module(state, &config, module, factors).map_err(in_module(module))?;
        }
        return Ok(merged);
    }
    let scale = config.scale(saved.version.as_deref(), extra)?;
    for (module, factors) in &modules {
        let merged = merge_module(state, &config, scale, module, factors).map_err(in_module(module))?;
        state.insert(format!("{module}.weight"), merged);
    }
    Ok(merged)
}

/// `(W x + b) · (alpha · l) = (diag(alpha · l) W) x + diag(alpha · l) b`
fn scale_module(state: &mut StateDict, config: &Config, module: &str, factors: &Factors) -> Result<()> {
    let [b] = only(factors, ["lora_B"])?;
    let alpha = config.alpha as f32;
    if !alpha.is_finite() {
        return Err(Error::bad_input(format!("{:e} is too large for f32", config.alpha))
            .at("adapter_config.json: config.alpha"));
    }
    let by = Weight::sum(vec![(alpha, b.reshape(vec![b.shape().iter().product()])?)])?;
    base(state, &format!("{module}.weight"))?;
    for name in ["weight", "bias"].map(|name| format!("{module}.{name}")) {
        let Some(Tensor { weight, file }) = state.get(&name).cloned() else { continue };
        let weight = weight.scale(&by, 0).map_err(|e| e.hint(TRAINED_ELSEWHERE))?;
        state.insert(name, Tensor { weight, file });
    }
    Ok(())
}

const TRAINED_ELSEWHERE: &str = "the adapter was trained on another model";

/// A path of modules without the numbers of layers.
fn without_numbers(module: &str) -> String {
    let parts: Vec<&str> =
        module.split('.').map(|part| if part.parse::<usize>().is_ok() { "*" } else { part }).collect();
    parts.join(".")
}

fn base<'a>(state: &'a StateDict, name: &str) -> Result<&'a Tensor> {
    if state.is_conv1d(name) {
        return Err(Error::unsupported("AdapterHub's changes of layers of the class Conv1D are not merged"));
    }
    state.get(name).ok_or_else(|| {
        Error::bad_input(format!("the base model has no tensor `{}`", printable(name))).hint(TRAINED_ELSEWHERE)
    })
}

/// The factors of those names, which must be there and be all.
fn only<'a, const N: usize>(factors: &Factors<'a>, names: [&str; N]) -> Result<[&'a Weight; N]> {
    if let Some(other) = factors.keys().find(|name| !names.contains(name)) {
        return Err(Error::unsupported(format!("`{}` is of a kind that is not merged", printable(other))));
    }
    let missing = names.iter().find(|name| !factors.contains_key(*name));
    let found: Vec<&Weight> = names.iter().filter_map(|name| factors.get(name).copied()).collect();
    found.try_into().map_err(|_| Error::bad_input(format!("{} is missing", missing.copied().unwrap_or_default())))
}

type Factors<'a> = BTreeMap<&'a str, &'a Weight>;

/// The tensors by module and, within it, by the part after the adapter's name.
fn by_module<'a>(tensors: &'a Tensors, adapter: &str) -> Result<BTreeMap<String, Factors<'a>>> {
    let mut modules: BTreeMap<String, Factors> = BTreeMap::new();
    for (name, weight) in tensors {
        match name.split_once(&format!(".loras.{adapter}.")) {
            Some((module, factor)) => modules.entry(module.to_owned()).or_default().insert(factor, weight),
            None => {
                let message = format!("tensor `{}` is of a kind that is not merged", printable(name));
                return Err(Error::unsupported(message));
            }
        };
    }
    Ok(modules)
}

fn merge_module(state: &StateDict, config: &Config, scale: f32, module: &str, factors: &Factors) -> Result<Tensor> {
    let [a, b] = only(factors, ["lora_A", "lora_B"])?;
    if a.shape().first() != Some(&config.r) {
        let message = format!("lora_A has shape {:?}, but the configuration says rank {}", a.shape(), config.r);
        return Err(Error::bad_input(message));
    }
    let base = base(state, &format!("{module}.weight"))?;
    let weight = base.weight.lora(a, b, scale).map_err(|e| e.hint(TRAINED_ELSEWHERE))?;
    Ok(Tensor { weight, file: base.file.clone() })
}

#[cfg(test)]
mod tests {
    use super::without_alpha;

    #[test]
    fn versions_before_1_1_computed_without_alpha() {
        assert!(without_alpha(Some("adapters.1.0.1")) && without_alpha(Some("adapters.0.2.2")));
        assert!(!without_alpha(Some("adapters.1.1.0")) && !without_alpha(Some("3.2.1")) && !without_alpha(None));
    }
}
