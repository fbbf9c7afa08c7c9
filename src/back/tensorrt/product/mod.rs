//! The differences of NVIDIA's two products in a compile.

#[cfg(feature = "enterprise")]
mod enterprise;
#[cfg(not(feature = "enterprise"))]
mod rtx;

#[cfg(feature = "enterprise")]
pub(crate) use enterprise::*;
#[cfg(not(feature = "enterprise"))]
pub(crate) use rtx::*;
