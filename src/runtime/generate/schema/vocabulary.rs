//! The bytes of tokens, as the tokenizer's decoder joins them.

use std::collections::HashMap;

use serde_json::Value;

use crate::error::{Error, Result, printable};
use crate::runtime::TextEncoder;

/// Largest id of a token; larger ones are in no vocabulary, and a table has a place for each id below.
const LARGEST: u32 = 1 << 22;

/// Longest token that comes, in bytes: the library's table of tokens is no deeper.
const LONGEST: usize = 512;

/// How a decoder makes bytes of tokens.
#[derive(Debug, PartialEq, Eq)]
enum Bytes {
    /// Each character stands for a byte, as in GPT-2.
    Level,
    /// Text, with a mark for spaces; a token such as `<0x0A>` is a byte where `fallback` says so.
    Pieces { space: Option<char>, fallback: bool },
}

/// The bytes of each token, by its id. Tokens that never come have none: special ones, those that end a text, the unknown one.
pub(super) fn token_bytes(encoder: &TextEncoder, eos: &[u32]) -> Result<Vec<Vec<u8>>> {
    let bytes = Bytes::of(&encoder.decoder()?)?;
    let levels = levels();
    let mut table: Vec<Vec<u8>> = Vec::new();
    for (id, token) in encoder.vocabulary() {
        if id > LARGEST {
            return Err(Error::unsupported(format!(
                "tokenizer.json: a token has the id {id}; up to {LARGEST} a schema is followed"
            )));
        }
        let never = encoder.special(&token).is_some() || encoder.unknown() == Some(id) || eos.contains(&id);
        let place = id as usize;
        if table.len() <= place {
            table.resize_with(place + 1, Vec::new);
        }
        if let Some(entry) = table.get_mut(place).filter(|_| !never) {
            *entry = bytes.of_token(&token, &levels);
            entry.truncate(if entry.len() > LONGEST { 0 } else { LONGEST });
        }
    }
    Ok(table)
}

impl Bytes {
    /// By the field `decoder` of a `tokenizer.json`.
    fn of(decoder: &Value) -> Result<Bytes> {
        let steps: Vec<&Value> = match decoder.get("decoders").and_then(Value::as_array) {
            Some(steps) => steps.iter().collect(),
            None => vec![decoder],
        };
        let (mut space, mut fallback) = (None, false);
        for step in steps {
            match step.get("type").and_then(Value::as_str).unwrap_or("none") {
                "ByteLevel" => return Ok(Bytes::Level),
                "ByteFallback" => fallback = true,
                "Metaspace" => space = one_character(step.get("replacement")),
                "Replace" if step.get("content").and_then(Value::as_str) == Some(" ") => {
                    space = one_character(step.get("pattern").and_then(|pattern| pattern.get("String")));
                }
                // What they change is at the ends of a text.
                "Fuse" | "Strip" => {}
                other => return Err(unknown(other)),
            }
        }
        match (space, fallback) {
            (None, false) => Err(unknown("one without bytes")),
            _ => Ok(Bytes::Pieces { space, fallback }),
        }
    }

    fn of_token(&self, token: &str, levels: &HashMap<char, u8>) -> Vec<u8> {
        match self {
            // A token of other characters, which was added, is its own text.
            Bytes::Level => {
                let bytes: Option<Vec<u8>> = token.chars().map(|c| levels.get(&c).copied()).collect();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Bytes::Pieces { space, fallback } => match byte_of(token).filter(|_| *fallback) {
                Some(byte) => vec![byte],
                None => space.map_or_else(|| token.to_owned(), |space| token.replace(space, " ")).into_bytes(),
            },
        }
    }
}

/// The byte that a token such as `<0x0A>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn one_character(text: Option<&Value>) -> Option<char> {
    let mut characters = text?.as_str()?.chars();
    characters.next().filter(|_| characters.next().is_none())
}

fn unknown(decoder: &str) -> Error {
    Error::unsupported(format!(
        "tokenizer.json: decoder: {} gives tokens no bytes of their own, so no schema is followed",
        printable(decoder)
    ))
    .hint("tokenizers of bytes (ByteLevel, ByteFallback) and of SentencePiece have them")
}

/// The bytes that characters stand for in GPT-2's vocabulary: printable ones for themselves, the others for U+0100 and on.
fn levels() -> HashMap<char, u8> {
    let mut others = (0x100..).filter_map(char::from_u32);
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let of = |byte: u8| if printable(byte) { Some(char::from(byte)) } else { others.next() };
    let mut of = of;
    (0..=255).filter_map(|byte| Some((of(byte)?, byte))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bytes(decoder: &Value, token: &str) -> Vec<u8> {
        Bytes::of(decoder).unwrap().of_token(token, &levels())
    }

    #[test]
    fn tokens_have_the_bytes_that_decoders_make_of_them() {
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        assert_eq!(bytes(&level, "Ġthe"), b" the");
        assert_eq!(bytes(&level, "Ċ"), b"\n");
        assert_eq!(bytes(&level, "ðŁ"), [0xf0, 0x9f]);
        assert_eq!(bytes(&level, "東"), "東".as_bytes());
        assert_eq!(levels().len(), 256);
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert_eq!(bytes(&llama, "▁the"), b" the");
        assert_eq!(bytes(&llama, "<0x0A>"), b"\n");
        assert_eq!(bytes(&llama, "<0x0>"), b"<0x0>");
        assert_eq!(bytes(&llama, "é"), "é".as_bytes());
        let pieces = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        assert_eq!(bytes(&pieces, "▁<0x0A>"), b" <0x0A>");
        assert_eq!(bytes(&pieces, "<0x0A>"), b"<0x0A>");
    }

    #[test]
    fn tokenizers_whose_tokens_have_no_bytes_are_refused_by_name() {
        let said = |decoder: Value| Bytes::of(&decoder).unwrap_err().message().to_owned();
        let pieces = said(json!({"type": "WordPiece", "prefix": "##", "cleanup": true}));
        assert_eq!(
            pieces,
            "tokenizer.json: decoder: WordPiece gives tokens no bytes of their own, so no schema is followed"
        );
        assert!(said(Value::Null).starts_with("tokenizer.json: decoder: none gives"));
        assert!(said(json!({"type": "Fuse"})).starts_with("tokenizer.json: decoder: one without bytes"));
    }
}
