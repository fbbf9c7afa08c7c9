//! Opens engines and sessions in this process.

use std::path::{Path, PathBuf};

use super::device::Device;
use super::engine::{Engine, Options, Runtime};
use super::session::{Executor, Session, Whole};
use super::{ort, tensorrt, tract};
use crate::error::{Error, Result};

/// Opens the engine in the file `path`, in this process. A process can load ONNX Runtime or OpenVINO's, not both, and
/// dies with a native library that crashes: [`super::open_isolated`] is for files from outside.
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

impl Session {
    /// Opens the model in the file `path`, in this process. Fails as [`open`] does, and as [`Session::new`].
    pub fn open(runtime: Runtime, path: &Path, options: Options) -> Result<Session> {
        Session::open_with(runtime, path, options, &[])
    }

    /// Like [`Session::open`], with adapters in files of ONNX Runtime's own (`.onnx_adapter`), which only it takes.
    pub fn open_with(runtime: Runtime, path: &Path, options: Options, adapters: &[PathBuf]) -> Result<Session> {
        Session::new(open_executor(Device::Cpu, runtime, path, options, adapters)?)
    }
}

fn open_plan(runtime: Runtime, path: &Path, gpu: u32) -> Result<Box<dyn Executor>> {
    runtime.check_built_in()?;
    tensorrt::open(path, gpu)
}

/// The error of an engine for browsers.
pub(super) fn in_browsers() -> Error {
    Error::runtime_missing("it runs in a browser").hint("kilnc bundle export --layout hub writes what a page loads")
}
