//! `--json-schema`: what is generated is JSON of a schema, where the same model without one says something else.
#![cfg(feature = "json-schema")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Ran, copy_folder, fixture, kilnc, place};

/// A bundle of a fixture, for tract.
fn bundle(name: &str) -> (TempDir, PathBuf) {
    built(name, "tract")
}

fn built(name: &str, target: &str) -> (TempDir, PathBuf) {
    let place = place();
    let out = place.path().join("model.kiln");
    kilnc(arguments!["build", fixture(name), "--target", target, "-o", out, "--quiet"]).expect(0);
    (place, out)
}

fn run(bundle: &Path, more: &[&str]) -> Ran {
    let more: Vec<OsString> = more.iter().map(Into::into).collect();
    kilnc([arguments!["run", bundle, "--quiet"].as_slice(), &more].concat())
}

fn refused(bundle: &Path, more: &[&str]) -> String {
    let ran = run(bundle, more).expect(2);
    assert_eq!(ran.stdout, "");
    ran.stderr
}

const PROMPTS: [&str; 3] = ["kiln", "the clay is", "x"];

/// What follows the prompts, all in one batch.
fn generated(bundle: &Path, more: &[&str]) -> Vec<Value> {
    let prompts = PROMPTS.iter().flat_map(|prompt| ["--prompt", prompt]).collect::<Vec<_>>();
    let ran = run(bundle, &[&prompts[..], &["--json", "--batch", "3"], more].concat()).expect(0);
    ran.json().as_array().unwrap().clone()
}

/// The JSON of a text that is whole.
fn whole(answer: &Value) -> Value {
    assert_eq!(answer["complete"], true, "{answer}");
    serde_json::from_str(answer["text"].as_str().unwrap()).unwrap_or_else(|e| panic!("{answer}: {e}"))
}

