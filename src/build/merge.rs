//! A checkpoint and adapters become one checkpoint, as `transformers` would save it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::engines::adapter_entry;
use crate::back::safetensors;
use crate::bundle::{self, PROVENANCE, PROVENANCE_SCHEMA, Provenance, is_merged};
use crate::error::{Error, Result};
use crate::front::hub::adapter::{AdapterSource, Merged};
use crate::front::hub::arch::{self, Built};
use crate::front::hub::checkpoint::{GENERATION, StateDict, Tensor};
use crate::front::hub::load::Source;
use crate::front::hub::load::{Adapted, adapt, adapted, quantized, tied_weights, tokenizer};
use crate::ir::{DType, Weight};
use crate::json as files;
use crate::observer::Observer;
use crate::output::{self, Stage, write_json};
use crate::presence;
use crate::task::head::Head;

/// Files that belong to a tokenizer, by the names of `transformers`.
const TOKENIZER: [&str; 14] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// Files of sentence-transformers beside those that `modules.json` names.
const SENTENCE: [&str; 2] = ["config_sentence_transformers.json", "sentence_bert_config.json"];

/// A request: the base, the adapters, and the form of the output.
pub struct MergeRequest {
    /// The checkpoint and its adapters.
    pub source: Source,
    /// The element type of all floats; each tensor's own in the base by default.
    pub dtype: Option<DType>,
    /// The labels of a classifier.
    pub labels: Option<Vec<String>>,
    /// Longest file of tensors, in bytes.
    pub largest: u64,
    /// Where the checkpoint goes, a folder.
    pub output: PathBuf,
}

/// Merges adapters into a checkpoint and writes it in the Hub layout. Nothing is written to the output on an error.
pub fn merge(request: &MergeRequest, observer: &dyn Observer) -> Result<Provenance> {
    output::check_disjoint(&request.output, request.source.inputs())?;
    let stage = Stage::new(&request.output, is_merged)?;
    observer.begin("reading", None);
    let mut adapted = adapt(&request.source)?;
    adapted.warnings.iter().for_each(|line| observer.warn(line));
    only_weights(&adapted)?;
    if adapted.checkpoint.encoder.path() != adapted.checkpoint.dir {
        return Err(Error::unsupported(
            "the encoder is in a separate folder, and a merged checkpoint has it at the top",
        )
        .at("modules.json")
        .hint("save the model again with a sentence-transformers of today"));
    }
    let shape = Shape::of(&adapted, request)?;
    let kinds: Vec<&str> = adapted.merged.iter().map(|(_, merged)| merged.kind).collect();
    let untied = tied_weights::separate(&adapted.checkpoint, &mut adapted.state, &kinds, &shape.dropped)?;
    let restated = arch::restated(&adapted.checkpoint)?;
    restated.warnings.iter().for_each(|line| observer.warn(line));
    let mut config = config(&adapted, &shape, untied, restated.fields, request)?;
    let cost = quantized::merged_cost(&adapted.checkpoint, &adapted.base, &adapted.state);
    cost.iter().for_each(|line| observer.warn(line));
    if let Some(line) = dequantized(&adapted, request.dtype, &mut config) {
        observer.warn(&line);
    }
    let tensors = tensors(&adapted, &shape, request.dtype)?;
    observer.done(&format!("{} tensors for {}", tensors.len(), shape.summary()));
    for (source, merged) in &adapted.merged {
        observer.done(&format!("{} merged {}", files::file_name(&source.dir), merged.summary()));
    }
    let total = tensors.iter().map(|(_, weight)| weight.byte_len() as u64).sum();
    observer.begin("writing", Some(total));
    let written = safetensors::write(&tensors, stage.dir(), request.largest, &|bytes| observer.advance(bytes))?;
    observer.done(&format!("{:.1} MB in {} files", written.bytes as f64 / 1e6, written.files.len()));
    let mut names = written.files;
    write_json(&stage.path("config.json"), &files::sorted(config))?;
    names.push("config.json".to_owned());
    names.extend(copy_others(&adapted, &shape, stage.dir())?);
    names.sort();
    let provenance = Provenance {
        schema: PROVENANCE_SCHEMA.to_owned(),
        kilnc: env!("CARGO_PKG_VERSION").to_owned(),
        base: files::file_name(&adapted.checkpoint.dir),
        architecture: shape.architecture.clone(),
        adapters: adapted.merged.iter().map(adapter_entry).collect::<Result<_>>()?,
        combined: request.source.combine.as_ref().map(ToString::to_string),
        dropped: shape.dropped,
        files: names,
    };
    write_json(&stage.path(PROVENANCE), &provenance)?;
    stage.commit_dir()?;
    Ok(provenance)
}

