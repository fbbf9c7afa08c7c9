//! Texts without labels, for perplexity.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::{Located, not_empty, open, parse};
use crate::error::Result;
use crate::json::file_name;

/// The form of a line.
const LINE: &str = "each line is an object such as {\"text\": \"…\"}";

/// A text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// Reads rows with `text`. Fails, naming the line, where one has none or an empty one.
pub fn read_texts(path: &Path) -> Result<Vec<Located<Text>>> {
    parse_texts(open(path)?, &file_name(path))
}

/// The same for a reader, with `file` as its name in messages; the extension decides the form.
pub fn parse_texts(reader: impl Read, file: &str) -> Result<Vec<Located<Text>>> {
    parse(reader, file, LINE, |Line { text }| {
        not_empty(&[&text])?;
        Ok(Text { text })
    })
}
