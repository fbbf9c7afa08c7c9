//! Texts with what should be answered.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::rows::{LINE, Rows};
use crate::checkpoint::json::file_name;
use crate::error::{Error, Result, nearest, printable, printable_sentence};
use crate::runtime::{Classes, Reading, TextInput};

/// A text or a pair of texts, and what should be answered, where that is known.
#[derive(Clone, Debug)]
pub struct Example {
    /// What the model is asked.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// What the answer should be.
    pub truth: Option<Truth>,
}

/// What should be answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    /// These labels, by number and in order.
    Classes(Vec<usize>),
    /// These numbers.
    Numbers(Vec<f32>),
}

impl Example {
    /// A text of which nothing is known.
    pub fn unlabelled(text: &str) -> Example {
        Example { text: text.to_owned(), pair: None, truth: None }
    }
}

impl<'a> From<&'a Example> for TextInput<'a> {
    fn from(example: &'a Example) -> TextInput<'a> {
        TextInput { text: &example.text, pair: example.pair.as_deref() }
    }
}

#[derive(Deserialize)]
struct Line {
    text: String,
    #[serde(default, alias = "text_pair")]
    pair: Option<String>,
    #[serde(default)]
    label: Option<Value>,
    #[serde(default)]
    labels: Option<Vec<Value>>,
}

/// Reads a file of texts with, for pairs, `pair` (or `text_pair`), and for scoring `label` or `labels`: fields of the
/// objects on the lines of a `.jsonl` file, columns of `.csv` and `.tsv`; the lines of `.txt` are texts. Fails, naming the
/// line, where one is none of this, has an empty text, or a label that `classes` cannot answer.
pub fn read_examples(path: &Path, classes: &Classes) -> Result<Vec<Example>> {
    not_none(examples(path, None, classes)?.collect::<Result<_>>()?, &file_name(path))
}

/// The same for what `reader` gives, which messages call `file`; the name says what kind it is of.
pub fn parse_examples(reader: impl Read, file: &str, classes: &Classes) -> Result<Vec<Example>> {
    let rows = Rows::of(reader, file, None)?;
    not_none(checked(rows, classes).collect::<Result<_>>()?, file)
}

/// The texts of a file one after the other, like [`read_examples`]; `text` is the field or column that holds them, if it
/// is not called so. There may be none.
pub fn examples<'a>(
    path: &Path,
    text: Option<&str>,
    classes: &'a Classes,
) -> Result<impl Iterator<Item = Result<Example>> + use<'a>> {
    Ok(checked(Rows::open(path, text)?, classes))
}

fn checked<R: Read>(rows: Rows<R, Line>, classes: &Classes) -> impl Iterator<Item = Result<Example>> {
    rows.map(move |row| {
        let (place, line) = row?;
        line.example(classes).map_err(|e| e.at(place))
    })
}

/// Refuses a file without texts.
pub fn not_none(examples: Vec<Example>, file: &str) -> Result<Vec<Example>> {
    match examples.is_empty() {
        true => Err(Error::bad_input(format!("{file} holds no texts")).hint(LINE)),
        false => Ok(examples),
    }
}

impl Line {
    fn example(self, classes: &Classes) -> Result<Example> {
        if self.text.trim().is_empty() || self.pair.as_ref().is_some_and(|pair| pair.trim().is_empty()) {
            return Err(Error::bad_input("the text is empty"));
        }
        // Where answers have no names, labels are someone else's.
        let truth = match (self.label, self.labels) {
            _ if classes.labels.is_empty() => None,
            (None, None) => None,
            (Some(_), Some(_)) => return Err(Error::bad_input("there are `label` and `labels`, expected one of them")),
            (Some(label), None) => Some(truth(&[label], classes)?),
            (None, Some(_)) if classes.reading == Reading::OneLabel => {
                return Err(Error::bad_input("found `labels`, but the model answers with one")
                    .hint("write `label`; where the model has several answers at once, say so by `problem_type`"));
            }
            (None, Some(labels)) => Some(truth(&labels, classes)?),
        };
        Ok(Example { text: self.text, pair: self.pair, truth })
    }
}

/// What should be answered, in the terms of a model's answers.
fn truth(found: &[Value], classes: &Classes) -> Result<Truth> {
    match classes.reading {
        Reading::OneLabel | Reading::ManyLabels => {
            let mut numbers = found.iter().map(|label| number_of(label, classes)).collect::<Result<Vec<_>>>()?;
            numbers.sort_unstable();
            match numbers.windows(2).any(|pair| pair.first() == pair.last()) {
                true => Err(Error::bad_input("a label stands twice")),
                false => Ok(Truth::Classes(numbers)),
            }
        }
        Reading::Numbers | Reading::Score => {
            let numbers = found.iter().map(number).collect::<Result<Vec<_>>>()?;
            match (numbers.len(), classes.labels.len()) {
                (found, expected) if found != expected => {
                    Err(Error::bad_input(format!("found {found} numbers, but the model answers with {expected}")))
                }
                _ => Ok(Truth::Numbers(numbers)),
            }
        }
    }
}

