//! Tokens beside the model's: those of `tokenizer.json`, those that other files add, and special tokens.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::class::{Class, Kind};
use super::{CONFIG, FILE, Version};
use crate::error::{Result, printable};
use crate::json;
use crate::json::raw::Object;

/// A token as `tokenizers` has it, without its number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Token {
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    /// Whether it is matched in the normalized text; special ones are not, by default.
    #[serde(default)]
    normalized: Option<bool>,
    #[serde(default)]
    pub special: bool,
}

impl Token {
    /// One of which the content alone is known.
    pub fn plain(content: &str, special: bool) -> Token {
        let content = content.to_owned();
        Token { content, single_word: false, lstrip: false, rstrip: false, normalized: None, special }
    }

    fn normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }

    fn into_special(mut self) -> Token {
        self.special = true;
        self
    }

    fn same(&self, other: &Token) -> bool {
        let settled = |token: &Token| Token { normalized: Some(token.normalized()), ..token.clone() };
        settled(self) == settled(other)
    }

    fn written(&self, id: u32) -> Value {
        json!({
            "id": id,
            "content": self.content,
            "single_word": self.single_word,
            "lstrip": self.lstrip,
            "rstrip": self.rstrip,
            "normalized": self.normalized(),
            "special": self.special,
        })
    }
}

/// A token of `tokenizer.json` with its number.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Numbered {
    pub id: u32,
    #[serde(flatten)]
    pub token: Token,
}

/// A file's entry of a special token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// That there is none.
    None,
    /// Its content.
    Content(String),
    /// Its content and how it is found in texts.
    Token(Token),
}

impl Special {
    /// Of a value in a file; `location` is its location for messages.
    pub fn of(value: &Value, location: &str) -> Result<Special> {
        Ok(match value {
            Value::Null => Special::None,
            Value::String(content) => Special::Content(content.clone()),
            other => Special::Token(json::from_value(other.clone(), location)?),
        })
    }

    pub fn content(&self) -> Option<&str> {
        match self {
            Special::None => None,
            Special::Content(content) => Some(content),
            Special::Token(token) => Some(&token.content),
        }
    }
}

/// The part that a special token plays, in the order in which missing ones are added.
pub(super) const PARTS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The tokens of the files beside `tokenizer.json`.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Tokens with the ids that files list for them.
    pub tokens: Vec<(u32, Token)>,
    /// Special tokens by their parts, as far as they are named.
    pub specials: Vec<(String, Special)>,
    /// More special tokens; none where no file names any.
    pub more: Option<Vec<Special>>,
    /// Whether special tokens are looked up among `tokens` and those of `tokenizer.json`, or among `tokens` alone.
    pub legacy: bool,
}

/// Tokens of the model by their content. Reading them takes time, and most files need none of it.
pub(super) struct Vocabulary<'a> {
    model: &'a str,
    tokens: OnceCell<HashMap<String, u32>>,
}

impl Vocabulary<'_> {
    /// That of a `tokenizer.json`; none where it has no model.
    pub fn of<'a>(file: &'a Object) -> Option<Vocabulary<'a>> {
        Some(Vocabulary { model: file.get("model")?, tokens: OnceCell::new() })
    }

    fn tokens(&self) -> &HashMap<String, u32> {
        self.tokens.get_or_init(|| self.read().unwrap_or_default())
    }

    /// Whether the model names the token.
    pub fn contains(&self, content: &str) -> bool {
        self.tokens().contains_key(content)
    }

    /// Whether tokens are made by merges and in no other way.
    pub fn is_plain_bpe(&self) -> bool {
        let Ok(model) = Object::of(self.model, FILE) else { return false };
        let read = |key| model.read::<Value>(key, FILE).ok().flatten();
        read("type").is_some_and(|kind| kind == "BPE") && read("ignore_merges").is_none_or(|ignores| ignores == false)
    }

    fn read(&self) -> Option<HashMap<String, u32>> {
        let model = Object::of(self.model, FILE).ok()?;
        let vocabulary = model.get("vocab")?;
        serde_json::from_str(vocabulary).ok().or_else(|| {
            // With scores, a token's index is its id.
            let scored: Vec<(String, f64)> = serde_json::from_str(vocabulary).ok()?;
            Some(scored.into_iter().map(|(content, _)| content).zip(0..).collect())
        })
    }
}

