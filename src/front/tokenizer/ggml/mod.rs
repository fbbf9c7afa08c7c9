//! A `tokenizer.json` of the lists that llama.cpp's files have: tokens with their kinds, and merges or scores.
//!
//! There are two models: BPE over bytes, whose merges are listed and whose pre-tokenizer is named (`pre.rs`), and SentencePiece's
//! BPE, whose merges follow from scores (`scores.rs`). Texts get the tokens that the model was trained with.

mod kind;
mod pre;
mod scores;

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result, printable};
use crate::json::sorted;
use pre::PreTokenizer;

pub use kind::TokenKind;

/// How texts are cut.
#[derive(Clone, Debug)]
pub enum Pieces<'a> {
    /// BPE over bytes.
    Merges {
        /// Two tokens each, with a space between, by rank.
        merges: Vec<&'a str>,
        /// The name of the pre-tokenizer; `default` where the file has none.
        pre: &'a str,
    },
    /// SentencePiece's BPE.
    Scores {
        /// One for each token; tokens of larger ones are made first.
        scores: Vec<f32>,
        /// Whether a space is put before texts.
        space_prefix: bool,
    },
}

/// The lists of a file.
#[derive(Clone, Debug)]
pub struct GgmlTokenizer<'a> {
    /// The tokens by their ids.
    pub tokens: Vec<&'a str>,
    /// Their kinds.
    pub kinds: Vec<TokenKind>,
    /// How texts are cut.
    pub pieces: Pieces<'a>,
    /// The token for what has none.
    pub unknown: Option<u32>,
    /// The token that is put before texts.
    pub begin: Option<u32>,
    /// The token that is put after texts.
    pub end: Option<u32>,
    /// Whether added tokens take the spaces after them.
    pub strips: bool,
}

/// Whether texts begin with a token where a file does not say so, by the name of its pre-tokenizer.
pub fn begins(pre: &str) -> bool {
    PreTokenizer::named(pre).is_ok_and(|pre| pre.begins)
}

impl GgmlTokenizer<'_> {
    /// The text of `tokenizer.json`.
    ///
    /// # Errors
    /// Bad input: a token twice, tokens without a merge's parts, scores that are no numbers. Unsupported: a pre-tokenizer that is
    /// not known, by its name.
    pub fn json(&self) -> Result<String> {
        let names = self.names();
        self.check_distinct(&names)?;
        let (parts, model) = match &self.pieces {
            Pieces::Merges { merges, pre } => (over_bytes(PreTokenizer::named(pre)?), self.with_merges(merges, pre)?),
            Pieces::Scores { scores, space_prefix } => (over_spaces(*space_prefix), self.with_scores(scores)?),
        };
        let vocabulary: Map<String, Value> =
            names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
        let mut model = model;
        model.insert("vocab".to_owned(), Value::Object(vocabulary));
        let mut file = parts;
        file.insert("version".to_owned(), json!("1.0"));
        file.insert("truncation".to_owned(), Value::Null);
        file.insert("padding".to_owned(), Value::Null);
        file.insert("added_tokens".to_owned(), Value::Array(self.added(&names)));
        file.insert("post_processor".to_owned(), self.around(&names));
        file.insert("model".to_owned(), Value::Object(model));
        Ok(sorted(file).to_string())
    }

    /// The tokens, none of which is empty: llama.cpp gives such ones a name.
    fn names(&self) -> Vec<String> {
        let name = |(id, token): (usize, &&str)| match token.is_empty() {
            true => format!("[EMPTY_{id}]"),
            false => (*token).to_owned(),
        };
        self.tokens.iter().enumerate().map(name).collect()
    }

    fn check_distinct(&self, names: &[String]) -> Result<()> {
        let mut seen = HashSet::with_capacity(names.len());
        match names.iter().find(|name| !seen.insert(name.as_str())) {
            None => Ok(()),
            Some(twice) => Err(Error::bad_input(format!("the token `{}` has two ids", printable(twice)))),
        }
    }

    fn added(&self, names: &[String]) -> Vec<Value> {
        let added = names.iter().zip(&self.kinds).enumerate().filter(|(_, (_, kind))| kind.is_added());
        let entry = |(id, (name, kind)): (usize, (&String, &TokenKind))| {
            let is_first = [self.unknown, self.begin].contains(&u32::try_from(id).ok()) || name == "<|endoftext|>";
            json!({
                "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": self.strips && !is_first,
                "normalized": false, "special": *kind != TokenKind::UserDefined
            })
        };
        added.map(entry).collect()
    }

    /// The tokens around texts.
    fn around(&self, names: &[String]) -> Value {
        let named = |id: Option<u32>| Some((id?, names.get(usize::try_from(id?).ok()?)?));
        let (begin, end) = (named(self.begin), named(self.end));
        if begin.is_none() && end.is_none() {
            return Value::Null;
        }
        let special = |(_, name): (u32, &String), part: u8| json!({"SpecialToken": {"id": name, "type_id": part}});
        let one = |sequence: &str, part: u8| {
            let text = json!({"Sequence": {"id": sequence, "type_id": part}});
            let first = begin.map(|token| special(token, part));
            first.into_iter().chain([text]).chain(end.map(|token| special(token, part))).collect::<Vec<_>>()
        };
        let tokens: BTreeMap<&String, Value> = begin
            .into_iter()
            .chain(end)
            .map(|(id, name)| (name, json!({"id": name, "ids": [id], "tokens": [name]})))
            .collect();
        let pair: Vec<Value> = one("A", 0).into_iter().chain(one("B", 1)).collect();
        json!({"type": "TemplateProcessing", "single": one("A", 0), "pair": pair, "special_tokens": tokens})
    }

    fn with_merges(&self, merges: &[&str], pre: &str) -> Result<Map<String, Value>> {
        let known: HashSet<&str> = self.tokens.iter().copied().collect();
        let pair = |line: &&str| {
            // The first character of a merge may be a space.
            let at = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let [one, other] = at.and_then(|at| Some([line.get(..at)?, line.get(at + 1..)?])).unwrap_or([line, ""]);
            let joined = format!("{one}{other}");
            match [one, other, joined.as_str()].into_iter().find(|part| !known.contains(part)) {
                None => Ok(json!([one, other])),
                Some(missing) => Err(Error::bad_input(format!(
                    "the merge `{}` needs `{}`, which is no token",
                    printable(line),
                    printable(missing)
                ))),
            }
        };
        let merges = merges.iter().map(pair).collect::<Result<Vec<_>>>()?;
        let ignore = PreTokenizer::named(pre)?.whole_tokens;
        Ok(model(json!({
            "unk_token": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore, "merges": merges
        })))
    }

    fn with_scores(&self, scores: &[f32]) -> Result<Map<String, Value>> {
        let merges = scores::merges(&self.tokens, &self.kinds, scores)?;
        let unknown = self.unknown.and_then(|id| self.tokens.get(usize::try_from(id).ok()?));
        Ok(model(json!({
            "unk_token": unknown, "fuse_unk": true, "byte_fallback": self.kinds.contains(&TokenKind::Byte),
            "ignore_merges": false, "merges": merges
        })))
    }
}

