//! `kilnc bench`: measurements and reports, comparison with a saved report, and results on interruption.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, fixture, kilnc, names, place};
use serde_json::Value;

/// The small classifier for ONNX Runtime.
fn model(dir: &Path) -> PathBuf {
    let onnx = dir.join("model.onnx");
    kilnc(arguments!["export", fixture("tiny-bert"), "-o", onnx]).expect(0);
    onnx
}

fn bench(arguments: &[OsString]) -> Ran {
    let mut all: Vec<OsString> = arguments!["bench", "--seconds", "0.01", "--rounds", "5", "--threads", "1"].into();
    all.extend_from_slice(arguments);
    kilnc(all)
}

#[test]
fn every_batch_and_length_of_every_engine_is_measured() {
    let place = place();
    let onnx = model(place.path());
    let report = bench(&arguments![onnx, onnx, "--batch", "1,2", "--length", "8,16", "--json"]).expect(0).json();
    assert_eq!((&report["schema"], &report["rounds"]), (&"kilnc.bench/3".into(), &5.into()));
    assert!(report["machine"]["cpus"].as_u64().unwrap() >= 1 && report["machine"]["cpu"].is_string(), "{report}");
    let engines = report["engines"].as_array().unwrap();
    assert_eq!(engines[1]["name"], "model.onnx (2)");
    for engine in engines {
        let points = engine["points"].as_array().unwrap();
        let shapes: Vec<_> =
            points.iter().map(|p| (p["batch"].as_u64().unwrap(), p["length"].as_u64().unwrap())).collect();
        assert_eq!(shapes, [(1, 8), (1, 16), (2, 8), (2, 16)]);
        for point in points {
            let of = |name: &str| point[name].as_f64().unwrap();
            let rising = ["p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms"].map(of);
            assert!(rising[0] > 0.0 && rising.is_sorted(), "{point}");
            // Ten runs in each of five rounds, at least.
            assert!(point["runs"].as_u64().unwrap() >= 50, "{point}");
            assert!((of("tokens_per_second") / of("texts_per_second") - of("length")).abs() < 1e-6, "{point}");
            assert_eq!(point["parity"]["agreement"], 1.0, "{point}");
            let speed = ["low", "mean", "high"].map(|end| point["speed"][end].as_f64().unwrap());
            assert!(speed.is_sorted() && speed[0] > 0.0, "{point}");
        }
    }
}

#[test]
fn an_engine_that_does_not_load_is_reported_and_the_others_stay() {
    let place = place();
    let (onnx, bad) = (model(place.path()), place.path().join("bad.onnx"));
    fs::write(&bad, "garbage").unwrap();
    let pages = ["report.html", "report.md"].map(|name| place.path().join(name));
    let ran = bench(&arguments![onnx, bad, "--length", "8", "--html", pages[0], "--markdown", pages[1]]).expect(0);
    let failed = "bad.onnx failed: ONNX Runtime does not load bad.onnx";
    assert!(
        ran.stdout.contains(failed) && ran.stdout.contains("single-stream · batch 1 · 8 tokens · p90 counts"),
        "{}",
        ran.stdout
    );
    let [page, text] = pages.map(|path| fs::read_to_string(path).unwrap());
    assert!(text.contains("## single-stream · batch 1 · 8 tokens") && text.contains(failed), "{text}");
    for part in ["<svg class=\"distribution\"", "<polyline", "<svg class=\"speed-agreement\"", "<circle", failed] {
        assert!(page.contains(part), "no {part}: {page}");
    }
    // One page alone: nothing is fetched.
    assert!(!page.contains("http") && !page.contains("<script"), "{page}");
    assert_eq!(names(place.path()), ["bad.onnx", "model.onnx", "report.html", "report.md"]);
    assert!(bench(&arguments![bad]).expect(2).stderr.contains("does not load bad.onnx"));
}

