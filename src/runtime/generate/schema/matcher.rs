//! The grammar of a schema, and how far a text has come in it, by `llguidance`.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use llguidance::api::{GrammarInit, ParserLimits, StopReason, TopLevelGrammar};
use llguidance::earley::ValidationResult;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::constraint::Constraint;
use crate::error::{Error, Result, printable_sentence};
use crate::runtime::tokenizer;

/// What may be between the parts of the JSON, beside nothing: a space. A weak model, which may go on with any number of blanks,
/// would never come to the end.
const BLANKS: &str = r"\x20";

/// How long the library may take for a schema.
const LIMIT: Duration = Duration::from_secs(60);

/// The grammar of a schema over a vocabulary.
pub(in crate::runtime::generate) struct Grammar(Matcher);

/// A text that has to follow a schema, as far as it is generated.
#[derive(Clone)]
pub(in crate::runtime::generate) struct Constrained(Matcher);

/// Fails where the library cannot follow a schema; gives what it warns of.
pub(super) fn check(schema: Value) -> Result<Vec<String>> {
    let grammar = grammar_of(schema)?;
    match attempt(move || Ok(GrammarInit::Serialized(grammar).validate(None, limits())))? {
        ValidationResult::Valid => Ok(Vec::new()),
        ValidationResult::Warnings(said) => Ok(said.iter().map(|said| printable_sentence(said)).collect()),
        ValidationResult::Error(said) => Err(refused(&said)),
    }
}

impl Grammar {
    /// Fails where the vocabulary has no token that begins a text of the schema.
    pub fn new(constraint: &Constraint) -> Result<Grammar> {
        let schema = serde_json::from_str(&constraint.schema).map_err(|e| Error::bug(format!("a schema: {e}")))?;
        let grammar = grammar_of(schema)?;
        let tokens = tokens_of(constraint)?;
        attempt(move || {
            let mut factory = ParserFactory::new_simple(&tokens).map_err(|e| refused(&e.to_string()))?;
            *factory.quiet().limits_mut() = limits();
            let mut constrained = Constrained(Matcher::new(factory.create_parser(grammar)));
            match constrained.0.get_error() {
                Some(said) => Err(refused(&said)),
                None => constrained.forbid(&mut []).map(|()| Grammar(constrained.0)),
            }
        })
    }

    /// A text of nothing yet.
    pub fn begin(&self) -> Constrained {
        Constrained(self.0.clone())
    }
}

