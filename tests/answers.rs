//! Predictions of classifiers' bundles: single-label, multi-label, regression, and the scores of pairs.

use std::fs;
use std::path::Path;

use crate::common::{copied, edit, fixture, kilnc, names, place};
use serde_json::{Value, json};
use tempfile::TempDir;

/// tiny-bert with another problem type.
fn tiny_bert_as(problem_type: &str) -> TempDir {
    let checkpoint = copied("tiny-bert");
    let config = checkpoint.path().join("config.json");
    edit(&config, "\"use_cache\": true", &format!("\"problem_type\": \"{problem_type}\""));
    checkpoint
}

fn build(checkpoint: &Path, out: &Path) -> Value {
    let golden = checkpoint.join("golden.safetensors");
    let recipe = out.with_extension("toml");
    let mut text = format!("[golden]\nfile = {golden:?}\nmax_abs = 1e-4\n");
    for (target, precision) in [("ort-cpu", "fp32"), ("ort-cpu", "int8"), ("tract", "fp32")] {
        text += &format!("[[engine]]\ntarget = {target:?}\nprecision = {precision:?}\n");
    }
    fs::write(&recipe, text).unwrap();
    kilnc(arguments!["build", checkpoint, "--recipe", recipe, "-o", out, "--json", "--quiet"]).expect(0).json()
}

/// The first text of tiny-bert's golden file, with PyTorch's logits of it.
fn first_text() -> (String, Vec<f64>) {
    let bytes = fs::read(fixture("tiny-bert/golden.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let texts: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["texts"]).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = file.tensor("out.logits").unwrap();
    let row = logits.data().chunks(4).take(3).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
    (texts[0][0].as_str().unwrap().to_owned(), row.collect())
}

fn near(found: &Value, expected: f64) {
    assert!((found.as_f64().unwrap() - expected).abs() < 1e-4, "{found} is not {expected}");
}

#[test]
fn multi_label_predictions_are_scored_and_gated_as_sets() {
    let (checkpoint, place) = (tiny_bert_as("multi_label_classification"), place());
    let out = place.path().join("tiny.kiln");
    let manifest = build(checkpoint.path(), &out);
    assert_eq!(manifest["problem_type"], "multi-label");
    let (text, logits) = first_text();
    let summary = kilnc(arguments!["run", out, "--engine", "ort-cpu-fp32", "--text", text, "--json"]).expect(0).json();
    let scores: Vec<f64> = logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
    scores.iter().enumerate().for_each(|(i, score)| near(&summary[0]["scores"][i], *score));
    let mut expected: Vec<(usize, f64)> = scores.into_iter().enumerate().filter(|(_, score)| *score >= 0.5).collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));
    let labels = summary[0]["labels"].as_array().unwrap();
    assert_eq!(labels.len(), expected.len());
    for (label, (class, score)) in labels.iter().zip(&expected) {
        assert_eq!(label["class"], *class);
        near(&label["score"], *score);
    }

    // Two texts with the model's own predictions, one of them with a label too many.
    let names: Vec<&Value> = labels.iter().map(|label| &label["label"]).collect();
    let all = ["negative", "neutral", "positive"];
    let data = out.with_extension("jsonl");
    let line = |labels: &Value| json!({"text": text, "labels": labels}).to_string();
    fs::write(&data, [line(&json!(names)), line(&json!(all))].join("\n")).unwrap();
    let scored = kilnc(arguments!["eval", out, "--data", data, "--json", "--quiet"]).expect(0).json();
    let n = names.len() as f64;
    assert!(n < 3.0, "the fixture's first text has every label");
    near(&scored[0]["accuracy"], 0.5);
    near(&scored[0]["micro_f1"], 2.0 * (n + n) / (n + n + n + 3.0));
    assert_eq!(scored[0]["agreement"], 1.0);
    let table = kilnc(arguments!["eval", out, "--data", data, "--quiet"]).expect(0).stdout;
    assert!(
        table.starts_with("engine        exact match  micro F1  correct/examples  agreement  texts/s\n"),
        "{table}"
    );

    // Labels of the wrong form are refused with their line.
    fs::write(&data, json!({"text": text, "labels": ["neutral", "neutral"]}).to_string()).unwrap();
    let refused = kilnc(arguments!["eval", out, "--data", data]).expect(2).stderr;
    assert!(refused.contains("duplicate label\n  in "), "{refused}");
    let inspected = kilnc(arguments!["inspect", out]).expect(0).stdout;
    assert!(inspected.contains("any of 3 labels"), "{inspected}");
}

