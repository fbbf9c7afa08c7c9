//! Opens engines and runs them.
//!
//! [`open`] returns an [`Engine`] for a file, [`open_isolated`] one in an isolated process; the text pipelines
//! ([`TextEncoder`], [`Classes`]) build on it. [`mod@crate::task`] makes predictions of every task with them.
//! A [`Session`] keeps a state from one run to the next, and [`generate`] continues prompts with one;
//! [`chat`] makes prompts of messages.

pub mod chat;
mod classify;
mod device;
mod engine;
pub mod generate;
mod in_process;
mod isolated;
pub mod library;
#[cfg(not(feature = "tensorrt"))]
mod no_tensorrt;
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

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::subprocess;
use in_process::in_browsers;
#[cfg(not(feature = "tensorrt"))]
use no_tensorrt as tensorrt;

pub use classify::{Choice, Classes, Classification, ProblemType, softmax};
pub use device::{Device, Gpu, Nvidia};
pub use engine::{Available, Engine, Options, Runtime};
pub use in_process::{open, open_on, open_with};
pub use isolated::{JOB as ENGINE_JOB, serve as serve_engine};
pub use openvino::Hints;
pub use platform::Platform;
pub use processor::Processor;
pub use session::Session;
pub use tensor::{ElementType, Elements, ElementsView, Named, Port, Tensor, View, port};
pub use text::{LONGEST_TEXT, TextEncoder, TextInput};
pub use tokenizer::THREAD as TOKENIZER_THREAD;
pub use windows::{Encoded, Lengths, Slide, Window};

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