/// The tokens of a file as they are built up.
struct Tokens<'a> {
    list: Vec<(u32, Token)>,
    places: HashMap<String, usize>,
    vocabulary: &'a Vocabulary<'a>,
    highest: Option<u32>,
}

impl Tokens<'_> {
    /// Adds a token, or changes the options of an existing one, as `tokenizers` does. Returns its id.
    fn add(&mut self, token: Token) -> u32 {
        if let Some((id, there)) = self.places.get(&token.content).and_then(|at| self.list.get_mut(*at)) {
            *there = token;
            return *id;
        }
        let id = self.number(&token.content);
        self.highest = self.highest.max(Some(id));
        self.places.insert(token.content.clone(), self.list.len());
        self.list.push((id, token));
        id
    }

    /// The number that a token has or would get: the next after all others, where the model does not have it.
    fn number(&self, content: &str) -> u32 {
        let there = self.places.get(content).and_then(|at| self.list.get(*at)).map(|(id, _)| *id);
        there.or_else(|| self.vocabulary.tokens().get(content).copied()).unwrap_or_else(|| {
            let size = u32::try_from(self.vocabulary.tokens().len()).unwrap_or(u32::MAX);
            size.max(self.highest.map_or(0, |highest| highest.saturating_add(1)))
        })
    }
}

/// The tokens beside the model's as a version of `transformers` has them.
#[derive(Debug)]
pub(super) struct Merged {
    list: Vec<(u32, Token)>,
    /// Whether they are not those of the file.
    pub changed: bool,
}

impl Merged {
    /// Of these tokens.
    pub fn of(list: Vec<(u32, Token)>, changed: bool) -> Merged {
        Merged { list, changed }
    }

    /// The tokens with their numbers.
    pub fn entries(&self) -> &[(u32, Token)] {
        &self.list
    }

    /// As `tokenizer.json` has them.
    pub fn written(&self) -> Value {
        self.list.iter().map(|(id, token)| token.written(*id)).collect()
    }

    /// Whether texts become the same tokens by them.
    pub fn same(&self, other: &Merged) -> bool {
        let alike = |((a, one), (b, other)): (&(u32, Token), &(u32, Token))| a == b && one.same(other);
        self.list.len() == other.list.len() && self.list.iter().zip(&other.list).all(alike)
    }

    /// The id of a token, these and the model's.
    pub fn number(&self, content: &str, vocabulary: &Vocabulary) -> Option<u32> {
        let own = self.list.iter().find(|(_, token)| token.content == content).map(|(id, _)| *id);
        own.or_else(|| vocabulary.tokens().get(content).copied())
    }
}

/// The tokens beside the model's as a version of `transformers` has them.
pub(super) fn merged(
    file: &[Numbered],
    vocabulary: &Vocabulary,
    beside: &Beside,
    class: &Class,
    version: Version,
    rows: Option<usize>,
    notes: &mut Vec<String>,
) -> Merged {
    let list: Vec<(u32, Token)> = file.iter().map(|entry| (entry.id, entry.token.clone())).collect();
    let places = list.iter().enumerate().map(|(at, (_, token))| (token.content.clone(), at)).collect();
    let highest = list.iter().map(|(id, _)| *id).max();
    let mut tokens = Tokens { list, places, vocabulary, highest };
    let specials = Specials { beside, class, version };
    let named = specials.contents();
    for (said, token) in &beside.tokens {
        let special = token.special || named.contains(&token.content);
        if token.content.is_empty() {
            continue;
        }
        let id = tokens.add(Token { special, ..token.clone() });
        if id != *said {
            notes.push(format!(
                "`{}` is number {said} beside {FILE}, but it gets number {id}, as in `transformers`",
                printable(&token.content)
            ));
        }
    }
    for (part, token, named) in specials.missing(file) {
        let beyond = |rows: usize| usize::try_from(tokens.number(&token.content)).is_ok_and(|id| id >= rows);
        if rows.is_some_and(beyond) {
            // Nothing is known of such a token; `transformers` fails on a text that has it.
            if named {
                let content = printable(&token.content);
                notes.push(format!("`{content}`, the {part}, has no row in the embedding and is left out"));
            }
            continue;
        }
        tokens.add(token);
    }
    let before = file.iter().map(|entry| (entry.id, &entry.token));
    let same = file.len() == tokens.list.len()
        && before.zip(&tokens.list).all(|((a, one), (b, other))| a == *b && one.same(other));
    Merged { changed: !same, list: tokens.list }
}

