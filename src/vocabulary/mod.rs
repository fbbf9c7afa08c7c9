//! Cuts a tokenizer's vocabulary down to the tokens that a corpus uses. Every text of the corpus keeps its tokens.
//!
//! Why it does, for each kind of model:
//!
//! - **WordPiece** takes the longest piece that fits. Without the pieces that no text uses, the longest one is still
//!   there, and no longer one is added. Only a word in which something is unknown could change: its first pieces fit and
//!   are not used, and without them shorter ones might lead to its end. So those that were tried stay too.
//! - **WordLevel** looks whole words up.
//! - **Unigram** takes the pieces with the best sum of scores. Without others the best sum loses rivals only: where the
//!   last piece of one character is cut, the unknown replaces it, and scores less than any piece. That score is ten
//!   below the smallest of all pieces, so one with the smallest stays.
//! - **BPE** merges the pair that is listed first, of several the leftmost. No merge of a word crosses what becomes one
//!   of its tokens, so a token's merges are those that its characters would go through alone. They stay, with the tokens
//!   between, in their order: at every step the pair that was first is still there and still first.
//!
//! The tokens are not only reasoned about: [`Vocabulary::check`] tokenizes the corpus both ways.
//!
//! Numbers keep their order and leave no gaps. Tokens that were added beside the model come after its own, because the
//! library numbers them so. All added tokens stay, those around texts, padding, the unknown, the customary special
//! tokens, and those of bytes: texts outside of the corpus are still tokenized, if not as well.

mod file;
mod merges;
mod model;
mod report;
mod tokens;

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::error::{Error, Result, nearest, printable};
use crate::json;
use crate::json::raw::{self, Object};
use crate::runtime::{TextEncoder, TextInput};
use crate::settings::PairPrompt;
use file::FILE;
use model::Model;

pub use report::CutReport;
pub use tokens::Tokens;

/// The customary special tokens, whether a file lists them as such or not.
const CUSTOMARY: [&str; 14] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<unk>", "<s>", "</s>", "<mask>", "<cls>", "<sep>", "<eod>",
    "<eop>",
];

/// A tokenizer whose vocabulary can be cut.
pub struct Vocabulary {
    text: String,
    encoder: TextEncoder,
    model: Model,
    /// Every token and its number, in the order of the numbers.
    tokens: Vec<(u32, String)>,
}

/// A tokenizer whose vocabulary was cut.
#[derive(Clone, Debug)]
pub struct CutTokenizer {
    /// Its `tokenizer.json`.
    pub json: String,
    /// The old ids of its tokens, in the order of the new ones, which have no gaps.
    pub kept: Vec<u32>,
    /// How many tokens there were.
    pub before: usize,
}

impl CutTokenizer {
    /// The new token ids, by the old ones.
    pub fn ids(&self) -> HashMap<u32, u32> {
        self.kept.iter().copied().zip(0..).collect()
    }
}

impl Vocabulary {
    /// Reads the text of a `tokenizer.json`. Fails where its model is of a kind that is not cut, where an id stands
    /// for two tokens or for none, and where the library refuses.
    pub fn parse(text: String) -> Result<Vocabulary> {
        json::parse::<serde::de::IgnoredAny>(&text, FILE)?;
        let file = Object::of(&text, FILE)?;
        let model = Model::parse(file.required("model", FILE)?)?;
        let encoder = TextEncoder::parse(text.clone(), usize::MAX)?;
        let tokens = encoder.vocabulary();
        let vocabulary = Vocabulary { text, encoder, model, tokens };
        vocabulary.check_ids()?;
        Ok(vocabulary)
    }

    /// The same for pairs of texts with a prompt around them.
    pub fn with_pair_prompt(self, prompt: Option<&PairPrompt>) -> Vocabulary {
        Vocabulary { encoder: self.encoder.with_pair_prompt(prompt), ..self }
    }

    /// The same for texts that all begin with a prompt.
    pub fn with_prompt(self, prompt: Option<&str>) -> Vocabulary {
        Vocabulary { encoder: self.encoder.with_prompt(prompt), ..self }
    }

