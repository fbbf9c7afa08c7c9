//! Heads as AdapterHub's library saves them: flexible ones of its own, and those of `transformers`' classes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::insertions::{AddedHead, FlexibleHead, HeadKind, Insertions};
use super::saved::one_of;
use crate::error::{Error, Result, printable};
use crate::front::hub::adapter::file::finite;
use crate::front::hub::adapter::options::refuse_unknown;
use crate::front::hub::adapter::work::check_saved;
use crate::front::hub::adapter::{Lost, Merged};
use crate::front::hub::checkpoint::{StateDict, Tensor, read_weights};
use crate::json;

pub(super) const CONFIG: &str = "head_config.json";
pub(super) const WEIGHTS: [&str; 2] = ["model_head.safetensors", "pytorch_model_head.bin"];

#[derive(Deserialize)]
struct Saved {
    #[serde(default)]
    name: Option<String>,
    model_class: String,
    #[serde(default)]
    config: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default)]
    label2id: Option<BTreeMap<String, usize>>,
}

#[derive(Deserialize)]
struct Type {
    head_type: String,
}

/// The options of a flexible head. An unknown one is refused: it might change the outputs.
#[derive(Deserialize)]
struct Config {
    #[serde(rename = "head_type")]
    _head_type: IgnoredAny,
    layers: usize,
    #[serde(default)]
    activation_function: Option<String>,
    #[serde(default)]
    use_pooler: bool,
    #[serde(default)]
    layer_norm: bool,
    #[serde(default)]
    label2id: Option<BTreeMap<String, usize>>,
    /// The tensors show these too.
    #[serde(default, rename = "bias")]
    _bias: Option<IgnoredAny>,
    #[serde(default, rename = "num_labels")]
    _num_labels: Option<IgnoredAny>,
    #[serde(default, rename = "vocab_size")]
    _vocab_size: Option<IgnoredAny>,
    #[serde(default, rename = "embedding_size")]
    _embedding_size: Option<IgnoredAny>,
    /// Matters only while the head is trained.
    #[serde(default, rename = "dropout_prob")]
    _dropout_prob: Option<IgnoredAny>,
    #[serde(default, rename = "shift_labels")]
    _shift_labels: Option<IgnoredAny>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// Heads that the library knows and kilnc does not, to distinguish them from misspellings.
const UNSUPPORTED: [&str; 6] = [
    "causal_lm",
    "dependency_parsing",
    "image_classification",
    "multilabel_classification",
    "multiple_choice",
    "seq2seq_lm",
];

const KINDS: [(&str, HeadKind); 4] = [
    ("classification", HeadKind::Classification),
    ("masked_lm", HeadKind::MaskedLm),
    ("question_answering", HeadKind::QuestionAnswering),
    ("tagging", HeadKind::Tagging),
];

/// Puts a head's tensors into the model, and its description into `insertions`.
pub(super) fn add(state: &mut StateDict, dir: &Path, insertions: &mut Insertions, merged: &mut Merged) -> Result<()> {
    if insertions.head.is_some() {
        return Err(Error::bad_input("two adapters have a head").hint("remove head_config.json from one of them"));
    }
    let config_path = dir.join(CONFIG);
    let mut saved: Saved = json::parse(&json::read_text(&config_path)?, CONFIG)?;
    let path = one_of(dir, WEIGHTS)?;
    let file = json::file_name(&path);
    match saved.config.take() {
        Some(config) => {
            let (head, label2id) = flexible(config.into_iter().collect(), saved.name.as_deref())?;
            insertions.head = Some(AddedHead::Flexible(head));
            saved.label2id = label2id;
        }
        None => {
            let (class, adapter) = (saved.model_class, dir.display().to_string());
            insertions.head = Some(AddedHead::OfClass { class, adapter });
        }
    }
    let of_class = insertions.flexible().is_none();
    insertions.labels = saved.label2id.as_ref().map(by_number);
    for (key, weight) in read_weights(&path).map_err(|e| e.at(file.clone()))? {
        finite(&key, &weight).map_err(|e| e.at(file.clone()))?;
        let name = if of_class { state.resolve(&key) } else { key };
        check_saved(state, &name, &weight).map_err(|e| e.at(file.clone()))?;
        state.insert(name.clone(), Tensor { weight, file: file.as_str().into() });
        merged.saved.push(name);
    }
    if of_class {
        // A head of a class is saved whole, so that the base's own head is another one.
        let saved_whole = |name: &str| merged.saved.iter().any(|saved| saved == name);
        let others = state.iter().map(|(name, _)| name).filter(|name| state.is_head(name) && !saved_whole(name));
        let lost = others.map(|name| Lost { location: "head_config.json: model_class", tensor: name.to_owned() });
        merged.lost.extend(lost.collect::<Vec<_>>());
    }
    merged.files.extend([config_path, path]);
    Ok(())
}

fn kind(found: &str) -> Result<HeadKind> {
    let location = "head_config.json: config.head_type";
    let kind = KINDS.iter().find(|(known, _)| *known == found).map(|(_, kind)| *kind);
    kind.ok_or_else(|| {
        let known = KINDS.map(|(name, _)| name);
        if UNSUPPORTED.contains(&found) {
            return Error::unsupported(format!("heads of the type {found} are not supported"))
                .at(location)
                .hint(format!("known: {}", known.join(", ")));
        }
        let error = Error::bad_input(format!("unknown head type `{}`", printable(found))).at(location);
        error.hint_nearest_or(found, known.into_iter().chain(UNSUPPORTED), format!("known: {}", known.join(", ")))
    })
}

type Labels = Option<BTreeMap<String, usize>>;

fn flexible(config: serde_json::Value, name: Option<&str>) -> Result<(FlexibleHead, Labels)> {
    let location = "head_config.json: config";
    let kind = kind(&json::from_value::<Type>(config.clone(), location)?.head_type)?;
    let config: Config = json::from_value(config, location)?;
    refuse_unknown(&config.rest, location)?;
    let name = name.ok_or_else(|| Error::bad_input("a flexible head needs a name").at("head_config.json: name"))?;
    if config.layers == 0 {
        return Err(Error::bad_input("expected 1 or more, found 0").at("head_config.json: config.layers"));
    }
    let head = FlexibleHead {
        path: format!("heads.{name}"),
        kind,
        layers: config.layers,
        activation: config.activation_function,
        use_pooler: config.use_pooler,
        layer_norm: config.layer_norm,
    };
    Ok((head, config.label2id))
}

/// Labels by number, from numbers by label.
fn by_number(label2id: &BTreeMap<String, usize>) -> BTreeMap<String, String> {
    label2id.iter().map(|(label, id)| (id.to_string(), label.clone())).collect()
}
