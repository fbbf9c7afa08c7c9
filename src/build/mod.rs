//! The whole compile: checkpoint → graph → passes → engines → gates → bundle.

mod adapted;
mod assembly;
mod calibration;
mod calibrator;
mod classes;
mod comparison;
mod cut_vocabulary;
mod extended_vocabulary;
mod formats;
mod gates;
mod hub_files;
mod limits;
mod merge;
mod pruned;
mod rounding;
mod runtime_adapters;
mod runtimes;
mod saved_graph;
mod step_cache;
mod tensorrt;
mod tensorrt_plans;
mod tied_weights;
mod timing;
mod tokenizer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::back;
use crate::bundle::{self, FileEntry, Manifest};
use crate::error::{Error, Result};
use crate::file::check_searchable;
use crate::front::hub::adapter::hub::{self, Insertions};
use crate::front::hub::adapter::{self, AdapterSource, Combine, Merged};
use crate::front::hub::arch;
use crate::front::hub::arch::Built;
use crate::front::hub::checkpoint::{Checkpoint, Prompt, StateDict, Tokenizer};
use crate::ir::weight::Int8Range;
use crate::ir::{Graph, Role};
use crate::json;
use crate::output::{self, Stage};
use crate::passes::{FirstToken, FuseQkv, Manager};
use crate::precision::Precision;
use crate::presence;
use crate::recipe::{BenchSpec, Recipe};
use crate::settings::Settings;
use crate::target::Target;
use crate::task::Task;
use crate::verify::{Verified, verify};

pub use crate::observer::Observer;
use assembly::{Assembly, Removed};
pub use calibration::CalibrationSource;
pub use calibrator::{CalibrationOutput, Calibrator};
pub use cut_vocabulary::{CutModel, cut_vocabulary};
pub use extended_vocabulary::Extended;
pub use formats::{check_reduced, computes_in_half, hints, nothing_saturates, supports};
pub use gates::{Gates, encoder, max_length};
pub use merge::{MergeRequest, merge};
pub use rounding::{MARGIN, open_evaluator, open_evaluator_session, open_rounded};
pub use runtime_adapters::{RuntimeAdapter, RuntimeAdapters, load_runtime_adapters};
use step_cache::StepCache;
#[cfg(feature = "tensorrt")]
pub use tensorrt::compile_tensorrt;
pub use tensorrt::{TENSORRT_JOB, TensorRtDone, TensorRtJob, TensorRtOptions};
pub use tensorrt_plans::{CompileRequest, Compiled, Plan, compile_plans, read_plans};
pub use tokenizer::TextConfig;

/// What a model is made from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// What is merged into it, in order.
    pub adapters: Vec<AdapterSource>,
    /// How several adapters become one; without it, they are merged one after another.
    pub combine: Option<Combine>,
    /// What it is for, where that is not to be found out.
    pub task: Option<Task>,
}

impl Source {
    /// The folders that it names.
    pub fn inputs(&self) -> impl Iterator<Item = &Path> {
        self.adapters.iter().map(|adapter| adapter.dir.as_path()).chain([self.checkpoint.as_path()])
    }
}

/// A model that has been read, merged, drawn and verified.
pub struct Model {
    /// Where it came from.
    pub checkpoint: Checkpoint,
    /// What was merged.
    pub merged: Vec<(AdapterSource, Merged)>,
    /// What it is for.
    pub task: Task,
    /// Its tokenizer: that of the last adapter that has one, or the checkpoint's.
    pub tokenizer: Tokenizer,
    /// Where its vocabulary was cut, the numbers of the tokens that stay, and what they are now.
    pub renumbered: Option<HashMap<u32, u32>>,
    /// What is put before every text.
    pub prompt: Option<Prompt>,
    /// How its answers are told where nobody says it, as far as its checkpoint does.
    pub answers: Settings,
    /// Its graph, in composite operations.
    pub graph: Verified<Graph>,
    /// The graph as it was trained, where `graph` was pruned.
    pub trained: Option<Verified<Graph>>,
    /// Tensors that no part of the graph reads.
    pub unused: Vec<String>,
    /// What the user should know of its configuration.
    pub remarks: Vec<String>,
    /// A vocabulary that is not of the size that the configuration says.
    pub extended: Option<Extended>,
    /// What is wrong with the checkpoint or its adapters and does not keep it from being built.
    pub warnings: Vec<String>,
}