#[test]
fn a_condition_that_holds_for_a_baseline_is_a_missed_gate() {
    let place = place();
    let (onnx, kept) = (model(place.path()), place.path().join("baseline.json"));
    fs::write(&kept, bench(&arguments![onnx, "--length", "8", "--json"]).expect(0).stdout).unwrap();
    let against =
        |condition: &str| bench(&arguments![onnx, "--length", "8", "--baseline", kept, "--fail-if", condition]);
    against("size>1.0x").expect(0);
    let said = against("size>0.5x").expect(3).stderr;
    assert!(
        said.contains("model.onnx: size is") && said.contains("1.000 times") && said.contains("(size>0.5x)"),
        "{said}"
    );
    assert!(against("p98>1x").expect(2).stderr.contains("unknown measure `p98`"));
    let other = bench(&arguments![onnx, "--length", "4", "--baseline", kept, "--fail-if", "p50>9x"]).expect(2).stderr;
    assert!(other.contains("the baseline has none of these engines at these batches and lengths"), "{other}");
    // Times of another machine are compared, and it is said.
    let elsewhere = "the baseline was measured elsewhere: processor Z80, here ";
    assert!(!against("size>1.0x").expect(0).stderr.contains(elsewhere));
    let mut report: serde_json::Value = serde_json::from_str(&fs::read_to_string(&kept).unwrap()).unwrap();
    report["machine"]["cpu"] = "Z80".into();
    fs::write(&kept, report.to_string()).unwrap();
    assert!(against("size>1.0x").expect(0).stderr.contains(elsewhere));
    fs::write(&kept, "{\"schema\": \"kilnc.bench/2\"}").unwrap();
    let said = against("size>1x").expect(2).stderr;
    assert!(said.contains("baseline.json: schema `kilnc.bench/2`, expected `kilnc.bench/3`"), "{said}");
}

#[test]
fn the_rate_that_keeps_a_bound_is_found_or_is_none() {
    let place = place();
    let onnx = model(place.path());
    let served = |bound: &str| {
        let report = bench(&arguments![onnx, "--length", "8", "--server-p99", bound, "--json"]).expect(0).json();
        report["engines"][0]["server"].clone()
    };
    let found = served("1000");
    let of = |name: &str| found[name].as_f64().unwrap();
    assert!(of("texts_per_second") > 0.0 && of("p99_ms") <= 1000.0 && of("texts") >= 300.0, "{found}");
    let none = served("0.000001");
    assert_eq!((&none["texts_per_second"], &none["texts"]), (&0.0.into(), &0.into()));
    let said = bench(&arguments![onnx, "--server-p99", "0"]).expect(2).stderr;
    assert!(said.contains("expected a number of milliseconds"), "{said}");
}

#[cfg(unix)]
#[test]
fn results_so_far_are_reported_on_interruption() {
    use std::process::{Command, Stdio};
    let place = place();
    let onnx = model(place.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_kilnc"))
        .args(["bench", "--rounds", "1000", "--seconds", "0.05", "--length", "8", "--threads", "1", "--json"])
        .arg(&onnx)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report: Value = serde_json::from_str(&text).unwrap();
    let rounds = report["rounds"].as_u64().unwrap();
    assert!((1..1000).contains(&rounds), "{rounds}");
    assert!(report["engines"][0]["points"][0]["runs"].as_u64().unwrap() >= 10 * rounds);
}

#[test]
fn a_decoder_is_measured_by_its_first_and_its_next_token() {
    let place = place();
    let out = place.path().join("lm.kiln");
    kilnc(arguments!["build", fixture("decoders/gpt2/lm"), "--target", "ort-cpu", "--target", "tract", "-o", out])
        .expect(0);
    let report = bench(&arguments![out, "--prompt", "4,16", "--generate", "3", "--json"]).expect(0).json();
    for engine in report["engines"].as_array().unwrap() {
        let points = engine["points"].as_array().unwrap();
        let named: Vec<_> =
            points.iter().map(|p| (p["scenario"].as_str().unwrap(), p["length"].as_u64().unwrap())).collect();
        assert_eq!(named, [("first-token", 4), ("next-token", 4), ("first-token", 16), ("next-token", 16)]);
        for point in points {
            assert!(point["p50_ms"].as_f64().unwrap() > 0.0 && point["runs"].as_u64().unwrap() >= 3, "{point}");
        }
        // A query is the prompt, or one token.
        let tokens = |i: usize| {
            let of = |name: &str| points[i][name].as_f64().unwrap();
            (of("tokens_per_second") / of("texts_per_second")).round()
        };
        assert_eq!([0, 1, 2, 3].map(tokens), [4.0, 1.0, 16.0, 1.0]);
    }
    let said = |more: &[&str]| {
        let more = more.iter().map(OsString::from).collect::<Vec<_>>();
        bench(&[arguments![out].to_vec(), more].concat()).expect(2).stderr
    };
    assert!(said(&["--batch", "8"]).starts_with("error: --batch is not for models of text-generation"));
    assert!(said(&["--prompt", "60", "--generate", "8"]).contains("the model has 64 positions"));
    let onnx = model(place.path());
    let alone = bench(&arguments![onnx, "--prompt", "8"]).expect(2).stderr;
    assert!(alone.contains("--prompt and --generate are for bundles of text-generation"), "{alone}");
    let beside = bench(&arguments![out, onnx]).expect(2).stderr;
    assert!(beside.contains("engines that generate are not measured beside others"), "{beside}");
}
