//! ONNX Runtime, loaded when it is first needed: on its own, or with the OpenVINO provider.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ::ort::environment::Environment;
use ::ort::ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS};
use ::ort::ep::{ArbitrarilyConfigurableExecutionProvider, CUDA, OpenVINO};
use ::ort::session::builder::SessionBuilder;
use ::ort::session::{Adapter, RunOptions, Session, SessionInputValue};
use ::ort::util::preload_dylib;
use ::ort::value::{Outlet, TensorRef, ValueType};
use memmap2::Mmap;

use super::library::{Library, ONNX_RUNTIME, ONNX_RUNTIME_GPU, OPENVINO};
use super::openvino::Hints;
use super::session::{Executor, Input, Value, of_ort};
use super::{Available, Elements, Options, Port, Tensor};
use crate::error::{Error, Kind, Result, tells_of_machine_fault};
use crate::json::file_name;

/// The library that is loaded and its environment; a process has one.
static ENVIRONMENT: OnceLock<(&Library, Result<Environment, String>)> = OnceLock::new();

/// A session of ONNX Runtime.
pub(super) struct OrtEngine {
    session: Session,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// With the adapters that are active.
    run: RunOptions,
    library: &'static Library,
}

impl OrtEngine {
    /// A session on ONNX Runtime's own CPU kernels, with adapters in its own files.
    pub fn open(path: &Path, options: Options, adapters: &[PathBuf]) -> Result<OrtEngine> {
        let threads = options.threads.max(1);
        OrtEngine::load(path, &ONNX_RUNTIME, adapters, |builder| Ok(builder.with_intra_threads(threads)?))
    }

    /// A session whose whole graph OpenVINO has taken.
    pub fn open_with_openvino(path: &Path, options: Options) -> Result<OrtEngine> {
        let provider = openvino(Hints::read(path)?, options);
        OrtEngine::load(path, &OPENVINO, &[], |builder| {
            // Nodes that OpenVINO does not take are refused: kernels of both would spoil each other's threads.
            let builder = builder.with_intra_threads(1)?.with_disable_cpu_fallback()?;
            Ok(builder.with_execution_providers([provider.build().error_on_failure()])?)
        })
    }

    /// A session on the GPU of that number; nodes without a CUDA kernel run on the processor.
    pub fn open_with_cuda(path: &Path, gpu: u32, options: Options, adapters: &[PathBuf]) -> Result<OrtEngine> {
        preload_cuda(&ONNX_RUNTIME_GPU.find()?);
        let threads = options.threads.max(1);
        let gpu = i32::try_from(gpu).unwrap_or(i32::MAX);
        OrtEngine::load(path, &ONNX_RUNTIME_GPU, adapters, |builder| {
            let provider = CUDA::default().with_device_id(gpu).build().error_on_failure();
            Ok(builder.with_intra_threads(threads)?.with_execution_providers([provider])?)
        })
    }

    fn load(
        path: &Path,
        library: &'static Library,
        adapters: &[PathBuf],
        configured: impl FnOnce(SessionBuilder) -> ::ort::Result<SessionBuilder>,
    ) -> Result<OrtEngine> {
        let environment = environment(library)?;
        let refused = |e: ::ort::Error| {
            Error::of_library(
                format!("{} does not load {}", library.name, file_name(path)),
                &one_line(&e.to_string()),
                e,
            )
        };
        // A provider that is not accepted lacks a library or its device; the model has not been read.
        let configured = Session::builder(environment).and_then(configured);
        let mut builder = configured.map_err(|e| does_not_load(library, &e.to_string()))?;
        let session = builder.commit_from_file(path).map_err(refused)?;
        let (inputs, outputs) = (session.inputs().iter().map(port), session.outputs().iter().map(port));
        let (inputs, outputs) = (inputs.collect(), outputs.collect());
        Ok(OrtEngine { session, inputs, outputs, run: activate(adapters)?, library })
    }
}

/// Loads the libraries of CUDA that were installed together with ONNX Runtime, if they were: the provider looks for them
/// by name alone. Where one is missing, the provider reports it.
fn preload_cuda(library: &Path) {
    let Some(nvidia) = library.ancestors().nth(3).map(|packages| packages.join("nvidia")) else { return };
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(nvidia).into_iter().flatten().filter_map(|e| Some(e.ok()?.path().join("lib"))).collect();
    folders.sort();
    // In this order: some need those before them. Their loader makes no error of ONNX Runtime's, which is not loaded yet.
    for name in CUDA_DYLIBS.iter().chain(CUDNN_DYLIBS) {
        if let Some(file) = folders.iter().map(|folder| folder.join(name)).find(|file| file.exists()) {
            let _ = preload_dylib(file);
        }
    }
}

fn openvino(hints: Hints, options: Options) -> OpenVINO {
    let properties: serde_json::Map<_, _> =
        hints.properties().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    OpenVINO::default()
        .with_device_type("CPU")
        .with_num_threads(options.threads.max(1))
        .with_arbitrary_config("load_config", serde_json::json!({ "CPU": properties }))
}

