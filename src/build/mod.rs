//! The whole compile: checkpoint → graph → passes → engines → gates → bundle.

mod assembly;
mod calibration;
mod calibrator;
mod classes;
mod comparison;
mod cut_vocabulary;
mod formats;
mod gates;
mod hub_files;
mod merge;
mod pruned;
mod rounding;
mod runtime_adapters;
mod runtimes;
mod saved_graph;
mod step_cache;
mod tensorrt;
mod tensorrt_plans;
mod timing;

use std::path::PathBuf;

use crate::back;
use crate::bundle::{self, FileEntry, Manifest};
use crate::error::{Error, Result};
use crate::front::hub::load::describe;
use crate::ir::weight::Int8Range;
use crate::ir::{Graph, Role};
use crate::json;
use crate::output::{self, Stage};
use crate::passes::{FirstToken, FuseQkv, Manager};
use crate::precision::Precision;
use crate::presence;
use crate::recipe::{BenchSpec, Recipe};
use crate::target::Target;
use crate::task::Task;
use crate::verify::Verified;

pub use crate::front::hub::load::{Extended, Model, Source, TextConfig, load, warnings};
pub use crate::observer::Observer;
use assembly::{Assembly, Removed};
pub use calibration::CalibrationSource;
pub use calibrator::{CalibrationOutput, Calibrator};
pub use cut_vocabulary::{CutModel, cut_vocabulary};
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
    /// Texts that 8-bit layers are calibrated on. Without them weights are rounded to the nearest, and activations are
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

/// The graph of an engine, of that of a model in composite operations: the passes of its number format, then the
/// lowering of its target.
pub fn compile(graph: &Verified<Graph>, scheme: &Scheme, manager: &mut Manager) -> Result<Verified<Graph>> {
    let graph = prepare(graph, scheme.target, manager)?;
    let graph = formats::apply(&graph, scheme, manager)?;
    back::lower(&graph, scheme.target)
}

/// A request: the sources of a bundle or of one model.
pub struct BuildRequest {
    /// The model.
    pub source: Source,
    /// The recipe: engines, labels and gates.
    pub recipe: Recipe,
    /// Where the bundle goes; a name that ends in `.onnx` is that of a model with the one engine of the recipe.
    pub output: PathBuf,
    /// Whether an engine that cannot be made or checked here is an error.
    pub strict: bool,
    /// The folder of the cache, if it is used.
    pub cache: Option<PathBuf>,
}

impl BuildRequest {
    /// Whether the output is a model and no bundle.
    fn makes_model(&self) -> bool {
        self.output.extension().is_some_and(|extension| extension == "onnx")
    }

    /// Fails where input and output overlap, or one file cannot hold the request.
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
/// is only reported.
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
    match &request.recipe.bench {
        Some(_) if model.task == Task::TextGeneration => {
            observer.warn("engines that generate are not timed in a build: kilnc bench BUNDLE times them");
        }
        Some(spec) => assembly.bench = Some(timing::time(spec, &assembly.made, max_length, observer)?),
        None => {}
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
