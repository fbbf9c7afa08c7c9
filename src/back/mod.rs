//! Back-ends: a verified graph becomes files.

pub mod lower;
pub mod onnx;

pub use lower::lower;
