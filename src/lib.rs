//! kilnc turns a trained NLP checkpoint into engines that are ready to ship.
#![warn(missing_docs)]
pub mod adapter;
pub mod arch;
pub mod back;
pub mod checkpoint;
pub mod error;
pub mod ir;
pub mod passes;
pub mod target;
pub mod task;
pub mod verify;

pub use error::{Error, Result};