impl Constrained {
    /// Forbids (−∞) the tokens after which no text is JSON of the schema.
    pub fn forbid(&mut self, scores: &mut [f32]) -> Result<()> {
        let mask = self.0.compute_mask_or_eos().map_err(|e| {
            let said = e.to_string();
            if said.starts_with(&StopReason::NoExtensionBias.to_string()) { no_token() } else { refused(&said) }
        })?;
        for (token, score) in scores.iter_mut().enumerate() {
            if token >= mask.len() || !mask.get(token) {
                *score = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Goes on by a token that was not forbidden and does not end the text. Says whether the text is JSON of the schema.
    pub fn take(&mut self, token: u32) -> Result<bool> {
        self.0.consume_token(token).map_err(|e| refused(&e.to_string()))?;
        // Where nothing can follow, the library has stopped.
        Ok(self.0.stop_reason() == StopReason::NoExtension
            || self.0.is_accepting().map_err(|e| refused(&e.to_string()))?)
    }
}

/// The tokens that may come, as the library has them.
fn tokens_of(constraint: &Constraint) -> Result<TokEnv> {
    let tokens = constraint.tokens.clone();
    let size = u32::try_from(tokens.len()).map_err(|_| Error::unsupported("the vocabulary has too many tokens"))?;
    let eos: Vec<u32> = constraint.eos.iter().copied().filter(|eos| *eos < size).collect();
    let Some(first) = eos.first().copied() else {
        return Err(Error::bad_input("the tokens that end a text (`eos_token_id`) are not among the tokenizer's"));
    };
    attempt(move || {
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &tokens).with_eos_tokens(&eos);
        Ok(Arc::new(ApproximateTokEnv::new(trie)) as TokEnv)
    })
}

/// The whole grammar of a schema.
fn grammar_of(schema: Value) -> Result<TopLevelGrammar> {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => return Err(refused("the schema is `false`, which nothing satisfies")),
        schema => schema,
    };
    let Some(fields) = schema.as_object_mut() else {
        return Err(refused("a schema is an object, or true or false"));
    };
    // Where the library reads how the JSON is laid out.
    fields.insert("x-guidance".to_owned(), json!({"whitespace_pattern": BLANKS}));
    Ok(TopLevelGrammar::from_json_schema(schema))
}

fn limits() -> ParserLimits {
    ParserLimits { verbose_errors: false, ..ParserLimits::default() }
}

/// The library's words for a schema.
fn refused(said: &str) -> Error {
    let said = said.trim_end_matches("<non-verbose/>").trim();
    Error::bad_input(format!("the JSON schema cannot be followed: {}", printable_sentence(said)))
        .hint("docs/run.md says which keywords are implemented")
}

fn no_token() -> Error {
    Error::bad_input("no token of the vocabulary goes on to JSON of the schema")
        .hint("the tokenizer lacks bytes that the schema's texts have")
}

/// Lets the library work in a thread, where a panic is an error.
fn attempt<T: Send + 'static>(job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokenizer::attempt(LIMIT, job)?.unwrap_or_else(|unfinished| {
        Err(refused(&match unfinished {
            RecvTimeoutError::Timeout => format!("it is not compiled within {} s", LIMIT.as_secs()),
            RecvTimeoutError::Disconnected => "the library fails on it".to_owned(),
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::super::JsonSchema;
    use super::*;

    fn refusal(schema: &str) -> Error {
        JsonSchema::parse(schema, "schema.json").unwrap_err()
    }

    #[test]
    fn schemas_that_cannot_be_followed_are_refused_in_the_words_of_the_library() {
        for (schema, said) in [
            ("{\"type\": \"object\"", "schema.json: EOF while parsing an object"),
            ("[1]", "the JSON schema cannot be followed: a schema is an object, or true or false"),
            ("{\"type\": \"text\"}", "the JSON schema cannot be followed: Invalid type: text"),
            ("{\"uniqueItems\": true}", "the JSON schema cannot be followed: Unimplemented keys: [\"uniqueItems\"]"),
            ("{\"type\": \"string\", \"format\": \"isbn\"}", "Unknown format: isbn"),
            ("{\"$ref\": \"#/$defs/none\"}", "Reference segment '$defs' not found in '#/$defs/none'"),
            ("{\"$ref\": \"https://example.org/schema\"}", "Only absolute $ref's"),
            ("{\"type\": \"string\", \"pattern\": \"(\"}", "the JSON schema cannot be followed: "),
            ("{\"a\": 1, \"a\": 2}", "duplicate"),
        ] {
            let error = refusal(schema);
            assert!(error.message().contains(said), "{schema}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        let long = format!("{{\"type\": \"{}\"}}", "x".repeat(100_000));
        assert!(refusal(&long).message().len() < 700);
        // The library cuts the value inside a character, and panics.
        let cut = format!("{{\"type\": \"string\", \"pattern\": [\"x{}\"]}}", "é".repeat(100));
        assert!(refusal(&cut).message().ends_with("the library fails on it"), "{}", refusal(&cut));
        let large = format!("{{\"title\": \"{}\"}}", "x".repeat(4 << 20));
        assert!(refusal(&large).message().contains("bytes, at most 4194304 are read"));
    }

    #[test]
    fn a_schema_that_no_text_satisfies_is_refused() {
        for schema in [
            "false",
            "{\"enum\": []}",
            "{\"type\": \"integer\", \"minimum\": 5, \"maximum\": 3}",
            "{\"type\": \"string\", \"minLength\": 3, \"maxLength\": 1}",
            "{\"allOf\": [{\"type\": \"string\"}, {\"type\": \"number\"}]}",
            "{\"type\": \"object\", \"properties\": {\"a\": false}, \"required\": [\"a\"]}",
            "{\"type\": \"array\", \"items\": false, \"minItems\": 1}",
        ] {
            let said = refusal(schema);
            assert!(said.message().starts_with("the JSON schema cannot be followed: "), "{schema}: {said}");
        }
    }

    /// A vocabulary of these texts, the end among them.
    fn constraint(schema: &str, tokens: &[&str]) -> Constraint {
        let tokens: Vec<Vec<u8>> = [""].iter().chain(tokens).map(|token| token.as_bytes().to_vec()).collect();
        Constraint { schema: schema.to_owned(), tokens, eos: vec![0] }
    }

    /// The tokens that may come next.
    fn allowed(constrained: &mut Constrained, size: usize) -> Vec<usize> {
        let mut scores = vec![0.0; size];
        constrained.forbid(&mut scores).unwrap();
        scores.iter().enumerate().filter(|(_, score)| **score == 0.0).map(|(token, _)| token).collect()
    }

    #[test]
    fn only_tokens_that_lead_to_json_of_the_schema_are_allowed() {
        let tokens = ["{", "}", "\"a\":", "1", "12", "\"", "x", " ", "\n", "{\"a\":1}"];
        let schema = r#"{"type": "object", "properties": {"a": {"type": "integer", "maximum": 12, "minimum": 1}},
            "required": ["a"], "additionalProperties": false}"#;
        let grammar = Grammar::new(&constraint(schema, &tokens)).unwrap();
        let mut text = grammar.begin();
        // Logits that the tokenizer has no tokens for are forbidden, too.
        assert_eq!(allowed(&mut text, 20), [1, 10]);
        assert!(!text.take(1).unwrap());
        let mut whole = grammar.begin();
        assert!(whole.take(10).unwrap());
        assert_eq!(allowed(&mut whole, 20), [0]);
        assert_eq!(allowed(&mut text, 11), [3, 6, 8]);
        assert!(!text.take(3).unwrap());
        assert!(!text.take(4).unwrap());
        // `112` is too much, `1x` is none.
        assert_eq!(allowed(&mut text, 11), [2, 4, 8]);
        let mut other = text.clone();
        assert!(text.take(2).unwrap());
        assert_eq!(allowed(&mut other, 11), [2, 4, 8]);
    }

    #[test]
    fn a_vocabulary_without_the_bytes_of_the_schema_is_refused() {
        let said = |constraint: Constraint| Grammar::new(&constraint).err().unwrap().message().to_owned();
        let no_token = "no token of the vocabulary goes on to JSON of the schema";
        assert_eq!(said(constraint("{\"type\": \"object\"}", &["a", "1"])), no_token);
        let grammar = Grammar::new(&constraint("{\"const\": \"ab\"}", &["\"a", "c"])).unwrap();
        let mut text = grammar.begin();
        assert!(!text.take(1).unwrap());
        assert_eq!(text.forbid(&mut []).unwrap_err().message(), no_token);
        let without_end = Constraint { eos: vec![9], ..constraint("{}", &["1"]) };
        assert!(said(without_end).starts_with("the tokens that end a text"));
    }

    #[test]
    fn one_space_may_come_between_parts() {
        let grammar = Grammar::new(&constraint("{\"type\": \"array\"}", &["[", "]", " ", "\n"])).unwrap();
        let mut text = grammar.begin();
        text.take(1).unwrap();
        assert_eq!(allowed(&mut text, 5), [1, 2, 3]);
        text.take(3).unwrap();
        assert_eq!(allowed(&mut text, 5), [1, 2]);
    }
}
