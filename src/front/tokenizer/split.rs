//! `split_special_tokens`: a text that has the characters of a special token has no special token. A `tokenizer.json` says
//! that by not naming these tokens among those that are matched in texts; their ids are in the model.

use std::collections::HashSet;

use serde_json::Value;

use super::added::{Merged, Token, Vocabulary};
use super::{CONFIG, FILE};
use crate::error::{Result, printable};
use crate::json::raw::{Object, quoted};

/// The field of the padding token, whose id is looked up.
const PADDING: [&str; 2] = ["[PAD]", "<pad>"];

/// The changes of a `tokenizer.json` where special tokens are not matched in texts.
pub(super) struct Split {
    /// The tokens that are.
    pub tokens: Merged,
    /// Tokens that the model has to name from now on, so that all keep their numbers.
    moved: Vec<(u32, String)>,
}

impl Split {
    /// Takes special tokens from those that are matched; or why the file cannot express that.
    pub fn of(tokens: &Merged, file: &Object, vocabulary: &Vocabulary) -> Result<Split, String> {
        let (special, plain): (Vec<_>, Vec<_>) = tokens.entries().iter().cloned().partition(|(_, token)| token.special);
        if let Some((one, other)) = overlapping(&special, &plain) {
            return Err(why(&one, &format!("it shares characters with `{}`, which is matched", printable(&other))));
        }
        let outside = |entry: &&(u32, Token)| !vocabulary.contains(&entry.1.content);
        let loose: Vec<_> = special.iter().filter(outside).collect();
        let Some((_, first)) = loose.first() else { return Ok(Split::kept(tokens, plain, Vec::new())) };
        let named = |entries: &[&(u32, Token)]| {
            entries.iter().map(|(id, token)| (*id, token.content.clone())).collect::<Vec<_>>()
        };
        // BPE makes no token of several characters but by its merges.
        let is_bpe = vocabulary.is_plain_bpe() && loose.iter().all(|(_, token)| token.content.chars().count() > 1);
        let others: Vec<_> = plain.iter().filter(outside).collect();
        if is_bpe && others.iter().all(|(_, token)| token.content.chars().count() > 1) {
            let moved = [named(&loose), named(&others)].concat();
            return Ok(Split::kept(tokens, plain, moved));
        }
        // Numbers at the end, which nothing else in the file has, are not missed.
        let used = numbers(file);
        let last = others.iter().map(|(id, _)| *id).max();
        let missed = |(id, token): &&(u32, Token)| {
            used.contains(id) || PADDING.contains(&token.content.as_str()) || last.is_some_and(|last| last > *id)
        };
        match !loose.iter().any(missed) {
            true => Ok(Split::kept(tokens, plain, Vec::new())),
            false => Err(why(&first.content, "its id is outside of the model, and would be lost")),
        }
    }

    fn kept(before: &Merged, plain: Vec<(u32, Token)>, moved: Vec<(u32, String)>) -> Split {
        let changed = before.changed || plain.len() < before.entries().len();
        Split { tokens: Merged::of(plain, changed), moved }
    }

    /// The model with the tokens that it has to name, where there are any.
    pub fn model(&self, file: &Object) -> Result<Option<String>> {
        if self.moved.is_empty() {
            return Ok(None);
        }
        let location = format!("{FILE}: model");
        let mut model = Object::of(file.required("model", FILE)?, &location)?;
        let vocabulary = model.required("vocab", &location)?.trim();
        let entries = self.moved.iter().map(|(id, content)| format!("{}:{id}", quoted(content)));
        let entries = entries.collect::<Vec<_>>().join(",");
        let inner = vocabulary.strip_suffix('}').unwrap_or(vocabulary).trim_end();
        let comma = if inner.ends_with('{') { "" } else { "," };
        let vocabulary = format!("{inner}{comma}{entries}}}");
        model.set("vocab", vocabulary);
        Ok(Some(model.to_string()))
    }
}

fn why(token: &str, why: &str) -> String {
    format!(
        "{CONFIG}: split_special_tokens is true: a special token in a text is one token all the same, for {FILE} cannot be \
         without `{}`: {why}",
        printable(token)
    )
}

