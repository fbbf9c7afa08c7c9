//! The keys of a file, read by type. What was never asked for is remembered.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::value::{List, Value, ValueType};
use crate::error::{Error, Result, printable};

/// Namespaces that say where a model comes from, and nothing that changes its outputs.
const DESCRIPTIVE: [&str; 5] = ["general.", "quantize.", "mradermacher.", "imatrix.", "split."];

/// Keys below those, and below the architecture, that change outputs or that say what a file is; each is asked for somewhere.
const SAMPLING: &str = "general.sampling.";

/// Most unread keys that are named.
const NAMED: usize = 8;

/// The keys of a file.
pub(super) struct Keys {
    values: BTreeMap<String, Value>,
    read: RefCell<BTreeSet<String>>,
    file: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

impl Keys {
    /// Keys whose lists are in `file`.
    pub fn new(values: BTreeMap<String, Value>, file: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Keys {
        Keys { values, read: RefCell::default(), file }
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The keys that begin so.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.values.range(prefix.to_owned()..).map(|(key, _)| key.as_str());
        from.take_while(move |key| key.starts_with(prefix))
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let value = self.values.get(key)?;
        self.read.borrow_mut().insert(key.to_owned());
        Some(value)
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::bad_input(format!("expected {expected}, found {}", found.name())).at(format!("key `{}`", printable(key)))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a text", other)),
        }
    }

    /// A flag.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, "a flag", other)),
        }
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Whole(number)) => Ok(Some(*number as f64)),
            Some(other) => Err(self.wrong(key, "a finite number", other)),
        }
    }

    /// A number of things; of a list with one number for each layer, that number where all have the same.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let size = |number: &i128| usize::try_from(*number).ok();
        match self.get(key) {
            None => Ok(None),
            Some(found @ Value::Whole(number)) => {
                size(number).map(Some).ok_or_else(|| self.wrong(key, "a number of 0 or more", found))
            }
            Some(Value::List(_)) => self.same_in_all_layers(key).map(Some),
            Some(other) => Err(self.wrong(key, "a whole number", other)),
        }
    }

    fn same_in_all_layers(&self, key: &str) -> Result<usize> {
        let place = |e: Error| e.at(format!("key `{}`", printable(key)));
        let all = self.whole_numbers(key)?.unwrap_or_default();
        match all.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => usize::try_from(*first)
                .map_err(|_| place(Error::bad_input(format!("expected 0 or more, found {first}")))),
            Some(_) => Err(place(Error::unsupported("layers that differ in their sizes are not built"))),
            None => Err(place(Error::bad_input("expected a whole number, found an empty list"))),
        }
    }

    /// The same of a key that has to be there.
    pub fn needed(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| missing(key))
    }

    fn list(&self, key: &str) -> Result<Option<(&List, &[u8])>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::List(list)) => {
                let bytes = (*self.file).as_ref().get(list.bytes.clone()).unwrap_or_default();
                Ok(Some((list, bytes)))
            }
            Some(other) => Err(self.wrong(key, "a list", other)),
        }
    }

    /// The texts of a list.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some((list, mut bytes)) = self.list(key)? else { return Ok(None) };
        let place = |e: Error| e.at(format!("key `{}`", printable(key)));
        if list.ty != ValueType::Text && list.count > 0 {
            return Err(place(Error::bad_input(format!("expected a list of texts, found one of {}s", list.ty.name()))));
        }
        let mut texts = Vec::with_capacity(list.count);
        while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let (text, rest) =
                rest.split_at_checked(length).ok_or_else(|| Error::bug("a text that was walked over"))?;
            let text = std::str::from_utf8(text)
                .map_err(|_| place(Error::bad_input(format!("text {} is not UTF-8", texts.len()))))?;
            texts.push(text);
            bytes = rest;
        }
        Ok(Some(texts))
    }

    /// The values of a list, each turned into what it is read as. Fails, naming what was `expected`, where one is none.
    fn collected<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some((list, bytes)) = self.list(key)? else { return Ok(None) };
        if list.ty == ValueType::Text {
            let said = format!("expected {expected}, found one of {}s", list.ty.name());
            return Err(Error::bad_input(said).at(format!("key `{}`", printable(key))));
        }
        let one = |bytes: &[u8]| {
            let value = Value::plain(list.ty, bytes).map_err(|e| e.at(format!("key `{}`", printable(key))))?;
            read(&value).ok_or_else(|| self.wrong(key, expected, &value))
        };
        bytes.chunks_exact(list.ty.bytes()).map(one).collect::<Result<_>>().map(Some)
    }

    /// The whole numbers of a list.
    pub fn whole_numbers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.collected(key, "a list of whole numbers", |value| match value {
            Value::Whole(number) => i64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// The numbers of a list.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.collected(key, "a list of numbers", |value| match value {
            Value::Float(number) => Some(*number as f32),
            Value::Whole(number) => Some(*number as f32),
            _ => None,
        })
    }

    /// The flags of a list; whole numbers count as flags where they are not 0.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.collected(key, "a list of flags", |value| match value {
            Value::Flag(flag) => Some(*flag),
            Value::Whole(number) => Some(*number != 0),
            _ => None,
        })
    }

    /// Whether a key holds a list.
    pub fn is_list(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::List(_)))
    }

    /// Takes a key as understood, although nothing follows from it.
    pub fn pass_over(&self, key: &str) {
        self.get(key);
    }

    /// A warning of keys that may change outputs and were never asked for: those of the architecture, of the tokenizer, and
    /// others that no list says to be harmless.
    pub fn unread(&self, architecture: &str) -> Option<String> {
        let read = self.read.borrow();
        let tells = |key: &&String| {
            let harmless = DESCRIPTIVE.iter().any(|prefix| key.starts_with(prefix)) && !key.starts_with(SAMPLING);
            !harmless && !read.contains(*key)
        };
        let names: Vec<String> = self.values.keys().filter(tells).map(|key| format!("`{}`", printable(key))).collect();
        let (named, more) = names.split_at(names.len().min(NAMED));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        (!names.is_empty()).then(|| {
            format!(
                "keys of the file that are not read, and may change outputs of a {architecture}: {}{more}",
                named.join(", ")
            )
        })
    }
}

/// The error of a key that has to be there.
pub(super) fn missing(key: &str) -> Error {
    Error::bad_input(format!("key `{key}` is missing"))
}
