//! ONNX Runtime, loaded when it is first needed.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ::ort::environment::Environment;
use ::ort::session::{Adapter, RunOptions, Session, SessionInputValue};
use ::ort::value::{DynValue, Tensor as OrtTensor};

use super::library::ONNX_RUNTIME;
use super::{Elements, Engine, Named, Options, Tensor};
use crate::checkpoint::json::file_name;
use crate::error::{Error, Result};

/// The library and its environment; a process has one.
static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();

/// A session of ONNX Runtime on the CPU.
pub(super) struct OrtEngine {
    session: Session,
    inputs: Vec<String>,
    /// With the adapters that are active.
    run: RunOptions,
}

impl OrtEngine {
    pub(super) fn open(path: &Path, options: Options, adapters: &[PathBuf]) -> Result<OrtEngine> {
        let environment = environment()?;
        let refused = |e: ::ort::Error| {
            Error::bad_input(format!("ONNX Runtime does not load {}: {}", file_name(path), one_line(&e.to_string())))
        };
        let session = Session::builder(environment)
            .and_then(|builder| Ok(builder.with_intra_threads(options.threads.max(1))?))
            .and_then(|mut builder| builder.commit_from_file(path))
            .map_err(refused)?;
        let inputs = session.inputs().iter().map(|input| input.name().to_owned()).collect();
        Ok(OrtEngine { session, inputs, run: activate(adapters)? })
    }
}

impl Engine for OrtEngine {
    fn describe(&self) -> String {
        version().unwrap_or_default()
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn run(&mut self, inputs: &Named) -> Result<Named> {
        let refused = |e: ::ort::Error| Error::bad_input(format!("ONNX Runtime: {}", one_line(&e.to_string())));
        let mut given: Vec<(&str, SessionInputValue)> = Vec::with_capacity(self.inputs.len());
        for name in &self.inputs {
            given.push((name, value(super::input(inputs, name)?).map_err(refused)?.into()));
        }
        let outputs = self.session.run_with_options(given, &self.run).map_err(refused)?;
        outputs
            .iter()
            .map(|(name, value)| {
                let (shape, values) = value.try_extract_tensor::<f32>().map_err(refused)?;
                let shape = shape.iter().map(|n| usize::try_from(*n).unwrap_or_default()).collect();
                Ok((name.to_owned(), Tensor { shape, elements: Elements::F32(values.to_vec()) }))
            })
            .collect()
    }
}

/// Options of a run in which those adapters are active.
fn activate(adapters: &[PathBuf]) -> Result<RunOptions> {
    let mut run = RunOptions::new().map_err(|e| Error::bug(format!("ONNX Runtime: {}", one_line(&e.to_string()))))?;
    for path in adapters {
        let loaded = Adapter::from_file(path, None).and_then(|adapter| run.add_adapter(&adapter));
        loaded.map_err(|e| {
            let said = one_line(&e.to_string());
            Error::bad_input(format!("ONNX Runtime does not load the adapter {}: {said}", file_name(path)))
        })?;
    }
    Ok(run)
}

fn value(tensor: &Tensor) -> ::ort::Result<DynValue> {
    let shape = tensor.shape.clone();
    Ok(match &tensor.elements {
        Elements::I64(values) => OrtTensor::from_array((shape, values.clone()))?.into_dyn(),
        Elements::F32(values) => OrtTensor::from_array((shape, values.clone()))?.into_dyn(),
    })
}

/// The version of the library that is found, and where.
pub(super) fn version() -> Result<String> {
    let path = ONNX_RUNTIME.find()?;
    environment()?;
    // “ORT Build Info: git-branch=…, git-commit-id=…” follows the file's own version in its name.
    let name = file_name(&path);
    let version = name.split(".so.").nth(1).unwrap_or("of the system");
    Ok(format!("{version} ({})", path.display()))
}

fn environment() -> Result<&'static Environment> {
    let path = ONNX_RUNTIME.find()?;
    let loaded = ENVIRONMENT.get_or_init(|| {
        let builder = ::ort::init_from(&path).map_err(|e| e.to_string())?;
        builder.with_name("kilnc").with_telemetry(false).build().map_err(|e| e.to_string())
    });
    loaded.as_ref().map_err(|why| {
        Error::runtime_missing(format!("ONNX Runtime does not load: {}", one_line(why)))
            .at(path.display().to_string())
            .hint(format!("get the version that fits with: {}", ONNX_RUNTIME.command()))
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
