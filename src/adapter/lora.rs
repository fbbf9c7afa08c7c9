//! LoRA as PEFT saves it: `W + (alpha / r) · B A` (arXiv 2106.09685), or `alpha / √r` for rsLoRA (arXiv 2312.03732).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use regex::Regex;
use serde::Deserialize;

use super::{AdapterSource, Merged};
use crate::checkpoint::json;
use crate::checkpoint::{StateDict, Tensor, safetensors};
use crate::error::{Error, Result, printable};
use crate::ir::Weight;

/// What PEFT puts before the names of the model it wraps.
const WRAPPER: &str = "base_model.model.";

/// The fields that change the merged weights. Those that only chose what was trained are not needed: the tensors that
/// were trained are the ones in the file.
#[derive(Deserialize)]
struct Config {
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f32>,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    use_dora: Option<bool>,
    #[serde(default)]
    fan_in_fan_out: Option<bool>,
    #[serde(default)]
    lora_bias: Option<bool>,
    #[serde(default)]
    layer_replication: Option<serde_json::Value>,
    #[serde(default)]
    use_qalora: Option<bool>,
    #[serde(default)]
    use_bdlora: Option<serde_json::Value>,
    #[serde(default)]
    alora_invocation_tokens: Option<serde_json::Value>,
    #[serde(default)]
    arrow_config: Option<serde_json::Value>,
}

impl Config {
    /// Names the first option that would change the answer and that is not merged yet.
    fn refuse_unsupported(&self) -> Result<()> {
        let on = |flag: Option<bool>| flag == Some(true);
        let options = [
            ("use_dora", on(self.use_dora)),
            ("fan_in_fan_out", on(self.fan_in_fan_out)),
            ("lora_bias", on(self.lora_bias)),
            ("use_qalora", on(self.use_qalora)),
            ("layer_replication", self.layer_replication.is_some()),
            ("use_bdlora", self.use_bdlora.is_some()),
            ("alora_invocation_tokens", self.alora_invocation_tokens.is_some()),
            ("arrow_config", self.arrow_config.is_some()),
            ("bias", self.bias.as_deref().is_some_and(|bias| bias != "none")),
        ];
        match options.iter().find(|(_, set)| *set) {
            None => Ok(()),
            Some((name, _)) => {
                Err(Error::unsupported("this option of LoRA is not merged yet")
                    .at(format!("adapter_config.json: {name}")))
            }
        }
    }

    /// The rank of a module, and the factor of its product, which is `extra` times the adapter's own.
    fn rank_and_scale(&self, module: &str, extra: f32) -> Result<(usize, f32)> {
        let rank = pattern(&self.rank_pattern, "rank_pattern", module)?.unwrap_or(self.r);
        let alpha = pattern(&self.alpha_pattern, "alpha_pattern", module)?.unwrap_or(self.lora_alpha);
        if rank == 0 {
            return Err(Error::bad_input("the rank must be 1 or more, found 0").at("adapter_config.json: r"));
        }
        let divisor = if self.use_rslora { (rank as f32).sqrt() } else { rank as f32 };
        if !alpha.is_finite() {
            return Err(Error::bad_input(format!("alpha must be a finite number, found {alpha}"))
                .at("adapter_config.json: lora_alpha"));
        }
        let scale = alpha / divisor * extra;
        if !scale.is_finite() {
            return Err(Error::bad_input(format!("the scale {alpha} / {divisor} · {extra} is too large for f32")));
        }
        Ok((rank, scale))
    }
}

/// The value whose pattern a module's name ends with; PEFT matches `(.*\.)?(pattern)$`.
fn pattern<T: Copy>(patterns: &BTreeMap<String, T>, field: &str, module: &str) -> Result<Option<T>> {
    for (text, value) in patterns {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{text})$")).map_err(|_| {
            Error::bad_input(format!("`{}` is not a pattern", printable(text)))
                .at(format!("adapter_config.json: {field}"))
        })?;
        if regex.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// One changed module: its two factors, as far as they were met.
#[derive(Default)]
struct Factors {
    a: Option<Weight>,
    b: Option<Weight>,
}

