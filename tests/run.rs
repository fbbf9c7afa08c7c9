//! `kilnc run` as users meet it: every task, texts of any length, and files of texts. The predictions are compared with
//! PyTorch by `tests/pipelines.rs`.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{Ran, command, fixture, kilnc, names, place};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A bundle of a fixture, for tract.
fn bundle(name: &str) -> (TempDir, PathBuf) {
    let place = place();
    let out = place.path().join("model.kiln");
    kilnc(arguments!["build", fixture(name), "--target", "tract", "-o", out, "--quiet"]).expect(0);
    (place, out)
}

fn run(bundle: &Path, more: &[&str]) -> Ran {
    let more: Vec<OsString> = more.iter().map(Into::into).collect();
    kilnc([arguments!["run", bundle, "--quiet"].as_slice(), &more].concat())
}

fn answers(bundle: &Path, more: &[&str]) -> Value {
    run(bundle, &[more, &["--json"]].concat()).expect(0).json()
}

/// The same with lines on standard input.
fn piped(bundle: &Path, more: &[&str], lines: &str) -> Ran {
    let more: Vec<OsString> = more.iter().map(Into::into).collect();
    let mut child = command([arguments!["run", bundle, "--quiet"].as_slice(), &more].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// The error of a run that is refused.
fn refused(bundle: &Path, more: &[&str]) -> String {
    let ran = run(bundle, more).expect(2);
    assert_eq!(ran.stdout, "");
    ran.stderr
}

/// The first text of the pipelines' predictions for a fixture with no option but these.
fn expected(folder: &str, options: &Value) -> Value {
    let cases: Vec<Value> =
        serde_json::from_str(&fs::read_to_string(fixture("answers/expected.json")).unwrap()).unwrap();
    cases.into_iter().find(|case| case["folder"] == folder && case["options"] == *options).unwrap()
}

fn near(found: &Value, expected: &Value) {
    let (a, b) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((a - b).abs() < 1e-4, "{found} is not {expected}");
}

#[test]
fn entities_are_printed_with_their_positions() {
    let (_place, out) = bundle("answers/bert/tokcls");
    let case = expected("bert/tokcls", &json!({"aggregation": "first"}));
    let text = case["text"].as_str().unwrap();
    let summary = answers(&out, &["--text", text, "--aggregation", "first"]);
    assert_eq!(summary[0]["text"], text);
    let (found, known) = (summary[0]["entities"].as_array().unwrap(), case["expected"].as_array().unwrap());
    assert_eq!(found.len(), known.len());
    for (found, known) in found.iter().zip(known) {
        ["entity_group", "word", "start", "end"].iter().for_each(|field| assert_eq!(found[field], known[field]));
        near(&found["score"], &known["score"]);
    }
    let human = run(&out, &["--text", text, "--aggregation", "first"]).expect(0).stdout;
    let (first, place) = (&known[0], |field: &str| known[0][field].as_u64().unwrap());
    assert!(human.starts_with(&format!("{text}\n  {}  ", first["entity_group"].as_str().unwrap())), "{human}");
    assert!(human.contains(&format!("{}…{}\n", place("start"), place("end"))), "{human}");
    let tokens = answers(&out, &["--text", text, "--aggregation", "none"]);
    assert!(tokens[0]["entities"][0]["index"].is_u64(), "{tokens}");
}

#[test]
fn questions_get_spans() {
    let (_place, out) = bundle("answers/bert/qa");
    let case = expected("bert/qa", &json!({"window": 32, "stride": 8, "top_k": 4}));
    let [text, question] = ["text", "question"].map(|field| case[field].as_str().unwrap());
    let invoked = ["--question", question, "--text", text, "--top-k", "4"];
    let summary = answers(&out, &invoked);
    assert_eq!((&summary[0]["question"], &summary[0]["text"]), (&case["question"], &case["text"]));
    for (found, known) in summary[0]["answers"].as_array().unwrap().iter().zip(case["expected"].as_array().unwrap()) {
        ["answer", "start", "end"].iter().for_each(|field| assert_eq!(found[field], known[field]));
        near(&found["score"], &known["score"]);
    }
    let human = run(&out, &invoked).expect(0).stdout;
    assert_eq!(human.lines().count(), 5, "{human}");
    assert!(human.starts_with(&format!("{question}  ·  {text}\n  0.")), "{human}");
    let none = answers(&out, &["--question", question, "--text", text, "--top-k", "40", "--no-answer"]);
    assert!(none[0]["answers"].as_array().unwrap().iter().any(|answer| answer["answer"] == ""), "{none}");
}

#[test]
fn an_onnx_model_runs_every_task_with_its_flags() {
    let (place, checkpoint) = (place(), fixture("answers/bert/qa"));
    let model = place.path().join("model.onnx");
    kilnc(arguments!["export", checkpoint, "-o", model, "--quiet"]).expect(0);
    let invoked = arguments!["run", model, "--question", "who met them?", "--text", "Angela Merkel met them", "--json"];
    let tokenizer = arguments!["--tokenizer", checkpoint.join("tokenizer.json"), "--max-length", "32"];
    let with = |task: &str| kilnc([invoked.as_slice(), &tokenizer, &arguments!["--task", task]].concat());
    let summary = with("question-answering").expect(0).json();
    let bundle = bundle("answers/bert/qa");
    let same = answers(&bundle.1, &["--question", "who met them?", "--text", "Angela Merkel met them"]);
    assert_eq!(summary[0]["answers"][0]["answer"], same[0]["answers"][0]["answer"]);
    near(&summary[0]["answers"][0]["score"], &same[0]["answers"][0]["score"]);
    let refused = with("fill-mask").expect(2).stderr;
    assert!(
        refused.starts_with("error: --question is for question-answering; this model is for fill-mask"),
        "{refused}"
    );
    let labels = kilnc([invoked.as_slice(), &tokenizer].concat()).expect(2).stderr;
    assert!(labels.starts_with("error: an ONNX model needs --labels\n"), "{labels}");
}

#[test]
fn masks_are_filled() {
    let (_place, out) = bundle("answers/bert/mlm");
    let summary = answers(&out, &["--text", "the [MASK] is slow", "--text", "[MASK] and [MASK]", "--top-k", "2"]);
    let masks = |line: usize| summary[line]["masks"].as_array().unwrap();
    assert_eq!((masks(0).len(), masks(1).len()), (1, 2));
    for fills in masks(0).iter().chain(masks(1)) {
        assert_eq!(fills.as_array().unwrap().len(), 2);
    }
    assert!(masks(0)[0][0]["sequence"].as_str().unwrap().ends_with("is slow"), "{summary}");
    assert!(masks(1)[0][0]["sequence"].as_str().unwrap().contains("[MASK]"), "{summary}");
}

#[test]
fn vectors_are_printed_and_compared() {
    let (_place, out) = bundle("sentence/mean-normalize");
    let summary = answers(&out, &["--text", "a mail server"]);
    assert_eq!(summary[0]["embedding"].as_array().unwrap().len(), 16);
    let alike = answers(&out, &["--text", "a mail server", "--pair", "a mail server", "--pair", "zxq 42"]);
    near(&alike[0]["score"], &json!(1.0));
    assert!(alike[1]["score"].as_f64().unwrap() < 0.999, "{alike}");
    let human = run(&out, &["--text", "a mail server"]).expect(0).stdout;
    assert!(human.starts_with("16 numbers of length 1.000: "), "{human}");
    let (_place, out) = bundle("answers/bert/base");
    let summary = answers(&out, &["--text", "a mail server"]);
    assert_eq!(summary[0]["features"].as_array().unwrap().len(), 5);
    assert_eq!(summary[0]["pooled"].as_array().unwrap().len(), 16);
}

#[test]
fn the_top_labels_are_printed_on_request() {
    let (_place, out) = bundle("answers/bert/seqcls");
    let summary = answers(&out, &["--text", "a mail server", "--top-k", "2"]);
    let top = summary[0]["top"].as_array().unwrap();
    assert_eq!((top.len(), &top[0]["label"]), (2, &summary[0]["label"]));
    assert!(answers(&out, &["--text", "a mail server"])[0].get("top").is_none());
    let human = run(&out, &["--text", "a mail server", "--top-k", "2"]).expect(0).stdout;
    assert!(human.ends_with("  a mail server\n") && human.contains(", "), "{human}");
}

#[test]
fn long_texts_are_read_in_windows_or_cut_with_a_warning() {
    let (_place, out) = bundle("answers/bert/seqcls");
    let text = "a mail server ".repeat(30);
    let whole = answers(&out, &["--text", &text]);
    assert_eq!((&whole[0]["windows"], whole[0].get("tokens_cut")), (&json!(4), None));
    assert!(run(&out, &["--text", &text]).expect(0).stdout.ends_with("  (4 windows)\n"));
    for flag in ["--truncate", "--no-window"] {
        let ran = run(&out, &["--text", &text, "--text", "short", flag, "--json"]).expect(0);
        assert_eq!(ran.stderr, "warning: 1 of 2 texts cut to 32 tokens; 60 tokens did not count in the predictions\n");
        assert_eq!((ran.json()[0].get("windows"), &ran.json()[0]["tokens_cut"]), (None, &json!(60)));
    }
    assert_eq!(answers(&out, &["--text", &text, "--window", "12", "--stride", "0"])[0]["windows"], 9);
}

#[test]
fn invalid_windows_are_refused() {
    let (_place, out) = bundle("answers/bert/qa");
    let invoked = ["--question", "who met them?", "--text", "Angela"];
    let with = |more: &[&str]| refused(&out, &[&invoked, more].concat());
    let said = with(&["--stride", "32"]);
    assert!(said.starts_with("error: the stride is 32, which is no less than the window of 32 tokens\n"), "{said}");
    let said = with(&["--window", "33"]);
    assert!(said.starts_with("error: a window of 33 tokens is outside 2…32\n"), "{said}");
    let long = "Angela met them in Paris ".repeat(9);
    let question = "who met them in Paris and what was it? ".repeat(3);
    let said = refused(&out, &["--question", &question, "--text", &long]);
    let expected = "error: a window of 32 tokens has room for 0 of the text beside ";
    assert!(said.starts_with(expected) && said.contains("hint: give a shorter question or first text"), "{said}");
}

#[test]
fn flags_of_other_tasks_are_refused() {
    let (_place, out) = bundle("answers/bert/seqcls");
    let with = |more: &[&str]| refused(&out, &[&["--text", "a"], more].concat());
    let cases: [(&[&str], &str); 6] = [
        (&["--question", "who?"], "--question is for question-answering; this model is for text-classification\n"),
        (
            &["--aggregation", "first"],
            "--aggregation is for token-classification; this model is for text-classification\n",
        ),
        (&["--no-answer"], "--no-answer is for question-answering; this model is for text-classification\n"),
        (
            &["--task", "fill-mask"],
            "the bundle is for text-classification, not for fill-mask\n\nhint: build one for it: ",
        ),
        (&["--max-length", "8"], "--max-length is for an ONNX model, not for a bundle\n\nhint: --window says how much"),
        (&["--batch", "0"], "invalid value '0' for '--batch <N>': `0` is not a whole number from 1 to 4096\n"),
    ];
    for (more, expected) in cases {
        let said = with(more);
        assert!(said.starts_with(&format!("error: {expected}")), "{more:?}: {said}");
    }
    assert!(with(&["--join", "min"]).contains("`min` is neither mean nor max"));
    assert!(with(&["--text", " "]).starts_with("error: a text is empty\n  in text 2\n"));
    let (_place, out) = bundle("answers/bert/qa");
    let said = refused(&out, &["--text", "a"]);
    assert!(said.starts_with("error: there is no question to the text\n\nhint: --question Q --text TEXT"), "{said}");
    assert!(refused(&out, &["--text", "a", "--question", ""]).contains("the question or its text is empty"));
    let said = refused(&out, &["--text", "a", "--question", "b", "--top-k", "2", "--join", "max"]);
    assert!(
        said.starts_with("error: --join is for text-classification; this model is for question-answering"),
        "{said}"
    );
}

#[test]
fn masks_that_are_missing_or_too_many_are_refused() {
    let (_place, out) = bundle("answers/bert/mlm");
    let said = refused(&out, &["--text", "no mask"]);
    assert!(said.starts_with("error: there is no [MASK] in the text\n\nhint: write [MASK] for each"), "{said}");
    let said = refused(&out, &["--text", &"[MASK] ".repeat(101)]);
    assert!(said.starts_with("error: 101 times [MASK] in one text, at most 100 are filled\n"), "{said}");
    let said = refused(&out, &["--text", &format!("{} [MASK]", "a ".repeat(50)), "--truncate"]);
    assert!(said.starts_with("error: a [MASK] was cut off with the end of the text\n"), "{said}");
    run(&out, &["--text", &"[MASK] ".repeat(100), "--top-k", "1"]).expect(0);
}

#[test]
fn files_of_texts_keep_their_order_in_any_batch() {
    let (place, out) = bundle("answers/bert/seqcls");
    let (texts, summary) = (place.path().join("texts.jsonl"), place.path().join("predictions.jsonl"));
    let long = "a mail server and a game ".repeat(12);
    let given = ["a mail server", &long, "play", "who met them in Paris?", "slow", &long[..40], "a game"];
    let lines: Vec<String> =
        given.iter().enumerate().map(|(n, text)| json!({"id": n, "text": text}).to_string()).collect();
    fs::write(&texts, lines.join("\n\n")).unwrap();
    let one_by_one: Vec<Value> = given.iter().map(|text| answers(&out, &["--text", text])[0].clone()).collect();
    for batch in ["1", "3", "16"] {
        let invoked = arguments!["run", out, "--jsonl", texts, "-o", summary, "--batch", batch, "--json"];
        let ran = kilnc(invoked).expect(0);
        assert_eq!(ran.json(), json!({"texts": 7, "in_windows": 1, "cut": 0}));
        assert!(ran.stderr.contains("7 texts done, 1 of them in windows"), "{}", ran.stderr);
        let found: Vec<Value> =
            fs::read_to_string(&summary).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(found.len(), 7);
        for (number, (found, alone)) in found.iter().zip(&one_by_one).enumerate() {
            assert_eq!((&found["id"], &found["label"], found.get("text")), (&json!(number), &alone["label"], None));
            near(&found["score"], &alone["score"]);
        }
    }
    assert_eq!(names(place.path()), ["model.kiln", "predictions.jsonl", "texts.jsonl"]);
    let ran = piped(&out, &["--jsonl", "-"], "{\"text\": \"a game\", \"id\": {\"a\": [1]}}\n{\"text\": \"slow\"}\n")
        .expect(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("{\"id\":{\"a\": [1]},\"label\":") && lines[1].starts_with("{\"label\":"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_bad_line_is_named_and_nothing_is_half_written() {
    let (place, out) = bundle("answers/bert/qa");
    let (texts, summary) = (place.path().join("texts.jsonl"), place.path().join("predictions.jsonl"));
    let good = json!({"question": "who?", "context": "Angela"}).to_string();
    let said = |bad: &str| {
        fs::write(&texts, format!("{good}\n{bad}\n{good}\n")).unwrap();
        let ran = kilnc(arguments!["run", out, "--jsonl", texts, "-o", summary, "--quiet"]).expect(2);
        assert_eq!(names(place.path()), ["model.kiln", "texts.jsonl"], "{bad}");
        ran.stderr
    };
    assert!(said("[1]").starts_with("error: the line is no object\n  in texts.jsonl line 2\n\nhint: each line is"));
    assert!(said("{\"question\": \"a\"").starts_with("error: texts.jsonl line 2: EOF while parsing"));
    assert!(
        said("{\"text\": \"a\"}").starts_with("error: there is no question to the text\n  in texts.jsonl line 2\n")
    );
    assert!(said("{\"question\": \"a\"}").starts_with("error: there is `question` and no `context`\n"));
    let empty = json!({"question": "who?", "context": " "}).to_string();
    assert!(said(&empty).starts_with("error: the question or its text is empty\n  in texts.jsonl line 2\n"));
    // Nothing but its tokens shows that a question is too long.
    let long = json!({"question": "who met them? ".repeat(20), "context": "Angela ".repeat(20)}).to_string();
    let refused = said(&long);
    assert!(refused.starts_with("error: a window of 32 tokens has room for 0 of the text"), "{refused}");
    assert!(refused.contains("\n  in texts.jsonl line 2\n"), "{refused}");

    fs::write(&summary, "old").unwrap();
    fs::write(&texts, "").unwrap();
    let invoked = arguments!["run", out, "--jsonl", texts, "-o", summary, "--quiet"];
    assert_eq!(kilnc(invoked).expect(2).stderr, format!("error: texts.jsonl holds no texts\n\nhint: {LINE}\n"));
    assert_eq!(fs::read_to_string(&summary).unwrap(), "old");
    let same = kilnc(arguments!["run", out, "--jsonl", texts, "-o", texts]).expect(2).stderr;
    assert!(same.contains("would replace the input"), "{same}");
}

const LINE: &str =
    "each line is an object such as {\"id\": 7, \"text\": \"…\"} or {\"question\": \"…\", \"context\": \"…\"}";

#[test]
fn the_commands_of_the_page_print_its_output() {
    let commands = crate::common::commands("docs/run.md");
    assert!(commands.len() >= 14, "{commands:?}");
    let place = crate::common::place_of_page();
    for (command, expected) in commands {
        let ran = crate::common::shell(&command, place.path());
        assert_eq!(ran.code, 0, "{command}\n{}", ran.stderr);
        let same = crate::common::same_but_for_rounding(&ran.stdout, &expected);
        assert!(same, "{command}\n{}\nwhere the page has\n{expected}", ran.stdout);
    }
}

/// The greedy tokens that PyTorch generated, by prompt.
fn greedy() -> Vec<(String, Value, String)> {
    let file = fs::read_to_string(fixture("decoders/gpt2/lm/greedy.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let row = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        (text("text"), row["greedy"].clone(), text("greedy_text"))
    };
    file["rows"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn prompts_are_continued_with_the_tokens_of_pytorch() {
    let (place, bundle) = bundle("decoders/gpt2/lm");
    let rows = greedy();
    let prompts: Vec<&str> = rows.iter().flat_map(|(text, ..)| ["--prompt", text]).collect();
    let continued = answers(&bundle, &[&prompts[..], &["--max-new-tokens", "20"]].concat());
    for (found, (prompt, tokens, text)) in continued.as_array().unwrap().iter().zip(&rows) {
        assert_eq!((&found["prompt"], &found["tokens"], &found["text"]), (&json!(prompt), tokens, &json!(text)));
        assert_eq!(found["finish_reason"], "length");
        assert!(found["first_token_ms"].as_f64().unwrap() > 0.0 && found["per_token_ms"].as_f64().unwrap() > 0.0);
    }
    let (prompt, _, text) = &rows[0];
    // One text alone is printed as it is, whole or as it comes.
    for how in ["--stream", "--no-stream", "--batch=4"] {
        let ran = run(&bundle, &["--prompt", prompt, "--max-new-tokens", "20", how]).expect(0);
        assert_eq!(ran.stdout, format!("{text}\n"), "{how}");
    }
    // Lines of standard input, each with its prompt before it; a batch of one says the same.
    let lines: String = rows.iter().map(|(text, ..)| format!("{text}\n")).collect();
    let expected: Vec<String> = rows.iter().map(|(prompt, _, text)| format!("> {prompt}\n{text}\n")).collect();
    for more in [&["--max-new-tokens", "20"][..], &["--max-new-tokens", "20", "--batch", "1", "--stream"]] {
        assert_eq!(piped(&bundle, more, &lines).expect(0).stdout, expected.join("\n"));
    }
    // JSON lines, with ids as they are.
    let file = place.path().join("prompts.jsonl");
    let line = |(text, ..): &(String, Value, String)| format!("{}\n", json!({ "id": [1, "a"], "prompt": text }));
    fs::write(&file, rows.iter().map(line).collect::<String>() + "{\"id\": 7, \"text\": \"x\"}\n").unwrap();
    let file = file.to_str().unwrap();
    let said = refused(&bundle, &["--jsonl", file, "--max-new-tokens", "20"]);
    assert!(said.contains("prompts.jsonl line 4") && said.contains("there is no `prompt`"), "{said}");
    let ran = run(&bundle, &["--jsonl", file, "--max-new-tokens", "20", "--on-error", "empty"]).expect(0);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for (found, (_, tokens, text)) in lines.iter().zip(&rows) {
        assert_eq!((&found["id"], &found["tokens"], &found["text"]), (&json!([1, "a"]), tokens, &json!(text)));
    }
    assert_eq!(lines[3]["id"], 7);
    assert!(lines[3]["error"].as_str().unwrap().contains("there is no `prompt`"));
}

#[test]
fn generation_stops_at_texts_and_limits_and_says_why() {
    let (_place, bundle) = bundle("decoders/gpt2/lm");
    let (prompt, _, text) = greedy().remove(0);
    let run_one = |more: &[&str]| answers(&bundle, &[&["--prompt", &prompt], more].concat())[0].clone();
    // A stop string of the middle of the text, over the ends of tokens.
    let middle: String = text.chars().skip(6).take(4).collect();
    let stopped = run_one(&["--max-new-tokens", "20", "--stop", "no such", "--stop", &middle]);
    assert_eq!(stopped["text"], text[..text.find(&middle).unwrap()]);
    assert_eq!(stopped["finish_reason"], "stop");
    // 64 positions: the prompt has 26 of them, and the model never ends the text itself.
    let whole = run_one(&["--max-new-tokens", "1000"]);
    let tokens = whole["tokens"].as_array().unwrap().len();
    assert_eq!((whole["prompt_tokens"].as_u64(), whole["finish_reason"].as_str()), (Some(26), Some("context")));
    assert_eq!(tokens, 64 - 26);
    assert_eq!(run_one(&["--max-new-tokens", "1"])["tokens"].as_array().unwrap().len(), 1);
    // One that begins with nothing begins with the token for that.
    assert_eq!(answers(&bundle, &["--prompt", "", "--max-new-tokens", "2"])[0]["prompt_tokens"], 1);
    let long = "kiln ".repeat(80);
    let said = refused(&bundle, &["--prompt", "short", "--prompt", &long]);
    assert!(said.contains("tokens leaves no room for another: the model has 64 positions"), "{said}");
    assert!(said.contains("prompt 2"), "{said}");
    for (flag, value) in [("--max-new-tokens", "0"), ("--max-new-tokens", "1.5"), ("--stop", "")] {
        let said = refused(&bundle, &["--prompt", "x", flag, value]);
        assert!(said.contains(if flag == "--stop" { "a stop string is empty" } else { flag }), "{said}");
    }
    assert!(refused(&bundle, &["--prompt", "x", "--stream", "--no-stream"]).contains("--no-stream"));
}

#[test]
fn flags_of_prompts_and_of_texts_do_not_mix() {
    let (_place, generator) = bundle("decoders/gpt2/lm");
    let said = refused(&generator, &["--text", "a text"]);
    assert!(said.contains("--text is for") && said.contains("this model is for text-generation"), "{said}");
    assert!(said.contains("--prompt \"…\" is what it continues"), "{said}");
    for flags in [&["--aggregation", "first"][..], &["--window", "8"], &["--truncate"], &["--similarity", "dot"]] {
        let said = refused(&generator, &[&["--prompt", "x"], flags].concat());
        assert!(said.contains(flags[0]) && said.contains("text-generation"), "{flags:?}: {said}");
    }
    for (flags, expected) in [
        (&["--top-p", "0"][..], "--top-p: expected more than 0 and at most 1, found 0"),
        (&["--temperature", "-1"], "unexpected argument"),
        (&["--num-beams", "2", "--temperature", "0.5"], "tokens are not drawn in a search by beams"),
        (&["--num-beams", "2", "--stop", "x"], "a search by beams does not end at stop strings"),
        (&["--early-stopping", "maybe"], "expected true, false or never"),
    ] {
        let said = refused(&generator, &[&["--prompt", "x"], flags].concat());
        assert!(said.contains(expected), "{flags:?}: {said}");
    }
    let (_place, classifier) = bundle("tiny-bert");
    for flags in [
        &["--prompt", "x"][..],
        &["--text", "x", "--stop", "y"],
        &["--text", "x", "--max-new-tokens", "3"],
        &["--text", "x", "--temperature", "0.5"],
        &["--text", "x", "--num-beams", "2"],
        &["--stream"],
    ] {
        let said = refused(&classifier, flags);
        assert!(said.contains("is for text-generation; this model is for text-classification"), "{flags:?}: {said}");
    }
}
