//! TensorRT for RTX: the library specializes kernels for shapes behind the caller's back, and captures CUDA graphs itself.
//!
//! Source: NVIDIA TensorRT for RTX 1.7, `NvInferRuntime.h`.

mod kernels;

use std::rc::Rc;
use std::sync::Arc;

use trtx::{
    CudaEngine, CudaGraphStrategy, EngineInvalidityDiagnostics, EngineValidity, ExecutionContext, RuntimeCache,
    RuntimeConfig,
};

use crate::cache::{self, Cache};
use crate::error::{Error, Result};
use crate::runtime::tensorrt::card::Card;
use crate::runtime::tensorrt::failure::failure;
use crate::runtime::{Gpu, Runtime};
use kernels::Kernels;

/// The runtime of plans in this kilnc.
pub(crate) const RUNTIME: Runtime = Runtime::TensorRtRtx;

/// Has queries run.
pub(crate) struct Launcher {
    /// The compiled kernels, and where they are cached; none, where the cache is off.
    compiled: Option<(Arc<RuntimeCache>, Kernels)>,
}

impl Launcher {
    /// One for the engine of a plan, and the context of its queries, which run by a graph of their shapes once the kernels
    /// are there.
    pub fn start(
        engine: &mut CudaEngine<'static>,
        plan: &[u8],
        library: &str,
        gpu: &Gpu,
    ) -> trtx::Result<(Launcher, ExecutionContext<'static>)> {
        let mut config = engine.create_runtime_config()?;
        config.set_cuda_graph_strategy(CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE)?;
        let cache = cache::folder().and_then(|folder| Cache::open(&folder).ok());
        let compiled = match cache.map(|cache| Kernels::new(cache, plan, library, gpu)) {
            Some(kernels) => Some((hand_over(&mut config, &kernels)?, kernels)),
            None => None,
        };
        Ok((Launcher { compiled }, engine.create_execution_context_with_config(Rc::new(config))?))
    }

    /// Shapes or memory have changed, which the library detects itself.
    pub fn forget(&mut self) {}

    /// Has a query run on the card's stream.
    ///
    /// # Safety
    /// Every tensor of the context has its memory on the card, and all of it is used on its stream alone.
    pub unsafe fn launch(&mut self, context: &mut ExecutionContext<'static>, card: &Card) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { context.enqueue_v3(card.stream().cu_stream().cast()) }.map_err(|_| failure("run the plan"))?;
        if let Some((compiled, kernels)) = &mut self.compiled {
            kernels.count(|| Some(compiled.serialize().ok()?.to_vec()));
        }
        Ok(())
    }
}

/// Loads the cached kernels into the library, which reports later which there are. It compiles anew those that it does not
/// take.
fn hand_over(config: &mut RuntimeConfig<'static>, kernels: &Kernels) -> trtx::Result<Arc<RuntimeCache>> {
    let compiled = Arc::new(config.create_runtime_cache()?);
    if let Some(kept) = kernels.recall() {
        let _ = compiled.deserialize(&kept);
    }
    config.set_runtime_cache(Arc::clone(&compiled))?;
    Ok(compiled)
}

/// Fails where the header of a plan shows that it cannot run here.
pub(crate) fn check(runtime: &trtx::Runtime, plan: &[u8], gpu: &Gpu) -> Result<()> {
    let (validity, why) = runtime.engine_validity(plan).map_err(|_| Error::bad_input("too short for a plan"))?;
    match validity {
        // Without one of these reasons, the library has logged why: it could not query CUDA, for one.
        EngineValidity::kINVALID if why.is_empty() => Err(failure("determine whether the plan can run here")),
        EngineValidity::kINVALID => Err(invalid(why, gpu)),
        EngineValidity::kVALID | EngineValidity::kSUBOPTIMAL => Ok(()),
    }
}

/// The error for a plan that the library holds for invalid, with all of its reasons.
fn invalid(why: EngineInvalidityDiagnostics, gpu: &Gpu) -> Error {
    type Why = EngineInvalidityDiagnostics;
    if why.contains(Why::MALFORMED_ENGINE) {
        return Error::bad_input("not a plan of TensorRT for RTX");
    }
    let reasons = [
        (Why::VERSION_MISMATCH, "another version of the library compiled it"),
        (Why::UNSUPPORTED_CC, "it is for other GPUs"),
        (Why::OLD_CUDA_DRIVER, "the driver is older than what it was compiled for"),
        (Why::OLD_CUDA_RUNTIME, "CUDA is older than what it was compiled for"),
        (Why::INSUFFICIENT_GPU_MEMORY, "its weights do not fit the GPU's memory"),
        (Why::CUDA_ERROR, "CUDA is not installed as it should be"),
    ];
    let said: Vec<&str> = reasons.into_iter().filter(|(reason, _)| why.contains(*reason)).map(|(_, it)| it).collect();
    let said = if said.is_empty() { format!("reasons {:#x}", why.bits()) } else { said.join(", ") };
    Error::runtime_missing(format!("the plan cannot run on {gpu}: {said}"))
        .hint(format!("build it for this GPU with this library: --target tensorrt-rtx:sm{}", gpu.capability))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::back::tensorrt::{load_tensorrt, logger};
    use crate::runtime::library::TENSORRT_RTX;

    #[test]
    fn a_plan_that_cannot_run_here_lists_all_reasons() {
        let gpu = Gpu { name: "NVIDIA L4".to_owned(), capability: 89 };
        let why = EngineInvalidityDiagnostics::UNSUPPORTED_CC | EngineInvalidityDiagnostics::OLD_CUDA_DRIVER;
        let said = invalid(why, &gpu);
        assert_eq!(
            said.to_string(),
            "the plan cannot run on NVIDIA L4 (sm89): it is for other GPUs, the driver is older than what it was \
             compiled for\n\nhint: build it for this GPU with this library: --target tensorrt-rtx:sm89"
        );
        assert_eq!(said.exit_code(), 4);
        assert_eq!(invalid(EngineInvalidityDiagnostics::MALFORMED_ENGINE, &gpu).exit_code(), 2);
        let unknown = invalid(EngineInvalidityDiagnostics::from_bits_retain(1 << 40), &gpu);
        assert!(unknown.message().ends_with("reasons 0x10000000000"), "{unknown}");
    }

    /// The library reads headers where there is no GPU too.
    #[test]
    fn other_files_are_recognised_by_their_header() {
        let library = match TENSORRT_RTX.find() {
            Ok(library) => library,
            Err(e) => {
                assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "{e}");
                eprintln!("SKIPPED: headers of plans: {}", e.message());
                return;
            }
        };
        assert!(load_tensorrt(&library).unwrap().starts_with("1.7"));
        let runtime = trtx::Runtime::new(logger().unwrap().0).unwrap();
        let gpu = Gpu { name: "NVIDIA L4".to_owned(), capability: 89 };
        let said = |bytes: &[u8]| check(&runtime, bytes, &gpu).unwrap_err();
        assert_eq!((said(b"vtrt").message(), said(b"vtrt").exit_code()), ("too short for a plan", 2));
        assert_eq!((said(&[7; 4096]).message(), said(&[7; 4096]).exit_code()), ("not a plan of TensorRT for RTX", 2));
    }
}
