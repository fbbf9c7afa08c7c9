//! The whole compile: checkpoint → graph → passes → engines → gates → bundle.

mod calibration;
mod engines;
mod gates;
mod merge;
mod pair_prompt;
mod plan;
mod pruning;
mod request;
mod runtime_adapters;
mod step_cache;

use crate::bundle::{self, FileEntry, Manifest};
use crate::error::Result;
use crate::front::hub::load::describe;
use crate::output::Stage;
use crate::presence;
use crate::task::Task;

pub use crate::front::hub::load::{Extended, Model, Source, TextConfig, load, warnings};
pub use crate::observer::Observer;
pub use calibration::{CalibrationOutput, CalibrationSource, Calibrator};
#[cfg(feature = "tensorrt")]
pub use engines::compile_tensorrt;
use engines::{Assembly, Removed, runtimes, timing};
pub use engines::{
    CompileRequest, Compiled, MARGIN, Plan, Scheme, TENSORRT_JOB, TensorRtDone, TensorRtJob, TensorRtOptions,
    check_reduced, compile, compile_plans, computes_in_half, hints, nothing_saturates, open_evaluator,
    open_evaluator_session, open_rounded, prepare, read_plans, supports,
};
pub use gates::{Gates, encoder, max_length, reference_target};
pub use merge::{MergeRequest, merge};
use plan::BuildPlan;
pub use pruning::{CutModel, cut_vocabulary};
pub use request::BuildRequest;
pub use runtime_adapters::{RuntimeAdapter, RuntimeAdapters, load_runtime_adapters};
use step_cache::StepCache;

/// Builds a bundle or a model. Nothing is written to the output unless every gate is passed. For a model, the manifest
/// is only reported.
pub fn build(request: &BuildRequest, observer: &dyn Observer) -> Result<Manifest> {
    let plan = BuildPlan::of(request)?;
    request.recipe.remarks.iter().for_each(|line| observer.warn(line));
    let ours = if plan.model_file.is_some() { presence::is_file } else { bundle::is_replaceable };
    let stage = Stage::new(&request.output, ours)?;
    let runtimes = runtimes::bundle_runtimes(&plan, &stage, observer)?;
    let calibration_output = CalibrationOutput::claim(&request.recipe.calibration)?;
    observer.begin("reading", None);
    let mut model = load(&request.source)?;
    observer.done(&describe(&model));
    warnings(&model).iter().for_each(|line| observer.warn(line));
    let vocabulary = pruning::vocabulary(&mut model, &request.recipe, observer)?;
    let gates = Gates::new(&request.recipe, &model, request.strict, observer)?;
    let step_cache = StepCache::open(request.cache.as_deref(), observer);
    let calibrator = gates.calibrator(&model, stage.dir(), observer)?.with_step_cache(&step_cache);
    let pruning = match &request.recipe.prune {
        Some(spec) => pruning::prune(&mut model, spec, &calibrator, &step_cache, &stage, observer)?,
        None => None,
    };
    let cut = Removed { pruning, vocabulary };
    let mut assembly = Assembly::new(&plan, &model, &stage, &calibrator, &step_cache, observer)?;
    for engine in &plan.engines {
        assembly.engine(engine, gates.max_length())?;
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
    match &plan.model_file {
        None => stage.commit_dir()?,
        Some(name) => stage.commit_files(&model_files(&manifest.files, name))?,
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