/// The special tokens of a class with their entries in files.
struct Specials<'a> {
    beside: &'a Beside,
    class: &'a Class,
    version: Version,
}

impl Specials<'_> {
    fn said(&self, part: &str) -> Option<&Special> {
        self.beside.specials.iter().rev().find(|(own, _)| own == part).map(|(_, special)| special)
    }

    /// All of them.
    fn contents(&self) -> HashSet<String> {
        let of = |part: &&str| match self.said(part) {
            Some(special) => special.content().map(str::to_owned),
            None => self.class.token(part).map(str::to_owned),
        };
        let more = self.more().into_iter().filter_map(|(special, _)| special.content().map(str::to_owned));
        PARTS.iter().filter_map(of).chain(more).collect()
    }

    /// Those without a part, and whether a file names them.
    fn more(&self) -> Vec<(Special, bool)> {
        let own =
            || self.class.more_tokens.iter().map(|token| (Special::Content((*token).to_owned()), false)).collect();
        match &self.beside.more {
            Some(named) => named.iter().map(|special| (special.clone(), true)).collect(),
            None => own(),
        }
    }

    /// Those that are added to the tokens of `tokenizer.json` and of the files beside it, or that find in texts what
    /// those do not: each with its part and whether a file names it.
    fn missing(&self, file: &[Numbered]) -> Vec<(&'static str, Token, bool)> {
        let in_file: HashSet<&str> = file.iter().map(|entry| entry.token.content.as_str()).collect();
        let beside: HashSet<&str> = self.beside.tokens.iter().map(|(_, token)| token.content.as_str()).collect();
        let mut found = Vec::new();
        let mut take = |part: &'static str, special: Special, named: bool| {
            let Some(content) = special.content().filter(|content| !content.is_empty()) else { return };
            // A named one has the other files' entry of its content.
            let legacy = self.beside.legacy;
            // Version 4 does not read `added_tokens.json` here.
            let in_beside = beside.contains(content) && (!legacy || self.version == Version::Five);
            let looked_up = named && (in_beside || legacy && in_file.contains(content));
            let known = in_file.contains(content) || beside.contains(content);
            let token = self.token(part, &special);
            // Transformers 4 compares tokens, 5 their contents.
            let overrides = self.version == Version::Four && token.is_some();
            if !looked_up && (!known || overrides) {
                found.push((part, token.unwrap_or_else(|| Token::plain(content, true)).into_special(), named));
            }
        };
        for part in PARTS {
            match (self.said(part), self.class.token(part)) {
                (Some(special), _) => take(part, special.clone(), true),
                (None, Some(content)) => take(part, Special::Content(content.to_owned()), false),
                (None, None) => {}
            }
        }
        for (special, named) in self.more() {
            take("additional special token", special, named);
        }
        found
    }

    /// How a special token is found in texts, where it or its class has more than its content.
    fn token(&self, part: &str, special: &Special) -> Option<Token> {
        match special {
            Special::None => None,
            Special::Token(token) => Some(token.clone()),
            Special::Content(content) => {
                const STILL_IN_5: [&str; 3] = ["CamembertTokenizer", "MPNetTokenizer", "XLNetTokenizer"];
                let still = self.version == Version::Four || STILL_IN_5.contains(&self.class.name);
                let strips = part == "mask_token" && self.class.mask_strips && still;
                let of_class = strips || self.class.kind == Kind::MpNet && PARTS.contains(&part);
                of_class.then(|| Token { lstrip: strips, ..Token::plain(content, true) })
            }
        }
    }
}

/// The content of the special token with that part, where the files or the class name one.
pub(super) fn special<'a>(beside: &'a Beside, class: &'static Class, part: &str) -> Option<&'a str> {
    match beside.specials.iter().rev().find(|(own, _)| own == part) {
        Some((_, special)) => special.content(),
        None => class.token(part),
    }
}

/// The tokens that `added_tokens_decoder` has by their numbers.
pub(super) fn decoder(value: &Value) -> Result<Vec<(u32, Token)>> {
    let location = format!("{CONFIG}: added_tokens_decoder");
    let by_number: Map<String, Value> = json::from_value(value.clone(), &location)?;
    let mut tokens = Vec::with_capacity(by_number.len());
    for (number, token) in by_number {
        let location = format!("{location}.{}", printable(&number));
        let number = json::parse(&number, &location)?;
        tokens.push((number, json::from_value(token, &location)?));
    }
    tokens.sort_by_key(|(number, _)| *number);
    Ok(tokens)
}
