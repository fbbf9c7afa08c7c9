//! The whole compile: checkpoint → graph → passes → engines → gates → bundle.

mod adapted;
mod answers;
mod assembly;
mod calibrator;
mod carried;
mod classes;
mod cut;
mod fitting;
mod formats;
mod kept;
mod limits;
mod memo;
mod merge;
mod plans;
mod pruned;
mod stored;
mod tensorrt;
mod timed;
mod unmerged;
mod vocabulary;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::adapter::hub::{self, Insertions};
use crate::adapter::{self, AdapterSource, Combine, Merged};
use crate::arch::Drawn;
use crate::bundle::{self, FileEntry, Manifest};
use crate::checkpoint::{Checkpoint, StateDict, check_searchable, json};
use crate::error::{Error, Result};
use crate::ir::weight::Int8Range;
use crate::ir::{Graph, Role};
use crate::output::{self, Stage};
use crate::passes::{FirstToken, FuseQkv, Manager};
use crate::precision::Precision;
use crate::recipe::{BenchSpec, Recipe};
use crate::target::Target;
use crate::task::Task;
use crate::verify::{Verified, verify};
use crate::{arch, back};

pub use crate::observer::Observer;
pub use answers::{Judge, encoder, max_length};
use assembly::{Assembly, Cut};
pub use calibrator::{Calibrator, Keepsake};
pub use cut::{CutModel, cut_vocabulary};
pub use fitting::Fitting;
pub use formats::{check_reduced, hints, nothing_saturates, saturates, supports};
use memo::Memo;
pub use merge::{MergeRequest, merge};
pub use plans::{CompileRequest, Compiled, Plan, compile_plans, read_plans};
#[cfg(feature = "tensorrt")]
pub use tensorrt::compile_tensorrt;
pub use tensorrt::{TENSORRT_JOB, TensorRtDone, TensorRtJob, TensorRtOptions};
pub use unmerged::{Given, Unmerged, load_unmerged};
pub use vocabulary::Extended;

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
    /// The folder with its tokenizer: that of the last adapter that has one, or the checkpoint's.
    pub tokenizer: PathBuf,
    /// The tokenizer as it was, where its vocabulary was cut.
    pub whole_tokenizer: Option<WholeTokenizer>,
    /// Its graph, in composite operations.
    pub graph: Verified<Graph>,
    /// The graph as it was trained, where `graph` was pruned.
    pub trained: Option<Verified<Graph>>,
    /// Tensors that no part of the graph reads.
    pub unused: Vec<String>,
    /// A vocabulary that is not of the size that the configuration says.
    pub extended: Option<Extended>,
}

/// A tokenizer before its vocabulary was cut.
pub struct WholeTokenizer {
    /// Its folder.
    pub dir: PathBuf,
    /// The numbers of the tokens that stay, and what they are now.
    pub numbers: HashMap<u32, u32>,
}

/// A checkpoint into which adapters have been merged, and the graph that it makes.
struct Adapted {
    checkpoint: Checkpoint,
    /// The tensors before.
    base: StateDict,
    /// The tensors now.
    state: StateDict,
    merged: Vec<(AdapterSource, Merged)>,
    drawn: Drawn,
}

fn adapt(source: &Source) -> Result<Adapted> {
    let mut checkpoint = Checkpoint::open(&source.checkpoint)?;
    source.adapters.iter().try_for_each(|adapter| check_searchable(&adapter.dir))?;
    checkpoint.check_unquantized()?;
    let base = arch::canonical_state(&checkpoint)?;
    let mut state = base.clone();
    let mut inserted = Insertions::default();
    // AdapterHub's own are stacked on what PEFT's have made of the weights.
    let (hub, linear): (Vec<_>, Vec<_>) =
        source.adapters.iter().cloned().partition(|adapter| hub::is_hub(&adapter.dir));
    let mut merged = adapter::merge_all(&mut state, &linear, source.combine.as_ref())?;
    for adapter in &hub {
        merged.push(hub::add(&mut state, adapter, &mut inserted)?);
    }
    if inserted.labels.is_some() {
        checkpoint.common.id2label = inserted.labels.take();
    }
    adapted::grow(&mut checkpoint, &base, &mut state, &merged)?;
    let task = source.task.or_else(|| adapted::task(&state, &merged));
    let drawn = arch::draw_with(&checkpoint, &state, &inserted, task)?;
    if drawn.task == Task::FillMask {
        adapted::refuse_half_tied(&checkpoint, &base, &state)?;
    }
    let merged = linear.into_iter().chain(hub).zip(merged).collect();
    Ok(Adapted { checkpoint, base, state, merged, drawn })
}

