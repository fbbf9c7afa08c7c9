//! Files of llama.cpp: weights, configuration and tokenizer in one (`docs/gguf.md` of ggml).
//!
//! [`open`] gives what a folder in the Hub's layout gives: tensors under the names that families have, which stay in the
//! blocks of the file, and a `config.json`, `tokenizer.json` and chat template made of its keys. There is a line for each
//! architecture in `architectures.rs`. What llama.cpp's converters change in weights is undone: rows of queries and keys in
//! another order, one added to the scales of norms, transposed matrices.
//!
//! What is in a file and is not understood is refused, where it changes outputs, or warned of by name.

mod architectures;
mod config;
mod format;
mod keys;
mod model;
mod rope;
mod tensors;
mod tokenizer;
mod value;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::file;
use crate::front::folder::Folder;
use crate::front::hub::checkpoint::{Checkpoint, GENERATION};
use crate::json;
use architectures::Architecture;
use format::Contents;
use model::Model;

pub use format::MAGIC;

/// How the names of such files end.
pub const EXTENSION: &str = "gguf";

/// Opens a file of llama.cpp, of version 2 or 3. Weights are mapped, not read.
///
/// # Errors
/// Bad input, naming the file and the key or tensor: a file that is cut short or lies about counts, keys of other types than
/// they have, tensors that overlap. Unsupported: architectures, types of tensors, tokenizers and options that kilnc does not
/// build.
pub fn open(path: &Path) -> Result<Checkpoint> {
    parse(file::map(path)?, path).map_err(|e| e.at(json::file_name(path)))
}

/// The same of bytes, which messages say are at `path`.
pub fn parse(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>, path: &Path) -> Result<Checkpoint> {
    let contents = Contents::read(bytes)?;
    let architecture = Architecture::of(&contents.keys)?;
    let model = Model { contents: &contents, architecture };
    let name: Arc<str> = json::file_name(path).into();
    let state = tensors::state(&model, &name)?;
    let vocabulary = tokenizer::read(&model)?;
    let fields = config::fields(&model, vocabulary.as_ref())?;
    let mut texts = BTreeMap::from([("config.json".to_owned(), json::sorted(fields).to_string())]);
    let mut notes = vocabulary.as_ref().map(|vocabulary| vocabulary.notes.clone()).unwrap_or_default();
    if let Some(vocabulary) = vocabulary {
        texts.insert(GENERATION.to_owned(), json::sorted(config::generation(&model, &vocabulary)?).to_string());
        texts.extend(vocabulary.texts);
    }
    let config = texts.get("config.json").cloned().unwrap_or_default();
    notes.extend(contents.keys.unread(architecture.name));
    Ok(Checkpoint {
        dir: path.to_owned(),
        common: json::parse(&config, "config.json")?,
        config,
        encoder: Folder::made(path, texts),
        sentence: None,
        state,
        quantized: None,
        files: vec![path.to_owned()],
        notes,
    })
}

#[cfg(test)]
mod tests;
