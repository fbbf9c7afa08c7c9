//! Predictions for files of texts: JSON lines in, JSON lines out.
//!
//! A line is an object with `text`, and `text_pair` for a pair; or with `question` and `context`. Its `id` is
//! returned with its prediction, letter by letter; other fields are ignored. The prediction for each line is on a line of
//! its own, in the order of the texts. [`OnError`] sets what happens to an invalid line.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::id::Task;
use super::pipeline::{MOST_BYTES, Pipeline, Query, most_texts};
use super::prediction::Predicted;
use super::table::check;
use super::watch::Watch;
use crate::error::{Error, Kind, Result, printable};
use crate::json;
use crate::runtime::TextInput;
use crate::textfile::{Line as TextLine, Lines};

/// What happens to an invalid line: one that is no JSON, has no text or a blank one, or one that the task
/// cannot do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It is an error, and there are no predictions. Blank lines are ignored.
    #[default]
    Fail,
    /// It is left out. Blank lines are passed over.
    Skip,
    /// Its output is `{"error": …}`, with its `id` where it has one; blank lines have such an output too, so that every
    /// output line belongs to the input line with the same number.
    Empty,
}

impl OnError {
    const ALL: [(&str, OnError); 3] = [("fail", OnError::Fail), ("skip", OnError::Skip), ("empty", OnError::Empty)];
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = OnError::ALL.iter().find(|(_, known)| known == self).map(|(name, _)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

impl FromStr for OnError {
    type Err = Error;

    fn from_str(text: &str) -> Result<OnError> {
        let names = OnError::ALL.map(|(name, _)| name);
        OnError::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, on_error)| on_error).ok_or_else(|| {
            let error = Error::bad_input(format!("unknown `{}`; known: {}", printable(text), names.join(", ")));
            error.hint_nearest(text, names)
        })
    }
}

/// The form of a line.
const LINE: &str =
    "each line is an object such as {\"id\": 7, \"text\": \"…\"} or {\"question\": \"…\", \"context\": \"…\"}";

/// Most texts that are held in memory at once.
const MOST_TEXTS: usize = 4096;

/// The counts of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many texts.
    pub texts: usize,
    /// How many of them were read in more than one window.
    pub in_windows: usize,
    /// How many of them were cut.
    pub cut: usize,
    /// How many lines have no prediction.
    #[serde(skip_serializing_if = "is_none")]
    pub failed: usize,
    /// The first of them and its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
}

fn is_none(n: &usize) -> bool {
    *n == 0
}

#[derive(Deserialize)]
struct Line {
    /// Unchanged text: another reader's numbers may have more digits than ours.
    #[serde(default, deserialize_with = "as_it_stands")]
    id: Option<Box<RawValue>>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default, alias = "pair")]
    text_pair: Option<String>,
    #[serde(default)]
    question: Option<String>,
    #[serde(default)]
    context: Option<String>,
}

/// A value that is there, `null` too, letter by letter.
pub fn as_it_stands<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

/// A line that was read.
#[derive(Debug)]
struct Question {
    location: String,
    id: Option<Box<RawValue>>,
    text: String,
    pair: Option<String>,
}

/// The readable parts of an invalid line.
#[derive(Deserialize)]
struct Named {
    #[serde(default, deserialize_with = "as_it_stands")]
    id: Option<Box<RawValue>>,
}

/// An invalid line.
#[derive(Debug)]
struct Failure {
    id: Option<Box<RawValue>>,
    error: Error,
}

#[derive(Serialize)]
struct PredictionLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(flatten)]
    predicted: &'a Predicted,
}

/// The output for an invalid line.
#[derive(Serialize)]
pub struct ErrorLine<'a> {
    /// The line's `id`, where that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a RawValue>,
    /// What is wrong with it, with its location.
    pub error: &'a str,
}

impl Question {
    /// Reads a line for a task. A failure has the line's `id`, where that could be read.
    fn read(line: TextLine, task: Task) -> Result<Question, Failure> {
        let failure = |id: Option<Box<RawValue>>, error: Error| Failure { id, error };
        let (location, text) = object(line, LINE).map_err(|e| failure(None, e))?;
        let question = Question::of(&text, &location).map_err(|e| failure(id_of(&text), e))?;
        match check(task, question.input()) {
            Ok(()) => Ok(question),
            Err(e) => Err(failure(question.id, e.at(location))),
        }
    }