/// A BPE model with these fields.
fn model(fields: Value) -> Map<String, Value> {
    let plain = json!({
        "type": "BPE", "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null
    });
    [plain, fields].into_iter().filter_map(|fields| fields.as_object().cloned()).flatten().collect()
}

/// The parts of a tokenizer whose texts are cut by patterns and become bytes.
fn over_bytes(pre: &PreTokenizer) -> Map<String, Value> {
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps: Vec<Value> = pre.patterns.iter().map(split).chain([bytes]).collect();
    let normalizer = if pre.composes { json!({"type": "NFC"}) } else { Value::Null };
    let parts = json!({
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}
    });
    parts.as_object().cloned().unwrap_or_default()
}

/// The parts of one whose texts are cut nowhere, and whose spaces are `▁`.
fn over_spaces(prefix: bool) -> Map<String, Value> {
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = match prefix {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}),
        false => space,
    };
    let back = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let mut steps = vec![back, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let parts = json!({
        "normalizer": normalizer, "pre_tokenizer": null, "decoder": {"type": "Sequence", "decoders": steps}
    });
    parts.as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(tokens: &[&'a str], pieces: Pieces<'a>) -> GgmlTokenizer<'a> {
        let kind = |token: &&str| if token.starts_with('<') { TokenKind::Control } else { TokenKind::Normal };
        let kinds = tokens.iter().map(kind).collect();
        GgmlTokenizer { tokens: tokens.to_vec(), kinds, pieces, unknown: None, begin: None, end: None, strips: false }
    }

    fn merges<'a>(merges: &[&'a str]) -> Pieces<'a> {
        Pieces::Merges { merges: merges.to_vec(), pre: "gpt-2" }
    }

    #[test]
    fn tokens_that_do_not_fit_are_named() {
        let refusal = |tokenizer: GgmlTokenizer| tokenizer.json().unwrap_err().message().to_owned();
        assert_eq!(refusal(of(&["a", "b", "a"], merges(&[]))), "the token `a` has two ids");
        assert_eq!(refusal(of(&["a", "b"], merges(&["a b"]))), "the merge `a b` needs `ab`, which is no token");
        assert_eq!(refusal(of(&["a", "b"], merges(&["ab"]))), "the merge `ab` needs `ab`, which is no token");
        let unknown = Pieces::Merges { merges: vec![], pre: "gpt-9" };
        assert_eq!(refusal(of(&["a"], unknown)), "the pre-tokenizer `gpt-9` is not known");
        let scores = Pieces::Scores { scores: vec![f32::NAN, 0.0], space_prefix: true };
        assert_eq!(refusal(of(&["ab", "b"], scores)), "the score of `ab` is NaN");
    }

    #[test]
    fn a_text_has_the_tokens_around_it_that_are_asked_for() {
        let plain = of(&["<s>", "a", "</s>", ""], merges(&[]));
        let file = |tokenizer: &GgmlTokenizer| serde_json::from_str::<Value>(&tokenizer.json().unwrap()).unwrap();
        assert_eq!(file(&plain)["post_processor"], Value::Null);
        assert_eq!(file(&plain)["model"]["vocab"]["[EMPTY_3]"], 3);
        let around = file(&GgmlTokenizer { begin: Some(0), end: Some(2), ..plain });
        let expected = json!([
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}}
        ]);
        assert_eq!(around["post_processor"]["single"], expected);
        assert_eq!(around["post_processor"]["special_tokens"]["</s>"]["ids"], json!([2]));
    }
}