/// A schema, and whether a value satisfies it.
type Case = (&'static str, fn(&Value) -> bool);

const CASES: [Case; 5] = [
    ("{\"enum\": [\"glaze\", \"clay\", 7]}", |value| *value == "glaze" || *value == "clay" || *value == 7),
    ("{\"type\": \"integer\", \"minimum\": 3, \"maximum\": 12}", |value| {
        value.as_i64().is_some_and(|n| (3..=12).contains(&n))
    }),
    ("{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 4}", |value| {
        value.as_str().is_some_and(|text| (2..=4).contains(&text.chars().count()))
    }),
    ("{\"type\": \"array\", \"items\": {\"type\": \"boolean\"}, \"minItems\": 1, \"maxItems\": 2}", |value| {
        value.as_array().is_some_and(|items| (1..=2).contains(&items.len()) && items.iter().all(Value::is_boolean))
    }),
    (
        "{\"type\": \"object\", \"properties\": {\"b\": {\"$ref\": \"#/$defs/hot\"}, \"a\": {\"type\": [\"null\", \"boolean\"]}}, \
         \"required\": [\"b\"], \"additionalProperties\": false, \"$defs\": {\"hot\": {\"type\": \"boolean\"}}}",
        |value| {
            let fields = value.as_object().unwrap();
            let known = fields.keys().all(|key| key == "a" || key == "b");
            known && fields["b"].is_boolean() && fields.get("a").is_none_or(|a| a.is_null() || a.is_boolean())
        },
    ),
];

/// Generation by every strategy, in a left-padded batch and alone: the texts are JSON of the schemas and come again.
fn holds(bundle: &Path, more: &[&str]) {
    // The model does not do it by itself.
    let free = generated(bundle, &[&["--max-new-tokens", "20"], more].concat());
    for answer in &free {
        assert!(serde_json::from_str::<Value>(answer["text"].as_str().unwrap()).is_err(), "{answer}");
        assert_eq!(answer.get("complete"), None);
    }
    for (schema, satisfies) in CASES {
        let flags = [&["--json-schema", schema, "--max-new-tokens", "50"], more].concat();
        let batch = generated(bundle, &flags);
        for (answer, prompt) in batch.iter().zip(PROMPTS) {
            let value = whole(answer);
            assert!(satisfies(&value), "{schema}: {answer}");
            let alone = run(bundle, &[&["--prompt", prompt, "--json"], &flags[..]].concat()).expect(0).json();
            if !more.contains(&"--temperature") {
                assert_eq!(alone[0]["tokens"], answer["tokens"], "{schema}: {prompt}");
            }
            assert!(satisfies(&whole(&alone[0])));
        }
        let again: Vec<Value> = generated(bundle, &flags).iter().map(|answer| answer["tokens"].clone()).collect();
        assert_eq!(again, batch.iter().map(|answer| answer["tokens"].clone()).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_generated_is_json_of_the_schema() {
    let (_place, bundle) = bundle("decoders/gpt2/lm");
    holds(&bundle, &[]);
}

#[test]
fn what_is_drawn_and_what_is_searched_is_json_of_the_schema() {
    let (_place, bundle) = bundle("decoders/gpt2/lm");
    holds(&bundle, &["--temperature", "1.5", "--top-k", "400", "--seed", "7"]);
    holds(&bundle, &["--num-beams", "3"]);
}

#[test]
fn pieces_with_bytes_in_place_of_unknown_characters_become_json() {
    let (_place, bundle) = bundle("gguf/spm.gguf");
    holds(&bundle, &[]);
}

#[test]
fn a_native_library_in_a_child_follows_the_schema_too() {
    let (_place, bundle) = built("decoders/gpt2/lm", "ort-cpu");
    let (schema, satisfies) = CASES[4];
    for answer in generated(&bundle, &["--json-schema", schema, "--max-new-tokens", "50"]) {
        assert!(satisfies(&whole(&answer)), "{answer}");
    }
}

#[test]
fn lines_chats_and_streams_are_json_of_the_schema() {
    let (place, bundle) = bundle("decoders/gpt2/lm");
    let (checkpoint, chatting) = (place.path().join("checkpoint"), place.path().join("chatting.kiln"));
    copy_folder(&fixture("decoders/gpt2/lm"), &checkpoint);
    fs::write(checkpoint.join("chat_template.jinja"), "{% for m in messages %}{{ m.content }}: {% endfor %}").unwrap();
    kilnc(arguments!["build", checkpoint, "--target", "tract", "-o", chatting, "--quiet"]).expect(0);
    let schema = place.path().join("schema.json");
    fs::write(&schema, CASES[3].0).unwrap();
    let schema = schema.to_str().unwrap();
    let lines = place.path().join("prompts.jsonl");
    fs::write(&lines, "{\"prompt\": \"kiln\"}\n{\"prompt\": \"the clay\"}\n").unwrap();
    let ran = run(&bundle, &["--jsonl", lines.to_str().unwrap(), "--json-schema", schema]).expect(0);
    let answers: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|answer| CASES[3].1(&whole(answer))), "{}", ran.stdout);
    fs::write(place.path().join("chat.json"), "[{\"role\": \"user\", \"content\": \"kiln\"}]").unwrap();
    let chat = place.path().join("chat.json");
    let reply = run(&chatting, &["--chat", chat.to_str().unwrap(), "--json-schema", schema, "--json"]).expect(0).json();
    let value: Value = serde_json::from_str(reply[0]["content"].as_str().unwrap()).unwrap();
    assert!(CASES[3].1(&value), "{reply}");
    let streamed = run(&bundle, &["--prompt", "kiln", "--stream", "--json-schema", schema]).expect(0);
    assert_eq!(streamed.stdout.trim_end_matches('\n'), answers[0]["text"].as_str().unwrap().trim_end_matches('\n'));
}

#[test]
fn a_text_that_ends_before_its_json_is_said() {
    let (_place, bundle) = bundle("decoders/gpt2/lm");
    let schema = "{\"type\": \"string\", \"minLength\": 9}";
    let ran = run(&bundle, &["--prompt", "kiln", "--json-schema", schema, "--max-new-tokens", "4", "--json"]).expect(0);
    assert_eq!((&ran.json()[0]["finish_reason"], &ran.json()[0]["complete"]), (&"length".into(), &false.into()));
    let said = "1 of 1 texts ended before they were JSON of the schema";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    let flags = ["--prompt", "kiln", "--json-schema", schema, "--num-beams", "2", "--max-new-tokens", "4", "--json"];
    assert_eq!(run(&bundle, &flags).expect(0).json()[0]["complete"], false);
}

#[test]
fn schemas_that_cannot_be_followed_are_refused_before_anything_is_printed() {
    let (place, bundle) = bundle("decoders/gpt2/lm");
    let file = place.path().join("bad.json");
    fs::write(&file, "{\"type\":").unwrap();
    let with =
        |schema: &str, more: &[&str]| refused(&bundle, &[&["--prompt", "x", "--json-schema", schema], more].concat());
    let cut = with(file.to_str().unwrap(), &[]);
    assert!(cut.contains("bad.json: ") && cut.contains("EOF while parsing a value"), "{cut}");
    assert!(with("no-such.json", &[]).contains("no-such.json"));
    let ignored = with("{\"uniqueItems\": true}", &[]);
    assert!(ignored.contains("the JSON schema cannot be followed: Unimplemented keys"), "{ignored}");
    assert!(with("{}", &["--stop", "x"]).contains("--stop"));
    let forbidden = with("{\"const\": 1}", &["--min-new-tokens", "30"]);
    assert!(forbidden.contains("every token is forbidden: by the JSON schema, or by another setting"), "{forbidden}");
    let (_other, classifier) = self::bundle("tiny-bert");
    let other = refused(&classifier, &["--text", "x", "--json-schema", "{}"]);
    assert!(other.contains("--json-schema is for text-generation"), "{other}");
    // What is passed over is warned of.
    let warned = run(&bundle, &["--prompt", "x", "--json-schema", "{\"const\": 1, \"maxLenght\": 3}"]).expect(0);
    assert!(warned.stderr.contains("keywords that are not known are passed over: `#/maxLenght`"), "{}", warned.stderr);
}

#[test]
fn a_model_that_ends_no_text_follows_no_schema() {
    let (_place, bundle) = bundle("decoders/openai-gpt/lm");
    let said = refused(&bundle, &["--prompt", "x", "--json-schema", "{}"]);
    assert!(said.contains("no token of the model ends a text, and JSON of a schema has an end"), "{said}");
}

/// The bytes of files do not depend on the feature, which changes the order in which `serde_json` keeps fields.
#[test]
fn files_have_their_fields_in_the_order_of_their_names() {
    let (_place, bundle) = bundle("decoders/gpt2/lm");
    for name in ["hub/config.json", "hub/generation_config.json", "bom.cdx.json"] {
        let text = fs::read_to_string(bundle.join(name)).unwrap();
        let sorted: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
        let written: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert!(written.keys().eq(sorted.keys()), "{name}: {text}");
    }
}
