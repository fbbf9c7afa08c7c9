//! Texts with their labels: here for classifiers, in a file of its own for every other task.

mod masked;
mod pairs;
mod questions;
mod tagged;
mod texts;

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::rows::{LINE, Rows, open};
use crate::error::{Error, Result, nearest, printable, printable_sentence};
use crate::json::file_name;
use crate::runtime::{Classes, ProblemType, TextInput};

pub use masked::{Masked, parse_masked, read_masked};
pub use pairs::{Pair, parse_pairs, read_pairs};
pub use questions::{Question, parse_questions, read_questions};
pub use tagged::{Tagged, parse_tagged, read_tagged};
pub use texts::{Text, parse_texts, read_texts};

/// A text or a pair of texts, and its label, where that is known.
#[derive(Clone, Debug)]
pub struct Example {
    /// The input of the model.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// The label.
    pub truth: Option<Truth>,
}

/// The expected prediction.
#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    /// These labels, by number and in order.
    Classes(Vec<usize>),
    /// These labels, each by the numbers of all classes of its name.
    Names(Vec<Vec<usize>>),
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
/// line, where one is none of this, has an empty text, or a label that is not among `classes`.
pub fn read_examples(path: &Path, classes: &Classes) -> Result<Vec<Example>> {
    not_none(examples(path, None, classes)?.collect::<Result<_>>()?, &file_name(path))
}

/// The same for a reader, with `file` as its name in messages; the extension decides the form.
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

/// Like [`examples`], for texts that count without their labels too: a label that the model lacks is no error, but is
/// passed to `foreign`, and the text has no truth.
pub fn examples_with_any_labels<'a, F: Fn(Error) + 'a>(
    path: &Path,
    text: Option<&str>,
    classes: &'a Classes,
    foreign: F,
) -> Result<impl Iterator<Item = Result<Example>> + use<'a, F>> {
    Ok(located(Rows::open(path, text)?, classes).map(move |row| {
        let (example, said) = row?;
        said.unwrap_or_else(&foreign);
        Ok(example)
    }))
}

fn checked<R: Read>(rows: Rows<R, Line>, classes: &Classes) -> impl Iterator<Item = Result<Example>> {
    located(rows, classes).map(|row| {
        let (example, said) = row?;
        said.map(|()| example)
    })
}

/// Each text, and why its label is none of the model's. Errors name the line.
fn located<R: Read>(rows: Rows<R, Line>, classes: &Classes) -> impl Iterator<Item = Result<(Example, Result<()>)>> {
    rows.map(move |row| {
        let (location, line) = row?;
        let (example, said) = line.example(classes).map_err(|e| e.at(location.clone()))?;
        Ok((example, said.map_err(|e| e.at(location))))
    })
}

/// Refuses a file without texts.
pub fn not_none(examples: Vec<Example>, file: &str) -> Result<Vec<Example>> {
    some(examples, file, LINE)
}

/// Refuses a file without rows; `line` says what they must be.
fn some<T>(rows: Vec<T>, file: &str, line: &'static str) -> Result<Vec<T>> {
    match rows.is_empty() {
        true => Err(Error::bad_input(format!("{file} holds no texts")).hint(line)),
        false => Ok(rows),
    }
}

/// A row of a file, and its location, for messages.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The file and the line.
    pub location: String,
    /// Its content.
    pub row: T,
}

/// Reads each row of a reader by `made`, with `file` as its name in messages; `line` says what rows must
/// be. Fails, naming the line, where one is not that.
fn parse<R: Read, L: DeserializeOwned, T>(
    reader: R,
    file: &str,
    line: &'static str,
    made: impl Fn(L) -> Result<T>,
) -> Result<Vec<Located<T>>> {
    let rows = Rows::of(reader, file, None)?.of_lines(line).map(|row| {
        let (location, read) = row?;
        match made(read) {
            Ok(row) => Ok(Located { location, row }),
            Err(e) => Err(e.at(location)),
        }
    });
    some(rows.collect::<Result<_>>()?, file, line)
}

/// Fails where one of the texts is empty.
fn not_empty(texts: &[&str]) -> Result<()> {
    match texts.iter().any(|text| text.trim().is_empty()) {
        true => Err(Error::bad_input("the text is empty")),
        false => Ok(()),
    }
}

