//! Checkpoints in the layout of the Hub, and the adapters that go into them.
//!
//! [`checkpoint`] reads configuration, tokenizer and tensors, [`adapter`] changes the tensors, [`arch`] builds the graph of a
//! model family from them. [`load()`] is the way from a folder to a model.

pub mod adapter;
pub mod arch;
pub mod checkpoint;
pub mod load;

pub use load::load;