/// Fails where an adapter or its head is more than a change of weights: a checkpoint cannot hold it.
fn only_weights(adapted: &Adapted) -> Result<()> {
    let refused = |(source, _): &(AdapterSource, Merged), what: &str| {
        Err(Error::unsupported(format!("{what} of {} is no change of weights", files::file_name(&source.dir)))
            .hint("build or export with it instead: its nodes go into the graph"))
    };
    let flexible = |merged: &Merged| merged.saved.iter().any(|name| name.starts_with("heads."));
    for entry in &adapted.merged {
        match &entry.1 {
            merged if merged.inserted > 0 => return refused(entry, "the bottleneck adapter"),
            merged if flexible(merged) => return refused(entry, "the flexible head"),
            _ => {}
        }
    }
    Ok(())
}

/// The differences of the merged checkpoint from the base.
struct Shape {
    /// The class of `transformers`, if the base names one.
    architecture: Option<String>,
    /// Whether that is another than the base's.
    changed: bool,
    /// Whether it is the encoder without a head, whose tensors have no prefix.
    bare: bool,
    /// How many classes a head has.
    classes: Option<usize>,
    /// Tensors that another class does not have.
    dropped: Vec<String>,
}

impl Shape {
    fn of(adapted: &Adapted, request: &MergeRequest) -> Result<Shape> {
        let Adapted { checkpoint, state, merged, built, .. } = adapted;
        let old = checkpoint.common.architectures.iter().flatten().next();
        let has_head = merged.iter().any(|(_, merged)| merged.saved.iter().any(|name| state.is_head(name)));
        let chosen = has_head || request.source.task.is_some();
        let architecture = match old {
            Some(old) if chosen => Some(arch::family(&checkpoint.common)?.class_with(built.task.head(), old)?),
            old => old.cloned(),
        };
        let changed = architecture.as_ref() != old;
        let bare = match &architecture {
            Some(name) => arch::is_bare(name),
            None => !checkpoint.state.iter().any(|(name, _)| state.within_encoder(name).is_some()) && !has_head,
        };
        Ok(Shape {
            changed,
            bare,
            classes: if has_head { classes(adapted) } else { None },
            dropped: if changed { built.unused.clone() } else { Vec::new() },
            architecture,
        })
    }

    fn summary(&self) -> &str {
        self.architecture.as_deref().unwrap_or("the base's class")
    }
}

/// How many outputs the head of a graph has: labels, or the two ends of a span.
fn classes(adapted: &Adapted) -> Option<usize> {
    let graph = &adapted.built.graph;
    let last = || graph.value(*graph.outputs().first()?).ty.shape.last()?.fixed();
    match adapted.built.task.head() {
        Head::TextLogits | Head::TokenLogits => last(),
        Head::SpanLogits => Some(2),
        Head::HiddenStates | Head::Embedding | Head::MaskedTokens | Head::NextToken => None,
    }
}

/// The tensors under the names that the class has for them, and laid out as it has them.
fn tensors(adapted: &Adapted, shape: &Shape, dtype: Option<DType>) -> Result<Vec<(String, Weight)>> {
    let Adapted { checkpoint, state, base, .. } = adapted;
    let usual = usual_dtype(base);
    let kept = state.iter().filter(|(name, _)| !shape.dropped.iter().any(|dropped| dropped == name));
    kept.map(|(name, tensor)| {
        // One tensor under two names has one type.
        let own = tied_weights::in_base(checkpoint, base, name).filter(|tensor| tensor.weight.packing().is_none());
        let own = own.map_or(usual, |tensor| tensor.weight.dtype());
        let laid_out = state.turned(name, &tensor.weight)?;
        let name = if shape.bare { state.within_encoder(name).unwrap_or(name) } else { name };
        let weight = match dtype.unwrap_or(own) {
            // Nothing is computed in 64 bits.
            DType::F64 => laid_out,
            dtype if laid_out.dtype().is_float() => laid_out.cast(dtype),
            _ => laid_out,
        };
        Ok((name.to_owned(), weight))
    })
    .collect()
}

/// Takes out of a configuration what says that the weights are quantized, and says that they are not any more.
fn dequantized(adapted: &Adapted, dtype: Option<DType>, config: &mut Map<String, Value>) -> Option<String> {
    let quantized = adapted.checkpoint.quantized.as_ref()?;
    config.retain(|key, _| !["quantization_config", "compression_config"].contains(&key.as_str()));
    let weights: usize = quantized.packings.values().sum();
    Some(format!(
        "{weights} weights that {} had packed in {:.1} MB are written in {}, and `quantization_config` is left out",
        quantized.method,
        quantized.bytes as f64 / 1e6,
        dtype.unwrap_or_else(|| usual_dtype(&adapted.base))
    ))
}

/// The floating-point type in which most of the base's numbers are, but for packed ones.
fn usual_dtype(base: &StateDict) -> DType {
    let mut sizes: BTreeMap<DType, usize> = BTreeMap::new();
    let is_plain = |tensor: &Tensor| tensor.weight.dtype().is_float() && tensor.weight.packing().is_none();
    for (_, tensor) in base.iter().filter(|(_, tensor)| is_plain(tensor)) {
        *sizes.entry(tensor.weight.dtype()).or_default() += tensor.weight.byte_len();
    }
    sizes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or(DType::F32, |(dtype, _)| dtype)
}