impl Model {
    /// Whether it reads contexts before their questions, as `transformers` does where texts are padded on the left.
    fn context_first(&self) -> bool {
        self.task == Task::QuestionAnswering && self.tokenizer.pads_left
    }
}

/// A checkpoint into which adapters have been merged, and the graph that it makes.
struct Adapted {
    checkpoint: Checkpoint,
    /// The tensors before.
    base: StateDict,
    /// The tensors now.
    state: StateDict,
    merged: Vec<(AdapterSource, Merged)>,
    built: Built,
    /// The word embeddings, if the projection to the vocabulary was untied from them.
    untied: Option<&'static str>,
    /// What is wrong and does not keep the model from being built.
    warnings: Vec<String>,
}

fn adapt(source: &Source) -> Result<Adapted> {
    let mut checkpoint = Checkpoint::open(&source.checkpoint)?;
    source.adapters.iter().try_for_each(|adapter| check_searchable(&adapter.dir))?;
    checkpoint.check_unquantized()?;
    arch::complete(&mut checkpoint)?;
    let base = arch::canonical_state(&checkpoint)?;
    let mut state = base.clone();
    let mut inserted = Insertions::default();
    // AdapterHub's own are stacked on what PEFT's have made of the weights.
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
    tied_weights::follow(&checkpoint, &base, &mut state)?;
    let family = arch::family(&checkpoint.common)?;
    let task = source.task.or_else(|| adapted::task(family, &state, &merged));
    let dir = adapted::tokenizer(&checkpoint, linear.iter().chain(&hub))?.to_owned();
    tokenizer::count_prompt(&mut checkpoint, &dir)?;
    let mut built = match arch::build_with(&checkpoint, &state, &inserted, task) {
        Ok(built) => built,
        Err(error) => return Err(tied_weights::grown_alone(&checkpoint, &base, &state)?.unwrap_or(error)),
    };
    let own_head = built.task.is_over_vocabulary() && inserted.head.is_none();
    let untied = if own_head { tied_weights::untie(&checkpoint, &base, &mut state, &merged)? } else { None };
    if untied.is_some() {
        built = arch::build_with(&checkpoint, &state, &inserted, task)?;
    }
    let mut merged: Vec<_> = linear.into_iter().chain(hub).zip(merged).collect();
    adapted::check_promises(&mut merged, &built.unused)?;
    adapted::enter_modules(&checkpoint, &mut merged);
    let mut warnings = of_tensors(&checkpoint, &base, own_head)?;
    warnings.extend(adapted::adapter_beside(&checkpoint, &source.adapters)?);
    warnings.extend(adapted::warnings(&merged)?);
    Ok(Adapted { checkpoint, base, state, merged, built, untied, warnings })
}

/// What is wrong with a checkpoint's tensors and does not keep it from being built.
fn of_tensors(checkpoint: &Checkpoint, base: &StateDict, reads_vocabulary: bool) -> Result<Vec<String>> {
    let removed = base.removed().map(|removed| {
        format!(
            "`{}` was taken out of the tensors' names: a wrapper had put it there",
            crate::error::printable(removed)
        )
    });
    let mut warnings: Vec<String> = removed.into_iter().collect();
    if reads_vocabulary {
        warnings.extend(arch::contradictions(base, arch::family(&checkpoint.common)?, &checkpoint.config)?);
    }
    Ok(warnings)
}

