//! Texts with labels.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::rows::{LINE, Rows};
use crate::checkpoint::json::file_name;
use crate::error::{Error, Result, nearest, printable, printable_sentence};

/// A text, and its label where there is one.
#[derive(Clone, Debug, Deserialize)]
pub struct Example {
    /// What the model is asked.
    pub text: String,
    /// What the answer should be.
    #[serde(default)]
    pub label: Option<String>,
}

/// Reads a file of texts with, for scoring, their labels: objects with `text` and `label` on the lines of a `.jsonl`
/// file, columns of these names in `.csv` and `.tsv`, only texts in `.txt`. Fails, naming the line, where one is none of
/// this, is empty, or has a label that is not among `labels`.
pub fn read_examples(path: &Path, labels: &[String]) -> Result<Vec<Example>> {
    not_none(examples(path, None, labels)?.collect::<Result<_>>()?, &file_name(path))
}

/// The same for what `reader` gives, which messages call `file`; the name says what kind it is of.
pub fn parse_examples(reader: impl Read, file: &str, labels: &[String]) -> Result<Vec<Example>> {
    let rows = Rows::of(reader, file, None)?;
    not_none(checked(rows, labels).collect::<Result<_>>()?, file)
}

/// The texts of a file one after the other, like [`read_examples`]; `text` is the field or column that holds them, if it
/// is not called so. There may be none.
pub fn examples<'a>(
    path: &Path,
    text: Option<&str>,
    labels: &'a [String],
) -> Result<impl Iterator<Item = Result<Example>> + use<'a>> {
    Ok(checked(Rows::open(path, text)?, labels))
}

fn checked<R: Read>(rows: Rows<R, Example>, labels: &[String]) -> impl Iterator<Item = Result<Example>> {
    rows.map(move |row| {
        let (place, example) = row?;
        check(&example, labels).map_err(|e| e.at(place))?;
        Ok(example)
    })
}

/// Refuses a file without texts.
pub fn not_none(examples: Vec<Example>, file: &str) -> Result<Vec<Example>> {
    match examples.is_empty() {
        true => Err(Error::bad_input(format!("{file} holds no texts")).hint(LINE)),
        false => Ok(examples),
    }
}

fn check(example: &Example, labels: &[String]) -> Result<()> {
    if example.text.trim().is_empty() {
        return Err(Error::bad_input("the text is empty"));
    }
    match &example.label {
        Some(label) if !labels.is_empty() && !labels.contains(label) => {
            let error = Error::bad_input(format!("unknown label `{}`", printable(label)));
            Err(match nearest(label, labels.iter().map(String::as_str)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("known: {}", printable_sentence(&labels.join(", ")))),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Example>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts.jsonl");
        std::fs::write(&path, text).unwrap();
        read_examples(&path, &["web".to_owned(), "mail".to_owned()])
    }

    #[test]
    fn lines_are_examples_and_blank_ones_are_passed_over() {
        let examples = read("{\"text\": \"a\", \"label\": \"web\"}\n\n{\"text\": \"b\"}\n").unwrap();
        assert_eq!(examples.len(), 2);
        assert_eq!(examples[1].label, None);
    }

    #[test]
    fn mistakes_name_their_line() {
        let message = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(message("{\"text\": \"a\"}\n{\"text\": \" \"}\n"), "the text is empty\n  in texts.jsonl line 2");
        assert!(message("hello\n").starts_with("texts.jsonl line 1: expected value"));
        assert_eq!(
            message("{\"text\": \"a\", \"label\": \"wep\"}"),
            "unknown label `wep`\n  in texts.jsonl line 1\n\nhint: did you mean `web`?"
        );
        assert_eq!(
            message("{\"text\": \"a\", \"label\": \"a quite different one\"}"),
            "unknown label `a quite different one`\n  in texts.jsonl line 1\n\nhint: known: web, mail"
        );
        assert_eq!(message("{\"label\": \"web\"}"), "texts.jsonl line 1: missing field `text` at line 1 column 16");
        let empty = "texts.jsonl holds no texts\n\n\
                     hint: each line is an object such as {\"text\": \"…\", \"label\": \"…\"}";
        assert_eq!(message("\n\n"), empty);
        assert_eq!(message(""), empty);
    }

    #[test]
    fn a_line_has_a_length_and_is_utf_8() {
        let labels = ["web".to_owned()];
        let refused = |reader: &mut dyn Read| parse_examples(reader, "t.jsonl", &labels).unwrap_err();
        let long = "t.jsonl line 1: longer than 16777216 bytes";
        // 100 MB without an end, and 17 MB of a letter of two bytes that the limit cuts in half.
        assert_eq!(refused(&mut std::io::repeat(b'x').take(100_000_000)).message(), long);
        assert_eq!(refused(&mut format!("x{}", "é".repeat(17 << 19)).as_bytes()).message(), long);
        assert_eq!(refused(&mut &b"{\"text\": \"\xff\"}"[..]).message(), "t.jsonl line 1: not UTF-8");
    }
}
