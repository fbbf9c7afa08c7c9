//! Opens engines and runs them.
//!
//! [`open`] returns an [`Engine`] for a file, [`open_isolated`] one in an isolated process; the text pipelines
//! ([`TextEncoder`], [`Classes`]) build on it. [`mod@crate::task`] makes predictions of every task with them.
//! A [`Session`] keeps a state from one run to the next, and [`generate`] continues prompts with one;
//! [`chat`] makes prompts of messages.

pub mod chat;
mod classify;
mod device;
pub mod generate;
mod isolated;
pub mod library;
mod openvino;
mod ort;
mod platform;
mod processor;
pub mod session;
mod tensor;
#[cfg(feature = "tensorrt")]
mod tensorrt;
mod text;
mod tokenizer;
mod tract;
mod windows;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::subprocess;
use crate::target::Target;
use session::{Executor, Whole};

pub use classify::{Choice, Classes, Classification, ProblemType, softmax};
pub use device::{Device, Gpu, Nvidia};
pub use isolated::{JOB as ENGINE_JOB, serve as serve_engine};
pub use openvino::Hints;
pub use platform::Platform;
pub use processor::Processor;
pub use session::Session;
pub use tensor::{ElementType, Elements, ElementsView, Named, Port, Tensor, View, port};
pub use text::{LONGEST_TEXT, TextEncoder, TextInput};
pub use tokenizer::THREAD as TOKENIZER_THREAD;
pub use windows::{Encoded, Lengths, Slide, Window};

/// A program or library that runs engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// ONNX Runtime on the CPU.
    Ort,
    /// ONNX Runtime with the OpenVINO provider, on the CPU.
    #[serde(rename = "openvino")]
    OpenVino,
    /// tract, compiled in.
    Tract,
    /// ONNX Runtime Web, in a browser.
    Web,
    /// TensorRT, on a GPU.
    TensorRt,
    /// TensorRT for RTX, on a GPU.
    TensorRtRtx,
}

impl Runtime {
    /// Those that open plans: native code for GPUs.
    pub const PLANS: [Runtime; 2] = [Runtime::TensorRt, Runtime::TensorRtRtx];

    /// The runtime of a target's engines.
    pub fn of(target: &Target) -> Runtime {
        match target {
            Target::OrtCpu => Runtime::Ort,
            Target::OpenVino => Runtime::OpenVino,
            Target::Tract => Runtime::Tract,
            Target::Web => Runtime::Web,
            Target::TensorRt => Runtime::TensorRt,
            Target::TensorRtRtx(_) => Runtime::TensorRtRtx,
        }
    }

    /// Whether it opens plans.
    pub fn runs_plans(self) -> bool {
        Runtime::PLANS.contains(&self)
    }

    /// The native library that it is, where it is one.
    pub fn library(self) -> Option<&'static library::Library> {
        match self {
            Runtime::Ort => Some(&library::ONNX_RUNTIME),
            Runtime::OpenVino => Some(&library::OPENVINO),
            Runtime::TensorRt => Some(&library::TENSORRT),
            Runtime::TensorRtRtx => Some(&library::TENSORRT_RTX),
            Runtime::Tract | Runtime::Web => None,
        }
    }

    /// Fails where this kilnc was built without the runtime's binding.
    pub fn check_built_in(self) -> Result<()> {
        let (feature, built_in) = match self {
            Runtime::TensorRt => ("enterprise", cfg!(feature = "enterprise")),
            Runtime::TensorRtRtx => ("tensorrt", cfg!(all(feature = "tensorrt", not(feature = "enterprise")))),
            _ => return Ok(()),
        };
        if built_in {
            return Ok(());
        }
        let how = if cfg!(feature = "enterprise") { "for TensorRT, which leaves no room for" } else { "without" };
        Err(Error::runtime_missing(format!("this kilnc was built {how} {self}")).hint(format!(
            "build it with: cargo build --release --features {feature} (needs libclang and a C++ compiler)"
        )))
    }
}

/// The substitute for plans in a kilnc without the binding.
#[cfg(not(feature = "tensorrt"))]
mod tensorrt {
    use super::*;

    pub(super) fn open(_path: &Path, _gpu: u32) -> Result<Box<dyn Executor>> {
        missing()
    }

    pub(super) fn probe() -> Result<Available> {
        missing()
    }

    pub(super) fn gpu(_number: u32) -> Result<Gpu> {
        missing()
    }

    fn missing<T>() -> Result<T> {
        Runtime::TensorRtRtx.check_built_in().and(Err(Error::bug("plans are built in")))
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Runtime::Ort => "ONNX Runtime",
            Runtime::OpenVino => "OpenVINO",
            Runtime::Tract => "tract",
            Runtime::Web => "ONNX Runtime Web",
            Runtime::TensorRt => "TensorRT",
            Runtime::TensorRtRtx => "TensorRT for RTX",
        })
    }
}