    /// The tokenizer, without a limit to the length of texts.
    pub fn encoder(&self) -> &TextEncoder {
        &self.encoder
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The id of a token.
    pub fn number(&self, token: &str) -> Option<u32> {
        self.tokens.iter().find(|(_, other)| other == token).map(|(number, _)| *number)
    }

    /// The token that has a number.
    pub fn token(&self, number: u32) -> Option<&str> {
        let at = self.tokens.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.tokens.get(at).map(|(_, token)| token.as_str())
    }

    /// Which tokens a corpus uses. Fails where it uses none but those that are put around every text.
    pub fn used<T>(&self, corpus: impl IntoIterator<Item = Result<T>>) -> Result<Tokens>
    where
        for<'a> &'a T: Into<TextInput<'a>>,
    {
        Tokens::read(&self.encoder, &self.model, corpus)
    }

    /// The tokenizer with the tokens that are used, those that always stay, and those that are named. Fails where a name
    /// is no token's.
    pub fn cut(&self, used: &Tokens, named: &[&str]) -> Result<CutTokenizer> {
        let mut kept = self.held()?;
        kept.extend(used.ids());
        for token in named {
            kept.insert(self.number(token).ok_or_else(|| self.no_token(token))?);
        }
        self.model.complete(&mut kept);
        let (own, added): (Vec<u32>, Vec<u32>) =
            kept.into_iter().partition(|number| self.model.tokens().contains_key(number));
        let json = self.rewrite(&own, &added)?;
        Ok(CutTokenizer { json, kept: [own, added].concat(), before: self.len() })
    }

    /// Fails where a text of the corpus has other tokens than before, which would be an error of ours.
    pub fn check<T>(&self, cut: &CutTokenizer, corpus: impl IntoIterator<Item = Result<T>>) -> Result<()>
    where
        for<'a> &'a T: Into<TextInput<'a>>,
    {
        let after = TextEncoder::parse(cut.json.clone(), usize::MAX)
            .map_err(|e| Error::bug(format!("the vocabulary was cut, and the tokenizer is none: {}", e.message())))?
            .with_prompt(Some(self.encoder.prompt()))
            .with_pair_prompt(self.encoder.pair_prompt());
        let old = |number: &u32| cut.kept.get(usize::try_from(*number).ok()?).copied();
        let ids: HashMap<&str, u32> = self.tokens.iter().map(|(number, token)| (token.as_str(), *number)).collect();
        for (number, token) in after.vocabulary() {
            if old(&number) != ids.get(token.as_str()).copied() {
                return Err(Error::bug(format!(
                    "the vocabulary was cut, and `{}` is another token",
                    printable(&token)
                )));
            }
        }
        tokens::in_batches(corpus, |first, batch| {
            let pairs = tokens::ids(&self.encoder, first, batch)?.into_iter().zip(after.ids(batch)?);
            for (i, (before, after)) in pairs.enumerate() {
                if after.iter().map(old).ne(before.into_iter().map(Some)) {
                    let text = first + i;
                    return Err(Error::bug(format!("the vocabulary was cut, and text {text} has other tokens")));
                }
            }
            Ok(())
        })
    }

    /// The tokens that stay whether they are used or not.
    fn held(&self) -> Result<BTreeSet<u32>> {
        let ids: HashMap<&str, u32> = self.tokens.iter().map(|(number, token)| (token.as_str(), *number)).collect();
        let mut file = Object::of(&self.text, FILE)?;
        let added = file::added(&file)?;
        let names = added.iter().map(String::as_str).chain(CUSTOMARY);
        let mut held: BTreeSet<u32> = names.filter_map(|name| ids.get(name).copied()).collect();
        held.extend(self.model.unknown());
        file::renumber_others(&mut file, &mut |number, _| {
            held.insert(number);
            Ok(number)
        })?;
        held.extend(Some(self.encoder.padding()).filter(|pad| self.model.tokens().contains_key(pad)));
        let bytes = self.tokens.iter().filter(|(_, token)| merges::is_byte(token)).map(|(number, _)| *number);
        held.extend(bytes);
        if ["normalizer", "pre_tokenizer"].iter().any(|part| file.get(part).is_some_and(spells_bytes)) {
            held.extend(ByteLevel::alphabet().iter().filter_map(|c| ids.get(c.to_string().as_str())));
        }
        Ok(held)
    }

    /// The file with the model's tokens `own` and the others `added`, in that order.
    fn rewrite(&self, own: &[u32], added: &[u32]) -> Result<String> {
        let new: HashMap<u32, u32> = own.iter().chain(added).copied().zip(0..).collect();
        let mut file = Object::of(&self.text, FILE)?;
        let ids: HashMap<&str, u32> =
            self.tokens.iter().filter_map(|(old, token)| Some((token.as_str(), *new.get(old)?))).collect();
        file::renumber_added(&mut file, |content| ids.get(content).copied())?;
        file::renumber_others(&mut file, &mut |old, location| {
            new.get(&old).copied().ok_or_else(|| Error::bug(format!("{location}: the token {old} was cut")))
        })?;
        let model = self.model.rewrite(file.required("model", FILE)?, own)?;
        file.set("model", model);
        Ok(raw::compact(&file.to_string()))
    }

    /// Every id belongs to one token.
    fn check_ids(&self) -> Result<()> {
        for pair in self.tokens.windows(2) {
            if let [(number, one), (same, other)] = pair
                && number == same
            {
                let [one, other] = [one, other].map(|token| printable(token));
                return Err(Error::bad_input(format!("{FILE}: `{one}` and `{other}` have the same id {number}")));
            }
        }
        let known = |number: &u32| {
            self.model.tokens().contains_key(number) || self.tokens.binary_search_by_key(number, |(n, _)| *n).is_ok()
        };
        let mut file = Object::of(&self.text, FILE)?;
        file::renumber_others(&mut file, &mut |number, location| match known(&number) {
            true => Ok(number),
            false => Err(Error::bad_input(format!("{location}: no token has the id {number}"))),
        })
    }

    fn no_token(&self, name: &str) -> Error {
        let error = Error::bad_input(format!("{FILE}: there is no token `{}` to keep", printable(name)));
        match nearest(name, self.tokens.iter().map(|(_, token)| token.as_str())) {
            Some(near) => error.hint(format!("did you mean `{}`?", printable(near))),
            None => error,
        }
    }
}

/// Whether a part of the file, or one inside it, writes texts as bytes.
fn spells_bytes(part: &str) -> bool {
    fn any(part: &Value) -> bool {
        match part {
            Value::Array(items) => items.iter().any(any),
            Value::Object(fields) => {
                fields.get("type").and_then(Value::as_str) == Some("ByteLevel") || fields.values().any(any)
            }
            _ => false,
        }
    }
    serde_json::from_str(part).is_ok_and(|part| any(&part))
}
