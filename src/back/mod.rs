//! Back-ends: a verified graph becomes files, or the tensors of a checkpoint do.

pub mod lower;
pub mod onnx;
pub mod safetensors;
mod stream;
#[cfg(feature = "tensorrt")]
pub mod tensorrt;

pub use lower::lower;