pub(super) fn merge(
    state: &mut StateDict,
    source: &AdapterSource,
    config: &str,
    config_path: PathBuf,
) -> Result<Merged> {
    let config: Config = json::parse(config, "adapter_config.json")?;
    config.refuse_unsupported()?;
    let path = source.dir.join("adapter_model.safetensors");
    if !path.is_file() {
        let error = Error::bad_input("adapter_model.safetensors is missing").at(source.dir.display().to_string());
        return Err(match source.dir.join("adapter_model.bin").is_file() {
            true => error.hint("adapter_model.bin is not read yet: save the adapter with safe_serialization=True"),
            false => error,
        });
    }
    let (modules, saved) = sort(safetensors::read(&path)?).map_err(|e| e.at("adapter_model.safetensors"))?;
    let file: Arc<str> = "adapter_model.safetensors".into();
    let mut next = state.clone();
    let changed = modules.len();
    for (module, factors) in modules {
        let merged = merge_module(state, &config, source.scale, &module, &factors)
            .map_err(|e| e.at(format!("adapter_model.safetensors: {}", printable(&module))))?;
        next.insert(state.resolve(&format!("{module}.weight")), merged);
    }
    let mut names = Vec::with_capacity(saved.len());
    for (name, weight) in saved {
        let name = state.resolve(&name);
        check_saved(state, &name, &weight).map_err(|e| e.at("adapter_model.safetensors"))?;
        next.insert(name.clone(), Tensor { weight, file: file.clone() });
        names.push(name);
    }
    *state = next;
    Ok(Merged { files: vec![config_path, path], changed, inserted: 0, saved: names })
}

type Sorted = (BTreeMap<String, Factors>, Vec<(String, Weight)>);

/// Sorts the file's tensors into factors by module, and tensors that were saved whole.
fn sort(tensors: Vec<(String, Weight)>) -> Result<Sorted> {
    let mut modules: BTreeMap<String, Factors> = BTreeMap::new();
    let mut saved = Vec::new();
    for (key, weight) in tensors {
        let name = key
            .strip_prefix(WRAPPER)
            .ok_or_else(|| Error::bad_input(format!("tensor `{}` does not begin with `{WRAPPER}`", printable(&key))))?;
        finite(&key, &weight)?;
        let name = name.replace(".default.", ".");
        if let Some(module) = name.strip_suffix(".lora_A.weight") {
            modules.entry(module.to_owned()).or_default().a = Some(weight);
        } else if let Some(module) = name.strip_suffix(".lora_B.weight") {
            modules.entry(module.to_owned()).or_default().b = Some(weight);
        } else if name.contains(".lora_") {
            return Err(Error::unsupported(format!(
                "tensor `{}` is of a kind that is not merged yet",
                printable(&key)
            )));
        } else {
            saved.push((name.replace(".modules_to_save.", "."), weight));
        }
    }
    if modules.is_empty() && saved.is_empty() {
        return Err(Error::bad_input("the adapter changes nothing: it holds no tensors"));
    }
    Ok((modules, saved))
}

pub(super) fn finite(key: &str, weight: &Weight) -> Result<()> {
    if !weight.dtype().is_float() {
        return Err(Error::bad_input(format!("tensor `{}` holds {}, expected floats", printable(key), weight.dtype())));
    }
    match weight.to_f32s()?.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::bad_input(format!("tensor `{}` holds NaN or infinity", printable(key)))),
    }
}

fn merge_module(state: &StateDict, config: &Config, extra: f32, module: &str, factors: &Factors) -> Result<Tensor> {
    let (Some(a), Some(b)) = (&factors.a, &factors.b) else {
        let missing = if factors.a.is_none() { "A" } else { "B" };
        return Err(Error::bad_input(format!("lora_{missing} is missing")));
    };
    let (rank, scale) = config.rank_and_scale(module, extra)?;
    if a.shape().first() != Some(&rank) {
        return Err(Error::bad_input(format!(
            "lora_A has shape {:?}, but the configuration says rank {rank}",
            a.shape()
        )));
    }
    // An adapter that was trained on the bare encoder leaves its prefix out.
    let name = state.resolve(&format!("{module}.weight"));
    let base = state.get(&name).ok_or_else(|| {
        Error::bad_input(format!("the base model has no tensor `{}`", printable(&name)))
            .hint("the adapter was trained on another model")
    })?;
    let weight = base.weight.lora(a, b, scale).map_err(|e| e.hint("the adapter was trained on another model"))?;
    Ok(Tensor { weight, file: base.file.clone() })
}

/// A tensor that replaces one of the base has its shape, but for a head, whose rows are the task's labels.
pub(super) fn check_saved(state: &StateDict, name: &str, weight: &Weight) -> Result<()> {
    let Some(base) = state.get(name) else { return Ok(()) };
    let columns = |w: &Weight| w.shape().get(1..).map(<[usize]>::to_vec);
    if columns(&base.weight) == columns(weight) {
        return Ok(());
    }
    Err(Error::bad_input(format!(
        "saved tensor `{}` has shape {:?}, the base model's {:?}",
        printable(name),
        weight.shape(),
        base.weight.shape()
    ))
    .hint("the adapter was trained on another model"))
}
