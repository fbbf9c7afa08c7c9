//! Loads a model: reads the checkpoint, merges its adapters, and builds the graph.

pub(crate) mod adapted;
mod extended_vocabulary;
pub(crate) mod limits;
pub(crate) mod quantized;
pub(crate) mod tied_weights;
pub(crate) mod tokenizer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::file::check_searchable;
use crate::front::hub::adapter::hub::{self, Insertions};
use crate::front::hub::adapter::{self, AdapterSource, Combine, Merged};
use crate::front::hub::arch::{self, Built};
use crate::front::hub::checkpoint::{Checkpoint, Prompt, Quantized, StateDict, Tokenizer};
use crate::front::source;
use crate::ir::Graph;
use crate::json;
use crate::program::Program;
use crate::settings::Settings;
use crate::task::id::Task;
use crate::verify::{Verified, verify};

pub use extended_vocabulary::Extended;
pub use tokenizer::TextConfig;

/// The sources of a model.
#[derive(Clone, Debug)]
pub struct Source {
    /// The checkpoint's folder, or its file.
    pub checkpoint: PathBuf,
    /// The adapters, in order.
    pub adapters: Vec<AdapterSource>,
    /// How several adapters become one; without it, they are merged one after another.
    pub combine: Option<Combine>,
    /// The task, where it is not taken from the checkpoint.
    pub task: Option<Task>,
}

impl Source {
    /// The folders that it names.
    pub fn inputs(&self) -> impl Iterator<Item = &Path> {
        self.adapters.iter().map(|adapter| adapter.dir.as_path()).chain([self.checkpoint.as_path()])
    }
}

/// A model that has been read, merged, built and verified.
pub struct Model {
    /// Where it came from.
    pub checkpoint: Checkpoint,
    /// The merged adapters.
    pub merged: Vec<(AdapterSource, Merged)>,
    /// Its task.
    pub task: Task,
    /// Its tokenizer: that of the last adapter that has one, or the checkpoint's.
    pub tokenizer: Tokenizer,
    /// Where its vocabulary was cut, the new ids of the tokens that stay.
    pub renumbered: Option<HashMap<u32, u32>>,
    /// The prompt before every text.
    pub prompt: Option<Prompt>,
    /// The prompts that a text may have before it instead.
    pub prompts: Vec<Prompt>,
    /// The defaults of predictions, as far as its checkpoint sets them.
    pub pipeline: Settings,
    /// Its components, in composite operations.
    pub program: Program,
    /// The program as it was trained, where `program` was pruned.
    pub trained: Option<Program>,
    /// Tensors that no part of the graph reads.
    pub unused: Vec<String>,
    /// Warnings about its configuration.
    pub remarks: Vec<String>,
    /// A vocabulary that is not of the size that the configuration says.
    pub extended: Option<Extended>,
    /// Warnings about the checkpoint or its adapters.
    pub warnings: Vec<String>,
}

impl Model {
    /// The graph that reads what the model is given: the whole of it, where it has one component.
    pub fn graph(&self) -> &Verified<Graph> {
        self.program.first()
    }

    /// Whether it reads contexts before their questions, as `transformers` does where texts are padded on the left.
    pub fn context_first(&self) -> bool {
        self.task.reads_questions() && self.tokenizer.pads_left
    }
}

/// A checkpoint into which adapters have been merged, and the graph that it makes.
pub(crate) struct Adapted {
    pub(crate) checkpoint: Checkpoint,
    /// The tensors before.
    pub(crate) base: StateDict,
    /// The tensors now.
    pub(crate) state: StateDict,
    pub(crate) merged: Vec<(AdapterSource, Merged)>,
    pub(crate) built: Built,
    /// The word embeddings, if the projection to the vocabulary was untied from them.
    pub(crate) untied: Option<&'static str>,
    /// Warnings.
    pub(crate) warnings: Vec<String>,
}

/// Reads a checkpoint, merges the adapters and builds the graph, which is not verified yet.
pub(crate) fn adapt(source: &Source) -> Result<Adapted> {
    let mut checkpoint = source::open(&source.checkpoint)?;
    source.adapters.iter().try_for_each(|adapter| check_searchable(&adapter.dir))?;
    checkpoint.check_unquantized()?;
    arch::complete(&mut checkpoint)?;
    let base = arch::canonical_state(&checkpoint)?;
    let mut state = base.clone();
    let mut inserted = Insertions::default();
    // AdapterHub's own are stacked on the weights merged from PEFT's.
    let (mut hub, mut linear) = (Vec::new(), Vec::new());
    for adapter in source.adapters.iter().cloned() {
        if hub::is_hub(&adapter.dir)? { &mut hub } else { &mut linear }.push(adapter);
    }
    let mut merged = adapter::merge_all(&mut state, &linear, source.combine.as_ref())?;
    for adapter in &hub {
        merged.push(hub::add(&mut state, adapter, &mut inserted)?);
    }
    if inserted.labels.is_some() {
        let labels = inserted.labels.take().into_iter().flatten();
        checkpoint.common.id2label = Some(labels.map(|(number, label)| (number, Some(label))).collect());
        checkpoint.common.label2id = None;
    }
    adapted::grow(&mut checkpoint, &base, &state, &merged)?;
    adapted::modules(&mut checkpoint, &source.adapters)?;
    tied_weights::follow(&checkpoint, &base, &mut state, &merged)?;
    let folder = adapted::tokenizer(&checkpoint, linear.iter().chain(&hub))?;
    tokenizer::count_prompt(&mut checkpoint, &folder)?;
    let peft = &adapted::task_types(&state, &merged);
    let sources = arch::Sources {
        requested: source.task,
        peft,
        inserted: &inserted,
        checkpoint: &checkpoint,
        base: &base,
        state: &state,
    };
    let task = sources.task();
    let mut built = match task.and_then(|task| arch::build_with(&checkpoint, &state, &inserted, task)) {
        Ok(built) => built,
        Err(error) => return Err(tied_weights::grown_alone(&checkpoint, &base, &state)?.unwrap_or(error)),
    };
    let own_head = built.task.is_over_vocabulary() && inserted.flexible().is_none();
    let untied = if own_head { tied_weights::untie(&checkpoint, &base, &mut state, &merged)? } else { None };
    if untied.is_some() {
        built = arch::build_with(&checkpoint, &state, &inserted, built.task)?;
    }
    let mut merged: Vec<_> = linear.into_iter().chain(hub).zip(merged).collect();
    adapted::check_promises(&mut merged, &built.unused)?;
    adapted::enter_modules(&checkpoint, &mut merged);
    let mut warnings = of_tensors(&checkpoint, &base, own_head)?;
    warnings.extend(quantized::warnings(&checkpoint));
    warnings.extend(adapted::adapter_beside(&checkpoint, &source.adapters)?);
    warnings.extend(adapted::warnings(&merged)?);
    Ok(Adapted { checkpoint, base, state, merged, built, untied, warnings })
}

