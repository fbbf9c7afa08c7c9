//! JSON from outside: bounded, without duplicate keys, with errors that name the file and the field.

pub mod raw;
mod strings;

use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, Result, printable, printable_sentence};
use crate::file;
use strings::Strings;

/// Longest JSON file that is read, in bytes; tokenizers of large vocabularies are the longest there are.
pub const LONGEST: u64 = 256 << 20;

/// Reads a file as text. Fails where it is missing, no plain file, longer than [`LONGEST`] or not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let file = file::open(path)?;
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
///
/// The whole document is checked first, unread fields too: no object may have a key twice, of which
/// readers differ over which one counts, and values nest 127 deep at most.
pub fn parse<T: DeserializeOwned>(text: &str, file: &str) -> Result<T> {
    if text.starts_with('\u{feff}') {
        return Err(Error::bad_input(format!("{file}: starts with a byte order mark")).hint("save it as plain UTF-8"));
    }
    if let Err(e) = typed::<Sound>(text, file) {
        // A number that no float can hold is wrong only for its reader.
        typed::<Sound>(&in_range(text).ok_or(e)?, file)?;
    }
    typed(text, file)
}

fn typed<T: DeserializeOwned>(text: &str, file: &str) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|e| {
        let field = e.path().to_string();
        // A text that ends before a field is known has `?` for its path.
        let field = if field == "." || field == "?" { String::new() } else { format!("{}: ", printable(&field)) };
        let said = printable_sentence(&e.inner().to_string());
        Error::bad_input(format!("{file}: {field}{said}")).caused_by(e.into_inner())
    })?;
    deserializer.end().map_err(|e| Error::bad_input(format!("{file}: {e}")).caused_by(e))?;
    Ok(value)
}

/// The same text with smaller numbers in place of those that no float can hold; none where there are none. Text after
/// them keeps its position.
fn in_range(text: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_digit() || ['+', '-', '.', 'e', 'E'].contains(&c);
    let is_beyond =
        |number: &str| number.parse().is_ok_and(f64::is_infinite) && serde_json::from_str::<&RawValue>(number).is_ok();
    let (mut out, mut strings, mut rest, mut found) = (String::new(), Strings::default(), text, false);
    while let Some(c) = rest.chars().next() {
        let inside = strings.inside(c);
        let number = if inside { "" } else { rest.split(|c| !is_part(c)).next().unwrap_or_default() };
        let (part, after) = rest.split_at(number.len().max(c.len_utf8()));
        match is_beyond(number) {
            true => out.extend("0.".chars().chain(std::iter::repeat('0')).take(number.len())),
            false => out += part,
        }
        found |= is_beyond(number);
        rest = after;
    }
    found.then_some(out)
}

/// Reads a type out of JSON that has been parsed; `location` is the file and the field it was in. Errors name them.
pub fn from_value<T: DeserializeOwned>(value: serde_json::Value, location: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let field = e.path().to_string();
        let field = if field == "." { String::new() } else { format!(".{}", printable(&field)) };
        let said = printable_sentence(&e.inner().to_string());
        Error::bad_input(format!("{location}{field}: {said}")).caused_by(e.into_inner())
    })
}

/// Reads a type out of the fields of a JSON file that has been parsed. Errors name the file and the field.
pub fn from_fields<T: DeserializeOwned>(fields: &serde_json::Map<String, serde_json::Value>, file: &str) -> Result<T> {
    serde_path_to_error::deserialize(serde_json::Value::Object(fields.clone())).map_err(|e| {
        let field = e.path().to_string();
        let field = if field == "." { String::new() } else { format!("{}: ", printable(&field)) };
        let said = printable_sentence(&e.inner().to_string());
        Error::bad_input(format!("{file}: {field}{said}")).caused_by(e.into_inner())
    })
}

/// A value with the fields of every object in the order of their names, as files are written. With the feature `json-schema`,
/// objects of `serde_json` keep the order in which they were made or read.
pub fn sorted(value: impl Into<serde_json::Value>) -> serde_json::Value {
    let mut value = value.into();
    value.sort_all_objects();
    value
}

/// The last part of a path, as messages and reports call it; that of the folder itself, where it ends in `..` or `.`.
pub fn file_name(path: &Path) -> String {
    let real = || path.canonicalize().ok().and_then(|real| real.file_name().map(ToOwned::to_owned));
    let name = path.file_name().map(ToOwned::to_owned).or_else(real);
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Any JSON value in which no object has a key twice. It is not stored.
struct Sound;

/// A JSON object whose order counts.
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

/// Collects the entries of an object in their order.
struct Entries<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
    type Value = Vec<(String, V)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sound, D::Error> {
        deserializer.deserialize_any(Sound)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = Sound;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Sound, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sound, A::Error> {
        while seq.next_element::<Sound>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sound, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("duplicate `{}`", printable(&key))));
            }
            seen.insert(key);
            map.next_value::<Sound>()?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A reader that is not interested in anything.
    #[derive(Debug, serde::Deserialize)]
    struct Nothing {}

    #[test]
    fn an_error_keeps_that_of_the_parser_as_its_source() {
        let error = parse::<u32>("[", "x.json").unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().is::<serde_json::Error>(), "{error}");
    }

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
    }

    #[test]
    fn a_number_is_out_of_range_for_its_reader() {
        let long = "9".repeat(400);
        for number in ["1e400", "-1E+999", "1.5e+400", &long] {
            let text = format!(r#"{{"ignored": [{number}, "1e400 \" 1e400"], "a": "1e400"}}"#);
            parse::<Nothing>(&text, "x.json").unwrap();
            let error = parse::<BTreeMap<String, serde_json::Value>>(&text, "x.json").unwrap_err();
            assert!(error.message().contains("number out of range"), "{error}");
        }
        let message = |text: &str| parse::<Nothing>(text, "x.json").unwrap_err().message().to_owned();
        assert_eq!(message(r#"{"a": 1e400, "a": 2}"#), "x.json: duplicate `a` at line 1 column 16");
        assert!(message(r#"{"a": 1e400, "b": 1e}"#).contains("invalid number"));
        assert!(message(r#"{"a": 1e400, "b": 01e400}"#).contains("invalid number"));
    }

    #[test]
    fn a_folder_has_a_name_however_it_is_spelt() {
        let location = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(location.path().join("model/sub")).unwrap();
        for path in ["model", "model/", "model/.", "model/sub/.."] {
            assert_eq!(file_name(&location.path().join(path)), "model");
        }
        assert_eq!(file_name(Path::new("nowhere/..")), "nowhere/..");
    }

    #[test]
    fn nesting_is_limited_wherever_it_is() {
        let nested = |depth: usize| format!(r#"{{"ignored": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(parse::<BTreeMap<String, serde_json::Value>>(&nested(126), "x.json").unwrap().len(), 1);
        for depth in [127, 1_000_000] {
            let error = parse::<Nothing>(&nested(depth), "x.json").unwrap_err();
            assert!(error.message().ends_with(": recursion limit exceeded at line 1 column 139"), "{error}");
        }
    }

    #[test]
    fn duplicate_keys_are_refused_everywhere() {
        let message = |text: &str| parse::<Nothing>(text, "x.json").unwrap_err().message().to_owned();
        assert_eq!(message(r#"{"a": 1, "a": 2}"#), "x.json: duplicate `a` at line 1 column 12");
        assert_eq!(message(r#"{"b": [{}, {"a": 1, "\u0061": 2}]}"#), "x.json: b[1]: duplicate `a` at line 1 column 28");
    }
}
