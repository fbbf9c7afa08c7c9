//! `kilnc bench` on texts of a file, on devices, on published shapes: inputs, reports and refusals.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, command, fixture, kilnc, place};
use kilnc::back::{lower, onnx};
use kilnc::ir::{Builder, DType, Dim, Op, TensorType, Weight};
use kilnc::runtime::{Device, Options, Runtime, open_on};
use kilnc::target::Target;
use kilnc::verify::verify;
use serde_json::Value;

fn of(arguments: &[OsString]) -> Vec<OsString> {
    let mut all: Vec<OsString> = arguments!["bench", "--seconds", "0.01", "--rounds", "2", "--threads", "1"].into();
    all.extend_from_slice(arguments);
    all
}

fn bench(arguments: &[OsString]) -> Ran {
    kilnc(of(arguments))
}

/// The small classifier as a bundle for ONNX Runtime.
fn bundle(dir: &Path) -> PathBuf {
    let out = dir.join("tiny.kiln");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "-o", out]).expect(0);
    out
}

/// A model of a table alone, for any batch and length, that wants an input of that name.
fn table(dir: &Path, input: &str) -> PathBuf {
    let file = dir.join(format!("{input}.onnx"));
    let shape = [Dim::from("batch_size"), Dim::from("sequence_length")];
    let mut builder = Builder::new("table");
    let ids = builder.input(input, TensorType::new(DType::I64, shape));
    let numbers: Vec<f32> = (0..400).map(|i| i as f32).collect();
    let table = builder.weight("table", Weight::f32s(vec![100, 4], &numbers).unwrap());
    let rows = builder.node("rows", Op::Embed, &[table, ids]).unwrap();
    builder.output("rows", rows).unwrap();
    let graph = verify(builder.finish()).unwrap();
    onnx::write(&lower(&graph, &Target::OrtCpu).unwrap(), &file, &|_| {}).unwrap();
    file
}

/// Twelve texts of 1 to 23 letters, long and short by turns, each letter a token.
fn texts(dir: &Path) -> PathBuf {
    let line = |i: usize| format!("{{\"text\": \"{}\", \"label\": \"none\"}}\n", vec!["a"; i * 10 % 24 + 1].join(" "));
    let file = dir.join("texts.jsonl");
    fs::write(&file, (0..12).map(line).collect::<String>()).unwrap();
    file
}

fn points(report: &Value) -> &Vec<Value> {
    report["engines"][0]["points"].as_array().unwrap()
}

#[test]
fn texts_of_a_file_run_in_their_own_lengths() {
    let place = place();
    let (engine, texts) = (bundle(place.path()), texts(place.path()));
    let batches = ["--batch", "1,4", "--batching", "padded,bucketed", "--server-p99", "1000", "--json"];
    let mut arguments = arguments![engine, engine, "--texts", texts].to_vec();
    arguments.extend(batches.map(OsString::from));
    let report = bench(&arguments).expect(0).json();
    // Every text has two tokens around it.
    let tokens: u64 = (0..12).map(|i| i * 10 % 24 + 3).sum();
    let summary = &report["texts"];
    assert_eq!((&summary["texts"], &summary["tokens"], &summary["longest"]), (&12.into(), &tokens.into(), &25.into()));
    assert_eq!((&summary["file"], &summary["tokenized_in_latency"]), (&"texts.jsonl".into(), &false.into()));
    let key: Vec<_> = points(&report)
        .iter()
        .map(|p| (p["scenario"].as_str().unwrap(), p["batch"].as_u64().unwrap(), p["batching"].as_str().unwrap_or("-")))
        .collect();
    let (padded, bucketed) = ("padded", "bucketed");
    assert_eq!(
        key,
        [
            ("single-stream", 1, "-"),
            ("offline", 1, padded),
            ("offline", 1, bucketed),
            ("multi-stream", 4, "-"),
            ("offline", 4, padded),
            ("offline", 4, bucketed),
        ]
    );
    let padding = |point: &Value| {
        point["padded_tokens_per_second"].as_f64().unwrap() / point["tokens_per_second"].as_f64().unwrap()
    };
    let found: Vec<f64> = points(&report).iter().map(padding).collect();
    // Alone nothing is padded; in the file's order 1 11 21 7 and so on, sorted 1 3 5 7, 9 11 13 15, 17 19 21 23.
    assert!(found[..3].iter().all(|padding| (padding - 1.0).abs() < 1e-9), "{found:?}");
    assert!((found[5] - 4.0 * (9.0 + 17.0 + 25.0) / tokens as f64).abs() < 1e-9, "{found:?}");
    assert!(found[4] > found[5] + 0.1, "{found:?}");
    for (point, queries) in points(&report).iter().zip([12, 12, 12, 3, 3, 3]) {
        // Never a part of the texts, and all of their outputs are compared.
        assert_eq!(point["runs"].as_u64().unwrap() % queries, 0, "{point}");
        assert!(point["length"].is_null(), "{point}");
        assert_eq!((&point["parity"]["rows"], &point["parity"]["agreement"]), (&12.into(), &1.0.into()), "{point}");
    }
    assert!(report["engines"][1]["server"]["texts_per_second"].as_f64().unwrap() > 0.0, "{report}");
    let said = bench(&arguments[..4]).expect(0).stdout;
    assert!(said.contains("single-stream · batch 1 · texts as they are · p90 counts"), "{said}");
    assert!(said.contains(&format!("texts of texts.jsonl: 12 of {tokens} tokens in all, the longest of 25")), "{said}");
}

