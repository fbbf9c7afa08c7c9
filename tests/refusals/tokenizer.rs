//! Tokenizers that are damaged, that belong to another model, or that would take for ever.

use std::fs;

use kilnc::error::Result;
use kilnc::runtime::{LONGEST_TEXT, TextEncoder};
use serde_json::{Value, json};

use super::fixture;

/// The rows of tiny-bert's embedding.
const ROWS: usize = 121;

fn sound() -> Value {
    serde_json::from_str(&fs::read_to_string(fixture("tiny-bert").join("tokenizer.json")).unwrap()).unwrap()
}

/// What is said of tiny-bert's tokenizer after a change.
fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let mut tokenizer = sound();
    change(&mut tokenizer);
    refusal_of(&tokenizer.to_string())
}

fn refusal_of(text: &str) -> String {
    let error = opened(text).and_then(|encoder| encoder.check_rows(ROWS)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.message().to_owned()
}

fn opened(text: &str) -> Result<TextEncoder> {
    TextEncoder::parse(text.to_owned(), 16)
}

/// tiny-bert's tokenizer with another pre-tokenizer or normalizer.
fn with(field: &str, value: Value) -> String {
    let mut tokenizer = sound();
    tokenizer[field] = value;
    tokenizer.to_string()
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

#[test]
fn a_sound_tokenizer_is_opened() {
    let encoder = opened(&sound().to_string()).unwrap();
    encoder.check_rows(ROWS).unwrap();
    assert!(!encoder.encode(&["a text"]).unwrap().is_empty());
}

#[test]
fn a_number_that_two_tokens_have_is_refused() {
    let word = |t: &Value, id: u64| {
        t["model"]["vocab"].as_object().unwrap().iter().find(|(_, n)| n.as_u64() == Some(id)).unwrap().0.clone()
    };
    let (ten, eleven) = (word(&sound(), 10), word(&sound(), 11));
    let mut both = [ten, eleven.clone()];
    both.sort();
    assert_eq!(
        refusal(|t| t["model"]["vocab"][eleven.as_str()] = json!(10)),
        format!("tokenizer.json: model.vocab: `{}` and `{}` have the same id 10", both[0], both[1])
    );
    let added = |id: u64| json!({"id": id, "content": "[NEW]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    for id in [10, 500] {
        assert_eq!(
            refusal(|t| t["added_tokens"].as_array_mut().unwrap().push(added(id))),
            format!("tokenizer.json: added_tokens: `[NEW]` has the id {id}, but among the other tokens its id is 121")
        );
    }
    assert_eq!(
        refusal(|t| t["added_tokens"][2]["id"] = json!(9)),
        "tokenizer.json: added_tokens: `[CLS]` has the id 9, but among the other tokens its id is 2"
    );
    let text = sound().to_string();
    let twice = text.replacen("\"vocab\":{", &format!("\"vocab\":{{\"{eleven}\":11,"), 1);
    assert!(refusal_of(&twice).starts_with(&format!("tokenizer.json: model.vocab: duplicate `{eleven}` at line 1")));
}

#[test]
fn a_number_that_is_none_is_refused() {
    let number = |value: Value| refusal(move |t| t["model"]["vocab"]["the"] = value);
    let field = "tokenizer.json: model.vocab.the: invalid ";
    assert!(number(json!(-1)).starts_with(&format!("{field}value: integer `-1`, expected u32")));
    assert!(number(json!(1u64 << 32)).starts_with(&format!("{field}value: integer `4294967296`, expected u32")));
    assert!(number(json!("1")).starts_with(&format!("{field}type: string \"1\", expected u32")));
    let added = refusal(|t| t["added_tokens"][0]["id"] = json!(-1));
    assert!(added.starts_with("tokenizer.json: added_tokens[0].id: invalid value: integer `-1`"), "{added}");
}

#[test]
fn a_number_past_the_rows_of_the_embedding_is_refused() {
    let past = |token: &str, id: u64| {
        format!("tokenizer.json: the token `{token}` has the id {id}, but the embedding has 121 rows")
    };
    assert_eq!(refusal(|t| t["model"]["vocab"]["zzz"] = json!(121)), past("zzz", 121));
    assert_eq!(refusal(|t| t["model"]["vocab"]["zzz"] = json!(u32::MAX)), past("zzz", u32::MAX.into()));
    let padding = json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 4000000000u32, "pad_type_id": 0, "pad_token": "[PAD]"});
    assert_eq!(refusal(|t| t["padding"] = padding), past("padding", 4_000_000_000));
    assert_eq!(refusal(|t| t["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([777])), past("[SEP]", 777));
}

#[test]
fn a_pattern_that_backtracks_without_bound_is_refused() {
    for field in ["pre_tokenizer", "normalizer"] {
        let pattern = json!({"type": "Sequence", "pretokenizers": [split(r"(x+x+)+(?!y)")], "normalizers": [
            {"type": "Replace", "pattern": {"Regex": r"(x+x+)+(?!y)"}, "content": ""}]});
        let error = opened(&with(field, pattern)).err().unwrap();
        assert_eq!(
            error.message(),
            "tokenizer.json: the pattern `(x+x+)+(?!y)` can take time without bound on some texts"
        );
        assert_eq!(error.hints(), ["look-around and word boundaries are supported beside one plain repetition"]);
    }
}

#[test]
fn patterns_that_backtrack_elsewhere_take_no_time_here() {
    let text = format!("{}!", "x".repeat(LONGEST_TEXT - 1));
    let spaces = format!("{}!", " ".repeat(LONGEST_TEXT - 1));
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    for pattern in [r"(x+x+)+y", r"(x|x)*y", r"(\w+\s?)*$", gpt2] {
        let encoder = opened(&with("pre_tokenizer", split(pattern))).unwrap();
        encoder.encode(&[&text]).unwrap();
        encoder.encode(&[&spaces]).unwrap();
    }
}

#[test]
fn texts_have_a_length() {
    let encoder = opened(&sound().to_string()).unwrap();
    let error = encoder.encode(&[&"x".repeat(LONGEST_TEXT + 1)]).unwrap_err();
    assert_eq!(error.message(), "a text of 1048577 bytes, at most 1048576 are read");
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let bomb = opened(&with("normalizer", json!({"type": "Sequence", "normalizers": vec![double; 60]}))).unwrap();
    assert_eq!(
        bomb.encode(&["a"]).unwrap_err().message(),
        "tokenizer.json: normalizer: its replacements can make a text of 1 bytes longer than 67108864"
    );
}

#[test]
fn a_character_map_that_the_library_dies_of_is_an_error() {
    // One unit, which leads to a place past the end of the map.
    let map = json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAIA="});
    let encoder = opened(&with("normalizer", map)).unwrap();
    let error = encoder.encode(&["a text"]).unwrap_err();
    assert_eq!((error.message(), error.exit_code()), ("tokenizer.json: the tokenizer's library fails on it", 2));
}

#[test]
fn refusals_of_the_library_are_errors() {
    let said = refusal(|t| t["model"]["type"] = json!("Abacus"));
    assert!(said.starts_with("tokenizer.json: "), "{said}");
    let said = refusal(|t| t["version"] = json!("2.0"));
    assert!(said.starts_with("tokenizer.json: Unknown tokenizer version '2.0' at line 1"), "{said}");
    assert!(refusal_of("{}").starts_with("tokenizer.json: missing field `model` at line 1"));
    assert!(refusal_of("[").starts_with("tokenizer.json: "));
}
