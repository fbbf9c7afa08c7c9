//! The part of a build that TensorRT does, in its own process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::build::step_cache::{self, Step, StepCache};
use crate::error::{Error, Result};
use crate::json::file_name;
use crate::runtime::{Device, Gpu, Runtime};
use crate::shapes::Shapes;
use crate::subprocess::SentPath;
use crate::{runtime, subprocess};

/// The request to a child that compiles.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct TensorRtJob {
    /// The model.
    pub onnx: SentPath,
    /// Where the plan goes.
    pub plan: PathBuf,
    /// Where the list of layers goes.
    pub layers: PathBuf,
    /// Its target.
    pub target: String,
    /// The profiles.
    pub shapes: Vec<Shapes>,
    /// How it is compiled.
    pub options: TensorRtOptions,
}

/// The options of a compile; the library's defaults, where none is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TensorRtOptions {
    /// Upper bound on scratch memory on the device, in bytes.
    pub workspace_bytes: Option<u64>,
    /// How long the library searches, 0 to 5.
    pub optimization_level: Option<u8>,
    /// Whether kernels may be chosen that skip zeros in a pattern of 2:4, which GPUs have from SM80 on.
    #[serde(default)]
    pub sparse_weights: bool,
}

/// The result.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct TensorRtDone {
    /// The library and its version.
    pub library: String,
    /// The GPU that it compiled on, where it compiles for the one that is there.
    #[serde(default)]
    pub compiled_on: Option<Gpu>,
    /// A summary of the layers.
    pub summary: String,
    /// The library's warnings.
    pub warnings: Vec<String>,
}

/// Longest that a compile may take.
const TENSORRT_LIMIT: Duration = Duration::from_secs(1800);

/// The name of the child's job.
pub const TENSORRT_JOB: &str = "tensorrt";

/// A plan, or the cached one of the same inputs. Returns whether it was cached.
pub(super) fn compile_once(step_cache: &StepCache, name: &str, job: &TensorRtJob) -> Result<(TensorRtDone, bool)> {
    let from = || {
        let (_, library, gpu) = compiler(job)?;
        let bytes = std::fs::metadata(&library).map_err(|e| Error::io("reading", &library, &e))?.len();
        let names = [&library, &job.plan, &job.layers].map(|path| file_name(path));
        Ok((step_cache::model_digests(&job.onnx)?, names, bytes, &job.target, gpu, &job.shapes, job.options))
    };
    let step = Step { kind: "plan", name, into: job.plan.parent().unwrap_or(Path::new("")) };
    step_cache.made(step, from, || Ok((compile_in_child(job)?, vec![job.plan.clone(), job.layers.clone()])))
}

/// A plan, compiled now.
pub(super) fn compile_in_child(job: &TensorRtJob) -> Result<TensorRtDone> {
    let (runtime, ..) = compiler(job)?;
    subprocess::call(TENSORRT_JOB, job, TENSORRT_LIMIT, &format!("compiling with {runtime}"))
}

/// The library that compiles a plan and where it is; and the GPU that is there, where the library compiles for that. Fails
/// where one of them is missing.
fn compiler(job: &TensorRtJob) -> Result<(Runtime, PathBuf, Option<Gpu>)> {
    let runtime = Runtime::of(&job.target.parse()?);
    runtime.check_built_in()?;
    if runtime == Runtime::TensorRt {
        Device::Cuda(0).check_for(runtime)?;
    }
    let library = runtime.library().filter(|_| runtime.runs_plans());
    let library = library.ok_or_else(|| Error::bug(format!("{} wants no plan", job.target)))?.find()?;
    let gpu = (runtime == Runtime::TensorRt).then(|| runtime::gpu(0)).transpose()?;
    Ok((runtime, library, gpu))
}

/// The child's side of a plan.
#[cfg(feature = "tensorrt")]
pub fn compile_tensorrt(job: TensorRtJob) -> Result<TensorRtDone> {
    use crate::back::tensorrt::{CompileOptions, InputProfile, Libraries, compile};
    use crate::target::Target;

    let (runtime, library, compiled_on) = compiler(&job)?;
    let capabilities = match job.target.parse()? {
        Target::TensorRtRtx(capability) => vec![capability],
        _ => Vec::new(),
    };
    let profile = |shapes: &Shapes| shapes.ranges().iter().map(InputProfile::from).collect();
    let TensorRtOptions { workspace_bytes, optimization_level, sparse_weights } = job.options;
    let options = CompileOptions {
        capabilities,
        profiles: job.shapes.iter().map(profile).collect(),
        workspace_bytes,
        optimization_level,
        sparse_weights,
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| Error::io("writing", &path, &e)
    };
    let mut plan = Vec::new();
    let report = compile(&Libraries::beside(library), &job.onnx, &options, &mut plan)?;
    std::fs::write(&job.plan, &plan).map_err(failed(&job.plan))?;
    let layers = serde_json::to_vec_pretty(&report.layers).map_err(|e| Error::bug(format!("the layer list: {e}")))?;
    std::fs::write(&job.layers, layers).map_err(failed(&job.layers))?;
    Ok(TensorRtDone {
        library: format!("{runtime} {}", report.library_version),
        compiled_on,
        summary: report.summary().to_string(),
        warnings: report.warnings,
    })
}
