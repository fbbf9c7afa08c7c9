//! kilnc turns a trained NLP checkpoint into engines that are ready to ship: one binary, no Python, no tracing.
//!
//! The modules in the order in which data flows:
//!
//! 1. [`front::hub::checkpoint`] reads what was trained: configuration and tensors, memory-mapped.
//! 2. [`front::hub::adapter`] merges what was trained later, as lazy expressions.
//! 3. [`front::hub::arch`] draws the graph of a model family from shared blocks.
//! 4. [`ir`] is that graph, and its specification; [`verify`] proves that one keeps it.
//! 5. [`passes`] change the graph: cut, fuse, quantize, narrow; [`calibrate`] and [`prune`] find what they are told.
//! 6. [`back`] lowers it for a [`target`] and writes the engine's files.
//!    [`evaluate`] computes what it makes, in an arithmetic that is stated.
//! 7. [`runtime`] opens engines and answers texts; [`eval`] says whether the answers are right; [`mod@bench`] how fast.
//! 8. [`bundle`] is what is shipped; [`answer`] answers the questions of its task with it.
//!
//! [`mod@build`] is the whole compile on one screen, [`recipe`] says what to build, [`cli`] is the command line.
//! [`settings`] are what a bundle says of how texts are asked.
//! [`textfile`] reads files that people write.
//! [`vocabulary`] cuts a tokenizer down to what a corpus uses, [`output`] puts files in place safely, [`cache`] keeps what was
//! made by its content, [`observer`] hears of progress, [`subprocess`] runs parts in processes of their own, [`places`] are folders that the
//! environment names, [`presence`] tells what is missing from what cannot be looked at, [`random`] numbers follow from a seed.
#![warn(missing_docs)]

#[cfg(target_endian = "big")]
compile_error!("kilnc reads and writes little-endian tensors as they stand in memory");

pub mod back;
pub mod bench;
pub mod build;
pub mod bundle;
pub mod cache;
pub mod calibrate;
pub mod cli;
pub mod digest;
pub mod error;
pub mod eval;
pub mod evaluate;
mod file;
pub mod front;
pub mod interrupt;
pub mod ir;
pub mod json;
pub mod observer;
pub mod output;
pub mod passes;
pub mod places;
pub mod ports;
pub mod precision;
pub mod presence;
pub mod prune;
pub mod random;
pub mod recipe;
pub mod runtime;
pub mod safetensors;
pub mod settings;
pub mod shapes;
pub mod subprocess;
pub mod target;
pub mod task;
pub mod textfile;
pub mod tune;
pub mod verify;
pub mod vocabulary;

pub use error::{Error, Result};
