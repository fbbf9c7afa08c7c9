//! Engines: the passes of their number formats, their files, and the bundle that they are put into.

mod assembly;
mod compile;
mod formats;
pub(in crate::build) mod hub_files;
mod rounding;
pub(in crate::build) mod runtimes;
mod scheme;
mod tensorrt;
mod tensorrt_plans;
pub(in crate::build) mod timing;

pub(in crate::build) use assembly::{Assembly, Made, Removed, adapter_entry, remove};
pub use compile::{compile, prepare};
pub use formats::{check_reduced, computes_in_half, hints, nothing_saturates, supports};
pub(super) use rounding::open_rounded_session;
pub use rounding::{MARGIN, open_evaluator, open_evaluator_session, open_rounded};
pub use scheme::Scheme;
#[cfg(feature = "tensorrt")]
pub use tensorrt::compile_tensorrt;
pub use tensorrt::{TENSORRT_JOB, TensorRtDone, TensorRtJob, TensorRtOptions};
pub use tensorrt_plans::{CompileRequest, Compiled, Plan, compile_plans, read_plans};
