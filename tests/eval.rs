//! `kilnc eval` as users meet it. Its measures are compared with those of `seqeval`, SQuAD's rules and `scipy` of PyTorch's
//! predictions for the same texts, by `scripts/peers/scores.py`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, fixture, kilnc, place};
use kilnc::eval;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Largest difference of a measure that counts predictions.
const BOUND: f64 = 1e-6;

/// The same, as a share of it, where it is made of the numbers themselves, which runtimes round each in their own way.
const BOUND_OF_NUMBERS: f64 = 1e-5;

/// The measures that are made of numbers.
const OF_NUMBERS: [&str; 3] = ["mean_log_probability", "perplexity", "pearson"];

#[derive(Deserialize)]
struct Case {
    data: String,
    folder: String,
    score: Map<String, Value>,
}

/// A bundle of a fixture, for these targets.
fn bundle(name: &str, targets: &[&str]) -> (TempDir, PathBuf) {
    let place = place();
    let out = place.path().join("model.kiln");
    let mut invoked = arguments!["build", fixture(name), "-o", out, "--quiet"].to_vec();
    targets.iter().for_each(|target| invoked.extend(arguments!["--target", target]));
    kilnc(invoked).expect(0);
    (place, out)
}

fn scored(bundle: &Path, data: &Path, more: &[&str]) -> Ran {
    let invoked = arguments!["eval", bundle, "--data", data, "--quiet"];
    kilnc(invoked.into_iter().chain(more.iter().map(Into::into)))
}

/// The error where the lines of a file are no texts of the task; nothing is printed.
fn refused(bundle: &Path, lines: &str) -> String {
    let data = bundle.with_extension("jsonl");
    fs::write(&data, lines).unwrap();
    let ran = scored(bundle, &data, &[]).expect(2);
    assert_eq!(ran.stdout, "");
    ran.stderr
}

/// Where a score is another than it should be, if it is.
fn difference(found: &Value, expected: &Value, at: &str) -> Option<String> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().find_map(|(key, b)| difference(&found[key], b, &format!("{at}.{key}")))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(a, b, &format!("{at}[{i}]")))
        }
        (Value::Number(a), Value::Number(b)) if (a.as_f64()? - b.as_f64()?).abs() <= bound(at, b.as_f64()?) => None,
        (a, b) if a == b => None,
        (a, b) => Some(format!("{at}: found {a}, expected {b}")),
    }
}

fn bound(at: &str, expected: f64) -> f64 {
    let of_numbers = OF_NUMBERS.iter().any(|measure| at.ends_with(measure));
    if of_numbers { BOUND_OF_NUMBERS * expected.abs() } else { BOUND }
}

