//! Engines of TensorRT from an ONNX file that is there already.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tensorrt::{TensorRtJob, TensorRtOptions, compile_in_child};
use crate::bundle::{self, FileEntry};
use crate::error::{Error, Result, portable};
use crate::json::{self, file_name};
use crate::observer::Observer;
use crate::output::{self, Stage};
use crate::presence;
use crate::runtime::Gpu;
use crate::shapes::Shapes;
use crate::target::Target;

/// The version of the report's form; readers refuse another.
const SCHEMA: &str = "kilnc.compile/1";

/// The name of the report's file.
const REPORT: &str = "compile.json";

/// A request: the model and the targets.
pub struct CompileRequest {
    /// The model, with weights beside it or inside.
    pub onnx: PathBuf,
    /// GPUs, no duplicates.
    pub targets: Vec<Target>,
    /// The profiles.
    pub shapes: Vec<Shapes>,
    /// How it is compiled.
    pub options: TensorRtOptions,
    /// The folder for the plans.
    pub output: PathBuf,
}

/// The report of a folder of plans.
#[derive(Serialize, Deserialize)]
pub struct Compiled {
    /// The version of this form, `kilnc.compile/1`.
    pub schema: String,
    /// The version of kilnc.
    pub kilnc: String,
    /// The model.
    pub source: FileEntry,
    /// The profiles.
    pub shapes: Vec<Shapes>,
    /// How it was compiled.
    pub options: TensorRtOptions,
    /// The engines.
    pub plans: Vec<Plan>,
}

/// An engine. A plan is native code and not the same twice: its digest says which one this is.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// Its device.
    pub target: String,
    /// The GPU that it was compiled on and is for, where the library compiles for the present GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled_on: Option<Gpu>,
    /// The plan.
    pub file: FileEntry,
    /// The list of its layers.
    pub layers: FileEntry,
    /// The library and its version.
    pub compiled_by: String,
    /// A summary of the layers.
    pub summary: String,
    /// The library's warnings.
    pub warnings: Vec<String>,
}

/// Compiles a plan for every target, each in its own process. Nothing is written unless all of them are made.
pub fn compile_plans(request: &CompileRequest, observer: &dyn Observer) -> Result<Compiled> {
    if let Some(other) = request.targets.iter().find(|target| !target.wants_plan()) {
        return Err(Error::unsupported(format!("{other} takes ONNX files as they are"))
            .hint("compile for tensorrt-rtx:smNN or tensorrt; export a checkpoint for the others"));
    }
    if let Some((_, twice)) =
        request.targets.iter().enumerate().find(|(i, target)| request.targets.iter().take(*i).any(|t| t == *target))
    {
        return Err(Error::bad_input(format!("duplicate {twice}")).at("--target"));
    }
    output::check_disjoint(&request.output, [request.onnx.as_path()])?;
    let stage = Stage::new(&request.output, |dir| output::holds_only(dir, REPORT, is_own))?;
    let dir = request.onnx.parent().unwrap_or(Path::new(""));
    let mut compiled = Compiled {
        schema: SCHEMA.to_owned(),
        kilnc: env!("CARGO_PKG_VERSION").to_owned(),
        source: bundle::digest_source(&request.onnx, dir)?,
        shapes: request.shapes.clone(),
        options: request.options,
        plans: Vec::new(),
    };
    for target in &request.targets {
        observer.begin(&format!("compiling for {target}"), None);
        let (plan, layers) = (format!("{}.plan", target.slug()), format!("{}.layers.json", target.slug()));
        let job = TensorRtJob {
            onnx: request.onnx.as_path().into(),
            plan: stage.path(&plan),
            layers: stage.path(&layers),
            target: target.to_string(),
            shapes: request.shapes.clone(),
            options: request.options,
        };
        let done = compile_in_child(&job)?;
        done.warnings.iter().for_each(|warning| observer.warn(&format!("{target}: {warning}")));
        let file = bundle::digest(&job.plan, &plan)?;
        observer.done(&format!("{target}: a plan of {}, {:.1} MB", done.summary, file.bytes as f64 / 1e6));
        compiled.plans.push(Plan {
            target: job.target,
            compiled_on: done.compiled_on,
            file,
            layers: bundle::digest(&job.layers, &layers)?,
            compiled_by: done.library,
            summary: done.summary,
            warnings: done.warnings.iter().map(|warning| portable(warning, "the library has a warning")).collect(),
        });
    }
    output::write_json(&stage.path(REPORT), &compiled)?;
    stage.commit_dir()?;
    Ok(compiled)
}

/// Whether a file of that name is written beside plans.
fn is_own(name: &str) -> bool {
    name == REPORT || name.ends_with(".plan") || name.ends_with(".layers.json")
}

/// The report of a folder of plans; none for another folder. Fails where a plan is not that of the report.
pub fn read_plans(dir: &Path) -> Result<Option<Compiled>> {
    let path = dir.join(REPORT);
    if !presence::is_file(&path)? {
        return Ok(None);
    }
    let compiled: Compiled = json::read(&path)?;
    if compiled.schema != SCHEMA {
        let found = crate::error::printable(&compiled.schema);
        return Err(Error::unsupported(format!("{}: schema `{found}`, expected `{SCHEMA}`", file_name(&path))));
    }
    for entry in compiled.plans.iter().flat_map(|plan| [&plan.file, &plan.layers]) {
        let name = Path::new(&entry.path);
        let plain = name.components().count() == 1 && name.file_name().is_some_and(|file| file == name.as_os_str());
        if !plain || bundle::digest(&dir.join(name), &entry.path)?.sha256 != entry.sha256 {
            let name = crate::error::printable(&entry.path);
            return Err(Error::bad_input(format!("`{name}` is not the file that {REPORT} speaks of"))
                .hint("compile it again: a plan is native code, and only plans that were compiled here may run"));
        }
    }
    Ok(Some(compiled))
}
