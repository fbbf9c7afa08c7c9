//! Texts with labels, one JSON object on each line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::json::{self, file_name};
use crate::error::{Error, Result, nearest, printable, printable_sentence};

/// Longest line that is read, in bytes.
const LONGEST_LINE: u64 = 16 << 20;

/// A text, and its label where there is one.
#[derive(Clone, Debug, Deserialize)]
pub struct Example {
    /// What the model is asked.
    pub text: String,
    /// What the answer should be.
    #[serde(default)]
    pub label: Option<String>,
}

/// Reads a JSONL file of objects with `text` and, for scoring, `label`. Fails, naming the line, where one is no such
/// object, is empty, or has a label that is not among `labels`.
pub fn read_examples(path: &Path, labels: &[String]) -> Result<Vec<Example>> {
    let file = File::open(path).map_err(|e| Error::io("reading", path, &e))?;
    parse_examples(BufReader::new(file), &file_name(path), labels)
}

/// The same for the lines of `reader`, which messages call `file`.
pub fn parse_examples(mut reader: impl BufRead, file: &str, labels: &[String]) -> Result<Vec<Example>> {
    let mut examples = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        let place = format!("{file} line {number}");
        line.clear();
        let read = reader.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line);
        if read.map_err(|e| Error::bad_input(format!("{place}: {e}")))? == 0 {
            break;
        }
        if line.len() as u64 > LONGEST_LINE {
            return Err(Error::bad_input(format!("{place}: longer than {LONGEST_LINE} bytes")));
        }
        let text = std::str::from_utf8(&line).map_err(|_| Error::bad_input(format!("{place}: not UTF-8")))?;
        if text.trim().is_empty() {
            continue;
        }
        let example: Example = json::parse(text.trim_end(), &place)?;
        check(&example, labels).map_err(|e| e.at(place))?;
        examples.push(example);
    }
    if examples.is_empty() {
        return Err(Error::bad_input(format!("{file} holds no texts"))
            .hint("each line is an object such as {\"text\": \"…\", \"label\": \"…\"}"));
    }
    Ok(examples)
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
        let refused = |reader: &mut dyn Read| parse_examples(BufReader::new(reader), "t.jsonl", &labels).unwrap_err();
        let long = "t.jsonl line 1: longer than 16777216 bytes";
        // 100 MB without an end, and 17 MB of a letter of two bytes that the limit cuts in half.
        assert_eq!(refused(&mut std::io::repeat(b'x').take(100_000_000)).message(), long);
        assert_eq!(refused(&mut format!("x{}", "é".repeat(17 << 19)).as_bytes()).message(), long);
        assert_eq!(refused(&mut &b"{\"text\": \"\xff\"}"[..]).message(), "t.jsonl line 1: not UTF-8");
    }
}
