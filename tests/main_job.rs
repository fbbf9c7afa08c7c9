//! The main job on the real checkpoint: MiniLM and the sections LoRA become a bundle whose predictions are PyTorch's.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{command, kilnc, minilm, names, place, repository};
use serde_json::Value;

fn engine<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|entry| entry[key] == name).unwrap_or_else(|| panic!("no {name} in {list}"))
}

fn build_arguments(out: &std::path::Path) -> Vec<std::ffi::OsString> {
    arguments![
        "build",
        minilm(),
        "--adapter",
        repository("models/sections-lora"),
        "--labels",
        repository("models/sections-lora/labels.json"),
        "--recipe",
        repository("models/sections.toml"),
        "-o",
        out
    ]
    .into()
}

#[test]
fn the_sections_bundle_is_built_proved_and_scored() {
    let place = place();
    let out = place.path().join("sections.kiln");
    let mut build = build_arguments(&out);
    build.extend(arguments!["--json", "--strict"]);
    if !cfg!(feature = "tensorrt") {
        eprintln!("SKIPPED: the TensorRT engine, because this test was built without the feature `tensorrt`");
        build.extend(arguments!["--target", "ort-cpu", "--target", "tract", "--quantize", "int8"]);
        build.extend(arguments!["--gate", "agreement=0.985,accuracy_drop=0.015"]);
    }
    let manifest = kilnc(build).expect(0).json();

    let fp32 = engine(&manifest["engines"], "name", "ort-cpu-fp32");
    let golden = &fp32["gates"][0];
    assert_eq!((&golden["against"], &golden["rows"]), (&Value::from("golden"), &Value::from(64)));
    let max_abs = golden["checks"].as_array().unwrap().iter().find(|check| check["measure"] == "max_abs").unwrap();
    assert!(max_abs["found"].as_f64().unwrap() <= 1e-4, "{max_abs}");
    let adapter = &manifest["adapters"][0];
    assert_eq!((adapter["changed"].as_u64(), adapter["saved"].as_array().unwrap().len()), (Some(12), 4));

    if cfg!(feature = "tensorrt") {
        let plan = engine(&manifest["engines"], "name", "tensorrt-rtx-sm75-fp16");
        assert!(plan["layers"].as_str().unwrap().contains("26 Half GEMM, 6 fused attention"), "{plan}");
        let bytes = fs::read(out.join(plan["components"][0]["file"].as_str().unwrap())).unwrap();
        assert_eq!(&bytes[..4], b"vtrt");
    }

    let engines = ["--engine", "ort-cpu-fp32", "--engine", "ort-cpu-int8"];
    let mut eval: Vec<std::ffi::OsString> =
        arguments!["eval", out, "--data", repository("models/sections-eval.jsonl"), "--json"].into();
    eval.extend(engines.map(Into::into));
    let scores = kilnc(eval).expect(0).json();
    let accuracy = |name| engine(&scores, "engine", name)["accuracy"].as_f64().unwrap();
    assert!((accuracy("ort-cpu-fp32") - 0.849).abs() <= 0.003, "{scores}");
    assert!(accuracy("ort-cpu-int8") >= 0.835, "{scores}");

    let answers = kilnc(arguments!["run", out, "--text", "chess engine", "--json"]).expect(0).json();
    assert_eq!(answers[0]["label"], "games");
    let bench = kilnc(arguments!["bench", out, "--rounds", "1", "--seconds", "0.05", "--length", "16", "--json"])
        .expect(0)
        .json();
    for name in ["ort-cpu-fp32", "ort-cpu-int8", "tract-fp32"] {
        let measured = &engine(&bench["engines"], "name", name)["points"][0];
        assert!(measured["runs"].as_u64().unwrap() >= 10, "{measured}");
        assert_eq!(measured["parity"]["agreement"], 1.0, "{measured}");
    }
}

#[test]
#[cfg(unix)]
fn a_build_that_is_ended_leaves_nothing_and_a_killed_one_is_swept() {
    let place = place();
    let out = place.path().join("sections.kiln");
    let start = || command(build_arguments(&out)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let staged = || names(place.path()).iter().any(|name| name.ends_with("kilnc-stage"));
    let wait_for_stage = || {
        let begun = Instant::now();
        while !staged() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(staged(), "the build did not begin");
    };
    let signal = |id: u32, signal| {
        rustix::process::kill_process(rustix::process::Pid::from_raw(id as i32).unwrap(), signal).unwrap();
    };

    let mut child = start();
    wait_for_stage();
    std::thread::sleep(Duration::from_millis(100));
    signal(child.id(), rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(names(place.path()).is_empty(), "{:?}", names(place.path()));

    let mut child = start();
    wait_for_stage();
    std::thread::sleep(Duration::from_millis(100));
    // A second build of the same output fails, and does not disturb the first.
    let second = kilnc(build_arguments(&out)).expect(2);
    assert!(second.stderr.contains("another run of kilnc is writing"), "{}", second.stderr);
    signal(child.id(), rustix::process::Signal::KILL);
    child.wait().unwrap();
    assert!(staged());
    kilnc(arguments!["build", crate::common::fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"])
        .expect(0);
    assert_eq!(names(place.path()), ["sections.kiln"]);
}
