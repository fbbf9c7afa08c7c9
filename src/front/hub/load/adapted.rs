//! The changes of adapters beside weights: the size of the vocabulary, the tokenizer, and what says the task.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result, printable};
use crate::front::folder::Folder;
use crate::front::hub::adapter::{self, AdapterSource, Merged};
use crate::front::hub::checkpoint::{Checkpoint, StateDict, TOKENIZER_FILE};
use crate::json;
use crate::presence;

/// Files of a tokenizer that mean nothing without tokenizer.json.
const TOKENIZER: [&str; 9] = [
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
];

/// PEFT's task types of adapters, each with whether its adapter has tensors of a head.
pub(crate) fn task_types<'a>(state: &StateDict, merged: &'a [Merged]) -> Vec<(&'a str, bool)> {
    let of = |merged: &'a Merged| {
        let brings_head = merged.saved.iter().any(|name| state.is_head(name));
        Some((merged.task.as_deref()?, brings_head))
    };
    merged.iter().filter_map(of).collect()
}

/// The folder with the tokenizer: an adapter that was saved with one was trained with it.
pub(crate) fn tokenizer<'a>(
    checkpoint: &Checkpoint,
    adapters: impl DoubleEndedIterator<Item = &'a AdapterSource>,
) -> Result<Folder> {
    for dir in adapters.rev().map(|source| source.dir.as_path()) {
        if presence::has_file(&dir.join(TOKENIZER_FILE))? {
            return Ok(dir.into());
        }
    }
    Ok(checkpoint.encoder.clone())
}

/// Warnings about merged adapters.
pub(crate) fn warnings(merged: &[(AdapterSource, Merged)]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (source, merged) in merged {
        let name = printable(&json::file_name(&source.dir));
        let lines = merged.warnings().chain(half_a_tokenizer(source)?);
        all.extend(lines.map(|line| format!("{name}: {line}")));
    }
    Ok(all)
}

/// `transformers` loads an adapter that lies beside a model by itself; kilnc takes only those that are named.
pub(crate) fn adapter_beside(checkpoint: &Checkpoint, sources: &[AdapterSource]) -> Result<Option<String>> {
    let is_given = || sources.iter().any(|source| same_folder(&source.dir, &checkpoint.dir));
    let there = adapter::is_adapter(&checkpoint.dir)? && !is_given();
    Ok(there
        .then(|| "the checkpoint's folder also holds an adapter, which is not merged: --adapter takes it".to_owned()))
}

fn same_folder(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// A part of a tokenizer means nothing without tokenizer.json.
fn half_a_tokenizer(source: &AdapterSource) -> Result<Option<String>> {
    let parts = presence::files_of(&source.dir, &TOKENIZER)?;
    let whole = presence::has_file(&source.dir.join(TOKENIZER_FILE))?;
    Ok(parts.first().filter(|_| !whole).map(|file| {
        format!("the folder holds {file} and no tokenizer.json: its tokenizer is not the one that is used")
    }))
}

/// Fails where an adapter's file lacks tensors that its configuration lists as trained, if the graph reads them. What the
/// graph does not read was perhaps no part of the model that the adapter was trained on.
pub(crate) fn check_promises(merged: &mut [(AdapterSource, Merged)], unread: &[String]) -> Result<()> {
    let unread: HashSet<&str> = unread.iter().map(String::as_str).collect();
    for (source, merged) in merged {
        merged.untouched.retain(|module| !unread.contains(format!("{module}.weight").as_str()));
        if let Some(lost) = merged.lost.iter().find(|lost| !unread.contains(lost.tensor.as_str())) {
            return Err(Error::bad_input(format!(
                "the file holds no `{}`, which the configuration says was trained",
                printable(&lost.tensor)
            ))
            .at(lost.location)
            .at(source.dir.display().to_string())
            .hint("the adapter was saved without it: save it again from the model that was trained"));
        }
    }
    Ok(())
}

/// Takes the modules that sentence-transformers saved with an adapter in place of the base's: the adapter was trained
/// with those.
pub(crate) fn modules(checkpoint: &mut Checkpoint, sources: &[AdapterSource]) -> Result<()> {
    for source in sources.iter().rev() {
        if checkpoint.take_modules(&source.dir).map_err(|e| e.at(source.dir.display().to_string()))? {
            break;
        }
    }
    Ok(())
}

/// Enters the files of modules among those of the adapter that they came with.
pub(crate) fn enter_modules(checkpoint: &Checkpoint, merged: &mut [(AdapterSource, Merged)]) {
    let Some(modules) = &checkpoint.sentence else { return };
    if let Some((_, merged)) = merged.iter_mut().find(|(source, _)| source.dir == modules.dir) {
        merged.files.extend(modules.files.iter().cloned());
    }
}

/// Enters a vocabulary that has grown into the checkpoint's configuration: an adapter may have embeddings of more
/// tokens than the base has.
pub(crate) fn grow(
    checkpoint: &mut Checkpoint,
    before: &StateDict,
    after: &StateDict,
    merged: &[Merged],
) -> Result<()> {
    let mut config: Value = json::parse(&checkpoint.config, "config.json")?;
    let Some(known) = vocabulary(&config) else { return Ok(()) };
    let rows = |state: &StateDict, name: &str| state.get(name).and_then(|t| t.weight.shape().first().copied());
    let mut saved_whole = merged.iter().flat_map(|merged| &merged.saved);
    let grown = saved_whole.find(|name| rows(before, name) == Some(known) && rows(after, name) != Some(known));
    if let (Some(name), Some(fields)) = (grown, config.as_object_mut()) {
        fields.insert("vocab_size".to_owned(), rows(after, name).into());
        checkpoint.common.vocab_size = rows(after, name);
        checkpoint.config = config.to_string();
    }
    Ok(())
}

fn vocabulary(config: &Value) -> Option<usize> {
    config.get("vocab_size")?.as_u64()?.try_into().ok()
}
