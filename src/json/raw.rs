//! JSON as it is in its file: objects and lists as slices of text.
//!
//! Unchanged parts keep their order, and numbers keep their digits: a score that is read and printed again may
//! come back as its neighbour. The text has been parsed before, so that brackets and quotes match.

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde::de::DeserializeOwned;

use super::strings::Strings;
use crate::error::{Error, Result};
use crate::json;

/// An object: its members in their order, keys unescaped, values unchanged.
pub struct Object<'a>(Vec<(String, Cow<'a, str>)>);

impl<'a> Object<'a> {
    /// Cuts the text of an object into its members. `location` is its location for messages.
    pub fn of(text: &'a str, location: &str) -> Result<Object<'a>> {
        let members = inside(text, '{', '}').ok_or_else(|| wrong(location, "an object"))?;
        let member = |member: &'a str| match split(member, b':').as_slice() {
            [key, value] => Ok((json::parse(key, location)?, Cow::Borrowed(value.trim()))),
            _ => Err(wrong(location, "members")),
        };
        Ok(Object(members.into_iter().map(member).collect::<Result<_>>()?))
    }

    /// The text of a member, unless it is missing or null.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| &**value).filter(|value| *value != "null")
    }

    /// A member that has to be there.
    pub fn required(&self, key: &str, location: &str) -> Result<&str> {
        self.get(key).ok_or_else(|| Error::bad_input(format!("{location}: missing field `{key}`")))
    }

    /// A member as a value of a type, unless it is missing or null.
    pub fn read<T: DeserializeOwned>(&self, key: &str, location: &str) -> Result<Option<T>> {
        self.get(key).map(|value| json::parse(value, &format!("{location}: {key}"))).transpose()
    }

    /// Another value for a member that is there.
    pub fn set(&mut self, key: &str, value: String) {
        if let Some((_, member)) = self.0.iter_mut().find(|(name, _)| name == key) {
            *member = Cow::Owned(value);
        }
    }

    /// The same, or a member more.
    pub fn put(&mut self, key: &str, value: String) {
        match self.0.iter().any(|(name, _)| name == key) {
            true => self.set(key, value),
            false => self.0.push((key.to_owned(), Cow::Owned(value))),
        }
    }

    /// The members.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), &**value))
    }

    /// The object with every value changed.
    pub fn map(&self, mut change: impl FnMut(&str) -> Result<String>) -> Result<Object<'static>> {
        let member = |(key, value): (&str, &str)| Ok((key.to_owned(), Cow::Owned(change(value)?)));
        Ok(Object(self.members().map(member).collect::<Result<_>>()?))
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('{')?;
        for (i, (key, value)) in self.members().enumerate() {
            write!(f, "{}{}:{value}", if i == 0 { "" } else { "," }, quoted(key))?;
        }
        f.write_char('}')
    }
}

/// The elements of a list, unchanged. `location` is its location for messages.
pub fn elements<'a>(text: &'a str, location: &str) -> Result<Vec<&'a str>> {
    inside(text, '[', ']').ok_or_else(|| wrong(location, "a list"))
}

/// Elements as a list.
pub fn list<T: AsRef<str>>(elements: &[T]) -> String {
    let elements: Vec<&str> = elements.iter().map(AsRef::as_ref).collect();
    format!("[{}]", elements.join(","))
}

/// A text as JSON has it.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The same JSON without the white space around its parts.
pub fn compact(text: &str) -> String {
    let mut strings = Strings::default();
    text.chars().filter(|c| strings.inside(*c) || !c.is_ascii_whitespace()).collect()
}

/// The parts between two brackets, `None` where there are no such brackets.
fn inside(text: &str, open: char, close: char) -> Option<Vec<&str>> {
    let inner = text.trim().strip_prefix(open)?.strip_suffix(close)?.trim();
    Some(if inner.is_empty() { Vec::new() } else { split(inner, b',').into_iter().map(str::trim).collect() })
}

/// Cuts a text at separators outside of strings and brackets.
fn split(text: &str, separator: u8) -> Vec<&str> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0_usize);
    let mut strings = Strings::default();
    for (i, c) in text.char_indices() {
        if strings.inside(c) {
            continue;
        }
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            c if c == char::from(separator) && depth == 0 => {
                parts.extend(text.get(from..i));
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(from..));
    parts
}

fn wrong(location: &str, expected: &str) -> Error {
    Error::bad_input(format!("{location}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_text() {
        let text = r#"{ "b": [1.50, -2e-3, "],\"}"],
            "\u0061": {"x" : [ {} , [] ]}, "c": null , "d":"" }"#;
        let mut object = Object::of(text, "x.json").unwrap();
        let members: Vec<_> = object.members().collect();
        assert_eq!(
            members,
            [("b", r#"[1.50, -2e-3, "],\"}"]"#), ("a", r#"{"x" : [ {} , [] ]}"#), ("c", "null"), ("d", "\"\"")]
        );
        assert_eq!(object.get("c"), None);
        assert_eq!(elements(object.get("b").unwrap(), "x").unwrap(), ["1.50", "-2e-3", r#""],\"}""#]);
        object.set("c", list(&["1", "2"]));
        assert_eq!(compact(&object.to_string()), r#"{"b":[1.50,-2e-3,"],\"}"],"a":{"x":[{},[]]},"c":[1,2],"d":""}"#);
    }

    #[test]
    fn values_of_another_kind_are_named() {
        assert_eq!(Object::of("[]", "x.json").err().unwrap().message(), "x.json: expected an object");
        assert_eq!(elements("{}", "x.json: a").unwrap_err().message(), "x.json: a: expected a list");
        let object = Object::of("{\"a\": true}", "x.json").unwrap();
        assert_eq!(object.required("b", "x.json").unwrap_err().message(), "x.json: missing field `b`");
        let error = object.read::<u32>("a", "x.json").unwrap_err();
        assert!(error.message().starts_with("x.json: a: invalid type: boolean `true`, expected u32"), "{error}");
        assert_eq!(elements(" [ ] ", "x").unwrap(), [""; 0]);
    }
}