/// How an engine is opened.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Threads that one run may use.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { threads: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

/// A loaded model.
pub trait Engine {
    /// The runtime and its version, for reports.
    fn describe(&self) -> String;

    /// The inputs that have to be given, in the model's order.
    fn inputs(&self) -> &[Port];

    /// Runs the model once. Every input must be there; outputs come in the model's order.
    fn run(&mut self, inputs: &Named) -> Result<Named>;

    /// Runs the model once more, on the state that the last run left: what it gave of it is not given again. All outputs
    /// come, those of the state too.
    fn resume(&mut self, inputs: &Named) -> Result<Named>;
}

/// Opens the engine in the file `path`, in this process. A process can load ONNX Runtime or OpenVINO's, not both, and
/// dies with a native library that crashes: [`open_isolated`] is for files from outside.
pub fn open(runtime: Runtime, path: &Path, options: Options) -> Result<Box<dyn Engine>> {
    open_with(runtime, path, options, &[])
}

/// Like [`open`], with adapters in files of ONNX Runtime's own (`.onnx_adapter`), which only it takes.
pub fn open_with(runtime: Runtime, path: &Path, options: Options, adapters: &[PathBuf]) -> Result<Box<dyn Engine>> {
    open_on(Device::Cpu, runtime, path, options, adapters)
}

/// Like [`open_with`], on a device. ONNX Runtime runs on either, plans on a GPU and all others on the processor. A plan is
/// native code: the caller has compared its digest with a manifest.
pub fn open_on(
    device: Device,
    runtime: Runtime,
    path: &Path,
    options: Options,
    adapters: &[PathBuf],
) -> Result<Box<dyn Engine>> {
    Ok(Box::new(Whole::new(open_executor(device, runtime, path, options, adapters)?)))
}

/// What is under an engine or a [`Session`].
fn open_executor(
    device: Device,
    runtime: Runtime,
    path: &Path,
    options: Options,
    adapters: &[PathBuf],
) -> Result<Box<dyn Executor>> {
    if !adapters.is_empty() && runtime != Runtime::Ort {
        return Err(Error::unsupported(format!("{runtime} takes no adapters beside an engine")));
    }
    match (device, runtime) {
        (Device::Cpu, Runtime::Ort) => Ok(Box::new(ort::OrtEngine::open(path, options, adapters)?)),
        (Device::Cpu, Runtime::OpenVino) => Ok(Box::new(ort::OrtEngine::open_with_openvino(path, options)?)),
        (Device::Cpu, Runtime::Tract) => Ok(Box::new(tract::TractEngine::open(path)?)),
        (Device::Cpu, Runtime::Web) => Err(in_browsers().at(path.display().to_string())),
        (Device::Cpu, plans @ (Runtime::TensorRt | Runtime::TensorRtRtx)) => open_plan(plans, path, 0),
        (Device::Cuda(gpu), Runtime::Ort) => {
            Ok(Box::new(ort::OrtEngine::open_with_cuda(path, gpu, options, adapters)?))
        }
        (Device::Cuda(gpu), plans) if plans.runs_plans() => open_plan(plans, path, gpu),
        _ => Err(Error::unsupported(format!("{runtime} runs engines on the processor, not on {device}"))),
    }
}

/// Like [`open_with`]; a native library does it in an isolated process, with a time limit, where children can be
/// started ([`subprocess::set_program`]).
pub fn open_isolated(runtime: Runtime, path: &Path, options: Options, adapters: &[PathBuf]) -> Result<Box<dyn Engine>> {
    match runtime {
        native if native.library().is_some() && subprocess::can_start() => {
            let opened = isolated::IsolatedEngine::open(runtime, path, options, adapters);
            Ok(Box::new(opened.map_err(|e| explained(runtime, e))?))
        }
        _ => open_with(runtime, path, options, adapters),
    }
}

/// A runtime that can run engines on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Available {
    /// The version of its library; kilnc's own, where it is compiled in.
    pub version: String,
    /// Where the library lies; none, where it is compiled in.
    pub path: Option<String>,
}

impl Available {
    /// One that is compiled in.
    fn compiled_in() -> Available {
        Available { version: env!("CARGO_PKG_VERSION").to_owned(), path: None }
    }
}

impl fmt::Display for Available {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} ({path})", self.version),
            None => f.write_str("compiled in"),
        }
    }
}

