//! kilnc turns a trained NLP checkpoint into engines that are ready to ship: no Python, no tracing.
//!
//! [`build()`] reads the checkpoint, builds its graph, changes it by passes, lowers it for every target of a recipe, and
//! compares each engine with the trained model before anything is written. The result is a [`Bundle`]: a folder of engines
//! with the tokenizer, the digests and the figures. A [`Pipeline`] opens one of its engines and runs the task of the model:
//!
//! ```
//! use kilnc::build::{BuildRequest, Source};
//! use kilnc::precision::Precision;
//! use kilnc::recipe::{EngineSpec, Recipe};
//! use kilnc::target::Target;
//! use kilnc::{Bundle, Pipeline};
//!
//! # fn main() -> kilnc::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let checkpoint = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-bert");
//! let output = folder.path().join("classifier.kiln");
//! let recipe = Recipe { engines: vec![EngineSpec::new(Target::Tract, Precision::Fp32)], ..Recipe::default() };
//! let source = Source { checkpoint, adapters: Vec::new(), combine: None, task: None };
//! kilnc::build(&BuildRequest { source, recipe, output: output.clone(), strict: true, cache: None }, &())?;
//!
//! println!("{} files are as built", Bundle::open(&output)?.verify()?);
//! let mut pipeline = Pipeline::of_bundle(&output, None, Default::default())?;
//! let predicted = pipeline.predict("The pump is leaking.".into())?;
//! println!("{}", serde_json::to_string(&predicted).unwrap());
//! # Ok(())
//! # }
//! ```
//!
//! Everything that fails gives an [`Error`]: what was expected, what was found, where, and what can be done.
//!
//! # The modules, in the order in which data flows
//!
//! | | |
//! |---|---|
//! | [`front`] | reads a kind of source: [`front::hub::checkpoint`] what was trained, memory-mapped; [`front::hub::adapter`] merges adapters as lazy expressions; [`front::hub::arch`] builds the graph of a model family |
//! | [`ir`], [`verify`] | that graph and its specification; the proof that a graph keeps it |
//! | [`passes`] | change the graph: cut, fuse, quantize, narrow; [`calibrate`], [`prune`] and [`vocabulary`] find their they need |
//! | [`back`], [`target`] | lower it for a target, and write the engine's files; [`evaluate`] computes a lowered graph in a stated arithmetic |
//! | [`runtime`] | opens engines and runs them; [`subprocess`] in processes of their own |
//! | [`eval`], [`mod@bench`] | score predictions; measure time, memory and energy |
//! | [`bundle`], [`task`], [`settings`] | the shipped folder; runs the model's task's with it, and how |
//! | [`mod@build`], [`recipe`], [`tune`] | the whole compile on one screen; the to build; the search for the fastest engine under a bound |
//!
//! Below them all: [`error`], [`task::id`], [`precision`], [`shapes`], [`ports`], [`digest`], [`json`], [`safetensors`], [`mod@file`],
//! [`textfile`], [`places`], [`presence`], [`random`], [`svg`], [`output`] (puts files safely), [`cache`] (keeps results by
//! their content), [`observer`] (hears of progress) and [`interrupt`].
//!
//! The command line is a program of its own over this library. With `default-features = false` nothing of it is compiled.
#![warn(missing_docs)]

#[cfg(target_endian = "big")]
compile_error!("kilnc reads and writes little-endian tensors as they are in memory");

pub mod back;
pub mod bench;
pub mod build;
pub mod bundle;
pub mod cache;
pub mod calibrate;
pub mod digest;
pub mod error;
pub mod eval;
pub mod evaluate;
pub mod file;
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
pub mod program;
pub mod prune;
pub mod random;
pub mod recipe;
pub mod runtime;
pub mod safetensors;
pub mod settings;
pub mod shapes;
pub mod subprocess;
pub mod svg;
pub mod target;
pub mod task;
pub mod textfile;
pub mod tune;
pub mod verify;
pub mod vocabulary;

pub use build::build;
pub use bundle::Bundle;
pub use error::{Error, Result};
pub use task::Pipeline;
