//! TensorRT 11.4, the system's libnvinfer: it times kernels on the GPU that is there, and compiles for that one.
//!
//! Type-checked only, where there is no GPU: the library does not start without one.
//!
//! Source: NVIDIA TensorRT 11.4, `NvInfer.h` and `NvInferRuntime.h`.

use trtx::{BuilderConfig, LayerInformationFormat, Runtime};

use crate::back::tensorrt::names::NAME;
use crate::back::tensorrt::{CompileOptions, Journal, logger, refused};
use crate::error::{Error, Result};

/// Checks that no GPU is named: the plan is for the one that is there.
pub(crate) fn aim(_config: &mut BuilderConfig, options: &CompileOptions) -> Result<()> {
    match options.capabilities.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(Error::unsupported(format!("{NAME} compiles for the GPU that is there, not for {first}"))),
    }
}

/// The source of the layers of the plan that was just compiled: the library's inspector.
pub(crate) fn layer_list(journal: &Journal, plan: &[u8]) -> Result<String> {
    let failed = |_| journal.read().run_error("inspect the plan");
    let mut runtime = Runtime::new(logger()?.0).map_err(refused)?;
    let engine = runtime.deserialize_cuda_engine(plan).map_err(failed)?;
    let inspector = engine.create_engine_inspector().map_err(failed)?;
    inspector.engine_information(LayerInformationFormat::kONELINE).map_err(failed)
}