/// Whether engines of this runtime can run on this machine; the error names what is missing and how to install it. Whether a
/// plan is for the GPU that is there, [`Gpu::check`] says.
///
/// A native library is loaded to find out, once, and by a child where one can be started.
pub fn available(runtime: Runtime) -> Result<Available> {
    let Some(library) = runtime.library() else {
        return if runtime == Runtime::Web { Err(in_browsers()) } else { Ok(Available::compiled_in()) };
    };
    if runtime.runs_plans() {
        plans_can_run(runtime)?;
    }
    library.find()?;
    static LOADED: Mutex<Vec<(Runtime, Available)>> = Mutex::new(Vec::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, found)) = loaded.iter().find(|(known, _)| *known == runtime) {
        return Ok(found.clone());
    }
    let found: Available = match subprocess::can_start() {
        true => subprocess::call(PROBE_JOB, &runtime, PROBE_LIMIT, &format!("loading {}", library.name))
            .map_err(|e| does_not_load(library, e))?,
        false => probe(runtime)?,
    };
    loaded.push((runtime, found.clone()));
    Ok(found)
}

/// Whether engines of this runtime can run on this machine. Fails where the machine fails.
pub fn is_available(runtime: Runtime) -> Result<bool> {
    match available(runtime) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == Kind::MachineFailed => Err(e),
        Err(_) => Ok(false),
    }
}

/// The error of a library that has crashed or hung while it was loaded: it is as good as missing.
fn does_not_load(library: &library::Library, error: Error) -> Error {
    match error.kind() {
        Kind::Bug | Kind::Unsupported => {
            let missing = Error::runtime_missing(format!("{} does not load: {}", library.name, error.message()))
                .hint(format!("it may be damaged; get it again with: {}", library.command()));
            let missing = error.locations().iter().fold(missing, |missing, location| missing.at(location.as_str()));
            match library.find() {
                Ok(file) => missing.at(file.display().to_string()),
                Err(_) => missing,
            }
        }
        _ => error,
    }
}

/// The cause of the crash of a process that had opened an engine: where its library does not load at all, that.
pub fn explained(runtime: Runtime, error: Error) -> Error {
    match error.kind() {
        Kind::Bug => available(runtime).err().unwrap_or(error),
        _ => error,
    }
}

/// The GPU of that number, as its driver reports it; the driver is loaded once, and by a child where one can be started.
pub fn gpu(number: u32) -> Result<Gpu> {
    Nvidia::here().check(number)?;
    static QUERIED: Mutex<Vec<(u32, Gpu)>> = Mutex::new(Vec::new());
    let mut asked = QUERIED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, gpu)) = asked.iter().find(|(known, _)| *known == number) {
        return Ok(gpu.clone());
    }
    let gpu: Gpu = match subprocess::can_start() {
        true => subprocess::call(GPU_JOB, &number, PROBE_LIMIT, &format!("asking the driver for cuda:{number}"))?,
        false => query_driver(number)?,
    };
    asked.push((number, gpu.clone()));
    Ok(gpu)
}

/// Longest that loading a library may take.
const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// The name of the job that queries the driver for a GPU.
pub const GPU_JOB: &str = "gpu";

/// The name of the job that loads a library.
pub const PROBE_JOB: &str = "probe";

/// The child's side of [`available`].
pub fn probe(runtime: Runtime) -> Result<Available> {
    match runtime {
        Runtime::Ort => ort::probe(&library::ONNX_RUNTIME),
        Runtime::OpenVino => ort::probe(&library::OPENVINO),
        Runtime::Tract | Runtime::Web => available(runtime),
        Runtime::TensorRt | Runtime::TensorRtRtx => {
            runtime.check_built_in()?;
            tensorrt::probe()
        }
    }
}

/// The child's side of [`gpu`].
pub fn query_driver(number: u32) -> Result<Gpu> {
    tensorrt::gpu(number)
}

fn open_plan(runtime: Runtime, path: &Path, gpu: u32) -> Result<Box<dyn Executor>> {
    runtime.check_built_in()?;
    tensorrt::open(path, gpu)
}

/// What plans need and is missing, by files alone. Where there is no GPU at all, only that is reported.
fn plans_can_run(runtime: Runtime) -> Result<()> {
    let found = Nvidia::here();
    if !found.is_there() {
        found.check_nodes()?;
        return Err(Error::runtime_missing(
            "it needs an NVIDIA GPU, and there is no device node /dev/nvidia0 or /dev/dxg",
        )
        .hint("run it on a machine that has the GPU; the bundle's other engines run here"));
    }
    runtime.check_built_in()?;
    Device::Cuda(0).check_for(runtime)
}

fn in_browsers() -> Error {
    Error::runtime_missing("it runs in a browser").hint("kilnc bundle export --layout hub writes what a page loads")
}

/// Takes an input by name out of the caller's.
fn input<'a>(inputs: &'a Named, name: &str) -> Result<&'a Tensor> {
    inputs.iter().find(|(given, _)| given == name).map(|(_, tensor)| tensor).ok_or_else(|| {
        Error::bad_input(format!("the engine needs an input `{}`, which is missing", crate::error::printable(name)))
    })
}
