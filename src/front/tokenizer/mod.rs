//! The tokenizer that users of `transformers` get of a folder: `tokenizer.json`, and what `tokenizer_config.json`,
//! `special_tokens_map.json`, `added_tokens.json` and the class's own defaults make of it.
//!
//! Versions 4 and 5 of `transformers` differ: 4 reads `tokenizer.json` and changes parts of it, 5 builds most parts
//! anew by the class and takes only the vocabulary. Here a file that version 5 saved is read as 5 reads it, every other
//! one as 4 does; where the two would tokenize some text otherwise, a warning says so.
//!
//! The result is one `tokenizer.json` with all of it, so that readers of that file alone agree. A file to
//! which nothing is changed keeps its bytes.

mod added;
mod class;
mod files;
mod five;
pub mod ggml;
mod limits;
mod options;
mod parts;
mod special;
mod split;
mod versions;

use std::path::PathBuf;

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::error::{Error, Result, printable};
use crate::front::folder::Folder;
use crate::json::raw::Object;
use crate::json::sorted;
use added::{Merged, Vocabulary};
use files::{ADDED, CONFIG, SPECIAL, Version};
use limits::Side;
use options::Options;
use parts::Parts;
use split::Split;

pub use files::{FILE, TokenizerUse};
pub use special::{SpecialTokens, special_tokens};

/// The tokenizer of a folder.
#[derive(Clone, Debug, Default)]
pub struct Tokenizer {
    /// The files that it was read from.
    pub folder: Folder,
    /// The text of `tokenizer.json`, with all that the files beside it and the class change; none where the folder has
    /// no such file.
    pub json: Option<String>,
    /// Longest text in tokens, where `tokenizer_config.json` limits it.
    pub max_length: Option<usize>,
    /// The mask token, where the files or the class name it.
    pub mask: Option<String>,
    /// Whether texts are padded on the left. Models of such tokenizers are trained on contexts before their questions.
    pub pads_left: bool,
    /// Whether `transformers` removes spaces before punctuation from decoded texts.
    pub cleans_up: bool,
    /// Warnings: fields that are not followed, or are read in several ways.
    pub notes: Vec<String>,
    /// The files that were read.
    pub files: Vec<PathBuf>,
}

impl Tokenizer {
    /// Reads the tokenizer of a folder for a model.
    pub fn open(folder: impl Into<Folder>, usage: &TokenizerUse) -> Result<Tokenizer> {
        let folder = folder.into();
        if !folder.has(FILE)? {
            return Ok(Tokenizer { folder, ..Tokenizer::default() });
        }
        let mut options = Options::read(&folder, usage).map_err(|e| e.at(folder.path().display().to_string()))?;
        let text = folder.text(FILE)?;
        let mut files: Vec<PathBuf> = folder.file(FILE).into_iter().collect();
        files.append(&mut options.files);
        let (json, mut notes) = match Changes::of(&text, &options, usage) {
            Some(changes) => (changes.applied(&text), changes.notes),
            // Errors of the file itself are reported by its reader.
            None => (text, Vec::new()),
        };
        options.notes.append(&mut notes);
        Ok(Tokenizer {
            folder,
            json: Some(json),
            max_length: options.max_length,
            mask: options.special("mask_token").map(str::to_owned),
            cleans_up: options.cleans_up,
            pads_left: options.padding.map_or(options.class.pads_left, |side| side == Side::Left),
            notes: options.notes,
            files,
        })
    }

    /// The text of its `tokenizer.json`. Fails where there is none.
    pub fn text(&self) -> Result<&str> {
        self.json.as_deref().ok_or_else(|| {
            Error::bad_input(format!("{} is missing", self.path().display()))
                .hint("save the fast tokenizer beside the model: tokenizer.save_pretrained(DIR)")
        })
    }

    /// Where its `tokenizer.json` is, or would be.
    pub fn path(&self) -> PathBuf {
        self.folder.place(FILE)
    }
}

/// The changes of a `tokenizer.json`.
struct Changes {
    added: Option<Value>,
    model: Option<String>,
    truncation: Option<Value>,
    parts: Parts,
    before: Parts,
    notes: Vec<String>,
}

impl Changes {
    /// None where the text is no `tokenizer.json`.
    fn of(text: &str, options: &Options, usage: &TokenizerUse) -> Option<Changes> {
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let file = Object::of(text, FILE).ok()?;
        let before = Parts::read(&file).ok()?;
        let added: Vec<added::Numbered> = file.read("added_tokens", FILE).ok()?.unwrap_or_default();
        let vocabulary = Vocabulary::of(&file)?;
        let mut notes = Vec::new();
        let merged = |version, notes: &mut Vec<String>| {
            added::merged(&added, &vocabulary, &options.beside, options.class, version, usage.rows, notes)
        };
        let tokens = merged(options.version, &mut notes);
        let other_tokens = merged(options.version.other(), &mut Vec::new());
        if !tokens.same(&other_tokens) {
            notes.push(differing(options, "which added tokens there are and how they are found in texts"));
        }
        let by = |version, tokens: &Merged| {
            before.by(version, options, &|content| tokens.number(content, &vocabulary).map(u64::from))
        };
        let (ours, others) = (by(options.version, &tokens), by(options.version.other(), &other_tokens));
        for what in ours.differences(&others) {
            notes.push(differing(options, what));
        }
        if usage.token_types && ours.types != others.types && before.gives_types(usage.pairs) {
            notes.push(differing(options, "whether a text has token types"));
        }
        let parts = ours.finished(usage);
        let (mut added, mut model) = (tokens.changed.then(|| tokens.written()), None);
        if options.split_special_tokens {
            match Split::of(&tokens, &file, &vocabulary) {
                Ok(split) => {
                    added = split.tokens.changed.then(|| split.tokens.written());
                    model = split.model(&file).ok()?;
                }
                Err(why) => notes.push(why),
            }
        }
        let truncation = options.side.map_or(Ok(None), |side| side.written(&file, options.max_length)).ok()?;
        Some(Changes { added, model, truncation, parts, before, notes })
    }

    /// The text with the changes. Without any it stays as it was, byte for byte.
    fn applied(&self, text: &str) -> String {
        let parts =
            self.parts.changed(&self.before).into_iter().map(|(part, value)| (part, sorted(value.clone()).to_string()));
        let written = |value: &Option<Value>| value.clone().map(|value| sorted(value).to_string());
        let others = [
            ("added_tokens", written(&self.added)),
            ("model", self.model.clone()),
            ("truncation", written(&self.truncation)),
        ];
        let others = others.into_iter().filter_map(|(member, value)| Some((member, value?)));
        let changed: Vec<(&str, String)> = others.chain(parts).collect();
        let (Ok(mut file), false) = (Object::of(text, FILE), changed.is_empty()) else { return text.to_owned() };
        for (member, value) in changed {
            file.put(member, value);
        }
        file.to_string()
    }
}

/// A note on something that the two versions do in different ways.
fn differing(options: &Options, what: &str) -> String {
    let (ours, others) = (options.version.number(), options.version.other().number());
    format!(
        "transformers {others} differs from {ours} for {} in {what}; kilnc follows {ours}{}",
        printable(&options.named),
        if ours == 5 { ", which saved the files" } else { "" }
    )
}
