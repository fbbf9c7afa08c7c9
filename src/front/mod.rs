//! Front ends: each reads one kind of source, and all give one [`Checkpoint`](hub::checkpoint::Checkpoint), from which the
//! program is built.
//!
//! [`hub`] reads folders in the Hub's layout, [`gguf`] files of llama.cpp, and [`source`] says which of them a path is.
//! [`tokenizer`] makes one `tokenizer.json` of what each has.

pub mod folder;
pub mod gguf;
pub mod hub;
pub mod source;
pub mod tokenizer;