impl Line {
    /// The text and its label, or why the label is none of the model's.
    fn example(self, classes: &Classes) -> Result<(Example, Result<()>)> {
        not_empty(&[&self.text, self.pair.as_ref().unwrap_or(&self.text)])?;
        // Where the model's classes have no names, the labels belong to another model.
        let truth = match (self.label, self.labels) {
            _ if classes.labels.is_empty() => Ok(None),
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Error::bad_input("there are `label` and `labels`, expected one of them")),
            (Some(label), None) => truth(&[label], classes).map(Some),
            (None, Some(_)) if matches!(classes.problem_type, ProblemType::SingleLabel | ProblemType::Logits) => {
                Err(Error::bad_input("found `labels`, but the model predicts one")
                    .hint("write `label`; where the model predicts several labels at once, set `problem_type`"))
            }
            (None, Some(labels)) => truth(&labels, classes).map(Some),
        };
        let (truth, said) = match truth {
            Ok(truth) => (truth, Ok(())),
            Err(e) => (None, Err(e)),
        };
        Ok((Example { text: self.text, pair: self.pair, truth }, said))
    }
}

/// The expected prediction, as the model's classes.
fn truth(found: &[Value], classes: &Classes) -> Result<Truth> {
    match classes.problem_type {
        ProblemType::SingleLabel | ProblemType::Logits | ProblemType::MultiLabel => {
            let mut numbers = found.iter().map(|label| numbers_of(label, classes)).collect::<Result<Vec<_>>>()?;
            numbers.sort_unstable();
            let alone = |numbers: &Vec<usize>| numbers.first().copied().filter(|_| numbers.len() == 1);
            match numbers.windows(2).any(|pair| pair.first() == pair.last()) {
                true => Err(Error::bad_input("duplicate label")),
                false => Ok(match numbers.iter().map(alone).collect() {
                    Some(numbers) => Truth::Classes(numbers),
                    None => Truth::Names(numbers),
                }),
            }
        }
        ProblemType::Regression | ProblemType::Score => {
            let numbers = found.iter().map(number).collect::<Result<Vec<_>>>()?;
            match (numbers.len(), classes.labels.len()) {
                (found, expected) if found != expected => {
                    Err(Error::bad_input(format!("found {found} numbers, but the model predicts {expected}")))
                }
                _ => Ok(Truth::Numbers(numbers)),
            }
        }
    }
}

/// The numbers of all classes of that name, of which there may be several. A name may be a number.
fn numbers_of(label: &Value, classes: &Classes) -> Result<Vec<usize>> {
    let (name, is_text) = match label {
        Value::String(label) => (label.clone(), true),
        label => (label.to_string(), false),
    };
    let named = classes.labels.iter().enumerate().filter(|(_, known)| **known == name);
    let numbers: Vec<usize> = named.map(|(number, _)| number).collect();
    match numbers.is_empty() {
        false => Ok(numbers),
        true if is_text => Err(unknown(&name, &classes.labels)),
        true => Err(Error::bad_input(format!("expected the name of a label, found {}", printable(&name)))),
    }
}

/// How a hint begins that offers a label for one that is misspelt.
const MEANT: &str = "did you mean";

/// Whether an error is that of a label which is nearly one of the model's.
pub fn is_misspelt(error: &Error) -> bool {
    error.hints().iter().any(|hint| hint.starts_with(MEANT))
}

/// The error of an unknown label, with the nearest one.
fn unknown<S: AsRef<str>>(label: &str, known: &[S]) -> Error {
    let error = Error::bad_input(format!("unknown label `{}`", printable(label)));
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    match nearest(label, known.iter().copied()) {
        Some(near) => error.hint(format!("{MEANT} `{near}`?")),
        None => error.hint(format!("known: {}", printable_sentence(&known.join(", ")))),
    }
}

fn number(label: &Value) -> Result<f32> {
    let found = finite(label).map(|number| number as f32).filter(|number| number.is_finite());
    found.ok_or_else(|| no_number(label).hint("the model predicts numbers"))
}

/// The number that a value is. A table has no types: its cells are texts.
fn finite(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|number| number.is_finite())
}

