//! Back-ends: a verified graph becomes files.

pub mod lower;
pub mod onnx;
#[cfg(feature = "tensorrt")]
pub mod tensorrt;

pub use lower::lower;