impl Executor for OrtEngine {
    fn describe(&self) -> String {
        version(self.library).map(|found| found.to_string()).unwrap_or_default()
    }

    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn execute(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Value>> {
        let refused = |e: ::ort::Error| Error::of_library(self.library.name, &one_line(&e.to_string()), e);
        let mut given: Vec<(&str, SessionInputValue)> = Vec::with_capacity(inputs.len());
        for (port, input) in self.inputs.iter().zip(inputs) {
            given.push((&port.name, value(*input)?.map_err(refused)?));
        }
        let outputs = self.session.run_with_options(given, &self.run).map_err(refused)?;
        Ok(outputs.into_iter().map(|(_, value)| Value::Ort(value)).collect())
    }
}

/// What a model declares of an input or output.
fn port(outlet: &Outlet) -> Port {
    let name = outlet.name().to_owned();
    match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => Port {
            name,
            element: of_ort(*ty),
            type_name: ty.to_string(),
            shape: shape.iter().map(|size| usize::try_from(*size).ok()).collect(),
        },
        other => Port { name, element: None, type_name: format!("{other:?}"), shape: Vec::new() },
    }
}

/// Options of a run in which those adapters are active.
fn activate(adapters: &[PathBuf]) -> Result<RunOptions> {
    let mut run = RunOptions::new().map_err(|e| Error::bug(format!("ONNX Runtime: {}", one_line(&e.to_string()))))?;
    for path in adapters {
        let loaded = Adapter::from_file(path, None).and_then(|adapter| run.add_adapter(&adapter));
        loaded.map_err(|e| {
            let what = format!("ONNX Runtime does not load the adapter {}", file_name(path));
            Error::of_library(what, &one_line(&e.to_string()), e)
        })?;
    }
    Ok(run)
}

/// What a run is given, where it is.
fn value(input: Input<'_>) -> Result<::ort::Result<SessionInputValue<'_>>> {
    match (input, input.host()) {
        (_, Some(tensor)) => Ok(borrowed(tensor)),
        (Input::Held(Value::Ort(value)), _) => Ok(Ok(value.into())),
        _ => Err(Error::bug("a value of another runtime is given to ONNX Runtime")),
    }
}

fn borrowed(tensor: &Tensor) -> ::ort::Result<SessionInputValue<'_>> {
    let shape = tensor.shape.as_slice();
    Ok(match &tensor.elements {
        Elements::I64(values) => TensorRef::from_array_view((shape, values.as_slice()))?.into(),
        Elements::I32(values) => TensorRef::from_array_view((shape, values.as_slice()))?.into(),
        Elements::F32(values) => TensorRef::from_array_view((shape, values.as_slice()))?.into(),
        Elements::F16(values) => TensorRef::from_array_view((shape, values.as_slice()))?.into(),
        Elements::Bool(values) => TensorRef::from_array_view((shape, values.as_slice()))?.into(),
    })
}

/// Whether engines can be opened; returns the library's version and path.
pub(super) fn probe(library: &'static Library) -> Result<Available> {
    let environment = environment(library)?;
    if std::ptr::eq(library, &OPENVINO) {
        let provider = openvino(Hints::default(), Options::default()).build().error_on_failure();
        let loaded = Session::builder(environment)
            .and_then(|builder| Ok(builder.with_execution_providers([provider]).map(drop)?));
        loaded.map_err(|e| does_not_load(library, &e.to_string()))?;
    }
    version(library)
}

/// The version of the library that is found, and where.
fn version(library: &Library) -> Result<Available> {
    let path = library.find()?;
    let version = Library::version(&path).unwrap_or_else(|| "of the system".to_owned());
    Ok(Available { version, path: Some(path.display().to_string()) })
}

fn environment(library: &'static Library) -> Result<&'static Environment> {
    let path = library.find()?;
    let (loaded, environment) = ENVIRONMENT.get_or_init(|| {
        let environment = ::ort::init_from(&path)
            .map_err(|e| e.to_string())
            .and_then(|builder| builder.with_name("kilnc").with_telemetry(false).build().map_err(|e| e.to_string()));
        (library, environment)
    });
    if !std::ptr::eq(*loaded, library) {
        return Err(Error::unsupported(format!(
            "this process has loaded {} and cannot load {} beside it",
            loaded.name, library.name
        ))
        .hint("open one of the two in an isolated process"));
    }
    environment.as_ref().map_err(|why| match check_mapped(&path) {
        Err(fault) if fault.kind() == Kind::MachineFailed => fault,
        _ => does_not_load(library, why).at(path.display().to_string()),
    })
}

/// Fails where the machine does not let the library's file be opened or mapped, which its loader does not report.
fn check_mapped(path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("loading", path, &e);
    let file = File::open(path).map_err(failed)?;
    // SAFETY: nothing is read of it.
    unsafe { Mmap::map(&file) }.map(drop).map_err(failed)
}

fn does_not_load(library: &Library, why: &str) -> Error {
    let what = format!("{} does not load: {}", library.name, one_line(why));
    if tells_of_machine_fault(why) {
        return Error::machine_failed(what);
    }
    let error = Error::runtime_missing(what).hint(format!("get the version that fits with: {}", library.command()));
    match std::ptr::eq(library, &ONNX_RUNTIME_GPU) {
        true => {
            error.hint("it needs a driver of NVIDIA's that knows its version of CUDA: `nvidia-smi` says which it knows")
        }
        false => error,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