    fn of(text: &str, location: &str) -> Result<Question> {
        let Line { id, text, text_pair, question, context } = json::parse(text, location)?;
        let said = match (text, text_pair, question, context) {
            (Some(text), pair, None, None) => Ok((text, pair)),
            (None, None, Some(question), Some(context)) | (Some(context), None, Some(question), None) => {
                Ok((question, Some(context)))
            }
            (None, _, None, None) => Err("there is no `text`"),
            (_, _, None, Some(_)) => Err("there is `context` and no `question`"),
            (None, _, Some(_), None) => Err("there is `question` and no `context`"),
            _ => Err("there are two of `text`, `text_pair` and `context` where one is expected"),
        };
        match said {
            Ok((text, pair)) => Ok(Question { location: location.to_owned(), id, text, pair }),
            Err(what) => Err(Error::bad_input(what).at(location.to_owned()).hint(LINE)),
        }
    }
}

impl Query for Question {
    fn input(&self) -> TextInput<'_> {
        TextInput { text: &self.text, pair: self.pair.as_deref() }
    }

    fn location(&self) -> Option<String> {
        Some(self.location.clone())
    }
}

/// The `id` of a line, where that can be read.
pub fn id_of(line: &str) -> Option<Box<RawValue>> {
    json::parse(line, "").ok().and_then(|Named { id }| id)
}

/// Reads all lines and runs none. Returns how many have a prediction or an error as output. Unless the lines are to
/// be skipped or have an error, fails at the first that does not fit the task.
pub fn check_lines(from: impl Read, file: &str, task: Task, on_error: OnError) -> Result<u64> {
    let mut lines = Lines::of(from);
    let mut count = 0;
    while let Some(item) = next(&mut lines, file, task, on_error)? {
        count += u64::from(item.is_ok() || on_error == OnError::Empty);
    }
    match count {
        0 => Err(no_texts(file)),
        _ => Ok(count),
    }
}

fn no_texts(file: &str) -> Error {
    Error::bad_input(format!("{file} holds no texts")).hint(LINE)
}

/// Writes the predictions for every line of `from` (`file` in messages) to `to`. Some thousand texts are held in memory
/// at a time; among them, those of similar length are run together. `advance` is called for every text that is done.
/// By default of `on_error`, fails at the first line that does not fit the task, and names it; predictions
/// before it may have been written.
pub fn predict_lines(
    model: &mut Pipeline,
    from: impl Read,
    file: &str,
    to: &mut dyn Write,
    on_error: OnError,
    advance: &dyn Fn(u64),
) -> Result<Summary> {
    let mut lines = Lines::of(from);
    let mut summary = Summary::default();
    loop {
        let mut items = chunk(&mut lines, file, model.task(), on_error)?;
        if items.is_empty() {
            break;
        }
        let predictions = match predict(model, &items, advance) {
            Err(e) if on_error != OnError::Fail && e.kind() == Kind::BadInput => {
                // A bad text is found by checking each; if none is bad, the engine failed.
                if !find_failures(model, &mut items) {
                    return Err(e);
                }
                predict(model, &items, advance)?
            }
            predictions => predictions?,
        };
        let mut predictions = predictions.iter();
        for item in &items {
            match item {
                Ok(question) => {
                    let predicted = predictions.next().ok_or_else(|| Error::bug("a text has no prediction"))?;
                    write(to, &PredictionLine { id: question.id.as_deref(), predicted })?;
                    summary.texts += 1;
                    summary.in_windows += usize::from(predicted.windows > 1);
                    summary.cut += usize::from(predicted.tokens_cut > 0);
                }
                Err(failure) => {
                    let error = failure.summary();
                    if on_error == OnError::Empty {
                        write(to, &ErrorLine { id: failure.id.as_deref(), error: &error })?;
                        advance(1);
                    }
                    summary.failed += 1;
                    summary.first_failure.get_or_insert(error);
                }
            }
        }
        to.flush().map_err(|e| unwritten(&e))?;
    }
    match (summary.texts, &summary.first_failure) {
        (0, None) => Err(no_texts(file)),
        (0, Some(first)) if on_error == OnError::Skip => {
            Err(Error::bad_input(format!("{file}: none of {} lines is valid; the first: {first}", summary.failed)))
        }
        _ => Ok(summary),
    }
}