#[test]
fn every_task_scores_as_its_peers_do() {
    let cases = fs::read_to_string(fixture("eval/expected.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&cases).unwrap();
    assert!(cases.len() >= 8);
    let mut wrong = Vec::new();
    for Case { data, folder, score } in cases {
        let (_place, out) = bundle(&folder, &["ort-cpu", "tract"]);
        let summary = scored(&out, &fixture("eval").join(&data), &["--json"]).expect(0).json();
        let engines = summary.as_array().unwrap();
        assert_eq!(engines.len(), 2, "{data}");
        for found in engines {
            let name = found["engine"].as_str().unwrap();
            wrong.extend(difference(found, &Value::Object(score.clone()), &format!("{data} on {name}")));
            assert!(found["texts_per_second"].as_f64().unwrap() > 0.0, "{found}");
            assert!(found["max_abs"].as_f64().unwrap() < 1e-4, "{found}");
            // Cosines have no prediction that could be the same.
            let same = if data.starts_with("pairs") { Value::Null } else { json!(1.0) };
            assert_eq!(found.get("agreement").unwrap_or(&Value::Null), &same, "{data} on {name}");
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[derive(Deserialize)]
struct Measures {
    tags: Vec<Tags>,
    answers: Vec<Predicted>,
    correlations: Vec<Correlated>,
}

#[derive(Deserialize)]
struct Tags {
    tags: Vec<String>,
    entities: Vec<(usize, usize, String)>,
}

#[derive(Deserialize)]
struct Predicted {
    found: String,
    right: String,
    exact: u8,
    f1: f64,
}

#[derive(Deserialize)]
struct Correlated {
    pairs: Vec<(f64, f64)>,
    pearson: f64,
    spearman: f64,
}

#[test]
fn measures_of_random_data_are_those_of_the_peers() {
    let built = fs::read_to_string(fixture("eval/measures.json")).unwrap();
    let Measures { tags, answers, correlations } = serde_json::from_str(&built).unwrap();
    assert!((tags.len(), answers.len(), correlations.len()) >= (400, 600, 50));
    for Tags { tags, entities } in tags {
        let found = eval::entities(&tags).into_iter().map(|entity| (entity.start, entity.end, entity.kind));
        assert_eq!(found.collect::<Vec<_>>(), entities, "{tags:?}");
    }
    for Predicted { found, right, exact, f1 } in answers {
        let score = eval::SpanScore::of(&[(&found, std::slice::from_ref(&right))]).all;
        assert_eq!(score.exact_match, f64::from(exact), "{found:?} for {right:?}");
        assert!((score.f1 - f1).abs() < 1e-12, "{found:?} for {right:?}: {} is not {f1}", score.f1);
    }
    for Correlated { pairs, pearson, spearman } in correlations {
        let found = eval::Correlation::of(&pairs);
        let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-9;
        assert!(near(found.pearson, pearson) && near(found.spearman, spearman), "{found:?}: {pearson}, {spearman}");
    }
}

#[test]
fn engines_with_different_predictions_have_less_agreement() {
    let place = place();
    let (out, recipe) = (place.path().join("model.kiln"), place.path().join("r.toml"));
    let engine = |precision: &str| format!("[[engine]]\ntarget = \"ort-cpu\"\nprecision = {precision:?}\n");
    fs::write(&recipe, engine("fp32") + &engine("int8")).unwrap();
    kilnc(arguments!["build", fixture("answers/bert/mlm"), "--recipe", recipe, "-o", out, "--quiet"]).expect(0);
    let both = scored(&out, &fixture("eval/masks.jsonl"), &["--json"]).expect(0).json();
    assert_eq!((&both[0]["agreement"], &both[0]["max_abs"]), (&json!(1.0), &json!(0.0)));
    assert!(both[1]["max_abs"].as_f64().unwrap() > 1e-3, "{both}");
    assert_ne!(both[0]["perplexity"], both[1]["perplexity"]);
    let one = scored(&out, &fixture("eval/masks.jsonl"), &["--json", "--engine", "ort-cpu-int8"]).expect(0).json();
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!(one[0]["perplexity"], both[1]["perplexity"]);
}

#[test]
fn tables_have_the_measures_of_the_task() {
    let cases = [
        ("answers/bert/tokcls", "words", "precision   recall       F1  token accuracy  agreement"),
        ("answers/bert/tokcls", "entities", "precision   recall       F1  agreement"),
        ("answers/bert/qa", "questions", "exact match       F1  agreement"),
        ("answers/bert/qa", "questions-none", "exact match       F1  F1 has answer  F1 no answer  agreement"),
        ("answers/bert/mlm", "masks", "  top-1    top-5  perplexity  agreement"),
        ("sentence/mean", "pairs", "pearson  spearman  max_abs"),
    ];
    for (folder, data, header) in cases {
        let (_place, out) = bundle(folder, &["tract"]);
        let table = scored(&out, &fixture("eval").join(format!("{data}.jsonl")), &[]).expect(0).stdout;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!((lines[0], lines.len()), (format!("engine      {header}  texts/s").as_str(), 2));
        assert!(lines[1].starts_with("tract-fp32  "), "{table}");
    }
}

#[test]
fn options_change_the_scores_and_are_refused_where_they_mean_nothing() {
    let (_place, out) = bundle("answers/bert/tokcls", &["tract"]);
    let data = fixture("eval/entities.jsonl");
    let f1 = |how: &str| scored(&out, &data, &["--json", "--aggregation", how]).expect(0).json()[0]["f1"].clone();
    assert_eq!(f1("first"), scored(&out, &data, &["--json"]).expect(0).json()[0]["f1"]);
    assert_ne!(f1("first"), f1("simple"));
    let said = scored(&out, &data, &["--max-answer-length", "3"]).expect(2).stderr;
    let expected = "error: --max-answer-length is for question-answering; this model is for token-classification\n";
    assert_eq!(said, expected);
    let (_place, out) = bundle("answers/bert/qa", &["tract"]);
    let data = fixture("eval/questions.jsonl");
    let f1 = |length: &str| {
        scored(&out, &data, &["--json", "--max-answer-length", length]).expect(0).json()[0]["f1"].clone()
    };
    assert_ne!(f1("15"), f1("1"));
    let said = scored(&out, &data, &["--aggregation", "first"]).expect(2).stderr;
    assert_eq!(said, "error: --aggregation is for token-classification; this model is for question-answering\n");
}

#[test]
fn masks_and_labels_that_do_not_go_together_are_named() {
    let (_place, out) = bundle("answers/bert/mlm", &["tract"]);
    let good = json!({"text": "the [MASK] is slow", "label": "server"}).to_string();
    let said = |line: Value| refused(&out, &format!("{good}\n{line}\n"));
    let none = said(json!({"text": "the server is slow", "label": "server"}));
    assert!(
        none.starts_with("error: there is no [MASK] in the text\n  in model.jsonl line 2\n\nhint: write"),
        "{none}"
    );
    let two = said(json!({"text": "the [MASK] is slow", "labels": ["mail", "server"]}));
    assert!(two.starts_with("error: there are 2 labels and 1 times [MASK]\n  in model.jsonl line 2\n"), "{two}");
    for label in ["mailserver", "東京", "[MASK]", ""] {
        let many = said(json!({"text": "the [MASK] is slow", "label": label}));
        let expected = format!("error: `{label}` is not one token in place of the [MASK]\n  in model.jsonl line 2\n");
        assert!(many.starts_with(&expected), "{many}");
    }
    let many = said(json!({"text": "[MASK] ".repeat(101), "labels": ["a"]}));
    assert!(
        many.starts_with("error: 101 times [MASK] in one text, at most 100 are filled\n  in model.jsonl"),
        "{many}"
    );
    // A part of a word is an entry of the vocabulary that no text has by itself.
    let data = out.with_extension("jsonl");
    fs::write(&data, json!({"text": "the play[MASK] is slow", "label": "##er"}).to_string()).unwrap();
    assert_eq!(scored(&out, &data, &["--json"]).expect(0).json()[0]["masks"], 1);
}

#[test]
fn a_word_means_the_token_that_the_text_has_there() {
    // In RoBERTa's vocabulary the token has the space before the word in it.
    let (_place, out) = bundle("answers/roberta/mlm", &["tract"]);
    let data = out.with_extension("jsonl");
    let perplexity = |lines: &[Value]| {
        fs::write(&data, lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")).unwrap();
        scored(&out, &data, &["--json"]).expect(0).json()[0]["perplexity"].as_f64().unwrap()
    };
    let by_word = perplexity(&[json!({"text": "this <mask> is slow", "label": "game"})]);
    let by_token = perplexity(&[json!({"text": "this <mask> is slow", "label": "Ġgame"})]);
    assert_eq!(by_word, by_token);
    assert_ne!(by_word, perplexity(&[json!({"text": "this <mask> is slow", "label": "mail"})]));
}

#[test]
fn fields_of_another_tasks_data_are_named_with_their_line() {
    let text = json!({"text": "a mail server", "label": "x"}).to_string();
    let said = |folder: &str, lines: &str| refused(&bundle(folder, &["tract"]).1, lines);
    let tokens = said("answers/bert/tokcls", &text);
    assert!(tokens.starts_with("error: there is `text` and no `entities`\n  in model.jsonl line 1\n"), "{tokens}");
    let question = said("answers/bert/qa", &text);
    assert!(question.starts_with("error: model.jsonl line 1: missing field `question`"), "{question}");
    // A model without pairs has nothing to be scored by.
    for folder in ["sentence/mean", "answers/bert/base"] {
        let pair = said(folder, &text);
        assert!(pair.starts_with("error: model.jsonl line 1: missing field `pair`"), "{pair}");
    }
    let long =
        json!({"question": "who met them? ".repeat(20), "context": "a ".repeat(60), "answers": ["a"]}).to_string();
    let window = said("answers/bert/qa", &long);
    assert!(window.starts_with("error: a window of 32 tokens has room for 0 of the text"), "{window}");
    assert!(window.contains("\n  in model.jsonl line 1\n"), "{window}");
}

#[test]
fn perplexity_is_that_of_pytorch_over_windows_that_share_half() {
    for family in ["gpt2", "openai-gpt"] {
        let checkpoint = format!("decoders/{family}/lm");
        let (_place, bundle) = bundle(&checkpoint, &["ort-cpu", "tract"]);
        let text = fs::read_to_string(fixture(&checkpoint).join("perplexity.json")).unwrap();
        let of_pytorch: Value = serde_json::from_str(&text).unwrap();
        let texts = of_pytorch["short"].as_array().unwrap().iter().chain([&of_pytorch["long"]]);
        let each = texts.map(|text| (text["nll"].as_f64().unwrap(), text["predicted"].as_u64().unwrap()));
        let (sum, tokens) = each.fold((0.0, 0), |(sum, all), (nll, tokens)| (sum + nll * tokens as f64, all + tokens));
        let data = fixture("decoders/texts.jsonl");
        let ran = scored(&bundle, &data, &["--json"]).expect(0);
        let found: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        for engine in &found {
            assert_eq!(engine["tokens"].as_u64(), Some(tokens), "{engine}");
            assert_eq!(engine["examples"], 4, "{engine}");
            let (nll, perplexity) = (engine["nll"].as_f64().unwrap(), engine["perplexity"].as_f64().unwrap());
            assert!((nll - sum / tokens as f64).abs() < 1e-4, "{engine}");
            assert!((perplexity - nll.exp()).abs() < 1e-6 * perplexity, "{engine}");
        }
        // Without what came before it, a window knows less.
        let ran = scored(&bundle, &data, &["--json", "--engine", "tract-fp32", "--stride", "0", "--window", "8"]);
        let alone: Vec<Value> = serde_json::from_str(&ran.expect(0).stdout).unwrap();
        assert_ne!(alone[0]["nll"], found[1]["nll"]);
        assert!(alone[0]["tokens"].as_u64().unwrap() < tokens, "{alone:?}");
        assert!(refused(&bundle, "{\"text\": \" \"}").contains("the text is empty"));
        let flag = scored(&bundle, &data, &["--aggregation", "first"]).expect(2).stderr;
        assert!(flag.contains("--aggregation is for token-classification"), "{flag}");
    }
}

#[test]
fn the_help_shows_the_data_of_every_task() {
    let help = kilnc(arguments!["eval", "--help"]).expect(0).stdout;
    for task in kilnc::task::Task::ALL {
        assert!(help.contains(&format!("\n  {task}")), "{task} is not in\n{help}");
    }
}

#[test]
fn the_commands_of_the_page_print_its_output() {
    let commands = crate::common::commands("docs/eval.md");
    assert!(commands.len() >= 9, "{commands:?}");
    let place = crate::common::place_of_page();
    for (command, expected) in commands {
        let ran = crate::common::shell(&command, place.path());
        assert_eq!(ran.code, 0, "{command}\n{}", ran.stderr);
        let printed = without_speed(&ran.stdout);
        let same = crate::common::same_but_for_rounding(&printed, &expected);
        assert!(same, "{command}\n{printed}\nwhere the page has\n{expected}");
    }
}

/// Tables with `…` for how many texts a second there were.
fn without_speed(printed: &str) -> String {
    let mut inside = false;
    let line = |line: &str| {
        let speed = line.rsplit(' ').next().unwrap();
        let summary =
            if inside { format!("{}  …", line[..line.len() - speed.len()].trim_end()) } else { line.to_owned() };
        inside |= speed == "texts/s";
        summary + "\n"
    };
    printed.lines().map(line).collect()
}