/// The base's configuration with the changes, and with `restated`, by which versions of `transformers` agree;
/// `untied` if the projection to the vocabulary has come to differ from the word embeddings.
fn config(
    adapted: &Adapted,
    shape: &Shape,
    untied: bool,
    restated: Map<String, Value>,
    request: &MergeRequest,
) -> Result<Map<String, Value>> {
    let mut config: Map<String, Value> = files::parse(&adapted.checkpoint.config, "config.json")?;
    config.extend(restated);
    if let (Some(architecture), true) = (&shape.architecture, shape.changed) {
        config.insert("architectures".to_owned(), json!([architecture]));
    }
    if untied {
        config.insert("tie_word_embeddings".to_owned(), false.into());
    }
    if let Some(dtype) = request.dtype {
        let name = match dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        // Of the two names of the field, 4.56 and later take the first where they differ.
        let keys = ["dtype", "torch_dtype"].into_iter().filter(|key| config.contains_key(*key));
        let keys: Vec<&str> = keys.collect();
        for key in if keys.is_empty() { vec!["torch_dtype"] } else { keys } {
            config.insert(key.to_owned(), name.into());
        }
    }
    if let Some(labels) = labels(adapted, shape, request)? {
        name_labels(&mut config, &labels);
    }
    Ok(config)
}

/// Writes a classifier's labels to a configuration.
pub(super) fn name_labels(config: &mut Map<String, Value>, labels: &[String]) {
    let by_number = labels.iter().enumerate().map(|(i, label)| (i.to_string(), json!(label)));
    let by_name = labels.iter().enumerate().map(|(i, label)| (label.clone(), json!(i)));
    config.insert("id2label".to_owned(), Value::Object(by_number.collect()));
    config.insert("label2id".to_owned(), Value::Object(by_name.collect()));
}

/// The labels, where the configuration has to get others.
fn labels(adapted: &Adapted, shape: &Shape, request: &MergeRequest) -> Result<Option<Vec<String>>> {
    let known = adapted.checkpoint.common.labels();
    // Without labels, `transformers` takes two.
    let count = known.as_ref().map_or(2, Vec::len);
    match (&request.labels, shape.classes.or_else(|| classes(adapted))) {
        (Some(given), Some(classes)) if given.len() == classes => Ok(Some(given.clone())),
        (Some(given), classes) => Err(Error::bad_input(match classes {
            Some(classes) => format!("{} labels, but the classifier has {classes} classes", given.len()),
            None => "there are labels, but no classifier".to_owned(),
        })
        .at("--labels")),
        (None, Some(classes)) if classes != count => Ok(Some((0..classes).map(|i| format!("LABEL_{i}")).collect())),
        (None, _) => Ok(None),
    }
}

/// Copies the checkpoint's other files, and returns the names.
fn copy_others(adapted: &Adapted, shape: &Shape, to: &Path) -> Result<Vec<String>> {
    let tokenizer = adapted::tokenizer(&adapted.checkpoint, adapted.merged.iter().map(|(source, _)| source))?;
    let mut copied = Vec::new();
    for name in tokenizer.files_of(&TOKENIZER)? {
        tokenizer.copy(name, to)?;
        copied.push(name.to_owned());
    }
    // As its users get it, which is the same file where nothing changes it.
    let Built { graph, task, .. } = &adapted.built;
    let encoder = &adapted.checkpoint.encoder;
    if task.generates() && encoder.has(GENERATION)? {
        encoder.copy(GENERATION, to)?;
        copied.push(GENERATION.to_owned());
    }
    let effective = tokenizer::open(&adapted.checkpoint, &tokenizer, graph, *task)?;
    if let Some(text) = effective.json {
        let path = to.join(bundle::TOKENIZER);
        std::fs::write(&path, text).map_err(|e| Error::io("writing", &path, &e))?;
    }
    if let (Some(sentence), false) = (&adapted.checkpoint.sentence, shape.changed) {
        let from = &sentence.dir;
        let others = presence::files_of(from, &SENTENCE)?;
        let modules = sentence.files.iter().filter_map(|path| path.strip_prefix(from).ok());
        let modules = modules.filter(|path| path.ends_with("modules.json") || path.components().count() > 1);
        for path in others.into_iter().map(Path::new).chain(modules) {
            copied.push(copy(from, path, to)?);
        }
    }
    Ok(copied)
}

/// Copies a file, and returns its path with `/`.
fn copy(from: &Path, path: &Path, to: &Path) -> Result<String> {
    let (source, target) = (from.join(path), to.join(path));
    let failed = |e: std::io::Error| Error::io("copying", &source, &e);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    std::fs::copy(&source, &target).map_err(failed)?;
    let names: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    Ok(names.join("/"))
}
