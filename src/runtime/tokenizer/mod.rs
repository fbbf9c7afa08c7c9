//! Checks of a `tokenizer.json`. The library that makes a tokenizer of it accepts too much: duplicate
//! ids, patterns that backtrack without bound, replacements that make a text of one of any length.

mod pattern;

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, Result, printable, printable_sentence};
use crate::json;

/// The file, as messages call it.
const FILE: &str = "tokenizer.json";

/// How long the library may take for one file or one batch of texts.
const LIMIT: Duration = Duration::from_secs(60);

/// The name of the threads in which the library works. If it panics there, that is reported as an error.
pub const THREAD: &str = "tokenizer";

/// A tokenizer whose file was checked.
pub(super) struct Checked {
    pub tokenizer: Tokenizer,
    /// How many times longer than a text its normalized form can be, by the replacements that the file lists.
    pub growth: usize,
    /// The id of unknown tokens.
    pub unknown: Option<u32>,
    /// Whether tokens that go on with a word begin with a mark, as WordPiece's do with `##`.
    pub marks_subwords: bool,
}

/// The parts of the file that are checked.
#[derive(serde::Deserialize)]
struct Declared {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Model,
}

#[derive(serde::Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(serde::Deserialize)]
struct Model {
    vocab: Vocabulary,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    unk_id: Option<u32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
}

/// Tokens by id. A list, as Unigram models have it, has the index as id, and is not stored.
struct Vocabulary(Vec<(u32, String)>);

/// Makes a tokenizer of the text of its file. Fails where an id is a duplicate or no number, where a pattern can
/// backtrack without bound, and where the library refuses.
pub(super) fn parse(text: String) -> Result<Checked> {
    watched(move || checked(&text))
}

fn checked(text: &str) -> Result<Checked> {
    let declared: Declared = json::parse(text, FILE)?;
    declared.model.vocab.check()?;
    let growth = pattern::growth(&declared.normalizer);
    for part in [&declared.normalizer, &declared.pre_tokenizer] {
        pattern::check(part)?;
    }
    let tokenizer: Tokenizer = text.parse().map_err(|e| malformed(&e))?;
    for token in &declared.added_tokens {
        token.check(&tokenizer)?;
    }
    let named = declared.model.unk_token.and_then(|token| tokenizer.token_to_id(&token));
    let marks_subwords = declared.model.continuing_subword_prefix.is_some_and(|mark| !mark.is_empty());
    Ok(Checked { unknown: named.or(declared.model.unk_id), tokenizer, growth, marks_subwords })
}

impl AddedToken {
    /// The library assigns a token that its model lacks the next free id, regardless of the file.
    fn check(&self, tokenizer: &Tokenizer) -> Result<()> {
        match tokenizer.token_to_id(&self.content) {
            Some(id) if id != self.id => Err(Error::bad_input(format!(
                "{FILE}: added_tokens: `{}` has the id {}, but among the other tokens its id is {id}",
                printable(&self.content),
                self.id
            ))),
            _ => Ok(()),
        }
    }
}

impl Vocabulary {
    fn check(mut self) -> Result<()> {
        self.0.sort_unstable();
        for pair in self.0.windows(2) {
            if let [(id, one), (same, other)] = pair
                && id == same
            {
                let [one, other] = [one, other].map(|token| printable(token));
                return Err(Error::bad_input(format!(
                    "{FILE}: model.vocab: `{one}` and `{other}` have the same id {id}"
                )));
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens;

        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens and their numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut tokens = Vec::new();
                while let Some(token) = map.next_key::<String>()? {
                    tokens.push((map.next_value()?, token));
                }
                Ok(Vocabulary(tokens))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocabulary, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocabulary(Vec::new()))
            }
        }

        deserializer.deserialize_any(Tokens)
    }
}

/// The library's message for a file.
pub(super) fn malformed(error: &tokenizers::Error) -> Error {
    Error::bad_input(format!("{FILE}: {}", printable_sentence(&error.to_string())))
}

/// Does `job`, in which the library works on data from outside, in a separate thread. Fails where it panics, or is
/// not done within [`LIMIT`]; the thread then ends with the process.
pub(super) fn watched<T: Send + 'static>(job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    watched_for(LIMIT, job)
}

/// Does `job` in a separate thread, named so that a panic there is left to the caller; the inner error says that it has
/// panicked (`Disconnected`) or is not done in time.
pub(super) fn attempt<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<Result<T, RecvTimeoutError>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name(THREAD.to_owned())
        .spawn(move || drop(sender.send(job())))
        .map_err(|e| Error::of_system("a thread did not start", &e))?;
    Ok(receiver.recv_timeout(limit))
}

fn watched_for<T: Send + 'static>(limit: Duration, job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    attempt(limit, job)?.unwrap_or_else(|e| {
        Err(Error::bad_input(match e {
            RecvTimeoutError::Timeout => format!("{FILE}: the tokenizer is not done within {} s", limit.as_secs()),
            RecvTimeoutError::Disconnected => format!("{FILE}: the tokenizer's library fails on it"),
        })
        .hint("save the tokenizer again with a current version of `tokenizers`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_hangs_or_panics_is_an_error() {
        let said = |limit, job: fn() -> Result<()>| watched_for(limit, job).unwrap_err().message().to_owned();
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(60));
        assert_eq!(said(long, || panic!("a bug")), "tokenizer.json: the tokenizer's library fails on it");
        assert_eq!(
            said(short, || loop {
                std::thread::sleep(Duration::from_secs(1));
            }),
            "tokenizer.json: the tokenizer is not done within 0 s"
        );
        assert_eq!(watched_for(long, || Ok(1)).unwrap(), 1);
    }
}