#[test]
fn tokenizing_counts_on_request() {
    let place = place();
    let engine = bundle(place.path());
    let long = place.path().join("long.txt");
    // The engine gets eight tokens of each; the tokenizer reads them all.
    fs::write(&long, format!("{}\n", "a b c d ".repeat(8_000))).unwrap();
    let mean = |more: &[&str]| {
        let mut arguments = arguments![engine, "--texts", long, "--max-length", "8", "--json"].to_vec();
        arguments.extend(more.iter().map(OsString::from));
        let report = bench(&arguments).expect(0).json();
        assert_eq!(report["texts"]["tokenized_in_latency"], !more.is_empty());
        points(&report)[0]["mean_ms"].as_f64().unwrap()
    };
    let (without, with) = (mean(&[]), mean(&["--tokenize"]));
    assert!(with > 4.0 * without, "{without} {with}");
}

#[test]
fn texts_that_cannot_run_are_refused() {
    let place = place();
    let (engine, texts, alone) = (bundle(place.path()), texts(place.path()), table(place.path(), "input_ids"));
    let empty = place.path().join("empty.jsonl");
    fs::write(&empty, "\n\n").unwrap();
    let refused = |arguments: &[OsString]| bench(arguments).expect(2).stderr;
    let said = refused(&arguments![engine, "--texts", empty]);
    assert!(said.contains("empty.jsonl holds no texts"), "{said}");
    let said = refused(&arguments![alone, "--texts", texts]);
    assert!(said.contains("--texts needs a tokenizer, and no engine is a bundle that has one"), "{said}");
    let said = refused(&arguments![engine, "--texts", texts, "--batching", "sorted"]);
    assert!(said.contains("`sorted` is no way to make batches; known: padded, bucketed"), "{said}");
    let said = refused(&arguments![engine, "--texts", texts, "--length", "8"]);
    assert!(said.contains("cannot be used with"), "{said}");
    let said = refused(&arguments![engine, "--tokenize"]);
    assert!(said.contains("--texts <FILE>"), "{said}");
    // With a tokenizer a lone file runs too.
    let tokenizer = fixture("tiny-bert").join("tokenizer.json");
    bench(&arguments![alone, "--texts", texts, "--tokenizer", tokenizer]).expect(0);
}

#[test]
fn an_input_that_no_text_has_is_named_and_the_other_engines_stay() {
    let place = place();
    let (good, non_finite) = (table(place.path(), "input_ids"), table(place.path(), "pixel_values"));
    let said = bench(&arguments![non_finite]).expect(2).stderr;
    assert!(said.contains("no values are known for the engine's input `pixel_values`"), "{said}");
    let report = bench(&arguments![good, non_finite, "--json"]).expect(0).json();
    assert_eq!(points(&report).len(), 1);
    let failed = report["engines"][1]["failed"].as_str().unwrap();
    assert!(failed.contains("`pixel_values`") && report["engines"][0]["failed"].is_null(), "{report}");
}

#[test]
fn several_texts_at_once_are_a_multi_stream() {
    let place = place();
    let engine = table(place.path(), "input_ids");
    let ran = bench(&arguments![engine, "--multi-stream", "3", "--length", "5"]).expect(0).stdout;
    assert!(ran.contains("multi-stream · batch 3 · 5 tokens · p99 counts"), "{ran}");
    let report = bench(&arguments![engine, "--batch", "3", "--multi-stream", "3", "--json"]).expect(0).json();
    assert_eq!((points(&report).len(), &points(&report)[0]["scenario"]), (1, &"multi-stream".into()));
    bench(&arguments![engine, "--multi-stream", "1"]).expect(2);
}

