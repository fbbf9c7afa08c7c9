//! Answers files of texts: JSON lines in, JSON lines out.
//!
//! A line is an object with `text`, and `text_pair` for a pair; or with `question` and `context`. What it has as `id` is
//! given back with its answer, letter by letter; other fields are passed over. The answer to each line stands on a line of its own, in
//! the order of the texts.

use std::io::{Read, Write};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{Answered, Answerer, Asking, check};
use crate::checkpoint::json;
use crate::error::{Error, Result};
use crate::eval::Lines;
use crate::runtime::TextInput;
use crate::task::Task;

/// What a line must be.
const LINE: &str =
    "each line is an object such as {\"id\": 7, \"text\": \"…\"} or {\"question\": \"…\", \"context\": \"…\"}";

/// Most texts that are held in memory at once.
const MOST_TEXTS: usize = 4096;

/// What was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many texts.
    pub texts: usize,
    /// How many of them were read in more than one window.
    pub in_windows: usize,
    /// How many of them were cut.
    pub cut: usize,
}

#[derive(Deserialize)]
struct Line {
    /// As it stands: another reader's numbers may have more digits than ours.
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

/// A value that is there, `null` too.
fn as_it_stands<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

/// A line that was read.
struct Question {
    place: String,
    id: Option<Box<RawValue>>,
    text: String,
    pair: Option<String>,
}

#[derive(Serialize)]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(flatten)]
    answered: &'a Answered,
}

impl Question {
    fn read(place: String, line: &str) -> Result<Question> {
        if !line.trim_start().starts_with('{') {
            return Err(Error::bad_input("the line is no object").at(place).hint(LINE));
        }
        let Line { id, text, text_pair, question, context } = json::parse(line, &place)?;
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
            Ok((text, pair)) => Ok(Question { place, id, text, pair }),
            Err(what) => Err(Error::bad_input(what).at(place).hint(LINE)),
        }
    }
}

impl Asking for Question {
    fn input(&self) -> TextInput<'_> {
        TextInput { text: &self.text, pair: self.pair.as_deref() }
    }

    fn place(&self) -> Option<String> {
        Some(self.place.clone())
    }
}

/// Reads all lines and answers none. Gives how many there are. Fails at the first that is not what the task asks for.
pub fn check_lines(from: impl Read, file: &str, task: Task) -> Result<u64> {
    let mut lines = Lines::of(from);
    let mut count = 0;
    while let Some(question) = next(&mut lines, file, task)? {
        drop(question);
        count += 1;
    }
    match count {
        0 => Err(Error::bad_input(format!("{file} holds no texts")).hint(LINE)),
        _ => Ok(count),
    }
}

/// Answers every line of `from`, which messages call `file`, into `to`. Some thousand texts are held in memory at a time;
/// among them, those of like length are run together. `advance` hears of every text that was answered. Fails at the
/// first line that is not what the task asks for, and names it; what was answered before it may have been written.
pub fn answer_lines(
    model: &mut Answerer,
    from: impl Read,
    file: &str,
    to: &mut dyn Write,
    advance: &dyn Fn(u64),
) -> Result<Summary> {
    let mut lines = Lines::of(from);
    let mut summary = Summary::default();
    let task = model.task();
    let mut tell = |answers: Vec<(Question, Answered)>| {
        for (question, answered) in &answers {
            write(to, &Told { id: question.id.as_deref(), answered })?;
            summary.texts += 1;
            summary.in_windows += usize::from(answered.windows > 1);
            summary.cut += usize::from(answered.tokens_cut > 0);
        }
        to.flush().map_err(|e| unwritten(&e))
    };
    model.answer_each(MOST_TEXTS, &mut || next(&mut lines, file, task), &|| advance(1), &mut tell)?;
    match summary.texts {
        0 => Err(Error::bad_input(format!("{file} holds no texts")).hint(LINE)),
        _ => Ok(summary),
    }
}

fn next<R: Read>(lines: &mut Lines<R>, file: &str, task: Task) -> Result<Option<Question>> {
    let Some((place, line)) = lines.read(file)? else { return Ok(None) };
    let question = Question::read(place, &line)?;
    check(task, question.input()).map_err(|e| e.at(question.place.clone()))?;
    Ok(Some(question))
}

fn write(to: &mut dyn Write, told: &Told) -> Result<()> {
    let line = serde_json::to_string(told).map_err(|e| Error::bug(format!("an answer cannot be printed: {e}")))?;
    to.write_all(line.as_bytes()).and_then(|()| to.write_all(b"\n")).map_err(|e| unwritten(&e))
}

fn unwritten(error: &std::io::Error) -> Error {
    Error::of_system("writing answers", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(task: Task, lines: &str) -> Result<u64> {
        check_lines(lines.as_bytes(), "x.jsonl", task)
    }

    #[test]
    fn lines_are_texts_pairs_or_questions() {
        let lines = "{\"text\": \"a\", \"id\": [1]}\n\n{\"text\": \"a\", \"text_pair\": \"b\", \"label\": 3}\n";
        assert_eq!(check(Task::TextClassification, lines).unwrap(), 2);
        let lines = "{\"question\": \"a\", \"context\": \"b\"}\n{\"question\": \"a\", \"text\": \"b\"}";
        assert_eq!(check(Task::QuestionAnswering, lines).unwrap(), 2);
    }

    #[test]
    fn an_id_is_given_back_letter_by_letter() {
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
            let question = Question::read("x".to_owned(), &format!("{{\"id\": {id}, \"text\": \"a\"}}")).unwrap();
            let answer = crate::answer::Answer::Similarity { score: 0.5 };
            let answered = Answered { answer, windows: 1, tokens_cut: 0 };
            let mut told = Vec::new();
            write(&mut told, &Told { id: question.id.as_deref(), answered: &answered }).unwrap();
            assert_eq!(String::from_utf8(told).unwrap(), format!("{{\"id\":{id},\"score\":0.5}}\n"));
        }
        let none = Question::read("x".to_owned(), "{\"text\": \"a\"}").unwrap();
        assert!(none.id.is_none());
        let twice = Question::read("x".to_owned(), "{\"id\": {\"a\": 1, \"a\": 2}, \"text\": \"a\"}");
        assert_eq!(twice.err().unwrap().message(), "x: id: `a` stands twice at line 1 column 19");
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
}
