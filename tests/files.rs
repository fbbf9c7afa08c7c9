//! Files that people write, with what editors, spreadsheets and other programs leave in them: texts and labels, by the
//! binary. The policy is written down in `docs/run.md`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, copied, fixture, kilnc, names, place};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const TEXT: &str = "play this music, it is not slow";

/// A copy of the small classifier with these fields in its configuration.
fn classifier(fields: Value) -> TempDir {
    let copy = copied("tiny-bert");
    let path = copy.path().join("config.json");
    let mut config: Map<String, Value> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config.remove("label2id");
    config.remove("id2label");
    config.extend(fields.as_object().unwrap().clone());
    fs::write(path, Value::Object(config).to_string()).unwrap();
    copy
}

/// Builds a bundle for tract.
fn build(checkpoint: &Path, more: &[std::ffi::OsString]) -> (TempDir, PathBuf, Ran) {
    let place = place();
    let out = place.path().join("model.kiln");
    let ran = kilnc([arguments!["build", checkpoint, "--target", "tract", "-o", out].as_slice(), more].concat());
    (place, out, ran.expect(0))
}

/// The labels of the text and their scores, the highest score first, by class; and the build's messages.
fn predicted(checkpoint: &Path, more: &[std::ffi::OsString]) -> (Vec<(String, u64, f64)>, String) {
    let (_place, out, built) = build(checkpoint, more);
    let ran = kilnc(arguments!["run", out, "--text", TEXT, "--top-k", "3", "--json", "--quiet"]).expect(0);
    let top = ran.json()[0]["top"].as_array().unwrap().clone();
    let choice = |choice: &Value| {
        let (label, class) = (choice["label"].as_str().unwrap().to_owned(), choice["class"].as_u64().unwrap());
        (label, class, choice["score"].as_f64().unwrap())
    };
    (top.iter().map(choice).collect(), built.stderr)
}

/// The predicted labels by class.
fn by_number(predicted: &[(String, u64, f64)]) -> Vec<&str> {
    let mut labels: Vec<_> = predicted.iter().map(|(label, class, _)| (*class, label.as_str())).collect();
    labels.sort_unstable();
    labels.into_iter().map(|(_, label)| label).collect()
}

