//! JSON from outside: bounded, without duplicate keys, with errors that name the file and the field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result, printable, printable_sentence};

/// Longest JSON file that is read, in bytes; tokenizers of large vocabularies are the longest there are.
pub const LONGEST: u64 = 256 << 20;

/// Reads a file as text. Fails where it is missing, longer than [`LONGEST`] or not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|e| Error::io("reading", path, &e))?;
    let mut text = String::new();
    let read = file.take(LONGEST + 1).read_to_string(&mut text).map_err(|e| Error::io("reading", path, &e))?;
    if read as u64 > LONGEST {
        return Err(Error::bad_input(format!("{} is longer than {LONGEST} bytes", path.display())));
    }
    Ok(text)
}

/// Reads a JSON file into a type. Errors name the file and the field.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse(&read_text(path)?, &file_name(path))
}

/// Parses JSON text that came from `file`. Errors name the file and the field.
pub fn parse<T: DeserializeOwned>(text: &str, file: &str) -> Result<T> {
    if text.starts_with('\u{feff}') {
        return Err(Error::bad_input(format!("{file}: starts with a byte order mark")).hint("save it as plain UTF-8"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
        let field = e.path().to_string();
        let field = if field == "." { String::new() } else { format!("{}: ", printable(&field)) };
        Error::bad_input(format!("{file}: {field}{}", printable_sentence(&e.inner().to_string())))
    })?;
    deserializer.end().map_err(|e| Error::bad_input(format!("{file}: {e}")))?;
    Ok(value)
}

/// The last part of a path, as messages call it.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// A JSON object in which a key that stands twice is an error.
#[derive(Clone, Debug)]
pub struct UniqueMap<V>(pub BTreeMap<String, V>);

/// A JSON object whose order counts, and in which a key that stands twice is an error.
#[derive(Clone, Debug)]
pub struct OrderedMap<V>(pub Vec<(String, V)>);

impl<V> Default for OrderedMap<V> {
    fn default() -> Self {
        OrderedMap(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for OrderedMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries(PhantomData)).map(OrderedMap)
    }
}

impl<V> Default for UniqueMap<V> {
    fn default() -> Self {
        UniqueMap(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = deserializer.deserialize_map(Entries(PhantomData))?;
        Ok(UniqueMap(entries.into_iter().collect()))
    }
}

/// Collects the entries of an object in their order.
struct Entries<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
    type Value = Vec<(String, V)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut entries, mut seen) = (Vec::new(), BTreeSet::new());
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                let message = format!("`{}` stands twice", printable(&key));
                return Err(serde::de::Error::custom(message));
            }
            entries.push((key, map.next_value()?));
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_file_and_field() {
        #[derive(Debug, serde::Deserialize)]
        struct Config {
            #[allow(dead_code)]
            hidden_size: u32,
        }
        let message = |text: &str| parse::<Config>(text, "config.json").unwrap_err().message().to_owned();
        assert_eq!(
            message(r#"{"hidden_size": "big"}"#),
            "config.json: hidden_size: invalid type: string \"big\", expected u32 at line 1 column 21"
        );
        assert_eq!(message("{}"), "config.json: missing field `hidden_size` at line 1 column 2");
        assert_eq!(message("\u{feff}{}"), "config.json: starts with a byte order mark");
        assert!(message(&"[".repeat(100_000)).starts_with("config.json: "));
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        let error = parse::<UniqueMap<u8>>(r#"{"a": 1, "a": 2}"#, "x.json").unwrap_err();
        assert_eq!(error.message(), "x.json: `a` stands twice at line 1 column 12");
        let error = parse::<OrderedMap<u8>>(r#"{"a": 1, "a": 2}"#, "x.json").unwrap_err();
        assert_eq!(error.message(), "x.json: `a` stands twice at line 1 column 12");
        let ordered = parse::<OrderedMap<u8>>(r#"{"b": 1, "a": 2}"#, "x.json").unwrap();
        assert_eq!(ordered.0, [("b".to_owned(), 1), ("a".to_owned(), 2)]);
    }
}
