//! The model of a tokenizer: which of its tokens the kept ones need, and the model of those.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::merges::{LOCATION, Merges};
use crate::error::{Error, Result, printable};
use crate::json::raw::{Object, elements, list, quoted};

/// The kinds of models that are cut.
const KNOWN: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];

/// Tokens with their numbers, and how texts become them.
pub(super) struct Model {
    kind: Kind,
    unknown: Option<u32>,
    /// By id. The list of a Unigram model may have duplicates; then the last one counts.
    tokens: BTreeMap<u32, String>,
    ids: HashMap<String, u32>,
}

enum Kind {
    /// The longest piece that fits, again and again.
    WordPiece {
        /// The prefix of pieces inside a word.
        prefix: String,
        /// Longest word that is split, in characters.
        longest: usize,
    },
    /// Whole words.
    WordLevel,
    /// The pieces with the best sum of scores.
    Unigram(Vec<f64>),
    /// Pairs that are merged, the first of the list first.
    Bpe(Merges),
}

impl Model {
    /// Reads a model. Fails where it is of another kind, and where it is left to chance how texts become tokens.
    pub fn parse(text: &str) -> Result<Model> {
        let object = Object::of(text, LOCATION)?;
        let vocab = object.required("vocab", LOCATION)?;
        let kind = kind(&object)?;
        let (tokens, scores) = if kind == "Unigram" { scored(vocab)? } else { (numbered(vocab)?, Vec::new()) };
        let ids: HashMap<String, u32> = tokens.iter().map(|(number, token)| (token.clone(), *number)).collect();
        let unknown = match kind.as_str() {
            "Unigram" => object.read("unk_id", LOCATION)?,
            _ => object.read::<String>("unk_token", LOCATION)?.and_then(|token| ids.get(&token).copied()),
        };
        let kind = match kind.as_str() {
            "Unigram" => Kind::Unigram(scores),
            "WordLevel" => Kind::WordLevel,
            "WordPiece" => Kind::WordPiece {
                prefix: object.read("continuing_subword_prefix", LOCATION)?.unwrap_or_default(),
                longest: object.read("max_input_chars_per_word", LOCATION)?.unwrap_or_default(),
            },
            _ => Kind::Bpe(Merges::parse(&object, &ids, unknown)?),
        };
        Ok(Model { kind, unknown, tokens, ids })
    }

    /// The id of the unknown token.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Every token by its number.
    pub fn tokens(&self) -> &BTreeMap<u32, String> {
        &self.tokens
    }

    /// Whether a text in which something is unknown has to be read word by word, for [`Model::tried`].
    pub fn asks_for_words(&self) -> bool {
        matches!(self.kind, Kind::WordPiece { .. })
    }

    /// The pieces that match an unknown word before none does. Without them a shorter piece could match in place of one,
    /// and the word would no longer be unknown.
    pub fn tried(&self, word: &str) -> Vec<u32> {
        let Kind::WordPiece { prefix, longest } = &self.kind else { return Vec::new() };
        let mut found = Vec::new();
        let mut rest = word;
        while !rest.is_empty() && word.chars().count() <= *longest {
            let prefix = if rest.len() == word.len() { "" } else { prefix };
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
            let fits = |end: usize| Some((end, *self.ids.get(&format!("{prefix}{}", rest.get(..end)?))?));
            let Some((end, number)) = ends.into_iter().find_map(fits) else { return found };
            found.push(number);
            rest = rest.get(end..).unwrap_or_default();
        }
        Vec::new()
    }

    /// Adds the other tokens that texts of the kept tokens need.
    pub fn complete(&self, kept: &mut BTreeSet<u32>) {
        match &self.kind {
            Kind::WordPiece { .. } | Kind::WordLevel => {}
            Kind::Unigram(scores) => {
                kept.extend(least(scores, kept));
                if self.unknown.is_none() {
                    let single = self.ids.iter().filter(|(token, _)| token.chars().count() == 1);
                    kept.extend(single.map(|(_, number)| *number));
                }
                // An entry that counts for nothing must not come to count.
                let last = kept.iter().filter_map(|number| self.ids.get(self.tokens.get(number)?).copied());
                let last: Vec<u32> = last.collect();
                kept.extend(last);
            }
            Kind::Bpe(merges) => {
                merges.close(kept, &self.tokens, &self.ids);
            }
        }
    }

