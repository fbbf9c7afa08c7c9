//! Computes a graph node by node, in an arithmetic that the caller states.
//!
//! Runtimes do not always compute the graph's declared types: ONNX Runtime's CPU widens graphs of half precision to 32
//! bits, and a processor without VNNI saturates where one with it does not. An engine that is checked on the builder's
//! machine can so fail on the target's. The evaluator computes what the target will, on any machine, with the same
//! numbers on every processor that has the same floating point.
//!
//! # Arithmetic
//! [`Evaluator`] takes a verified graph in plain and contrib operations, as [`crate::back::lower()`] makes it for a target,
//! and runs its nodes in their order. Each is computed as ONNX's specification, or that of `com.microsoft`, defines it.
//! An operation that is not covered, composite ones among them, is an error by name when the evaluator is made.
//! Values are freed after their last use; constants are evaluated when they are first read and cached up to
//! [`CACHE`] bytes.
//!
//! # Floating point
//! Every operation computes in `f32`: products of matrices, sums and norms accumulate there. The difference is what is
//! left of a result ([`Floats`]):
//! - `Exact` leaves it as it is, in every declared type, as ONNX Runtime's CPU does with graphs of half precision.
//! - `RoundEachNode` rounds every value to its declared type, to the nearest, ties to even. Beyond the largest finite
//!   number (65,504 in `f16`) it becomes infinite, as IEEE 754 defines and GPUs do.
//!
//! The second is how the kernels of TensorRT and cuBLAS work on tensors of half precision: tensor cores multiply in 16
//! bits and accumulate in 32 (CUDA programming guide, “Warp matrix functions”), and each tensor that a kernel writes is
//! in its own type. A kernel that replaces several nodes keeps the values between them in 32 bits or rounds them; the
//! evaluator always rounds it, so it overflows at least where the target does. Web engines store weights in 16 bits and
//! compute in 32, which their graphs express by casts.
//!
//! # 8-bit integers
//! Activations are rounded half to even (`QuantizeLinear`, `DynamicQuantizeLinear` of ONNX). Products with weights are
//! added ([`Int8Sums`])
//! - `Exact`: in 32 bits, as processors with VNNI, Arm's and GPUs do;
//! - `Saturating`: the products of neighbours `2i` and `2i + 1` along the sum in 16 bits, where they saturate, and these
//!   sums in 32: as `vpmaddubsw` does, with which ONNX Runtime and oneDNN multiply on x86 with AVX2 or AVX-512 and no
//!   VNNI ([Quantize ONNX models](https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html), “reduce
//!   range”).
//!
//! With weights of the reduced range (−64…64) the two are equal bit for bit. Where sums saturate, a `MatMul` of two
//! values that `DequantizeLinear` has widened is a product of integers, too: runtimes make it one (OpenVINO, “Low
//! precision transformations”).
//!
//! `MatMulNBits` multiplies activations as they are; ONNX Runtime's kernel may quantize them by blocks.
//!
//! # Observation
//! [`Evaluator::run_with`] shows every value as it is made; [`ranges`] collects from it how large each becomes, so that
//! values beyond the range of a narrow type are named.

mod arithmetic;
mod array;
mod attention;
mod elementwise;
mod evaluator;
mod fused;
mod integer;
mod layout;
mod nodes;
mod product;
mod ranges;
mod reduce;
mod sizes;
mod weights;

pub use arithmetic::{Arithmetic, Floats, Int8Sums};
pub use array::Array;
pub use evaluator::{Evaluator, Observed};
pub use ranges::{Range, ranges};
pub use weights::CACHE;
