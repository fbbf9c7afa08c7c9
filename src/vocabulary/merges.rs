//! The merges of a BPE model: which of them make the kept tokens.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use crate::error::{Error, Result, printable};
use crate::json;
use crate::json::raw::{Object, elements};

/// The model, as messages call it.
pub(super) const LOCATION: &str = "tokenizer.json: model";

/// Longest token whose merges are found by merging its characters, in characters: it takes time for every pair of them.
const LONGEST_DERIVED: usize = 64;

/// Merges in the order of their ranks.
pub(super) struct Merges {
    merges: Vec<Merge>,
    /// Where in `merges` a pair is; of duplicates, the last one counts.
    of: HashMap<(u32, u32), usize>,
    /// Where in `merges` those are that make a token.
    making: HashMap<u32, Vec<usize>>,
    /// Whether tokens begin as the characters that they are written with.
    spelled: bool,
}

struct Merge {
    /// Its index in the list of the file.
    at: usize,
    pair: (u32, u32),
    makes: u32,
}

/// A merge as files have it, now or before.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Pair(String, String),
    Line(String),
}

impl Merges {
    /// Reads the merges of a model. Fails where merges are left out by chance.
    pub fn parse(model: &Object, ids: &HashMap<String, u32>, unknown: Option<u32>) -> Result<Merges> {
        if let Some(dropout) = model.read::<f32>("dropout", LOCATION)?.filter(|dropout| *dropout != 0.0) {
            return Err(Error::unsupported(format!(
                "{LOCATION}.dropout: {dropout} of the merges are left out at random, so that no text has fixed tokens"
            ))
            .hint("set it to null, as it is when a model is used"));
        }
        let affix = |field: &str| Ok::<_, Error>(model.read::<String>(field, LOCATION)?.unwrap_or_default());
        let (prefix, suffix) = (affix("continuing_subword_prefix")?, affix("end_of_word_suffix")?);
        let mut merges = Vec::new();
        for (at, element) in elements(model.required("merges", LOCATION)?, LOCATION)?.into_iter().enumerate() {
            if let Some([a, b]) = listed(element)? {
                let number = |token: &str| {
                    let unknown = || format!("{LOCATION}.merges: `{}` is no token of the vocabulary", printable(token));
                    ids.get(token).copied().ok_or_else(|| Error::bad_input(unknown()))
                };
                let makes = format!("{a}{}", b.get(prefix.len()..).unwrap_or_default());
                merges.push(Merge { at, pair: (number(&a)?, number(&b)?), makes: number(&makes)? });
            }
        }
        let bytes = match model.read("byte_fallback", LOCATION)?.unwrap_or(false) {
            true => ids.iter().filter(|(token, _)| is_byte(token)).map(|(_, number)| *number).collect(),
            false => BTreeSet::new(),
        };
        let non_finite = |number: &u32| Some(*number) == unknown || bytes.contains(number);
        let spelled = prefix.is_empty()
            && suffix.is_empty()
            && !merges.iter().any(|merge| non_finite(&merge.pair.0) || non_finite(&merge.pair.1));
        let mut making: HashMap<u32, Vec<usize>> = HashMap::new();
        for (i, merge) in merges.iter().enumerate() {
            making.entry(merge.makes).or_default().push(i);
        }
        let of = merges.iter().enumerate().map(|(i, merge)| (merge.pair, i)).collect();
        Ok(Merges { merges, of, making, spelled })
    }

    /// Adds the tokens that the kept ones are merged from. Returns the indices of the merges in the list of the file.
    pub fn close(
        &self,
        kept: &mut BTreeSet<u32>,
        tokens: &BTreeMap<u32, String>,
        ids: &HashMap<String, u32>,
    ) -> BTreeSet<usize> {
        let mut used = BTreeSet::new();
        let mut open: Vec<u32> = kept.iter().copied().collect();
        while let Some(token) = open.pop() {
            let derived = tokens.get(&token).and_then(|text| self.derived(token, text, ids));
            // Where the characters do not determine how a token is made, it may be made in any way that is listed.
            let merges = derived.or_else(|| self.making.get(&token).cloned()).unwrap_or_default();
            for merge in merges.into_iter().filter_map(|i| self.merges.get(i)) {
                used.insert(merge.at);
                open.extend([merge.pair.0, merge.pair.1, merge.makes].into_iter().filter(|part| kept.insert(*part)));
            }
        }
        used
    }

    /// The merges that make a token of its characters, if they do.
    fn derived(&self, token: u32, text: &str, ids: &HashMap<String, u32>) -> Option<Vec<usize>> {
        if !self.spelled || text.chars().count() > LONGEST_DERIVED {
            return None;
        }
        let number = |c: char| ids.get(c.encode_utf8(&mut [0; 4]) as &str).copied();
        let mut parts: Vec<u32> = text.chars().map(number).collect::<Option<_>>()?;
        let mut used = Vec::new();
        while let Some((merge, at)) = self.first(&parts) {
            parts.splice(at..at + 2, [self.merges.get(merge)?.makes]);
            used.push(merge);
        }
        (parts == [token]).then_some(used)
    }