fn number_of(label: &Value, classes: &Classes) -> Result<usize> {
    let Value::String(label) = label else {
        return Err(Error::bad_input(format!("expected the name of a label, found {}", printable(&label.to_string()))));
    };
    classes.labels.iter().position(|known| known == label).ok_or_else(|| {
        let error = Error::bad_input(format!("unknown label `{}`", printable(label)));
        match nearest(label, classes.labels.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("known: {}", printable_sentence(&classes.labels.join(", ")))),
        }
    })
}

fn number(label: &Value) -> Result<f32> {
    // A table has no types: its cells are texts.
    let number = label.as_f64().or_else(|| label.as_str()?.trim().parse().ok());
    number.map(|number| number as f32).filter(|number| number.is_finite()).ok_or_else(|| {
        Error::bad_input(format!("expected a number, found {}", printable(&label.to_string())))
            .hint("the model answers with numbers")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(reading: Reading, text: &str) -> Result<Vec<Example>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts.jsonl");
        std::fs::write(&path, text).unwrap();
        read_examples(&path, &Classes { labels: vec!["web".to_owned(), "mail".to_owned()], reading })
    }

    fn read(text: &str) -> Result<Vec<Example>> {
        read_as(Reading::OneLabel, text)
    }

    fn truth(reading: Reading, label: &str) -> Truth {
        read_as(reading, &format!("{{\"text\": \"a\", {label}}}")).unwrap().swap_remove(0).truth.unwrap()
    }

    #[test]
    fn lines_are_examples_and_blank_ones_are_passed_over() {
        let examples =
            read("{\"text\": \"a\", \"label\": \"mail\"}\n\n{\"text\": \"b\", \"text_pair\": \"c\"}\n").unwrap();
        assert_eq!(examples.len(), 2);
        assert_eq!((&examples[0].truth, &examples[0].pair), (&Some(Truth::Classes(vec![1])), &None));
        assert_eq!((&examples[1].truth, examples[1].pair.as_deref()), (&None, Some("c")));
    }

    #[test]
    fn truths_are_what_the_model_can_answer() {
        let many = |label| truth(Reading::ManyLabels, label);
        assert_eq!(many("\"labels\": [\"mail\", \"web\"]"), Truth::Classes(vec![0, 1]));
        assert_eq!(many("\"labels\": []"), Truth::Classes(vec![]));
        assert_eq!(many("\"label\": \"mail\""), Truth::Classes(vec![1]));
        assert_eq!(truth(Reading::Numbers, "\"labels\": [1, -0.5]"), Truth::Numbers(vec![1.0, -0.5]));
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
        let classes = Classes::default();
        let refused = |reader: &mut dyn Read| parse_examples(reader, "t.jsonl", &classes).unwrap_err();
        let long = "t.jsonl line 1: longer than 16777216 bytes";
        // 100 MB without an end, and 17 MB of a letter of two bytes that the limit cuts in half.
        assert_eq!(refused(&mut std::io::repeat(b'x').take(100_000_000)).message(), long);
        assert_eq!(refused(&mut format!("x{}", "é".repeat(17 << 19)).as_bytes()).message(), long);
        assert_eq!(refused(&mut &b"{\"text\": \"\xff\"}"[..]).message(), "t.jsonl line 1: not UTF-8");
    }

    #[test]
    fn labels_that_the_model_cannot_answer_are_refused() {
        let refused = |reading, label: &str| {
            let line = format!("{{\"text\": \"a\", {label}}}");
            read_as(reading, &line).unwrap_err().message().to_owned()
        };
        let one = Reading::OneLabel;
        assert_eq!(refused(one, "\"labels\": [\"web\"]"), "found `labels`, but the model answers with one");
        assert_eq!(refused(one, "\"label\": 1"), "expected the name of a label, found 1");
        assert_eq!(refused(Reading::ManyLabels, "\"labels\": [\"web\", \"web\"]"), "a label stands twice");
        let both = "\"label\": \"web\", \"labels\": []";
        assert_eq!(refused(one, both), "there are `label` and `labels`, expected one of them");
        assert_eq!(refused(Reading::Numbers, "\"label\": \"web\""), "expected a number, found \"web\"");
        assert_eq!(refused(Reading::Numbers, "\"label\": 1"), "found 1 numbers, but the model answers with 2");
    }
}