    /// The text of the model with the tokens `kept` alone, in that order. [`Model::complete`] has checked them.
    pub fn rewrite(&self, text: &str, kept: &[u32]) -> Result<String> {
        let mut object = Object::of(text, LOCATION)?;
        let vocab = match &self.kind {
            Kind::Unigram(_) => {
                let entries = elements(object.required("vocab", LOCATION)?, LOCATION)?;
                let entry = |number: &u32| entries.get(usize::try_from(*number).ok()?).copied();
                list(&kept.iter().filter_map(entry).collect::<Vec<_>>())
            }
            _ => {
                let tokens = kept.iter().filter_map(|number| self.tokens.get(number));
                let entries = tokens.enumerate().map(|(number, token)| format!("{}:{number}", quoted(token)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            }
        };
        if let Kind::Bpe(merges) = &self.kind {
            let mut tokens = kept.iter().copied().collect();
            let used = merges.close(&mut tokens, &self.tokens, &self.ids);
            let entries = elements(object.required("merges", LOCATION)?, LOCATION)?;
            let entries: Vec<&str> = used.into_iter().filter_map(|at| entries.get(at).copied()).collect();
            object.set("merges", list(&entries));
        }
        if let Some(unknown) = self.unknown.filter(|_| matches!(self.kind, Kind::Unigram(_))) {
            let number = kept.iter().position(|number| *number == unknown);
            let number = number.ok_or_else(|| Error::bug("the unknown token was cut"))?;
            object.set("unk_id", number.to_string());
        }
        object.set("vocab", vocab);
        Ok(object.to_string())
    }
}

/// The piece with the smallest score, unless a kept one has it: the unknown scores ten less than that.
fn least(scores: &[f64], kept: &BTreeSet<u32>) -> Option<u32> {
    let scored = (0_u32..).zip(scores);
    let (first, smallest) = scored.clone().min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let has = scored.filter(|(_, score)| *score <= smallest).any(|(number, _)| kept.contains(&number));
    (!has).then_some(first)
}

/// The kind of a model. In files from before kinds were named, the fields decide.
fn kind(object: &Object) -> Result<String> {
    if let Some(kind) = object.read::<String>("type", LOCATION)? {
        return match KNOWN.contains(&kind.as_str()) {
            true => Ok(kind),
            false => {
                Err(Error::unsupported(format!("{LOCATION}: the vocabulary of a `{}` is not cut", printable(&kind)))
                    .hint(format!("known: {}", KNOWN.join(", "))))
            }
        };
    }
    let is_list = object.get("vocab").is_some_and(|vocab| vocab.starts_with('['));
    Ok(match (is_list, object.get("merges"), object.get("max_input_chars_per_word")) {
        (true, ..) => "Unigram",
        (_, Some(_), _) => "BPE",
        (_, _, Some(_)) => "WordPiece",
        _ => "WordLevel",
    }
    .to_owned())
}

/// The list of a Unigram model: tokens, with their index as id, and their scores.
fn scored(vocab: &str) -> Result<(BTreeMap<u32, String>, Vec<f64>)> {
    let location = format!("{LOCATION}.vocab");
    let entries: Vec<(String, f64)> = crate::json::parse(vocab, &location)?;
    let scores = entries.iter().map(|(_, score)| *score).collect();
    Ok(((0..).zip(entries.into_iter().map(|(token, _)| token)).collect(), scores))
}

/// The tokens of any other model.
fn numbered(vocab: &str) -> Result<BTreeMap<u32, String>> {
    let location = format!("{LOCATION}.vocab");
    let entries: HashMap<String, u32> = crate::json::parse(vocab, &location)?;
    Ok(entries.into_iter().map(|(token, number)| (number, token)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str) -> Model {
        Model::parse(text).unwrap()
    }

    fn completed(model: &Model, kept: &[u32]) -> Vec<u32> {
        let mut kept = kept.iter().copied().collect();
        model.complete(&mut kept);
        kept.into_iter().collect()
    }

    #[test]
    fn a_word_stays_unknown_by_the_pieces_that_were_tried() {
        let text = r###"{"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 5, "vocab": {"?": 0, "ab": 1, "a": 2, "##bc": 3, "##é": 4}}"###;
        let pieces = model(text);
        assert_eq!(pieces.tried("abc"), [1], "`a ##bc` would be known");
        assert_eq!(pieces.tried("abéx"), [1, 4]);
        assert_eq!(pieces.tried("abé"), [0; 0], "a known word");
        assert_eq!(pieces.tried("abcabc"), [0; 0], "longer than words that are split");
        assert_eq!(pieces.unknown(), Some(0));
        let left = pieces.rewrite(text, &[0, 2, 4]).unwrap();
        assert!(left.ends_with(r###""vocab":{"?":0,"a":1,"##é":2}}"###), "{left}");
    }

    #[test]
    fn the_smallest_score_stays() {
        let text = r#"{"type": "Unigram", "unk_id": 1,
            "vocab": [["a", -1.50], ["?", 0.0], ["b", -9.25], ["c", -9.25], ["ab", -2]]}"#;
        let scored = model(text);
        assert_eq!(completed(&scored, &[0, 1]), [0, 1, 2]);
        assert_eq!(completed(&scored, &[0, 1, 3]), [0, 1, 3], "a kept one has it");
        assert_eq!(
            scored.rewrite(text, &[0, 1, 3]).unwrap(),
            r#"{"type":"Unigram","unk_id":1,"vocab":[["a", -1.50],["?", 0.0],["c", -9.25]]}"#
        );
        assert_eq!(
            scored.rewrite(text, &[1, 2]).unwrap(),
            r#"{"type":"Unigram","unk_id":0,"vocab":[["?", 0.0],["b", -9.25]]}"#
        );
        let twice = text.replace("[\"a\", -1.50]", "[\"ab\", -1.50]");
        assert_eq!(completed(&model(&twice), &[0, 1, 2]), [0, 1, 2, 4], "of a duplicate piece the last one counts");
        let without = model(&text.replace("\"unk_id\": 1", "\"unk_id\": null"));
        assert_eq!(completed(&without, &[4]), [0, 1, 2, 3, 4], "without an unknown token, characters stay");
    }

    #[test]
    fn kinds_are_known_by_name_or_by_their_fields() {
        let error = Model::parse(r#"{"type": "Hashes", "vocab": {}}"#).err().unwrap();
        assert_eq!(error.message(), "tokenizer.json: model: the vocabulary of a `Hashes` is not cut");
        assert!(matches!(model(r#"{"vocab": {"a": 0}}"#).kind, Kind::WordLevel));
        assert!(matches!(model(r#"{"vocab": [["a", 0]]}"#).kind, Kind::Unigram(_)));
        assert!(matches!(model(r#"{"vocab": {"a": 0}, "merges": []}"#).kind, Kind::Bpe(_)));
        let pieces = r#"{"vocab": {"a": 0}, "max_input_chars_per_word": 9}"#;
        assert!(matches!(model(pieces).kind, Kind::WordPiece { longest: 9, .. }));
    }
}