    /// The merge that comes first, and where; of several positions the leftmost.
    fn first(&self, parts: &[u32]) -> Option<(usize, usize)> {
        let pairs = parts.iter().zip(parts.iter().skip(1)).enumerate();
        pairs.filter_map(|(at, (a, b))| Some((*self.of.get(&(*a, *b))?, at))).min()
    }
}

/// Whether a token is that of a byte: `<0x00>` to `<0xFF>`.
pub(super) fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The two parts of a merge; none of a line with the version.
fn listed(element: &str) -> Result<Option<[String; 2]>> {
    let location = format!("{LOCATION}.merges");
    match json::parse(element, &location)? {
        Listed::Pair(a, b) => Ok(Some([a, b])),
        Listed::Line(line) if line.starts_with("#version") => Ok(None),
        Listed::Line(line) => match line.split(' ').collect::<Vec<_>>().as_slice() {
            [a, b] => Ok(Some([*a, *b].map(str::to_owned))),
            _ => Err(Error::bad_input(format!("{location}: `{}` is no pair of tokens", printable(&line)))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        merges: Merges,
        tokens: BTreeMap<u32, String>,
        ids: HashMap<String, u32>,
    }

    fn case(tokens: &[&str], rest: &str) -> Case {
        let ids: HashMap<String, u32> = tokens.iter().map(|t| (*t).to_owned()).zip(0..).collect();
        let tokens = ids.iter().map(|(token, number)| (*number, token.clone())).collect();
        let text = format!("{{{rest}}}");
        let merges = Merges::parse(&Object::of(&text, LOCATION).unwrap(), &ids, Some(0)).unwrap();
        Case { merges, tokens, ids }
    }

    impl Case {
        /// The tokens that stay for those, and the merges.
        fn closed(&self, kept: &[&str]) -> (Vec<&str>, Vec<usize>) {
            let mut kept = kept.iter().map(|token| self.ids[*token]).collect();
            let used = self.merges.close(&mut kept, &self.tokens, &self.ids);
            (kept.iter().map(|number| self.tokens[number].as_str()).collect(), used.into_iter().collect())
        }
    }

    #[test]
    fn a_token_keeps_the_merges_that_make_it_and_no_others() {
        let tokens = ["?", "a", "b", "c", "ab", "bc", "abc"];
        let both = case(&tokens, r#""merges": [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]"#);
        assert_eq!(both.closed(&["abc"]), (vec!["a", "b", "c", "bc", "abc"], vec![0, 3]), "`b c` comes before `a b`");
        assert_eq!(both.closed(&["ab", "c"]), (vec!["a", "b", "c", "ab"], vec![1]));
        let lines = case(&tokens, r##""merges": ["#version: 0.2", "a b", "b c", "ab c", "a bc"]"##);
        assert_eq!(lines.closed(&["abc"]), (vec!["a", "b", "c", "ab", "abc"], vec![1, 3]));
        assert_eq!(lines.closed(&["?", "c"]), (vec!["?", "c"], vec![]));
    }

    #[test]
    fn tokens_stay_where_characters_alone_do_not_decide() {
        let tokens = ["?", "a", "b", "ab", "a##b", "##b", "##bb", "abb"];
        let prefixed = case(
            &tokens,
            r###""continuing_subword_prefix": "##", "merges": [["##b", "##b"], ["a", "##b"], ["a", "##bb"], ["ab", "##b"]]"###,
        );
        assert_eq!(prefixed.closed(&["abb"]), (vec!["a", "ab", "##b", "##bb", "abb"], vec![0, 1, 2, 3]));
        let whole = case(&["?", "ab", "a"], r#""merges": [], "ignore_merges": true"#);
        assert_eq!(whole.closed(&["ab"]), (vec!["ab"], vec![]), "a word that is a token needs no merges");
        let unknown = case(&["?", "a", "?a", "a?a"], r#""merges": [["?", "a"], ["a", "?a"]]"#);
        assert_eq!(unknown.closed(&["a?a"]), (vec!["?", "a", "?a", "a?a"], vec![0, 1]));
    }

    #[test]
    fn merges_that_are_none_and_merges_by_chance_are_refused() {
        let ids = HashMap::from([("a".to_owned(), 0)]);
        let said = |text: &str| {
            let object = Object::of(text, LOCATION).unwrap();
            Merges::parse(&object, &ids, None).err().unwrap().message().to_owned()
        };
        assert_eq!(
            said(r#"{"merges": [["a", "b"]]}"#),
            "tokenizer.json: model.merges: `b` is no token of the vocabulary"
        );
        assert_eq!(said(r#"{"merges": ["a a a"]}"#), "tokenizer.json: model.merges: `a a a` is no pair of tokens");
        assert_eq!(
            said(r#"{"dropout": 0.1, "merges": []}"#),
            "tokenizer.json: model.dropout: 0.1 of the merges are left out at random, so that no text has fixed tokens"
        );
    }
}
