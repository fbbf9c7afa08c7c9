//! TensorRT: kilnc captures a CUDA graph of a query when its shapes come again, and replays it while they stay.
//!
//! Source: NVIDIA TensorRT 11.4, `NvInferRuntime.h`; CUDA's driver API on stream capture.

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use trtx::{CudaEngine, ExecutionContext};

use crate::error::{Error, Result};
use crate::runtime::tensorrt::card::{Card, refused};
use crate::runtime::tensorrt::failure::failure;
use crate::runtime::{Gpu, Runtime};

/// The runtime of plans in this kilnc.
pub(crate) const RUNTIME: Runtime = Runtime::TensorRt;

/// The library checks whether a plan fits the GPU when it opens it, and not before.
pub(crate) fn check(_runtime: &trtx::Runtime, _plan: &[u8], _gpu: &Gpu) -> Result<()> {
    Ok(())
}

/// Has queries run.
pub(crate) struct Launcher(Graph);

/// How far the graph of the shapes that are bound is.
enum Graph {
    /// No query has run: the first one may reserve memory, which no capture may.
    Cold,
    /// One has.
    Warm,
    /// It is there.
    Captured(CudaGraph),
    /// The plan does things that no graph can hold.
    Impossible,
}

impl Launcher {
    /// One for the engine, and the context of its queries.
    pub fn start(
        engine: &mut CudaEngine<'static>,
        _plan: &[u8],
        _library: &str,
        _gpu: &Gpu,
    ) -> trtx::Result<(Launcher, ExecutionContext<'static>)> {
        Ok((Launcher(Graph::Cold), engine.create_execution_context()?))
    }

    /// Shapes or memory have changed: captured graphs hold the old ones.
    pub fn forget(&mut self) {
        if !matches!(self.0, Graph::Impossible) {
            self.0 = Graph::Cold;
        }
    }

    /// Has a query run on the card's stream.
    ///
    /// # Safety
    /// Every tensor of the context has its memory on the card, and all of it is used on its stream alone.
    pub unsafe fn launch(&mut self, context: &mut ExecutionContext<'static>, card: &Card) -> Result<()> {
        if let Graph::Warm = self.0 {
            // SAFETY: the caller's.
            self.0 = unsafe { capture(context, card) }?;
        }
        if let Graph::Captured(graph) = &self.0 {
            return graph.launch().map_err(refused("replaying the graph"));
        }
        // SAFETY: the caller's.
        unsafe { context.enqueue_v3(card.stream().cu_stream().cast()) }.map_err(|_| failure("run the plan"))?;
        if let Graph::Cold = self.0 {
            self.0 = Graph::Warm;
        }
        Ok(())
    }
}

/// The graph of a query. Nothing is run by it.
///
/// # Safety
/// As of [`Launcher::launch`].
unsafe fn capture(context: &mut ExecutionContext<'static>, card: &Card) -> Result<Graph> {
    let stream = card.stream();
    // Other threads' use of CUDA meanwhile is theirs.
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).map_err(refused("capturing a graph"))?;
    // SAFETY: the caller's.
    let enqueued = unsafe { context.enqueue_v3(stream.cu_stream().cast()) };
    // It ends in any case: a stream that is captured runs nothing.
    let ended = stream.end_capture(CUgraphInstantiate_flags(0));
    match (enqueued, ended) {
        (Ok(()), Ok(Some(graph))) => Ok(Graph::Captured(graph)),
        (Ok(()), Ok(None)) => Err(Error::bug("a capture ended with no graph")),
        _ => Ok(Graph::Impossible),
    }
}
