//! Texts whose entities are known: as words with tags, or as positions in a text.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Located, not_empty, open, parse, unknown};
use crate::error::{Error, Result, printable};
use crate::eval::entities::{Entity, OUTSIDE, kind};
use crate::json::file_name;

/// The form of a line.
const LINE: &str = "each line is an object such as {\"tokens\": [\"EU\", …], \"tags\": [\"B-ORG\", …]} or {\"text\": \
                    \"…\", \"entities\": [{\"start\": 0, \"end\": 13, \"label\": \"PER\"}]}";

/// A text whose entities are known.
#[derive(Clone, Debug, PartialEq)]
pub enum Tagged {
    /// Words, each with its tag.
    Words {
        /// The words.
        words: Vec<String>,
        /// As many tags.
        tags: Vec<String>,
    },
    /// A text with its entities by their positions in characters.
    Text {
        /// The text.
        text: String,
        /// In their order, no two over the same characters.
        entities: Vec<Entity>,
    },
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    tokens: Option<Vec<String>>,
    #[serde(default, alias = "ner_tags")]
    tags: Option<Vec<Value>>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    entities: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    start: usize,
    end: usize,
    #[serde(alias = "entity_group")]
    label: String,
}

/// Reads texts for a model with `labels`: `tokens` with `tags` (or `ner_tags`), which are labels or their
/// numbers; or `text` with `entities`. Fails, naming the line, where there is neither, a label is of no kind that the
/// model knows, there are not as many tags as words, or an entity is outside of its text or in another.
pub fn read_tagged(path: &Path, labels: &[String]) -> Result<Vec<Located<Tagged>>> {
    parse_tagged(open(path)?, &file_name(path), labels)
}

/// The same for a reader, with `file` as its name in messages; the extension decides the form.
pub fn parse_tagged(reader: impl Read, file: &str, labels: &[String]) -> Result<Vec<Located<Tagged>>> {
    parse(reader, file, LINE, |line: Line| match line {
        Line { tokens: Some(words), tags: Some(tags), text: None, entities: None } => of_words(words, &tags, labels),
        Line { text: Some(text), entities: Some(entities), tokens: None, tags: None } => {
            of_text(text, entities, labels)
        }
        Line { tokens: Some(_), tags: None, .. } => {
            Err(Error::bad_input("there are `tokens` and no `tags`").hint(LINE))
        }
        Line { text: Some(_), entities: None, .. } => {
            Err(Error::bad_input("there is `text` and no `entities`").hint(LINE))
        }
        _ => Err(Error::bad_input("expected `tokens` and `tags`, or `text` and `entities`").hint(LINE)),
    })
}

fn of_words(words: Vec<String>, tags: &[Value], labels: &[String]) -> Result<Tagged> {
    if words.len() != tags.len() {
        return Err(Error::bad_input(format!("there are {} tokens and {} tags", words.len(), tags.len())));
    }
    not_empty(&[&words.concat()])?;
    let tags = tags.iter().map(|tag| tag_of(tag, labels)).collect::<Result<_>>()?;
    Ok(Tagged::Words { words, tags })
}

fn tag_of(tag: &Value, labels: &[String]) -> Result<String> {
    match tag {
        Value::String(tag) => {
            // A model may know the kind by tags of another scheme.
            let of_kind = |label: &String| kind(tag).is_some() && kind(label) == kind(tag);
            let known = tag == OUTSIDE || labels.iter().any(|label| label == tag || of_kind(label));
            if known { Ok(tag.clone()) } else { Err(unknown(tag, labels)) }
        }
        _ => {
            let number = tag.as_u64().and_then(|number| usize::try_from(number).ok());
            number.and_then(|number| labels.get(number)).cloned().ok_or_else(|| {
                let (found, last) = (printable(&tag.to_string()), labels.len().saturating_sub(1));
                Error::bad_input(format!("expected a tag or its number, 0…{last}, found {found}"))
                    .hint("numbers are those of the model's labels, which kilnc inspect shows")
            })
        }
    }
}