#[test]
fn regression_predicts_numbers_as_they_are() {
    let (checkpoint, place) = (tiny_bert_as("regression"), place());
    let out = place.path().join("tiny.kiln");
    let manifest = build(checkpoint.path(), &out);
    assert_eq!(manifest["problem_type"], "regression");
    let measures = |gate: &Value| gate["checks"].as_array().unwrap().iter().map(|c| c["measure"].clone()).collect();
    let found: Vec<Value> = measures(&manifest["engines"][1]["gates"][0]);
    assert_eq!(found, ["cosine", "max_abs", "non_finite"]);
    let (text, logits) = first_text();
    let summary = kilnc(arguments!["run", out, "--engine", "tract-fp32", "--text", text, "--json"]).expect(0).json();
    logits.iter().enumerate().for_each(|(i, logit)| near(&summary[0]["numbers"][i], *logit));

    let data = out.with_extension("jsonl");
    let off: Vec<f64> = logits.iter().map(|logit| logit + 0.25).collect();
    fs::write(&data, json!({"text": text, "labels": off}).to_string()).unwrap();
    let engine = ["--engine", "ort-cpu-fp32"];
    let scored = kilnc([arguments!["eval", out, "--data", data].as_slice(), &engine.map(Into::into)].concat());
    assert!(scored.expect(0).stdout.starts_with("engine        mean abs error  spearman  max_abs  texts/s\n"));
    let scored = kilnc(arguments!["eval", out, "--data", data, "--json"]).expect(0).json();
    near(&scored[0]["mean_abs_error"], 0.25);
    assert_eq!(scored[0].get("accuracy"), None);
}

#[test]
fn a_bound_that_means_nothing_for_regression_is_refused() {
    let (checkpoint, place) = (tiny_bert_as("regression"), place());
    let out = place.path().join("tiny.kiln");
    let gate = ["--quantize", "int8", "--gate", "agreement=0.9"].map(std::ffi::OsString::from);
    let refused = kilnc([arguments!["build", checkpoint.path(), "-o", out].as_slice(), &gate].concat()).expect(2);
    let expected = "error: a bound on `agreement` means nothing for regression\n  in engine ort-cpu-int8\n\n\
                    hint: bound max_abs, the largest difference of any number\n";
    assert!(refused.stderr.ends_with(expected), "{}", refused.stderr);
}

#[test]
fn pairs_are_scored_as_by_the_cross_encoder() {
    let all = [
        ("reranker", "score", "score"),
        ("reranker-identity", "regression", "numbers"),
        ("reranker-logits", "score", "score"),
        ("reranker-logits-instruction", "score", "score"),
        ("reranker-logits-pair", "score", "score"),
    ];
    for (name, problem_type, field) in all {
        let place = place();
        let (checkpoint, out) = (fixture("sentence").join(name), place.path().join("reranker.kiln"));
        assert_eq!(build(&checkpoint, &out)["problem_type"], problem_type);
        let data = checkpoint.join("answers.jsonl");
        let scored = kilnc(arguments!["eval", out, "--data", data, "--json", "--quiet"]).expect(0).json();
        assert!(scored[0]["mean_abs_error"].as_f64().unwrap() < 1e-5, "{scored}");
        near(&scored[0]["spearman"], 1.0);

        let lines = fs::read_to_string(&data).unwrap();
        let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        let [text, pair] = ["text", "pair"].map(|field| first[field].as_str().unwrap());
        let asked = arguments!["run", out, "--engine", "ort-cpu-fp32", "--text", text, "--pair", pair];
        let summary =
            kilnc([asked.as_slice(), &arguments!["--pair", "a slow tool", "--json"]].concat()).expect(0).json();
        assert_eq!((&summary[0]["pair"], &summary[1]["pair"]), (&json!(pair), &json!("a slow tool")));
        let value = |line: &Value| if line[field].is_array() { line[field][0].clone() } else { line[field].clone() };
        near(&value(&summary[0]), first["label"].as_f64().unwrap());
        assert_ne!(summary[0][field], summary[1][field]);
        let summary = kilnc(asked).expect(0).stdout;
        assert!(summary.ends_with(&format!("  {text}  ·  {pair}\n")), "{summary}");
    }
}

