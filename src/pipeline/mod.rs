//! The whole compile: checkpoint → graph → passes → engines → gates → bundle.

mod answers;
mod assembly;
mod formats;
mod tensorrt;

use std::path::PathBuf;

use crate::adapter::{self, AdapterSource, Merged};
use crate::bundle::{self, Manifest};
use crate::checkpoint::{Checkpoint, json};
use crate::error::{Error, Result};
use crate::ir::{DType, Graph};
use crate::output::Stage;
use crate::passes::{FuseQkv, Manager, QuantizeDynamic, Ranges};
use crate::precision::Precision;
use crate::recipe::Recipe;
use crate::target::Target;
use crate::task::Task;
use crate::verify::{Verified, verify};
use crate::{arch, back};

use answers::Judge;
use assembly::Assembly;
pub use formats::{hints, supports};
#[cfg(feature = "tensorrt")]
pub use tensorrt::compile_tensorrt;
pub use tensorrt::{TENSORRT_JOB, TensorRtDone, TensorRtJob};

/// Hears what a build is doing.
pub trait Observer: Sync {
    /// A stage begins; `total` steps are ahead, if they can be counted.
    fn begin(&self, _stage: &str, _total: Option<u64>) {}
    /// So many steps of the stage are done.
    fn advance(&self, _steps: u64) {}
    /// A stage is over, with a line about what came of it.
    fn done(&self, _line: &str) {}
    /// Something the user must not miss.
    fn warn(&self, _line: &str) {}
}

/// What a model is made from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// What is merged into it, in order.
    pub adapters: Vec<AdapterSource>,
    /// What it is for, where that is not to be found out.
    pub task: Option<Task>,
}

/// A model that has been read, merged, drawn and verified.
pub struct Model {
    /// Where it came from.
    pub checkpoint: Checkpoint,
    /// What was merged.
    pub merged: Vec<(AdapterSource, Merged)>,
    /// What it is for.
    pub task: Task,
    /// Its graph, in composite operations.
    pub graph: Verified<Graph>,
    /// Tensors that no part of the graph reads.
    pub unused: Vec<String>,
}

/// Reads a checkpoint, merges the adapters and draws the graph. Computes nothing of the weights.
pub fn load(source: &Source) -> Result<Model> {
    let checkpoint = Checkpoint::open(&source.checkpoint)?;
    let mut state = arch::canonical_state(&checkpoint)?;
    let mut merged = Vec::new();
    if source.adapters.len() > 1 {
        return Err(Error::unsupported("more than one adapter cannot be merged yet").at("--adapter"));
    }
    for adapter in &source.adapters {
        merged.push((adapter.clone(), adapter::merge(&mut state, adapter)?));
    }
    let drawn = arch::draw(&checkpoint, &state, source.task)?;
    Ok(Model { graph: verify(drawn.graph)?, merged, task: drawn.task, unused: drawn.unused, checkpoint })
}

/// The graph of an engine that needs no calibration: the passes of its precision, then the lowering of its target.
pub fn compile(model: &Model, target: &Target, precision: Precision, manager: &mut Manager) -> Result<Verified<Graph>> {
    compile_calibrated(model, target, precision, &Ranges::new(), manager)
}

/// Like [`compile`], with the ranges of the linear layers' inputs, by the names that they have after [`FuseQkv`].
pub fn compile_calibrated(
    model: &Model,
    target: &Target,
    precision: Precision,
    ranges: &Ranges,
    manager: &mut Manager,
) -> Result<Verified<Graph>> {
    let can = target.capabilities();
    let fused = manager.run(&model.graph, &FuseQkv)?;
    let graph = match precision {
        Precision::Fp32 if !can.fp32_gemm => {
            return Err(Error::unsupported(format!("{target} multiplies no 32-bit matrices")).hint("use fp16 for it"));
        }
        Precision::Fp32 => fused,
        Precision::Fp16 => formats::narrowed(manager, &fused, target, DType::F16)?,
        Precision::Bf16 => formats::narrowed(manager, &fused, target, DType::BF16)?,
        Precision::Int8 => manager.run(&fused, &QuantizeDynamic)?,
        Precision::Int8Static => formats::calibrated(manager, &fused, target, ranges)?,
        Precision::Int8Weights => formats::lighter(manager, &fused, target, 8)?,
        Precision::Int4 => formats::lighter(manager, &fused, target, 4)?,
    };
    back::lower(&graph, target)
}

/// What a bundle is built from.
pub struct BuildRequest {
    /// The model.
    pub source: Source,
    /// What to build; engines, labels and gates.
    pub recipe: Recipe,
    /// Where the bundle goes.
    pub output: PathBuf,
    /// Whether an engine that cannot be made or checked here is an error.
    pub strict: bool,
}

/// Builds a bundle. Nothing is written to the output unless every gate is passed.
pub fn build(request: &BuildRequest, observer: &dyn Observer) -> Result<Manifest> {
    let stage = Stage::new(&request.output, bundle::is_bundle)?;
    observer.begin("reading", None);
    let model = load(&request.source)?;
    observer.done(&describe(&model));
    if let Some(unused) = unused_line(&model) {
        observer.warn(&unused);
    }
    let judge = Judge::new(&request.recipe, &model, request.strict)?;
    let mut assembly = Assembly::new(request, &model, &stage, observer)?;
    for spec in &request.recipe.engines_or_default() {
        assembly.engine(spec, judge.max_length())?;
    }
    judge.judge(&mut assembly)?;
    let max_length = judge.max_length();
    let manifest = assembly.finish(judge.into_labels(), max_length)?;
    stage.commit_dir()?;
    Ok(manifest)
}

fn describe(model: &Model) -> String {
    let (parameters, dtypes) = model.checkpoint.parameters();
    let dtypes: Vec<_> = dtypes.iter().filter(|d| d.is_float()).map(|d| d.to_string()).collect();
    let adapters: Vec<_> = model
        .merged
        .iter()
        .map(|(source, merged)| {
            format!(
                ", {} merged into {} weights, {} brought whole",
                json::file_name(&source.dir),
                merged.changed,
                merged.saved.len()
            )
        })
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
