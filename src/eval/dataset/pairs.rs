//! Pairs of texts, and their similarity as people scored it.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Located, finite, no_number, not_empty, open, parse};
use crate::error::Result;
use crate::json::file_name;

/// The form of a line.
const LINE: &str = "each line is an object such as {\"text\": \"…\", \"pair\": \"…\", \"score\": 3.5}";

/// Two texts and their similarity.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The first text.
    pub text: String,
    /// The second.
    pub pair: String,
    /// Larger is more similar; of any scale.
    pub score: f64,
}

#[derive(Deserialize)]
struct Line {
    #[serde(alias = "sentence1")]
    text: String,
    #[serde(alias = "text_pair", alias = "sentence2")]
    pair: String,
    #[serde(alias = "label")]
    score: Value,
}

/// Reads pairs with `text`, `pair` and `score`; or, as in the Hub's data, `sentence1`, `sentence2` and `label`. Fails,
/// naming the line, where one is missing, a text is empty or a score is no number.
pub fn read_pairs(path: &Path) -> Result<Vec<Located<Pair>>> {
    parse_pairs(open(path)?, &file_name(path))
}

/// The same for a reader, with `file` as its name in messages; the extension decides the form.
pub fn parse_pairs(reader: impl Read, file: &str) -> Result<Vec<Located<Pair>>> {
    parse(reader, file, LINE, |Line { text, pair, score }| {
        not_empty(&[&text, &pair])?;
        let score = finite(&score).ok_or_else(|| no_number(&score).hint("the score is the similarity of the two"))?;
        Ok(Pair { text, pair, score })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    fn pairs(name: &str, text: &str) -> Result<Vec<Located<Pair>>> {
        read_pairs(&file(name, text).1)
    }

    #[test]
    fn pairs_are_read_by_either_name_and_from_tables() {
        let expected = Pair { text: "a".to_owned(), pair: "b".to_owned(), score: 2.5 };
        let lines = "{\"text\": \"a\", \"pair\": \"b\", \"score\": 2.5}\n\
                     {\"sentence1\": \"a\", \"sentence2\": \"b\", \"label\": 2.5, \"idx\": 7}\n";
        let found = pairs("x.jsonl", lines).unwrap();
        assert_eq!(found.iter().map(|pair| &pair.row).collect::<Vec<_>>(), [&expected; 2]);
        assert_eq!(pairs("x.csv", "text,pair,score\na,b,2.5\n").unwrap()[0].row, expected);
    }

    #[test]
    fn a_pair_without_its_parts_is_named() {
        let said = |line: &str| pairs("x.jsonl", line).unwrap_err().to_string();
        let score = said("{\"text\": \"a\", \"pair\": \"b\", \"score\": \"much\"}");
        assert!(score.starts_with("expected a number, found \"much\"\n  in x.jsonl line 1\n"), "{score}");
        assert!(said("{\"text\": \"a\", \"score\": 1}").starts_with("x.jsonl line 1: missing field `pair`"));
        assert!(said("{\"text\": \"a\", \"pair\": \"b\"}").starts_with("x.jsonl line 1: missing field `score`"));
        let empty = said("{\"text\": \"a\", \"pair\": \" \", \"score\": 1}");
        assert_eq!(empty, "the text is empty\n  in x.jsonl line 1");
        assert_eq!(said(""), format!("x.jsonl holds no texts\n\nhint: {LINE}"));
        assert!(said("3").ends_with(&format!("\n\nhint: {LINE}")));
    }
}