#[test]
fn a_pair_without_its_text_is_refused() {
    let place = place();
    let out = place.path().join("reranker.kiln");
    kilnc(arguments!["build", fixture("sentence/reranker"), "--target", "tract", "-o", out, "--quiet"]).expect(0);
    let asked = arguments!["run", out, "--text", "a", "--text", "b", "--text", "c", "--pair", "d", "--pair", "e"];
    let refused = kilnc(asked).expect(2).stderr;
    assert!(refused.contains("error: 2 times --pair for 3 texts\n\nhint: give one --pair for each"), "{refused}");
}

#[test]
fn the_recipe_sets_the_problem_type_of_an_adapters_classifier() {
    let place = place();
    let (out, recipe) = (place.path().join("out"), place.path().join("r.toml"));
    let engine = "[[engine]]\ntarget = \"tract\"\n";
    fs::write(&recipe, format!("problem_type = \"multi_label_classification\"\n{engine}")).unwrap();
    let adapter = fixture("tiny-lora");
    let source = arguments!["build", fixture("tiny-bert-base"), "--adapter", adapter, "--recipe", recipe, "-o", out];
    let manifest = kilnc([source.as_slice(), &arguments!["--json"]].concat()).expect(0).json();
    assert_eq!(manifest["problem_type"], "multi-label");
}

#[test]
fn more_rows_than_in_the_configuration_are_built_with_a_warning() {
    let place = place();
    let export = |checkpoint: &Path| kilnc(arguments!["export", checkpoint, "-o", place.path().join("model.onnx")]);
    let said = "warning: `vocab_size` in config.json is 64; the word embeddings have 67 rows, ";
    for head in ["seqcls", "mlm"] {
        let ran = export(&fixture("families/bert").join(format!("{head}-extra-rows"))).expect(0);
        assert!(ran.stderr.contains(&format!("{said}and there is no tokenizer.json to compare with them\n")));
    }
    let tokenizer = |largest: usize| {
        let model = json!({"type": "WordLevel", "vocab": {"a": 0, "b": largest}, "unk_token": "a"});
        json!({"version": "1.0", "added_tokens": [], "model": model}).to_string()
    };
    let checkpoint = copied("families/bert/seqcls-extra-rows");
    fs::write(checkpoint.path().join("tokenizer.json"), tokenizer(66)).unwrap();
    let ran = export(checkpoint.path()).expect(0);
    assert!(
        ran.stderr.contains(&format!("{said}which is enough for every token of tokenizer.json\n")),
        "{}",
        ran.stderr
    );
    fs::remove_file(place.path().join("model.onnx")).unwrap();
    fs::write(checkpoint.path().join("tokenizer.json"), tokenizer(67)).unwrap();
    let ran = export(checkpoint.path()).expect(2);
    let expected = "error: tokenizer.json: the token `b` has the id 67, but the embedding has 67 rows\n  in ";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    assert_eq!(names(place.path()), [""; 0]);
}

#[test]
fn texts_are_as_long_as_the_positions_that_skip_padding_cover() {
    let (checkpoint, place) = (copied("families/roberta/seqcls"), place());
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"<s>": 0, "<pad>": 1, "a": 2}, "unk_token": "a"},
    });
    fs::write(checkpoint.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let out = place.path().join("out");
    let build = arguments!["build", checkpoint.path(), "--target", "tract", "-o", out, "--json"];
    // 42 rows, of which two are padding's and that before it.
    assert_eq!(kilnc(build.clone()).expect(0).json()["max_length"], 40);
    kilnc(arguments!["run", out, "--text", "a ".repeat(100)]).expect(0);
    let refused = kilnc([build.as_slice(), &arguments!["--max-length", "41"]].concat()).expect(2).stderr;
    assert!(refused.contains("max_length 41 is outside 2…40"), "{refused}");
}

#[test]
fn embeddings_are_built_with_their_models_length() {
    let place = place();
    let out = place.path().join("out");
    let build = |checkpoint: &Path| kilnc(arguments!["build", checkpoint, "--target", "tract", "-o", out, "--json"]);
    let manifest = build(&fixture("sentence/mean")).expect(0).json();
    assert_eq!((&manifest["task"], &manifest["max_length"]), (&json!("sentence-similarity"), &json!(32)));
    let files = manifest["sources"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap());
    let files: Vec<&str> = files.collect();
    assert!(files.contains(&"1_Pooling/config.json") && files.contains(&"sentence_bert_config.json"), "{files:?}");
}