/// A special token and another one that it no longer hides where both match at one position of a text.
fn overlapping(special: &[(u32, Token)], plain: &[(u32, Token)]) -> Option<(String, String)> {
    let ends_as = |one: &str, other: &str| {
        one.char_indices().any(|(at, _)| one.get(at..).is_some_and(|end| other.starts_with(end)))
    };
    let overlap = |one: &str, other: &str| {
        one.contains(other) || other.contains(one) || ends_as(one, other) || ends_as(other, one)
    };
    special.iter().find_map(|(_, one)| {
        let (_, other) = plain.iter().find(|(_, other)| overlap(&one.content, &other.content))?;
        Some((one.content.clone(), other.content.clone()))
    })
}

/// The ids of tokens in the padding and around texts.
fn numbers(file: &Object) -> HashSet<u32> {
    let mut found = HashSet::new();
    for key in ["padding", "post_processor"] {
        if let Some(value) = file.get(key).and_then(|text| serde_json::from_str(text).ok()) {
            collect(&value, &mut found);
        }
    }
    found
}

fn collect(value: &Value, found: &mut HashSet<u32>) {
    match value {
        Value::Number(number) => found.extend(number.as_u64().and_then(|number| u32::try_from(number).ok())),
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(fields) => fields.values().for_each(|item| collect(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens that are matched, and the model's if it is another; or why there are none.
    fn split(model: &str, around: &str, added: &[(u32, &str, bool)]) -> Result<(Vec<u32>, Option<String>), String> {
        let text = format!(r#"{{"model": {model}, "post_processor": {around}}}"#);
        let file = Object::of(&text, FILE).unwrap();
        let vocabulary = Vocabulary::of(&file).unwrap();
        let added = added.iter().map(|(id, content, special)| (*id, Token::plain(content, *special)));
        let split = Split::of(&Merged::of(added.collect(), false), &file, &vocabulary)?;
        let model = split.model(&file).unwrap();
        Ok((split.tokens.entries().iter().map(|(id, _)| *id).collect(), model))
    }

    const WORDS: &str = r#"{"type": "WordPiece", "vocab": {"[CLS]": 0, "a": 1}}"#;
    const PAIRS: &str = r#"{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}"#;
    const AROUND: &str = r#"{"type": "BertProcessing", "cls": ["[CLS]", 7]}"#;

    #[test]
    fn special_tokens_are_not_matched_and_keep_their_ids() {
        let added = [(0, "[CLS]", true), (2, "mail", false)];
        assert_eq!(split(WORDS, "null", &added).unwrap(), (vec![2], None));
        // One at the end that nothing has the number of.
        assert_eq!(
            split(WORDS, AROUND, &[(0, "[CLS]", true), (2, "mail", false), (3, "[X]", true)]).unwrap(),
            (vec![2], None)
        );
        let (found, model) = split(PAIRS, AROUND, &[(7, "[CLS]", true), (8, "mail", false)]).unwrap();
        assert_eq!(found, [8]);
        assert!(model.unwrap().contains(r#"{"a": 0, "b": 1,"[CLS]":7,"mail":8}"#));
    }

    #[test]
    fn options_that_a_file_cannot_express_are_named() {
        let said = |model: &str, around: &str, added: &[(u32, &str, bool)]| split(model, around, added).unwrap_err();
        let lost = "cannot be without `[X]`: its id is outside of the model, and would be lost";
        let around = r#"{"special_tokens": {"[X]": {"ids": [5]}}}"#;
        assert!(said(WORDS, around, &[(5, "[X]", true)]).ends_with(lost));
        assert!(said(WORDS, "null", &[(5, "[X]", true), (6, "mail", false)]).ends_with(lost));
        assert!(said(WORDS, "null", &[(5, "[PAD]", true)]).contains("cannot be without `[PAD]`: its id"));
        let merges = r#"{"type": "BPE", "vocab": {"a": 0}, "merges": [], "ignore_merges": true}"#;
        assert!(said(merges, around, &[(5, "[X]", true)]).ends_with(lost));
        for other in ["X", "]x", "[X]y"] {
            let shared = format!("it shares characters with `{other}`, which is matched");
            assert!(said(WORDS, "null", &[(5, "[X]", true), (4, other, false)]).ends_with(&shared), "{other}");
        }
    }
}
