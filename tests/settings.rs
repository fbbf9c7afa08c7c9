//! A bundle's defaults of windows and predictions: from the recipe into the manifest, and from there to
//! its users.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, edit, fixture, kilnc, minilm, names, place, repository};
use kilnc::runtime::TextInput;
use kilnc::task::{Aggregation, Pipeline, PipelineOptions, Prediction, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than the fixtures read.
const LONG: &str = "a mail server and a game ";

/// Builds a bundle of a fixture for tract, by a recipe with these lines.
fn build(name: &str, recipe: &str) -> (TempDir, Ran) {
    let place = place();
    let (file, out) = (place.path().join("deploy.toml"), place.path().join("model.kiln"));
    fs::write(&file, recipe).unwrap();
    let invoked = arguments!["build", fixture(name), "--recipe", file, "--target", "tract", "-o", out, "--quiet"];
    let ran = kilnc(invoked);
    (place, ran)
}

/// A bundle whose recipe has these settings.
fn bundle(name: &str, answers: &str) -> (TempDir, PathBuf) {
    let (place, ran) = build(name, &format!("[pipeline]\n{answers}\n"));
    ran.expect(0);
    let out = place.path().join("model.kiln");
    (place, out)
}

/// The error of a build by a recipe with these settings.
fn refused(name: &str, answers: &str) -> String {
    let (place, ran) = build(name, &format!("[pipeline]\n{answers}\n"));
    assert_eq!(names(place.path()), ["deploy.toml"], "{answers}");
    ran.expect(2).stderr
}

fn invoked(command: &str, bundle: &Path, more: &[&str]) -> Ran {
    let more: Vec<OsString> = more.iter().map(Into::into).collect();
    kilnc([arguments![command, bundle, "--quiet"].as_slice(), &more].concat())
}

fn answers(bundle: &Path, more: &[&str]) -> Value {
    invoked("run", bundle, &[more, &["--json"]].concat()).expect(0).json()
}

fn manifest(bundle: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(bundle.join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn windows_are_the_bundles_by_default() {
    let (_a, said) = bundle("answers/bert/seqcls", "window = 12\nstride = 0\njoin = \"max\"\ntop_k = 2");
    let (_b, plain) = bundle("answers/bert/seqcls", "");
    assert_eq!(manifest(&said)["pipeline"], json!({"window": 12, "stride": 0, "join": "max", "top_k": 2}));
    assert!(manifest(&plain).get("pipeline").is_none());
    let summary = invoked("inspect", &said, &[]).expect(0).stdout;
    assert!(summary.contains("\npipeline window 12, stride 0, join max, top_k 2\n"), "{summary}");
    assert!(!invoked("inspect", &plain, &[]).expect(0).stdout.contains("\npipeline"));

    let long = LONG.repeat(12);
    let same = |flags: &[&str], written: &[&str]| {
        let texts = ["--text", long.as_str()];
        let (found, expected) =
            (answers(&said, &[&texts, flags].concat()), answers(&plain, &[&texts, written].concat()));
        assert_eq!(found, expected, "{flags:?} over the bundle's, {written:?}");
        found[0].clone()
    };
    let all = ["--window", "12", "--stride", "0", "--join", "max", "--top-k", "2"];
    let by_bundle = same(&[], &all);
    assert_eq!((&by_bundle["windows"], by_bundle["top"].as_array().unwrap().len()), (&json!(8), 2));
    let longer = same(&["--window", "20"], &["--window", "20", "--stride", "0", "--join", "max", "--top-k", "2"]);
    assert_eq!(longer["windows"], 4);
    let mean = same(&["--join", "mean"], &["--window", "12", "--stride", "0", "--join", "mean", "--top-k", "2"]);
    assert_ne!(mean["score"], by_bundle["score"]);
    let cut = same(&["--truncate"], &["--window", "12", "--truncate", "--join", "max", "--top-k", "2"]);
    assert_eq!((cut.get("windows"), &cut["tokens_cut"]), (None, &json!(62)));
}

#[test]
fn a_flag_makes_a_bundle_that_cuts_texts_read_on() {
    let (_place, out) = bundle("answers/bert/seqcls", "window = 12\ntruncate = true");
    let long = LONG.repeat(3);
    let cut = invoked("run", &out, &["--text", &long, "--json"]).expect(0);
    assert_eq!(cut.stderr, "warning: 1 of 1 texts cut to 12 tokens; 8 tokens did not count in the predictions\n");
    for flags in [["--truncate=false"].as_slice(), &["--no-window=false"], &["--stride", "2"]] {
        let read = answers(&out, &[&["--text", &long], flags].concat());
        assert!(read[0]["windows"].as_u64().unwrap() > 1 && read[0].get("tokens_cut").is_none(), "{flags:?}: {read}");
    }
}

#[test]
fn spans_are_printed_by_the_bundles_settings() {
    let (_a, said) = bundle("answers/bert/qa", "max_answer_length = 1\nno_answer = true\ntop_k = 40");
    let (_b, plain) = bundle("answers/bert/qa", "");
    let texts = ["--question", "who met them?", "--text", "Angela Merkel met them in Paris, fast!"];
    let found = answers(&said, &texts);
    let written = ["--max-answer-length", "1", "--no-answer", "--top-k", "40"];
    assert_eq!(found, answers(&plain, &[texts.as_slice(), &written].concat()));
    let empty = |summary: &Value| summary[0]["answers"].as_array().unwrap().iter().any(|answer| answer["answer"] == "");
    assert!(empty(&found), "{found}");
    assert!(!empty(&answers(&said, &[texts.as_slice(), &["--no-answer=false"]].concat())));
    let one = answers(&said, &[texts.as_slice(), &["--top-k", "1"]].concat());
    assert_eq!(one[0]["answers"].as_array().unwrap().len(), 1);
}

#[test]
fn predictions_are_scored_by_the_bundles_settings() {
    let (_a, said) = bundle("answers/bert/qa", "max_answer_length = 1");
    let (_b, plain) = bundle("answers/bert/qa", "");

    let data = fixture("eval/questions.jsonl").display().to_string();
    let score = |bundle: &Path, more: &[&str]| {
        let ran = invoked("eval", bundle, &[&["--data", data.as_str(), "--json"], more].concat()).expect(0);
        ran.json()[0]["f1"].clone()
    };
    assert_eq!(score(&said, &[]), score(&plain, &["--max-answer-length", "1"]));
    assert_eq!(score(&said, &["--max-answer-length", "15"]), score(&plain, &[]));
    assert_ne!(score(&said, &[]), score(&plain, &[]));
}

/// The predictions of `run` for long texts, as labelled texts of `eval`.
fn labelled(bundle: &Path, texts: &[String], more: &[&str], data: &Path) -> Vec<Value> {
    let invoked: Vec<&str> = texts.iter().flat_map(|text| ["--text", text]).collect();
    let found = answers(bundle, &[&invoked, more].concat());
    let labels: Vec<Value> = found.as_array().unwrap().iter().map(|answer| answer["label"].clone()).collect();
    let lines = texts.iter().zip(&labels).map(|(text, label)| json!({"text": text, "label": label}).to_string() + "\n");
    fs::write(data, lines.collect::<String>()).unwrap();
    labels
}

#[test]
fn labels_of_long_texts_are_scored_as_predicted_or_warned_to_be_cut() {
    let place = place();
    let recipe = place.path().join("deploy.toml");
    // The demo, whose predictions differ by the part that is read; the fixtures' random weights have one for all.
    let demo = |name: &str, answers: &str| {
        let out = place.path().join(name);
        let labels = repository("models/sections-lora/labels.json").display().to_string();
        fs::write(&recipe, format!("max_length = 16\nlabels = {labels:?}\n{answers}")).unwrap();
        let build = arguments!["build", minilm(), "--adapter", repository("models/sections-lora"), "--recipe", recipe];
        kilnc([&build[..], &arguments!["--target", "tract", "-o", out, "--quiet"]].concat()).expect(0);
        out
    };
    let lines = fs::read_to_string(repository("models/sections-eval.jsonl")).unwrap();
    let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
    let mut texts: Vec<String> = lines.lines().take(12).map(text).collect();
    texts.push("chess".to_owned());

    let plain = demo("plain.kiln", "");
    let data = place.path().join("data.jsonl");
    let eval = |bundle: &Path, more: &[&str]| {
        let more: Vec<OsString> = more.iter().map(Into::into).collect();
        let ran = kilnc([arguments!["eval", bundle, "--data", data, "--json"].as_slice(), &more].concat()).expect(0);
        (ran.json()[0]["accuracy"].as_f64().unwrap(), ran.stderr)
    };
    let in_windows = labelled(&plain, &texts, &[], &data);
    assert_eq!(eval(&plain, &["--truncate=false"]).0, 1.0);
    let (accuracy, said) = eval(&plain, &[]);
    let note = "of 13 texts were cut to 16 tokens; kilnc run reads them in windows, and --truncate=false scores that\n";
    assert!(said.contains("warning: 1") && said.contains(note), "{said}");
    let cut = labelled(&plain, &texts, &["--truncate"], &data);
    let same = in_windows.iter().zip(&cut).filter(|(a, b)| a == b).count();
    assert!(same < texts.len(), "windows change no prediction");
    assert!((accuracy - same as f64 / texts.len() as f64).abs() < 1e-9, "{accuracy}");
    assert_eq!(eval(&plain, &[]).0, 1.0);
    assert!(eval(&plain, &["--truncate"]).1.contains("of 13 texts were cut to 16 tokens\n"));

    // The bundle's settings of long texts hold for its scores.
    let windows = demo("windows.kiln", "[pipeline]\nwindow = 8\nstride = 0\njoin = \"max\"\n");
    labelled(&windows, &texts, &[], &data);
    let (accuracy, said) = eval(&windows, &[]);
    assert_eq!(accuracy, 1.0);
    assert!(!said.contains("cut"), "{said}");
    assert_eq!(eval(&plain, &["--window", "8", "--stride", "0", "--join", "max"]).0, 1.0);
    assert!(eval(&plain, &[]).0 < 1.0, "cutting changes no prediction");
}

#[test]
fn entities_are_scored_and_predicted_by_the_bundles_settings() {
    let (_a, said) = bundle("answers/bert/tokcls", "aggregation = \"simple\"");
    let (_b, plain) = bundle("answers/bert/tokcls", "");
    let data = fixture("eval/entities.jsonl").display().to_string();
    let score = |bundle: &Path, more: &[&str]| {
        let ran = invoked("eval", bundle, &[&["--data", data.as_str(), "--json"], more].concat()).expect(0);
        ran.json()[0]["f1"].clone()
    };
    assert_eq!(score(&said, &[]), score(&plain, &["--aggregation", "simple"]));
    assert_eq!(score(&said, &["--aggregation", "first"]), score(&plain, &[]));
    assert_ne!(score(&said, &[]), score(&plain, &[]));
}

#[test]
fn the_library_takes_the_bundles_settings_by_default() {
    let (_place, out) = bundle("answers/bert/tokcls", "aggregation = \"none\"\nwindow = 12\nstride = 4");
    let invoked = |options: PipelineOptions| {
        let mut model = Pipeline::of_bundle(&out, None, options).unwrap();
        let predicted = model.predict(TextInput::from("Angela Merkel met them in Paris")).unwrap();
        let Prediction::Entities { entities } = predicted.prediction else { panic!("{predicted:?}") };
        (serde_json::to_value(entities).unwrap(), *model.settings(), model.lengths())
    };
    let (entities, settings, lengths) = invoked(PipelineOptions::default());
    assert!(entities[0].get("index").is_some(), "{entities}");
    assert_eq!((settings.aggregation, lengths.window, lengths.stride), (Some(Aggregation::None), 12, 4));
    let first = Settings { aggregation: Some(Aggregation::First), ..Settings::default() };
    let (entities, settings, lengths) = invoked(first.into());
    assert!(entities[0].get("entity_group").is_some(), "{entities}");
    assert_eq!((settings.aggregation, lengths.window, lengths.stride), (Some(Aggregation::First), 12, 4));
}

#[test]
fn the_manifest_has_the_pooling_of_embeddings() {
    let pooling = |name: &str| {
        let (_place, out) = bundle(name, "");
        let summary = invoked("inspect", &out, &[]).expect(0).stdout;
        let line = summary.lines().find_map(|line| line.strip_prefix("pooling  ")).map(str::to_owned);
        (manifest(&out).get("pooling").cloned(), line)
    };
    let of = |modes: Value, normalized: bool, line: &str| {
        (Some(json!({"modes": modes, "normalized": normalized})), Some(line.to_owned()))
    };
    assert_eq!(pooling("sentence/mean-normalize"), of(json!(["mean"]), true, "mean, at length 1"));
    assert_eq!(pooling("sentence/cls"), of(json!(["cls"]), false, "cls"));
    let all = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"];
    assert_eq!(pooling("sentence/all-modes-dense"), of(json!(all), true, &format!("{}, at length 1", all.join(" + "))));
    // A vector that is normalized before another layer is not after it.
    assert!(!pooling("sentence/dense-twice").0.unwrap()["normalized"].as_bool().unwrap());
    assert_eq!(pooling("answers/bert/base"), (None, None));
}

#[test]
fn impossible_settings_of_a_recipe_are_named_with_file_and_field() {
    let cases = [
        ("windo = 8", "deploy.toml line 2: unknown field `windo`, expected one of `window`, `stride`"),
        ("join = \"min\"", "deploy.toml line 2: unknown variant `min`, expected `mean` or `max`"),
        ("window = -1", "deploy.toml line 2: invalid value: integer `-1`, expected usize"),
        ("window = 33", "a window of 33 tokens is outside 2…32\n  in deploy.toml: pipeline.window\n"),
        (
            "window = 8\nstride = 8",
            "the stride is 8, which is no less than the window of 8 tokens\n  in deploy.toml: pipeline.stride\n",
        ),
        (
            "stride = 4\ntruncate = true",
            "a text that is cut has no windows that share a stride\n  in deploy.toml: pipeline.stride\n",
        ),
        (
            "window = 2\ntruncate = true",
            "a window of 2 tokens has room for 0 of the text beside 2 others, which is no more than the 0 that windows \
             share\n  in deploy.toml: pipeline\n\nhint: a longer window, or a smaller stride\n",
        ),
        (
            "window = 8\nstride = 6",
            "a window of 8 tokens has room for 6 of the text beside 2 others, which is no more than the 6 that windows \
             share\n  in deploy.toml: pipeline\n",
        ),
        ("top_k = 0", "0 predictions are requested\n  in deploy.toml: pipeline.top_k\n"),
        (
            "aggregation = \"first\"",
            "`aggregation` is for token-classification; this model is for text-classification\n  \
             in deploy.toml: pipeline.aggregation\n",
        ),
    ];
    for (answers, expected) in cases {
        let said = refused("answers/bert/seqcls", answers);
        assert!(said.starts_with(&format!("error: {expected}")), "{answers}: {said}");
    }
    let said = refused("answers/bert/qa", "max_answer_length = 0");
    assert!(said.starts_with("error: an answer of 0 tokens\n  in deploy.toml: pipeline.max_answer_length\n"), "{said}");
    // A question of one word is beside the text, and between its own tokens.
    let said = refused("answers/bert/qa", "window = 4");
    assert!(said.starts_with("error: a window of 4 tokens has room for 0 of the text beside 4 others"), "{said}");
    let said = refused("answers/xlnet/qa", "window = 4");
    assert!(said.contains("error: a window of 4 tokens has room for 0 of the text beside 5 others"), "{said}");
}

#[test]
fn impossible_settings_of_a_manifest_are_refused() {
    let (_place, out) = bundle("answers/bert/seqcls", "window = 12\ntop_k = 2");
    let manifest = out.join("manifest.json");
    let said = |from: &str, to: &str| {
        edit(&manifest, from, to);
        let said = invoked("run", &out, &["--text", "a"]).expect(2).stderr;
        edit(&manifest, to, from);
        said
    };
    let window = said("\"window\": 12", "\"window\": 33");
    let expected = "error: a window of 33 tokens is outside 2…32\n  in manifest.json: pipeline.window\n  in ";
    assert!(window.starts_with(expected), "{window}");
    let of_another = said("\"top_k\": 2", "\"no_answer\": true");
    let expected = "error: `no_answer` is for question-answering; this model is for text-classification\n";
    assert!(of_another.starts_with(expected), "{of_another}");
    let unknown = said("\"top_k\"", "\"temperature\"");
    assert!(
        unknown.starts_with("error: manifest.json: pipeline.temperature: unknown field `temperature`, expected"),
        "{unknown}"
    );
    invoked("run", &out, &["--text", "a"]).expect(0);
}
