//! Texts with masks, and the masked words.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::{Located, not_empty, open, parse};
use crate::error::{Error, Result};
use crate::json::file_name;

/// The form of a line.
const LINE: &str = "each line is an object such as {\"text\": \"… [MASK] …\", \"label\": \"…\"}, or with `labels` where \
                    there are several masks";

/// A text with masks.
#[derive(Clone, Debug, PartialEq)]
pub struct Masked {
    /// The text.
    pub text: String,
    /// The word behind each mask, in order.
    pub labels: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    text: String,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    labels: Option<Vec<String>>,
}

/// Reads texts with `label`, or `labels` where there are several masks. Fails, naming the line, where there is neither or
/// both, or a text is empty. The tokenizer checks the number of masks.
pub fn read_masked(path: &Path) -> Result<Vec<Located<Masked>>> {
    parse_masked(open(path)?, &file_name(path))
}

/// The same for a reader, with `file` as its name in messages; the extension decides the form.
pub fn parse_masked(reader: impl Read, file: &str) -> Result<Vec<Located<Masked>>> {
    parse(reader, file, LINE, |Line { text, label, labels }| {
        not_empty(&[&text])?;
        let labels = match (label, labels) {
            (Some(label), None) => vec![label],
            (None, Some(labels)) => labels,
            (Some(_), Some(_)) => return Err(Error::bad_input("there are `label` and `labels`, expected one of them")),
            (None, None) => return Err(Error::bad_input("there is no `label`").hint(LINE)),
        };
        Ok(Masked { text, labels })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    #[test]
    fn masks_have_a_label_each() {
        let lines = "{\"text\": \"a [MASK]\", \"label\": \"b\"}\n{\"text\": \"[MASK]\", \"labels\": [\"a\", \"b\"]}\n";
        let found = read_masked(&file("x.jsonl", lines).1).unwrap();
        let labels: Vec<usize> = found.iter().map(|masked| masked.row.labels.len()).collect();
        assert_eq!((labels, found[1].location.as_str()), (vec![1, 2], "x.jsonl line 2"));
    }

    #[test]
    fn a_mask_without_its_label_is_named() {
        let said = |line: &str| read_masked(&file("x.jsonl", line).1).unwrap_err().to_string();
        let none = said("{\"text\": \"a [MASK]\"}");
        assert!(none.starts_with("there is no `label`\n  in x.jsonl line 1\n\nhint: each line is"), "{none}");
        let both = said("{\"text\": \"a\", \"label\": \"a\", \"labels\": []}");
        assert!(
            both.starts_with("there are `label` and `labels`, expected one of them\n  in x.jsonl line 1"),
            "{both}"
        );
    }
}
