//! What a plan is compiled for.

use super::profile::InputProfile;
use crate::target::ComputeCapability;

/// The targets of a compile.
#[derive(Debug, Clone, Default)]
pub struct CompileOptions {
    /// The GPUs that the one plan must run on: at least one, no duplicates; none for TensorRT, which compiles for the GPU
    /// that is there.
    pub capabilities: Vec<ComputeCapability>,
    /// Optimization profiles; each gives the range of every input that has a dynamic shape.
    /// May be empty when no input has.
    pub profiles: Vec<Vec<InputProfile>>,
    /// Upper bound on scratch memory on the device, in bytes; the library's own when `None`.
    pub workspace_bytes: Option<u64>,
    /// How long the builder searches, 0 to 5; the library's own when `None`.
    pub optimization_level: Option<u8>,
    /// Whether kernels may be chosen that skip zeros in a pattern of 2:4, which GPUs have from SM80 on.
    pub sparse_weights: bool,
}