/// The predictions for the valid lines, in their order.
fn predict(model: &mut Pipeline, items: &[Result<Question, Failure>], advance: &dyn Fn(u64)) -> Result<Vec<Predicted>> {
    let questions: Vec<&Question> = items.iter().filter_map(|item| item.as_ref().ok()).collect();
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let inputs: Vec<TextInput> = questions.iter().map(|question| question.input()).collect();
    let location = |number: usize| questions.get(number).map(|question| question.location.clone());
    model.predict_watched(&inputs, &Watch { location: &location, done: &|_| advance(1) })
}

/// Replaces queries that the model's tokenizer or task refuses by failures. Returns whether there are any.
fn find_failures(model: &Pipeline, items: &mut [Result<Question, Failure>]) -> bool {
    let mut found = false;
    for item in items {
        let Ok(question) = item else { continue };
        if let Err(e) = model.check_text(question.input()) {
            let error = e.at(question.location.clone());
            *item = Err(Failure { id: question.id.take(), error });
            found = true;
        }
    }
    found
}

/// The location and the text of a line that looks like an object; else the error says which form a line has.
pub fn object(line: TextLine, form: &'static str) -> Result<(String, String)> {
    let text = line.text?;
    match text.trim_start().starts_with('{') {
        true => Ok((line.location, text)),
        false => {
            let what = if text.trim().is_empty() { "the line is blank" } else { "the line is no object" };
            Err(Error::bad_input(what).at(line.location).hint(form))
        }
    }
}

/// The message of an error with its locations, on one line.
pub fn one_line(error: &Error) -> String {
    match error.locations() {
        [] => error.message().to_owned(),
        locations => format!("{}: {}", locations.join(": "), error.message()),
    }
}

impl Failure {
    fn summary(&self) -> String {
        one_line(&self.error)
    }
}

/// The next line that is valid, or that is counted or has an error as output.
fn next<R: Read>(
    lines: &mut Lines<R>,
    file: &str,
    task: Task,
    on_error: OnError,
) -> Result<Option<Result<Question, Failure>>> {
    while let Some(line) = lines.next(file)? {
        if line.is_blank() && on_error != OnError::Empty {
            continue;
        }
        return match Question::read(line, task) {
            Err(failure) if on_error == OnError::Fail => Err(failure.error),
            item => Ok(Some(item)),
        };
    }
    Ok(None)
}

/// The next lines, as many as are in memory at once.
fn chunk<R: Read>(
    lines: &mut Lines<R>,
    file: &str,
    task: Task,
    on_error: OnError,
) -> Result<Vec<Result<Question, Failure>>> {
    let most = most_texts(task, MOST_TEXTS);
    let (mut items, mut bytes) = (Vec::new(), 0);
    while items.len() < most
        && bytes < MOST_BYTES
        && let Some(item) = next(lines, file, task, on_error)?
    {
        if let Ok(question) = &item {
            bytes += question.text.len() + question.pair.as_ref().map_or(0, String::len);
        }
        items.push(item);
    }
    Ok(items)
}

fn write(to: &mut dyn Write, line: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(line).map_err(|e| Error::bug(format!("a prediction cannot be printed: {e}")))?;
    to.write_all(line.as_bytes()).and_then(|()| to.write_all(b"\n")).map_err(|e| unwritten(&e))
}