fn no_number(value: &Value) -> Error {
    Error::bad_input(format!("expected a number, found {}", printable(&value.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in a folder of its own, which is there as long as the first of the two.
    pub(super) fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn read_as(problem_type: ProblemType, text: &str) -> Result<Vec<Example>> {
        let (_dir, path) = file("texts.jsonl", text);
        read_examples(&path, &Classes { labels: vec!["web".to_owned(), "mail".to_owned()], problem_type })
    }

    fn read(text: &str) -> Result<Vec<Example>> {
        read_as(ProblemType::SingleLabel, text)
    }

    fn truth(problem_type: ProblemType, label: &str) -> Truth {
        read_as(problem_type, &format!("{{\"text\": \"a\", {label}}}")).unwrap().swap_remove(0).truth.unwrap()
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
    fn truths_are_among_the_models_labels() {
        let many = |label| truth(ProblemType::MultiLabel, label);
        assert_eq!(many("\"labels\": [\"mail\", \"web\"]"), Truth::Classes(vec![0, 1]));
        assert_eq!(many("\"labels\": []"), Truth::Classes(vec![]));
        assert_eq!(many("\"label\": \"mail\""), Truth::Classes(vec![1]));
        assert_eq!(truth(ProblemType::Regression, "\"labels\": [1, -0.5]"), Truth::Numbers(vec![1.0, -0.5]));
    }

    #[test]
    fn a_name_that_several_classes_have_is_all_of_them_and_may_be_a_number() {
        let classes = |labels: [&str; 3]| Classes { labels: labels.map(str::to_owned).to_vec(), ..Classes::default() };
        let read = |labels, label: &str| {
            let (_dir, path) = file("t.jsonl", &format!("{{\"text\": \"a\", \"label\": {label}}}"));
            read_examples(&path, &classes(labels)).unwrap().swap_remove(0).truth.unwrap()
        };
        assert_eq!(read(["neg", "pos", "pos"], "\"pos\""), Truth::Names(vec![vec![1, 2]]));
        assert_eq!(read(["neg", "pos", "pos"], "\"neg\""), Truth::Classes(vec![0]));
        assert_eq!(read(["1", "2", "3"], "2"), Truth::Classes(vec![1]));
        assert_eq!(read(["1", "2", "3"], "\"3\""), Truth::Classes(vec![2]));
    }

    #[test]
    fn texts_that_count_without_labels_too_are_read_with_any() {
        let text = "{\"text\": \"a\", \"label\": \"web\"}\n{\"text\": \"b\", \"label\": \"river\"}\n";
        let (_dir, path) = file("t.jsonl", text);
        let classes = Classes { labels: vec!["web".to_owned()], ..Classes::default() };
        let said = std::cell::RefCell::new(Vec::new());
        let found = examples_with_any_labels(&path, None, &classes, |e| said.borrow_mut().push(e.to_string())).unwrap();
        let truths: Vec<_> = found.map(|example| example.unwrap().truth).collect();
        assert_eq!(truths, [Some(Truth::Classes(vec![0])), None]);
        assert_eq!(said.into_inner(), ["unknown label `river`\n  in t.jsonl line 2\n\nhint: known: web"]);
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
    fn labels_that_the_model_lacks_are_refused() {
        let refused = |problem_type, label: &str| {
            let line = format!("{{\"text\": \"a\", {label}}}");
            read_as(problem_type, &line).unwrap_err().message().to_owned()
        };
        let one = ProblemType::SingleLabel;
        assert_eq!(refused(one, "\"labels\": [\"web\"]"), "found `labels`, but the model predicts one");
        assert_eq!(refused(one, "\"label\": 1"), "expected the name of a label, found 1");
        assert_eq!(refused(ProblemType::MultiLabel, "\"labels\": [\"web\", \"web\"]"), "duplicate label");
        let both = "\"label\": \"web\", \"labels\": []";
        assert_eq!(refused(one, both), "there are `label` and `labels`, expected one of them");
        assert_eq!(refused(ProblemType::Regression, "\"label\": \"web\""), "expected a number, found \"web\"");
        assert_eq!(refused(ProblemType::Regression, "\"label\": 1"), "found 1 numbers, but the model predicts 2");
    }
}
