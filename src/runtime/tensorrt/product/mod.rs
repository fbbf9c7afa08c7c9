//! The differences of NVIDIA's two products in a run.

#[cfg(feature = "enterprise")]
mod enterprise;
#[cfg(not(feature = "enterprise"))]
mod rtx;

#[cfg(feature = "enterprise")]
pub(super) use enterprise::*;
#[cfg(not(feature = "enterprise"))]
pub(super) use rtx::*;