/// Reads a checkpoint, merges the adapters and draws the graph. Computes nothing of the weights.
pub fn load(source: &Source) -> Result<Model> {
    let Adapted { checkpoint, merged, drawn, .. } = adapt(source)?;
    let tokenizer = adapted::tokenizer(&checkpoint, &merged).to_owned();
    let graph = verify(drawn.graph)?;
    let extended = Extended::of(&checkpoint, &tokenizer, &graph)?;
    Ok(Model {
        graph,
        trained: None,
        whole_tokenizer: None,
        merged,
        tokenizer,
        task: drawn.task,
        unused: drawn.unused,
        extended,
        checkpoint,
    })
}

/// What the user should know of a model that was loaded.
pub fn warnings(model: &Model) -> Vec<String> {
    let extended = model.extended.as_ref().map(ToString::to_string);
    unused_line(model).into_iter().chain(extended).collect()
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
    /// A number format for a target, the same for all layers and fitted to no texts.
    pub fn new(target: &'a Target, precision: Precision) -> Scheme<'a> {
        Scheme { target, precision, keep: &[], calibrator: None, keep_order: false, range: Int8Range::Full }
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
        output::check_apart(&self.output, self.source.inputs().chain(self.recipe.inputs()))?;
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
    let ours = if request.makes_model() { Path::is_file } else { bundle::is_bundle };
    let stage = Stage::new(&request.output, ours)?;
    let runtimes = carried::carry(request, &stage, observer)?;
    let keepsake = Keepsake::claim(&request.recipe.calibration)?;
    observer.begin("reading", None);
    let mut model = load(&request.source)?;
    observer.done(&describe(&model));
    warnings(&model).iter().for_each(|line| observer.warn(line));
    let vocabulary = pruned::vocabulary(&mut model, &request.recipe, &stage, observer)?;
    let judge = Judge::new(&request.recipe, &model, request.strict, observer)?;
    let memo = Memo::open(request.cache.as_deref(), observer);
    let calibrator = judge.calibrator(&model, stage.dir(), observer)?.with_memo(&memo);
    let pruning = match &request.recipe.prune {
        Some(spec) => pruned::prune(&mut model, spec, &calibrator, &memo, &stage, observer)?,
        None => None,
    };
    let cut = Cut { pruning, vocabulary };
    let mut assembly = Assembly::new(request, &model, &stage, &calibrator, &memo, observer)?;
    for spec in &request.recipe.engines_or_default() {
        assembly.engine(spec, judge.max_length())?;
    }
    judge.judge(&mut assembly)?;
    assembly.runtimes = runtimes;
    let max_length = judge.max_length();
    if let Some(spec) = &request.recipe.bench {
        assembly.bench = Some(timed::time(spec, &assembly.made, max_length, observer)?);
    }
    let manifest = assembly.finish(judge.into_classes(), max_length, cut)?;
    if let Some(keepsake) = keepsake {
        keepsake.put(&calibrator, &model)?;
    }
    match request.makes_model() {
        false => stage.commit_dir()?,
        true => stage.commit_files(&model_files(&manifest.files, &json::file_name(&request.output)))?,
    }
    memo.tidy();
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
        .map(|(source, merged)| format!(", {} merged {}", json::file_name(&source.dir), merged.told()))
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

/// Tensors that are left over, but for those that are known to mean nothing.
fn unused_line(model: &Model) -> Option<String> {
    let telling: Vec<&str> =
        model.unused.iter().map(String::as_str).filter(|name| !name.ends_with("position_ids")).collect();
    let (first, rest) = telling.split_first()?;
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    Some(format!("the {} graph does not use `{}`{more}", model.task, crate::error::printable(first)))
}
