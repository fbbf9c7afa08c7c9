//! Questions to texts, and their answers, in SQuAD's form.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::{Located, not_empty, open, parse};
use crate::error::{Error, Result};
use crate::json::file_name;

/// The form of a line.
const LINE: &str = "each line is an object such as {\"question\": \"…\", \"context\": \"…\", \"answers\": [\"…\"]}; an \
                    empty list means that there is no answer";

/// A question to a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The question.
    pub question: String,
    /// The text that holds the answer, or does not.
    pub context: String,
    /// Every correct answer; none, where the text does not hold one.
    pub answers: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    question: String,
    #[serde(alias = "text")]
    context: String,
    #[serde(default)]
    answers: Option<Answers>,
}

/// The forms of answers: those written by hand, of the Hub's data and of SQuAD's files.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a list of texts, or an object with such a list as `text`")]
enum Answers {
    Texts(Vec<String>),
    Columns { text: Vec<String> },
    Objects(Vec<Object>),
}

#[derive(Deserialize)]
struct Object {
    text: String,
}

impl From<Answers> for Vec<String> {
    fn from(answers: Answers) -> Vec<String> {
        match answers {
            Answers::Texts(texts) | Answers::Columns { text: texts } => texts,
            Answers::Objects(objects) => objects.into_iter().map(|object| object.text).collect(),
        }
    }
}

/// Reads `question`, `context` (or `text`) and `answers`: a list of texts, or SQuAD's objects with `text`. Fails, naming
/// the line, where one is missing or empty; an empty list is valid.
pub fn read_questions(path: &Path) -> Result<Vec<Located<Question>>> {
    parse_questions(open(path)?, &file_name(path))
}

/// The same for a reader, with `file` as its name in messages; the extension decides the form.
pub fn parse_questions(reader: impl Read, file: &str) -> Result<Vec<Located<Question>>> {
    parse(reader, file, LINE, |Line { question, context, answers }| {
        not_empty(&[&question, &context])?;
        let answers = answers.ok_or_else(|| Error::bad_input("there are no `answers`").hint(LINE))?;
        Ok(Question { question, context, answers: answers.into() })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    fn of(answers: &str) -> Result<Vec<String>> {
        let line = format!("{{\"id\": 3, \"question\": \"who?\", \"context\": \"a\"{answers}}}");
        read_questions(&file("x.jsonl", &line).1).map(|mut found| found.swap_remove(0).row.answers)
    }

    #[test]
    fn answers_have_the_forms_of_squad() {
        for answers in ["[\"a\", \"b\"]", "{\"text\": [\"a\", \"b\"], \"answer_start\": [0, 3]}"] {
            assert_eq!(of(&format!(", \"answers\": {answers}")).unwrap(), ["a", "b"], "{answers}");
        }
        assert_eq!(of(", \"answers\": [{\"text\": \"a\", \"answer_start\": 0}]").unwrap(), ["a"]);
        for none in ["[]", "{\"text\": [], \"answer_start\": []}"] {
            assert_eq!(of(&format!(", \"answers\": {none}")).unwrap(), [""; 0], "{none}");
        }
    }

    #[test]
    fn answers_that_are_missing_or_no_texts_are_named() {
        let said = |answers: &str| of(answers).unwrap_err().to_string();
        let none = said("");
        assert!(none.starts_with("there are no `answers`\n  in x.jsonl line 1\n\nhint: each line is"), "{none}");
        let non_finite = "x.jsonl line 1: answers: expected a list of texts, or an object with such a list as `text`";
        for answers in ["\"a\"", "[3]", "{\"texts\": []}"] {
            let found = said(&format!(", \"answers\": {answers}"));
            assert!(found.starts_with(non_finite), "{found}");
        }
    }
}
