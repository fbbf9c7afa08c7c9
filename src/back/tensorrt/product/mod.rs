//! What differs between NVIDIA's two products as far as a compile goes.

#[cfg(feature = "enterprise")]
mod enterprise;
#[cfg(not(feature = "enterprise"))]
mod rtx;

#[cfg(feature = "enterprise")]
pub(crate) use enterprise::*;
#[cfg(not(feature = "enterprise"))]
pub(crate) use rtx::*;
