//! The options of the files beside `tokenizer.json`.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::added::{self, Beside, PARTS, Special, Token};
use super::class::Class;
use super::limits::{self, Side};
use super::{ADDED, CONFIG, SPECIAL, TokenizerUse, Version};
use crate::error::{Result, printable};
use crate::front::folder::Folder;
use crate::json;

/// The field of more special tokens, in version 4 and in 5.
const MORE: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// The arguments of a class, from the files.
pub(super) struct Options {
    pub class: &'static Class,
    /// The files' name of it.
    pub named: String,
    pub version: Version,
    pub beside: Beside,
    pub max_length: Option<usize>,
    /// Where texts are cut, if that is set.
    pub side: Option<Side>,
    /// Where texts are padded, if it is said.
    pub padding: Option<Side>,
    /// Whether special tokens inside of texts are split as plain text.
    pub split_special_tokens: bool,
    /// Whether spaces before punctuation are removed from decoded texts.
    pub cleans_up: bool,
    pub notes: Vec<String>,
    pub files: Vec<PathBuf>,
    pub do_lower_case: Option<bool>,
    pub strip_accents: Option<bool>,
    pub tokenize_chinese_chars: bool,
    pub add_prefix_space: Option<bool>,
    pub trim_offsets: bool,
    pub keep_accents: bool,
    /// Whether a text begins with the token of that part, and whether it ends with it.
    pub add_bos_token: bool,
    pub add_eos_token: bool,
    pub split_by_punct: bool,
    /// Whether the inputs that the configuration names have token types, where it names any.
    pub token_types: Option<bool>,
}

impl Options {
    pub fn read(folder: &Folder, usage: &TokenizerUse) -> Result<Options> {
        let mut files = Vec::new();
        let mut config: Map<String, Value> = read(folder, CONFIG, &mut files)?.unwrap_or_default();
        config.extend(usage.arguments.clone());
        let arguments = Arguments(&config);
        let mut notes = Vec::new();
        let said: Option<String> = arguments.get("tokenizer_class")?;
        let named = said.as_deref().or(usage.class);
        let class = match named {
            None => Class::of_family(usage.model_type),
            Some(name) => Class::named(name).unwrap_or_else(|| {
                let name = printable(name);
                notes.push(format!("the tokenizer class `{name}` is not known: tokenizer.json is taken as it is"));
                Class::as_is()
            }),
        };
        let more = config.get("extra_special_tokens");
        let five =
            config.contains_key("backend") || class.name == "TokenizersBackend" || more.is_some_and(Value::is_array);
        let version = if five { Version::Five } else { Version::Four };
        let beside = beside(folder, &config, &mut files)?;
        let inputs: Option<Vec<String>> = arguments.get("model_input_names")?;
        if config.contains_key("auto_map") && Class::named(named.unwrap_or_default()).is_none() {
            notes.push(format!("{CONFIG}: auto_map: the code that it names is not run"));
        }
        Ok(Options {
            class,
            named: named.unwrap_or(class.name).to_owned(),
            version,
            beside,
            max_length: limits::max_length(&config)?,
            side: Side::read(&config, "truncation_side")?,
            padding: Side::read(&config, "padding_side")?,
            split_special_tokens: arguments.get("split_special_tokens")?.unwrap_or(false),
            cleans_up: arguments.get("clean_up_tokenization_spaces")?.unwrap_or(false),
            notes,
            files,
            do_lower_case: arguments.get("do_lower_case")?,
            strip_accents: arguments.get("strip_accents")?,
            tokenize_chinese_chars: arguments.get("tokenize_chinese_chars")?.unwrap_or(true),
            add_prefix_space: arguments.get("add_prefix_space")?,
            trim_offsets: arguments.get("trim_offsets")?.unwrap_or(true),
            keep_accents: arguments.get("keep_accents")?.unwrap_or(false),
            add_bos_token: arguments.get("add_bos_token")?.unwrap_or(class.begins),
            add_eos_token: arguments.get("add_eos_token")?.unwrap_or(false),
            split_by_punct: arguments.get("split_by_punct")?.unwrap_or(false),
            token_types: inputs.map(|inputs| inputs.iter().any(|input| input == "token_type_ids")),
        })
    }

    /// The special token with that part.
    pub fn special(&self, part: &str) -> Option<&str> {
        added::special(&self.beside, self.class, part)
    }

    /// Whether a version has token types for a text.
    pub fn gives_types(&self, version: Version) -> bool {
        let [four, five] = self.class.types;
        self.token_types.unwrap_or(if version == Version::Four { four } else { five })
    }
}

/// The fields of [`CONFIG`].
struct Arguments<'a>(&'a Map<String, Value>);

impl Arguments<'_> {
    /// The value of a field; none where it is missing or null.
    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.0.get(key).filter(|value| !value.is_null());
        value.map(|value| json::from_value(value.clone(), &format!("{CONFIG}: {key}"))).transpose()
    }
}

/// Reads a file of the folder, where it is there.
fn read<T: DeserializeOwned>(folder: &Folder, name: &str, files: &mut Vec<PathBuf>) -> Result<Option<T>> {
    if !folder.has(name)? {
        return Ok(None);
    }
    let value = folder.read(name)?;
    files.extend(folder.file(name));
    Ok(Some(value))
}

/// The files' entries of tokens.
fn beside(folder: &Folder, config: &Map<String, Value>, files: &mut Vec<PathBuf>) -> Result<Beside> {
    let mut beside = Beside::default();
    beside.take(config, CONFIG)?;
    if let Some(decoder) = config.get("added_tokens_decoder") {
        // With it, the two older files count for nothing.
        beside.tokens = added::decoder(decoder)?;
        return Ok(beside);
    }
    beside.legacy = true;
    if let Some(map) = read::<Map<String, Value>>(folder, SPECIAL, files)? {
        beside.take(&map, SPECIAL)?;
    }
    if let Some(numbers) = read::<Map<String, Value>>(folder, ADDED, files)? {
        for (content, number) in numbers {
            let location = format!("{ADDED}: {}", printable(&content));
            let special = beside.names(&content);
            beside.tokens.push((json::from_value(number, &location)?, Token::plain(&content, special)));
        }
        beside.tokens.sort_by_key(|(number, _)| *number);
    }
    Ok(beside)
}

impl Beside {
    /// Takes the special tokens that a file names, which go over those before.
    fn take(&mut self, fields: &Map<String, Value>, file: &str) -> Result<()> {
        for part in PARTS {
            if let Some(value) = fields.get(part) {
                self.specials.push((part.to_owned(), Special::of(value, &format!("{file}: {part}"))?));
            }
        }
        for key in MORE {
            let Some(value) = fields.get(key).filter(|value| !value.is_null()) else { continue };
            let location = format!("{file}: {key}");
            let values: Vec<Value> = match value {
                Value::Object(named) => named.values().cloned().collect(),
                other => json::from_value(other.clone(), &location)?,
            };
            if value.is_object() && values.is_empty() {
                continue;
            }
            let more = self.more.get_or_insert_default();
            for value in &values {
                let special = Special::of(value, &location)?;
                if !more.contains(&special) {
                    more.push(special);
                }
            }
        }
        Ok(())
    }

    fn names(&self, content: &str) -> bool {
        let parts = self.specials.iter().map(|(_, special)| special);
        parts.chain(self.more.iter().flatten()).any(|special| special.content() == Some(content))
    }
}