#[test]
fn labels_of_a_configuration_are_as_in_transformers_or_are_warned_of() {
    let plain = predicted(&fixture("tiny-bert"), &[]).0;
    let unnamed = ["LABEL_0", "LABEL_1", "LABEL_2"];
    let cases = [
        (json!({"id2label": {"0": 1, "1": 2.5, "2": "x"}}), ["1", "2.5", "x"], ""),
        (json!({"id2label": {"0": "neg", "1": "pos", "2": "pos"}}), ["neg", "pos", "pos"], ""),
        (json!({}), unnamed, ""),
        (json!({"id2label": null}), unnamed, ""),
        (json!({"id2label": {"1": "a", "2": "b", "3": "c"}}), unnamed, "1 a, 2 b, 3 c"),
        (json!({"id2label": {"0": "a", "1": "b"}}), unnamed, "0 a, 1 b"),
        (json!({"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}}), unnamed, "0 a, 1 b, 2 c, 3 d"),
        (json!({"id2label": {"0": "a", "1": null, "2": "c"}}), ["a", "LABEL_1", "c"], "null for the label 1"),
        (json!({"label2id": {"c": 2, "a": 0, "b": 1}}), ["a", "b", "c"], "`label2id` alone"),
        (
            json!({"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 2, "b": 1, "c": 0}}),
            ["a", "b", "c"],
            "`label2id` has `a` as 2, where `id2label` has `c`",
        ),
    ];
    for (fields, expected, warning) in cases {
        let copy = classifier(fields.clone());
        let (found, said) = predicted(copy.path(), &[]);
        assert_eq!(by_number(&found), expected, "{fields}");
        assert_eq!(said.contains("warning: "), !warning.is_empty(), "{fields}: {said}");
        assert!(said.contains(warning), "{fields}: {said}");
        // Every class has the score that it has under another name.
        for (a, b) in found.iter().zip(&plain) {
            assert_eq!((a.1, a.2), (b.1, b.2), "{fields}");
        }
    }
}

#[test]
fn labels_are_read_in_all_common_forms() {
    let place = place();
    let cases = [
        ("l.json", "\u{feff}[\"calm\", \"stormy\", \"breezy\"]"),
        ("l.json", "{\"0\": \"calm\", \"2\": \"breezy\", \"1\": \"stormy\"}"),
        ("l.json", "{\"calm\": 0, \"breezy\": 2, \"stormy\": 1}"),
        (
            "config.json",
            "{\"model_type\": \"bert\", \"id2label\": {\"0\": \"calm\", \"1\": \"stormy\", \"2\": \"breezy\"}}",
        ),
        ("l.txt", "\u{feff}calm\r\nstormy\r\nbreezy\r\n"),
    ];
    for (name, content) in cases {
        let path = place.path().join(name);
        fs::write(&path, content).unwrap();
        let (found, said) = predicted(&fixture("tiny-bert"), &arguments!["--labels", path]);
        assert_eq!(by_number(&found), ["calm", "stormy", "breezy"], "{content}");
        assert!(!said.contains("warning"), "{said}");
    }
    // They go before those of the configuration, of which nothing is said then.
    let path = place.path().join("l.txt");
    let copy = classifier(json!({"id2label": {"1": "a"}}));
    assert!(!predicted(copy.path(), &arguments!["--labels", path]).1.contains("warning"));
    for (content, expected) in [
        ("[\"a\", \"b\"]", "error: 2 labels, but the classifier has 3 classes\n  in "),
        (
            "{\"a\": 1}",
            "error: the labels 1 a are not numbered 0…0\n  in l.json\n\nhint: expected a JSON list such as [\"",
        ),
        ("a\nb\n", "error: 2 labels, but the classifier has 3 classes"),
    ] {
        let path = place.path().join("l.json");
        fs::write(&path, content).unwrap();
        let out = place.path().join("new.kiln");
        let ran = kilnc(arguments!["build", fixture("tiny-bert"), "--labels", path, "-o", out, "--quiet"]).expect(2);
        assert!(ran.stderr.starts_with(expected), "{}", ran.stderr);
        assert!(!out.exists());
    }
}

#[test]
fn calibration_reads_texts_whose_labels_are_not_the_models() {
    let place = place();
    let texts = place.path().join("texts.jsonl");
    let line = |text: &str, label: &str| format!("{{\"text\": \"{text}\", \"label\": \"{label}\"}}\n");
    fs::write(&texts, line("the game is fast", "river") + &line("read and send files", "LABEL_1")).unwrap();
    let copy = classifier(json!({}));
    let out = place.path().join("model.kiln");
    let more = arguments!["--quantize", "int8", "--calibration", texts, "-o", out];
    let ran = kilnc([arguments!["build", copy.path()].as_slice(), &more].concat()).expect(0);
    let expected = "warning: texts.jsonl line 1: unknown label `river`; the model is calibrated on the texts without \
                    their labels, and no accuracy is measured\n";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    let manifest: Value = serde_json::from_str(&fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["calibration"]["texts"], 2);
    let gates = |engine: &Value| engine["gates"].as_array().unwrap().clone();
    let gates: Vec<Value> = manifest["engines"].as_array().unwrap().iter().flat_map(gates).collect();
    assert!(!gates.is_empty() && gates.iter().all(|gate| gate["accuracy"].is_null()), "{gates:?}");
}

/// Labels are needed where a gate bounds the loss of accuracy, and nowhere else.
#[test]
fn engines_are_compared_on_texts_whose_labels_are_not_the_models_where_no_gate_needs_them() {
    let (place, copy) = (place(), classifier(json!({})));
    let (texts, out) = (place.path().join("texts.jsonl"), place.path().join("model.kiln"));
    let line = |text: &str, label: &str| format!("{{\"text\": \"{text}\", \"label\": \"{label}\"}}\n");
    fs::write(&texts, line("the game is fast", "sea") + &line("a mail server", "LABEL_1") + &line("files", "river"))
        .unwrap();
    let build = |how: &str, gate: &str| {
        let invoked = arguments!["build", copy.path(), "--quantize", "int8", how, texts, "--gate", gate, "-o", out];
        kilnc(invoked)
    };
    let ran = build("--texts", "cosine=0.5").expect(0);
    let expected = "warning: texts.jsonl line 1: unknown label `river`, unknown label `sea`; engines are compared on the \
                    texts without their labels, and no accuracy is measured\n";
    assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    let manifest: Value = serde_json::from_str(&fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
    let gates = |engine: &Value| engine["gates"].as_array().unwrap().clone();
    let gates: Vec<Value> = manifest["engines"].as_array().unwrap().iter().flat_map(gates).collect();
    assert!(gates.iter().any(|gate| gate["rows"] == 3 && gate["accuracy"].is_null()), "{gates:?}");
    fs::remove_dir_all(&out).unwrap();

    for how in ["--texts", "--calibration"] {
        let ran = build(how, "cosine=0.5,accuracy_drop=0.5").expect(2);
        let expected = "error: unknown label `sea`\n  in texts.jsonl line 1\n";
        assert!(ran.stderr.contains(expected), "{how}: {}", ran.stderr);
        let hint = "hint: the drop of accuracy is bounded, which needs labels that the model has\n";
        assert!(ran.stderr.contains(hint), "{how}: {}", ran.stderr);
        assert_eq!(names(place.path()), ["texts.jsonl"]);
    }
    // One that is misspelt among others that are not was meant.
    fs::write(&texts, line("the game is fast", "LABEL_1") + &line("a mail server", "LABEL1")).unwrap();
    let ran = build("--texts", "cosine=0.5").expect(2);
    assert!(ran.stderr.contains("error: unknown label `LABEL1`\n  in texts.jsonl line 2\n"), "{}", ran.stderr);
}

/// Lines that are texts, and others.
const LINES: &[u8] = b"\xef\xbb\xbf{\"id\": 1, \"text\": \"the game is fast\"}\r\n\
    \r\n\
    {\"id\": 3, \"text\": \" \"}\r\n\
    {\"id\": 4, \"text\": \"a \xff\"}\r\n\
    {\"id\": 5, \"text\": \"a \0\"}\r\n\
    {\"id\": 6}\r\n\
    no\r\n\
    {\"id\": 8, \"text\": \"read and send files\"}\r\n";

fn lines(summary: &str) -> Vec<Value> {
    summary.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn invalid_lines_fail_are_left_out_or_have_an_error() {
    let (place, out, _) = build(&fixture("tiny-bert"), &[]);
    let (texts, summary) = (place.path().join("texts.jsonl"), place.path().join("predictions.jsonl"));
    fs::write(&texts, LINES).unwrap();
    let run = |how: &str| kilnc(arguments!["run", out, "--jsonl", texts, "-o", summary, "--on-error", how]);

    let failed = run("fail").expect(2).stderr;
    assert!(failed.contains("error: a text is empty\n  in texts.jsonl line 3\n"), "{failed}");
    assert_eq!(names(place.path()), ["model.kiln", "texts.jsonl"]);

    let skipped = run("skip").expect(0).stderr;
    let said = "warning: 5 lines left out; the first: texts.jsonl line 3: a text is empty\n";
    assert!(skipped.contains(said), "{skipped}");
    let good = lines(&fs::read_to_string(&summary).unwrap());
    assert_eq!(good.iter().map(|line| &line["id"]).collect::<Vec<_>>(), [1, 8]);

    let empty = run("empty").expect(0).stderr;
    let said = "warning: 6 lines have an error as output; the first: texts.jsonl line 2: the line is blank\n";
    assert!(empty.contains(said), "{empty}");
    let all = lines(&fs::read_to_string(&summary).unwrap());
    assert_eq!(all.len(), 8);
    assert_eq!((&all[0], &all[7]), (&good[0], &good[1]));
    let errors = [
        (Value::Null, "texts.jsonl line 2: the line is blank"),
        (json!(3), "texts.jsonl line 3: a text is empty"),
        (Value::Null, "texts.jsonl line 4: not UTF-8"),
        (Value::Null, "texts.jsonl line 5: there is a NUL in the text"),
        (json!(6), "texts.jsonl line 6: there is no `text`"),
        (Value::Null, "texts.jsonl line 7: the line is no object"),
    ];
    for (line, (id, error)) in all[1..7].iter().zip(errors) {
        assert_eq!((&line["id"], &line["error"]), (&id, &json!(error)));
        assert!(line["label"].is_null());
    }
}

#[test]
fn a_text_that_the_model_cannot_read_is_a_line_like_any_other() {
    let (place, out, _) = build(&fixture("answers/bert/mlm"), &[]);
    let texts = place.path().join("texts.jsonl");
    let text = |text: &str| json!({"text": text}).to_string() + "\n";
    fs::write(&texts, text("the [MASK] is slow") + &text("no mask") + &text("a [MASK]")).unwrap();
    let run = |how: &str| kilnc(arguments!["run", out, "--jsonl", texts, "--on-error", how, "--quiet"]);
    let empty = lines(&run("empty").expect(0).stdout);
    assert_eq!(empty[1], json!({"error": "texts.jsonl line 2: there is no [MASK] in the text"}));
    assert!(empty[0]["masks"].is_array() && empty[2]["masks"].is_array());
    let skipped = lines(&run("skip").expect(0).stdout);
    assert_eq!(skipped, [empty[0].clone(), empty[2].clone()]);
    assert!(
        run("fail").expect(2).stderr.starts_with("error: there is no [MASK] in the text\n  in texts.jsonl line 2\n")
    );
    fs::write(&texts, text("no mask")).unwrap();
    let none = run("skip").expect(2).stderr;
    let said = "error: texts.jsonl: none of 1 lines is valid; the first: texts.jsonl line 1: there is no [MASK]";
    assert!(none.starts_with(said), "{none}");
    assert_eq!(lines(&run("empty").expect(0).stdout).len(), 1);
}

#[test]
fn other_encodings_are_refused_by_name_in_all_text_files() {
    let (place, out, _) = build(&fixture("tiny-bert"), &[]);
    let utf_16 = |text: &str| -> Vec<u8> {
        std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    let refused = |name: &str, content: Vec<u8>, command: &[&str]| {
        let path = place.path().join(name);
        fs::write(&path, content).unwrap();
        let all: Vec<std::ffi::OsString> = command
            .iter()
            .map(|part| match *part {
                "FILE" => path.clone().into(),
                "BUNDLE" => out.clone().into(),
                "CHECKPOINT" => fixture("tiny-bert").into(),
                "OUT" => place.path().join("new.kiln").into(),
                other => other.into(),
            })
            .collect();
        let said = kilnc([all.as_slice(), &arguments!["--quiet"]].concat()).expect(2).stderr;
        let expected =
            format!("error: {name} is UTF-16 text, expected UTF-8\n\nhint: save it as UTF-8, or convert it: iconv");
        assert!(said.starts_with(&expected), "{said}");
        assert!(!place.path().join("new.kiln").exists());
    };
    let line = "{\"text\": \"a\", \"label\": \"neutral\"}\r\n";
    for how in ["fail", "skip", "empty"] {
        refused("t.jsonl", utf_16(line), &["run", "BUNDLE", "--jsonl", "FILE", "--on-error", how]);
    }
    refused("t.jsonl", utf_16(line), &["eval", "BUNDLE", "--data", "FILE"]);
    for (name, content) in
        [("t.csv", "text\r\na\r\n"), ("t.tsv", "text\r\na\r\n"), ("t.txt", "a\r\n"), ("t.jsonl", line)]
    {
        let build = ["build", "CHECKPOINT", "-o", "OUT"];
        refused(name, utf_16(content), &[&build[..], &["--quantize", "int8", "--calibration", "FILE"]].concat());
        refused(name, utf_16(content), &[&build[..], &["--texts", "FILE"]].concat());
    }
    refused("l.txt", utf_16("a\r\nb\r\nc\r\n"), &["build", "CHECKPOINT", "--labels", "FILE", "-o", "OUT"]);
}