/// Reads a checkpoint, merges the adapters and draws the graph. Computes nothing of the weights.
pub fn load(source: &Source) -> Result<Model> {
    let Adapted { checkpoint, merged, built, warnings, .. } = adapt(source)?;
    let graph = verify(built.graph)?;
    let dir = adapted::tokenizer(&checkpoint, merged.iter().map(|(source, _)| source))?;
    let tokenizer = tokenizer::open(&checkpoint, dir, &graph, built.task)?;
    let extended = Extended::of(&checkpoint, &tokenizer, &graph)?;
    Ok(Model {
        prompt: tokenizer::prompt(&checkpoint, built.task)?,
        answers: tokenizer::settings(&checkpoint, built.task)?,
        graph,
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

/// What the user should know of a model that was loaded.
pub fn warnings(model: &Model) -> Vec<String> {
    let extended = model.extended.as_ref().map(ToString::to_string);
    let notes = model.tokenizer.notes.iter().cloned();
    let remarks = model.warnings.iter().chain(&model.remarks).cloned();
    remarks.chain(unused_line(model)).chain(extended).chain(notes).collect()
}

/// The graph that all precisions of a target begin from.
pub fn prepare(graph: &Verified<Graph>, target: &Target, manager: &mut Manager) -> Result<Verified<Graph>> {
    let (mut graph, can) = (graph.clone(), target.capabilities());
    if can.unequal_attention {
        graph = manager.run(&graph, &FirstToken)?;
    }
    if can.merged_projections {
        graph = manager.run(&graph, &FuseQkv)?;
    }
    Ok(graph)
}

/// How an engine is made of a model.
#[derive(Clone, Copy)]
pub struct Scheme<'a> {
    /// Where it is to run.
    pub target: &'a Target,
    /// Its number format.
    pub precision: Precision,
    /// Layers and tables that stay in full precision.
    pub keep: &'a [Role],
    /// Texts that 8-bit layers are fitted to. Without them weights are rounded to the nearest, and activations are
    /// left as they are.
    pub calibrator: Option<&'a Calibrator<'a>>,
    /// Whether channels have to stay where they are, because their zeros make a pattern.
    pub keep_order: bool,
    /// The integers that weights of 8-bit layers are rounded to.
    pub range: Int8Range,
}

impl<'a> Scheme<'a> {
    /// A number format for a target, the same for all layers and calibrated on no texts. Weights are of a range with which
    /// no sum saturates on any processor.
    pub fn new(target: &'a Target, precision: Precision) -> Scheme<'a> {
        let range = Int8Range::reduced(target.saturates(precision));
        Scheme { target, precision, keep: &[], calibrator: None, keep_order: false, range }
    }
}

/// The graph of an engine, of that of a model in composite operations: the passes of its number format, then the lowering of its target.
pub fn compile(graph: &Verified<Graph>, scheme: &Scheme, manager: &mut Manager) -> Result<Verified<Graph>> {
    let graph = prepare(graph, scheme.target, manager)?;
    let graph = formats::apply(&graph, scheme, manager)?;
    back::lower(&graph, scheme.target)
}

/// What a bundle, or one model, is built from.
pub struct BuildRequest {
    /// The model.
    pub source: Source,
    /// What to build; engines, labels and gates.
    pub recipe: Recipe,
    /// Where the bundle goes; a name that ends in `.onnx` is that of a model with the one engine of the recipe.
    pub output: PathBuf,
    /// Whether an engine that cannot be made or checked here is an error.
    pub strict: bool,
    /// A folder in which what is made is kept for the next build, if it is.
    pub cache: Option<PathBuf>,
}

impl BuildRequest {
    /// Whether the output is a model and no bundle.
    fn makes_model(&self) -> bool {
        self.output.extension().is_some_and(|extension| extension == "onnx")
    }

    /// Fails where input and output are in each other's place, or one file cannot hold what is asked for.
    fn check(&self) -> Result<()> {
        output::check_disjoint(&self.output, self.source.inputs().chain(self.recipe.inputs()))?;
        match self.recipe.engines_or_default().as_slice() {
            [engine] if self.makes_model() && engine.target.wants_plan() => {
                Err(Error::unsupported(format!("an engine for {} is no ONNX model", engine.target))
                    .hint("give a folder with -o, or export its ONNX file with kilnc export"))
            }
            [_] => Ok(()),
            engines if self.makes_model() => {
                Err(Error::bad_input(format!("a model is one engine, the recipe has {}", engines.len()))
                    .hint("give a folder with -o"))
            }
            _ => Ok(()),
        }
    }
}

/// Builds a bundle or a model. Nothing is written to the output unless every gate is passed. For a model, the manifest
/// is only told.
pub fn build(request: &BuildRequest, observer: &dyn Observer) -> Result<Manifest> {
    request.check()?;
    pruned::check(&request.recipe)?;
    request.recipe.bench.as_ref().map(BenchSpec::check).transpose()?;
    let ours = if request.makes_model() { presence::is_file } else { bundle::is_replaceable };
    let stage = Stage::new(&request.output, ours)?;
    let runtimes = runtimes::bundle_runtimes(request, &stage, observer)?;
    let calibration_output = CalibrationOutput::claim(&request.recipe.calibration)?;
    observer.begin("reading", None);
    let mut model = load(&request.source)?;
    observer.done(&describe(&model));
    warnings(&model).iter().for_each(|line| observer.warn(line));
    let vocabulary = pruned::vocabulary(&mut model, &request.recipe, observer)?;
    let gates = Gates::new(&request.recipe, &model, request.strict, observer)?;
    let step_cache = StepCache::open(request.cache.as_deref(), observer);
    let calibrator = gates.calibrator(&model, stage.dir(), observer)?.with_step_cache(&step_cache);
    let pruning = match &request.recipe.prune {
        Some(spec) => pruned::prune(&mut model, spec, &calibrator, &step_cache, &stage, observer)?,
        None => None,
    };
    let cut = Removed { pruning, vocabulary };
    let mut assembly = Assembly::new(request, &model, &stage, &calibrator, &step_cache, observer)?;
    for spec in &request.recipe.engines_or_default() {
        assembly.engine(spec, gates.max_length())?;
    }
    assembly.check_any()?;
    gates.check(&mut assembly)?;
    assembly.runtimes = runtimes;
    let max_length = gates.max_length();
    if let Some(spec) = &request.recipe.bench {
        assembly.bench = Some(timing::time(spec, &assembly.made, max_length, observer)?);
    }
    let manifest = assembly.finish(gates.into_classes(), max_length, cut)?;
    if let Some(calibration_output) = calibration_output {
        calibration_output.put(&calibrator, &model)?;
    }
    match request.makes_model() {
        false => stage.commit_dir()?,
        true => stage.commit_files(&model_files(&manifest.files, &json::file_name(&request.output)))?,
    }
    step_cache.tidy();
    Ok(manifest)
}

/// The files of the model `name`. It refers to the data beside it, so it comes last.
pub fn model_files<'a>(files: &'a [FileEntry], name: &str) -> Vec<&'a str> {
    let mut files: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    files.sort_by_key(|file| *file == name);
    files
}

fn describe(model: &Model) -> String {
    let (parameters, dtypes) = model.checkpoint.parameters();
    let dtypes: Vec<_> = dtypes.iter().filter(|d| d.is_float()).map(|d| d.to_string()).collect();
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
        model.graph.nodes().count()
    )
}

/// Tensors that are left over, but for those that mean nothing, and those of a pooler whose task has none: encoders are
/// often saved with theirs, and XLNet's always with the vector that stands for tokens to guess.
fn unused_line(model: &Model) -> Option<String> {
    let brought = |name: &str| model.merged.iter().any(|(_, merged)| merged.saved.iter().any(|saved| saved == name));
    let family = arch::family(&model.checkpoint.common).ok();
    // Where there is a projection's bias, the head's own is its other name.
    let shared = family.map(|family| family.shared).unwrap_or_default();
    let is_twin =
        |name: &str| model.task.is_over_vocabulary() && shared.iter().any(|shared| shared.head_bias == Some(name));
    let idle = |name: &str| {
        ["position_ids", "mask_emb"].iter().any(|end| name.ends_with(end))
            || is_twin(name)
            || family.is_some_and(|family| family.computes(name))
            || name.split('.').any(|part| part == "pooler") && !brought(name)
    };
    let telling: Vec<&str> = model.unused.iter().map(String::as_str).filter(|name| !idle(name)).collect();
    let (first, rest) = telling.split_first()?;
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    Some(format!("the {} graph does not use `{}`{more}", model.task, crate::error::printable(first)))
}