#[test]
fn a_missing_device_is_reported_with_the_searched_paths() {
    let place = place();
    let engine = table(place.path(), "input_ids");
    let mut nowhere = command(of(&arguments![engine, "--device", "cuda:0"]));
    nowhere.env("KILNC_RUNTIMES", place.path());
    let ran = Ran::from(nowhere.output().unwrap()).expect(4);
    for part in [
        "cuda:0 cannot be used: ",
        "libonnxruntime_providers_cuda*",
        "onnxruntime-gpu[cuda,cudnn]==",
        "hint: get it with: ",
    ] {
        assert!(ran.stderr.contains(part), "no {part}: {}", ran.stderr);
    }
    if !Path::new("/dev/nvidia0").exists() && !Path::new("/dev/dxg").exists() {
        for part in ["no device node /dev/nvidia0 or /dev/dxg", "apt-get install nvidia-driver"] {
            assert!(ran.stderr.contains(part), "no {part}: {}", ran.stderr);
        }
    }
    let options = Options { threads: 1 };
    let other = open_on(Device::Cuda(0), Runtime::Tract, &engine, options, &[]).err().unwrap();
    assert_eq!(other.message(), "tract runs engines on the processor, not on cuda:0");
    let said = bench(&arguments![engine, "--device", "tpu"]).expect(2).stderr;
    assert!(said.contains("`tpu` is no device; known: cpu, cuda:0, cuda:1, …"), "{said}");
}

#[test]
fn published_figures_are_beside_ours_and_are_not_taken_for_this_machine() {
    let place = place();
    let engine = table(place.path(), "input_ids");
    let pages = ["report.html", "report.md"].map(|name| place.path().join(name));
    let shapes =
        arguments![engine, "--profile", "t4", "--batch", "1,32", "--html", pages[0], "--markdown", pages[1], "--json"];
    let ran = bench(&shapes).expect(0);
    assert!(ran.stderr.contains("warning: THIS IS NO T4: "), "{}", ran.stderr);
    let published = ran.json()["published"].clone();
    let found = published["latencies"].as_array().unwrap();
    // Two models in two precisions at 1x128, 1x384, 32x128 and 32x384.
    assert_eq!((found.len(), points(&ran.json()).len()), (16, 4));
    let of = |model: &str, precision: &str, batch: u64, length: u64| {
        let same = |it: &&Value| {
            (&it["model"], &it["precision"], &it["batch"], &it["length"])
                == (&model.into(), &precision.into(), &batch.into(), &length.into())
        };
        found.iter().find(same).unwrap()["mean_ms"].as_f64().unwrap()
    };
    assert_eq!((of("BERT-base", "INT8", 1, 128), of("BERT-base", "FP16", 32, 128)), (1.69, 36.63));
    assert_eq!((of("BERT-large", "INT8", 1, 384), of("BERT-large", "FP16", 1, 384)), (7.29, 12.45));
    for said in pages.map(|path| fs::read_to_string(path).unwrap()).iter().chain([&ran.stderr]) {
        assert!(said.contains("THIS IS NO T4: NVIDIA's figures are of a T4"), "{said}");
    }
    let table = bench(&arguments![engine, "--profile", "t4", "--batch", "1", "--length", "128"]).expect(0).stdout;
    for part in ["THIS IS NO T4", "NVIDIA T4 base INT8", "1x128", "1.69", "TensorRT 8.4.3", "copies of inputs"] {
        assert!(table.contains(part), "no {part}: {table}");
    }
    let texts = texts(place.path());
    bench(&arguments![engine, "--profile", "t4", "--texts", texts]).expect(2);
}

#[test]
fn energy_is_measured_or_has_a_reason() {
    let place = place();
    let ran = bench(&arguments![table(place.path(), "input_ids"), "--json"]).expect(0).json();
    let joules = points(&ran)[0]["joules_per_text"].as_f64();
    let why = ran["energy_not_measured"].as_str();
    assert!(joules.is_some() != why.is_some(), "{ran}");
    assert!(joules.is_none_or(|joules| joules > 0.0) && why.is_none_or(|why| why.contains("powercap")), "{ran}");
}

#[test]
fn a_baseline_of_other_texts_is_refused() {
    let place = place();
    let (engine, texts, kept) = (bundle(place.path()), texts(place.path()), place.path().join("baseline.json"));
    fs::write(&kept, bench(&arguments![engine, "--length", "8", "--json"]).expect(0).stdout).unwrap();
    let ran = bench(&arguments![engine, "--texts", texts, "--baseline", kept, "--fail-if", "p50>9x"]).expect(2);
    assert!(ran.stderr.contains("the baseline has other inputs: no texts, and this 12 texts"), "{}", ran.stderr);
}
