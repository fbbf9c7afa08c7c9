//! Runtimes, and the engines that they open.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::library::{self, Library};
use super::tensor::{Named, Port};
use crate::error::{Error, Result};
use crate::target::Target;

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
    pub fn library(self) -> Option<&'static Library> {
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
    pub(super) fn compiled_in() -> Available {
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