/// Warnings about a checkpoint's tensors.
fn of_tensors(checkpoint: &Checkpoint, base: &StateDict, reads_vocabulary: bool) -> Result<Vec<String>> {
    let removed = base.removed().map(|removed| {
        format!(
            "`{}` was taken out of the tensors' names: a wrapper had put it there",
            crate::error::printable(removed)
        )
    });
    let mut warnings: Vec<String> = checkpoint.notes.iter().cloned().chain(removed).collect();
    if reads_vocabulary {
        warnings.extend(arch::contradictions(base, arch::family(&checkpoint.common)?, &checkpoint.config)?);
    }
    Ok(warnings)
}

/// Reads a checkpoint, merges the adapters and builds the graph. Computes no weights.
pub fn load(source: &Source) -> Result<Model> {
    let Adapted { checkpoint, base, state, merged, built, mut warnings, .. } = adapt(source)?;
    warnings.extend(quantized::merged_cost(&checkpoint, &base, &state));
    let graph = verify(built.graph)?;
    let folder = adapted::tokenizer(&checkpoint, merged.iter().map(|(source, _)| source))?;
    let tokenizer = tokenizer::open(&checkpoint, &folder, &graph, built.task)?;
    let extended = Extended::of(&checkpoint, &tokenizer, &graph)?;
    Ok(Model {
        prompt: tokenizer::prompt(&checkpoint, built.task)?,
        prompts: tokenizer::prompts(&checkpoint, built.task),
        pipeline: tokenizer::settings(&checkpoint, built.task)?,
        program: graph.into(),
        trained: None,
        renumbered: None,
        merged,
        tokenizer,
        task: built.task,
        unused: built.unused,
        remarks: built.warnings,
        extended,
        warnings,
        checkpoint,
    })
}

/// Warnings about a loaded model.
pub fn warnings(model: &Model) -> Vec<String> {
    let extended = model.extended.as_ref().map(ToString::to_string);
    let notes = model.tokenizer.notes.iter().cloned();
    let remarks = model.warnings.iter().chain(&model.remarks).cloned();
    remarks.chain(unused_line(model)).chain(extended).chain(notes).collect()
}

/// What was loaded, on one line.
pub fn describe(model: &Model) -> String {
    let (parameters, dtypes) = model.checkpoint.parameters();
    let mut dtypes: Vec<_> = dtypes.iter().filter(|d| d.is_float()).map(|d| d.to_string()).collect();
    dtypes.extend(model.checkpoint.quantized.as_ref().map(Quantized::summary));
    let adapters: Vec<_> = model
        .merged
        .iter()
        .map(|(source, merged)| format!(", {} merged {}", json::file_name(&source.dir), merged.summary()))
        .collect();
    format!(
        "{}, {:.1} M parameters ({}){} → {}, {} nodes",
        model.checkpoint.common.model_type.as_deref().unwrap_or_default(),
        parameters as f64 / 1e6,
        dtypes.join(", "),
        adapters.concat(),
        model.task,
        model.program.components().map(|component| component.graph.nodes().count()).sum::<usize>()
    )
}

/// Tensors that are left over, but for those that mean nothing, and those of a pooler whose task has none: encoders are
/// often saved with theirs.
fn unused_line(model: &Model) -> Option<String> {
    let saved_whole =
        |name: &str| model.merged.iter().any(|(_, merged)| merged.saved.iter().any(|saved| saved == name));
    // Where there is a projection's bias, the head's own is its other name.
    let family = arch::family(&model.checkpoint.common).ok();
    let shared = family.map(|family| family.shared).unwrap_or_default();
    let is_twin =
        |name: &str| model.task.is_over_vocabulary() && shared.iter().any(|shared| shared.head_bias == Some(name));
    let idle = |name: &str| {
        name.ends_with("position_ids")
            || is_twin(name)
            || family.is_some_and(|family| family.passes_over(name))
            || name.split('.').any(|part| part == "pooler") && !saved_whole(name)
    };
    let telling: Vec<&str> = model.unused.iter().map(String::as_str).filter(|name| !idle(name)).collect();
    let (first, rest) = telling.split_first()?;
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    Some(format!("the {} graph does not use `{}`{more}", model.task, crate::error::printable(first)))
}
