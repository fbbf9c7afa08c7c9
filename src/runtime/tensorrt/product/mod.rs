//! What differs between NVIDIA's two products as far as a run goes.

#[cfg(feature = "enterprise")]
mod enterprise;
#[cfg(not(feature = "enterprise"))]
mod rtx;

#[cfg(feature = "enterprise")]
pub(super) use enterprise::*;
#[cfg(not(feature = "enterprise"))]
pub(super) use rtx::*;