fn unwritten(error: &std::io::Error) -> Error {
    Error::of_system("writing predictions", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(task: Task, lines: &str) -> Result<u64> {
        check_lines(lines.as_bytes(), "x.jsonl", task, OnError::Fail)
    }

    #[test]
    fn lines_are_texts_pairs_or_questions() {
        let lines = "{\"text\": \"a\", \"id\": [1]}\n\n{\"text\": \"a\", \"text_pair\": \"b\", \"label\": 3}\n";
        assert_eq!(check(Task::TextClassification, lines).unwrap(), 2);
        let lines = "{\"question\": \"a\", \"context\": \"b\"}\n{\"question\": \"a\", \"text\": \"b\"}";
        assert_eq!(check(Task::QuestionAnswering, lines).unwrap(), 2);
    }

    #[test]
    fn an_id_is_returned_letter_by_letter() {
        for id in [
            "7",
            "1.10",
            "1e2",
            "-0",
            "123456789012345678901234567890",
            "\"\\u00e9é\"",
            "{\"b\": [1,  2.50], \"a\": null}",
            "null",
            "false",
        ] {
            let question = Question::of(&format!("{{\"id\": {id}, \"text\": \"a\"}}"), "x").unwrap();
            let prediction = crate::task::Prediction::Similarity { score: 0.5 };
            let predicted = Predicted { prediction, windows: 1, tokens_cut: 0 };
            let mut out = Vec::new();
            write(&mut out, &PredictionLine { id: question.id.as_deref(), predicted: &predicted }).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("{{\"id\":{id},\"score\":0.5}}\n"));
        }
        let none = Question::of("{\"text\": \"a\"}", "x").unwrap();
        assert!(none.id.is_none());
        let twice = Question::of("{\"id\": {\"a\": 1, \"a\": 2}, \"text\": \"a\"}", "x");
        assert_eq!(twice.err().unwrap().message(), "x: id: duplicate `a` at line 1 column 19");
    }

    #[test]
    fn a_line_that_is_none_of_these_is_refused_by_its_number() {
        let said = |task, line: &str| check(task, &format!("{{\"text\": \"a\"}}\n{line}\n")).unwrap_err().to_string();
        let one = Task::TextClassification;
        for line in ["[\"a\"]", "3", "text"] {
            assert!(said(one, line).starts_with("the line is no object\n  in x.jsonl line 2\n"), "{line}");
        }
        assert!(said(one, "{\"text\": 3}").starts_with("x.jsonl line 2: text: invalid type"));
        assert!(said(one, "{\"text\": \"a\"").starts_with("x.jsonl line 2: EOF"));
        assert!(said(one, "{}").starts_with("there is no `text`\n  in x.jsonl line 2\n"));
        assert!(said(one, "{\"text\": \" \"}").starts_with("a text is empty\n  in x.jsonl line 2"));
        assert!(said(one, "{\"context\": \"a\"}").starts_with("there is `context` and no `question`"));
        assert!(said(one, "{\"question\": \"a\"}").starts_with("there is `question` and no `context`"));
        let both = "{\"question\": \"a\", \"context\": \"b\", \"text\": \"c\"}";
        assert!(said(one, both).starts_with("there are two of `text`, `text_pair` and `context`"));
        let question = check(Task::QuestionAnswering, "{\"text\": \"a\"}").unwrap_err().to_string();
        assert!(question.starts_with("there is no question to the text\n  in x.jsonl line 1\n"), "{question}");
        assert_eq!(check(one, " \n").unwrap_err().message(), "x.jsonl holds no texts");
    }

    #[test]
    fn lines_that_fail_are_left_out_or_have_an_error() {
        let bytes =
            b"{\"text\": \"a\", \"id\": 1}\n\nno\n{\"text\": \"\xff\"}\n{\"id\": 7}\n{\"text\": \" \", \"id\": 8}\n";
        let found = |on_error| {
            let mut lines = Lines::of(&bytes[..]);
            let mut found = Vec::new();
            while let Some(item) = next(&mut lines, "x.jsonl", Task::TextClassification, on_error).unwrap() {
                found.push(match item {
                    Ok(question) => (question.id.map(|id| id.get().to_owned()), question.text),
                    Err(failure) => (failure.id.as_ref().map(|id| id.get().to_owned()), failure.summary()),
                });
            }
            found
        };
        let number = |n: i64| Some(n.to_string());
        let expected = [
            (number(1), "a"),
            (None, "x.jsonl line 2: the line is blank"),
            (None, "x.jsonl line 3: the line is no object"),
            (None, "x.jsonl line 4: not UTF-8"),
            (number(7), "x.jsonl line 5: there is no `text`"),
            (number(8), "x.jsonl line 6: a text is empty"),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(id, text)| (id, text.to_owned())).collect();
        assert_eq!(found(OnError::Empty), expected);
        let without_blank: Vec<_> = expected.iter().filter(|(_, text)| !text.contains("blank")).cloned().collect();
        assert_eq!(found(OnError::Skip), without_blank);
        let count = |on_error| check_lines(&bytes[..], "x.jsonl", Task::TextClassification, on_error);
        assert_eq!((count(OnError::Empty).unwrap(), count(OnError::Skip).unwrap()), (6, 1));
        assert!(
            count(OnError::Fail).unwrap_err().to_string().starts_with("the line is no object\n  in x.jsonl line 3\n")
        );
    }

    #[test]
    fn handlings_of_invalid_lines_have_names() {
        for (name, on_error) in OnError::ALL {
            assert_eq!((name.parse::<OnError>().unwrap(), on_error.to_string().as_str()), (on_error, name));
        }
        let said = "skp".parse::<OnError>().unwrap_err().to_string();
        assert_eq!(said, "unknown `skp`; known: fail, skip, empty\n\nhint: did you mean skip?");
    }
}