fn of_text(text: String, named: Vec<Named>, labels: &[String]) -> Result<Tagged> {
    not_empty(&[&text])?;
    let length = text.chars().count();
    let mut kinds: Vec<&str> = labels.iter().filter_map(|label| kind(label)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut entities = Vec::with_capacity(named.len());
    for Named { start, end, label } in named {
        if start >= end || end > length {
            return Err(Error::bad_input(format!("the entity {start}…{end} is outside of its text, 0…{length}"))
                .hint("positions count characters; the end is the one after the last"));
        }
        if !kinds.contains(&label.as_str()) {
            return Err(unknown(&label, &kinds));
        }
        entities.push(Entity { start, end, kind: label });
    }
    entities.sort();
    let twice = entities.windows(2).find_map(|pair| match pair {
        [a, b] if b.start < a.end => Some((a, b)),
        _ => None,
    });
    match twice {
        Some((a, b)) => {
            let what = format!("the entities {}…{} and {}…{} overlap", a.start, a.end, b.start, b.end);
            Err(Error::bad_input(what).hint("a token has one label, so a model finds one of them at most"))
        }
        None => Ok(Tagged::Text { text, entities }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    fn tagged(line: &str) -> Result<Tagged> {
        let labels = ["O", "B-PER", "I-PER", "LOC"].map(str::to_owned);
        read_tagged(&file("x.jsonl", line).1, &labels).map(|mut found| found.swap_remove(0).row)
    }

    fn said(line: &str) -> String {
        tagged(line).unwrap_err().to_string()
    }

    #[test]
    fn words_have_tags_by_name_or_number() {
        let expected = |tags: [&str; 2]| Tagged::Words {
            words: ["EU", "a"].map(str::to_owned).to_vec(),
            tags: tags.map(str::to_owned).to_vec(),
        };
        let found = tagged("{\"tokens\": [\"EU\", \"a\"], \"tags\": [\"B-PER\", \"O\"], \"id\": \"3\"}").unwrap();
        assert_eq!(found, expected(["B-PER", "O"]));
        let found = tagged("{\"tokens\": [\"EU\", \"a\"], \"ner_tags\": [1, 0]}").unwrap();
        assert_eq!(found, expected(["B-PER", "O"]));
        // The model knows the kind, by another scheme.
        let found = tagged("{\"tokens\": [\"EU\", \"a\"], \"tags\": [\"B-LOC\", \"I-LOC\"]}").unwrap();
        assert_eq!(found, expected(["B-LOC", "I-LOC"]));
    }

    #[test]
    fn texts_have_entities_in_their_order() {
        let line = "{\"text\": \"é東 a\", \"entities\": [{\"start\": 3, \"end\": 4, \"label\": \"LOC\"}, \
                    {\"start\": 0, \"end\": 2, \"entity_group\": \"PER\", \"score\": 0.5}]}";
        let entity = |start, end, kind: &str| Entity { start, end, kind: kind.to_owned() };
        let entities = vec![entity(0, 2, "PER"), entity(3, 4, "LOC")];
        assert_eq!(tagged(line).unwrap(), Tagged::Text { text: "é東 a".to_owned(), entities });
    }

    #[test]
    fn tags_that_no_model_could_give_are_named() {
        let words = |tags: &str| said(&format!("{{\"tokens\": [\"EU\", \"a\"], \"tags\": {tags}}}"));
        assert_eq!(words("[\"O\"]"), "there are 2 tokens and 1 tags\n  in x.jsonl line 1");
        let unknown = words("[\"O\", \"B-PET\"]");
        assert_eq!(unknown, "unknown label `B-PET`\n  in x.jsonl line 1\n\nhint: did you mean `B-PER`?");
        assert!(words("[\"O\", \"\"]").starts_with("unknown label ``\n"));
        for tag in ["4", "-1", "1.5", "null"] {
            let number = words(&format!("[0, {tag}]"));
            let expected = format!("expected a tag or its number, 0…3, found {tag}\n  in x.jsonl line 1\n");
            assert!(number.starts_with(&expected), "{number}");
        }
    }

    #[test]
    fn invalid_entities_are_named() {
        let text = |entities: &str| said(&format!("{{\"text\": \"é東 a\", \"entities\": [{entities}]}}"));
        let of = |start, end, label| format!("{{\"start\": {start}, \"end\": {end}, \"label\": {label:?}}}");
        let outside = text(&of(3, 5, "PER"));
        assert!(outside.starts_with("the entity 3…5 is outside of its text, 0…4\n  in x.jsonl line 1\n"), "{outside}");
        assert!(text(&of(2, 2, "PER")).starts_with("the entity 2…2 is outside of its text, 0…4\n"));
        assert!(text(&of(0, 2, "B-PER")).starts_with("unknown label `B-PER`\n  in x.jsonl line 1\n"));
        let overlap = text(&format!("{}, {}", of(1, 3, "LOC"), of(0, 2, "PER")));
        assert!(overlap.starts_with("the entities 0…2 and 1…3 overlap\n  in x.jsonl line 1\n"), "{overlap}");
        assert!(
            text("{\"start\": -1, \"end\": 2, \"label\": \"PER\"}").starts_with("x.jsonl line 1: entities[0].start: ")
        );
    }

    #[test]
    fn a_line_without_its_parts_is_named() {
        let parts = |line: &str, expected: &str| {
            let said = said(line);
            assert!(said.starts_with(&format!("{expected}\n  in x.jsonl line 1\n\nhint: each line is")), "{said}");
        };
        parts("{\"tokens\": [\"a\"]}", "there are `tokens` and no `tags`");
        parts("{\"text\": \"a\"}", "there is `text` and no `entities`");
        parts("{}", "expected `tokens` and `tags`, or `text` and `entities`");
        parts(
            "{\"text\": \"a\", \"tokens\": [], \"tags\": [], \"entities\": []}",
            "expected `tokens` and `tags`, or `text` and `entities`",
        );
        assert_eq!(said("{\"tokens\": [\" \"], \"tags\": [0]}"), "the text is empty\n  in x.jsonl line 1");
        assert_eq!(said("{\"text\": \" \", \"entities\": []}"), "the text is empty\n  in x.jsonl line 1");
    }
}
