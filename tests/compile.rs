//! `kilnc compile`: plans for several GPUs from one ONNX file, and refusals with nothing written.
#![cfg(all(feature = "tensorrt", not(feature = "enterprise")))]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Ran, command, fixture, kilnc, names, place};
use kilnc::runtime::library::TENSORRT_RTX;
use serde_json::Value;

/// The small classifier in half precision; nothing where the library is missing, loudly.
fn model(dir: &Path) -> Option<PathBuf> {
    if let Err(e) = TENSORRT_RTX.find() {
        assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "{e}");
        eprintln!("SKIPPED: kilnc compile: {}", e.message());
        return None;
    }
    let onnx = dir.join("model.onnx");
    let target = ["--target", "tensorrt-rtx:sm75", "--precision", "fp16"];
    kilnc(arguments!["export", fixture("tiny-bert"), target[0], target[1], target[2], target[3], "-o", onnx]).expect(0);
    Some(onnx)
}

fn compile(onnx: &Path, arguments: &[OsString]) -> Ran {
    let mut all: Vec<OsString> = arguments!["compile", onnx].into();
    all.extend_from_slice(arguments);
    kilnc(all)
}

#[test]
fn a_plan_is_made_for_every_gpu_and_identified_by_its_digest() {
    let place = place();
    let Some(onnx) = model(place.path()) else { return };
    let out = place.path().join("engines");
    let arguments = arguments!["--target", "tensorrt-rtx:sm75,sm89", "--shapes", "1x4..2x8..4x64", "-o", out, "--json"];
    let report = compile(&onnx, &arguments).expect(0).json();
    assert_eq!((&report["schema"], &report["source"]["path"]), (&"kilnc.compile/1".into(), &"model.onnx".into()));
    assert_eq!(report["shapes"], serde_json::json!(["1x4..2x8..4x64"]));
    let plans = report["plans"].as_array().unwrap();
    assert_eq!(
        plans.iter().map(|plan| &plan["target"]).collect::<Vec<_>>(),
        ["tensorrt-rtx:sm75", "tensorrt-rtx:sm89"]
    );
    assert_eq!(
        names(&out),
        [
            "compile.json",
            "tensorrt-rtx-sm75.layers.json",
            "tensorrt-rtx-sm75.plan",
            "tensorrt-rtx-sm89.layers.json",
            "tensorrt-rtx-sm89.plan"
        ]
    );
    let layers: Value = serde_json::from_slice(&fs::read(out.join("tensorrt-rtx-sm75.layers.json")).unwrap()).unwrap();
    assert!(layers.as_array().is_some_and(|layers| layers.len() > 5), "{layers}");

    let summary = kilnc(arguments!["inspect", out]).expect(0).stdout;
    assert!(summary.contains("tensorrt-rtx:sm89") && summary.contains("Half GEMM"), "{summary}");
    // A folder of plans is replaced, and a changed plan is not listed.
    compile(&onnx, &arguments!["--target", "tensorrt-rtx:sm75", "--shapes", "2x16", "-o", out]).expect(0);
    assert_eq!(names(&out).len(), 3);
    fs::write(out.join("tensorrt-rtx-sm75.plan"), "another").unwrap();
    let said = kilnc(arguments!["inspect", out]).expect(2).stderr;
    assert!(said.contains("`tensorrt-rtx-sm75.plan` is not the file that compile.json speaks of"), "{said}");
}

#[test]
fn models_that_cannot_be_compiled_are_refused_and_nothing_is_written() {
    let place = place();
    let Some(onnx) = model(place.path()) else { return };
    let out = place.path().join("engines");
    let refused = |arguments: &[&str]| {
        let mut all: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        all.extend(arguments!["-o", out]);
        compile(&onnx, &all).expect(2).stderr
    };
    let t4 = ["--target", "tensorrt-rtx:sm75"];
    let cases: [(&[&str], &str); 8] = [
        (&["--target", "tensorrt-rtx:sm99"], "known: sm75 (T4, RTX 20), sm80 (A100, A30)"),
        (&["--target", "tensorrt-rtx:sm75,sm75"], "duplicate tensorrt-rtx:sm75"),
        (&["--target", "ort-cpu"], "ort-cpu takes ONNX files as they are"),
        (&[t4[0], t4[1], "--shapes", "8x128..1x8"], "smallest, fastest at and largest must have as many sizes"),
        (&[t4[0], t4[1], "--shapes", "nope=1x8"], "a profile names the input `nope`, the model has input_ids"),
        (&[t4[0], t4[1], "--shapes", "input_ids=1x8"], "input `attention_mask` has the dynamic shape [-1, -1]"),
        (&[t4[0], t4[1], "--shapes", "1x8x2"], "has shapes of [3, 3, 3] dimensions, expected 2"),
        (&[t4[0], t4[1], "--optimization-level", "9"], "9 is not in 0..=5"),
    ];
    for (arguments, expected) in cases {
        let said = refused(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    fs::write(&onnx, "garbage").unwrap();
    assert!(refused(&t4).contains("model.onnx"));
    fs::remove_file(&onnx).unwrap();
    assert!(refused(&t4).contains("No such file"));
    assert!(!out.exists());
}

/// A library whose version is another is not called: its tables of functions are others.
#[test]
fn a_library_of_another_version_is_named_with_both() {
    let place = place();
    let Some(onnx) = model(place.path()) else { return };
    let folder = place.path().join("runtimes").join(TENSORRT_RTX.folder).join(TENSORRT_RTX.inside);
    fs::create_dir_all(&folder).unwrap();
    let source = place.path().join("version.c");
    fs::write(
        &source,
        "int getInferLibMajorVersion() { return 1; } int getInferLibMinorVersion() { return 6; }\n\
         int getInferLibPatchVersion() { return 1; } int getInferLibBuildVersion() { return 120; }\n",
    )
    .unwrap();
    let library = folder.join("libtensorrt_rtx.so.1.6.1");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(built.success());
    let out = place.path().join("engines");
    let mut compile = command(arguments!["compile", onnx, "--target", "tensorrt-rtx:sm75", "-o", out]);
    let said =
        Ran::from(compile.env("KILNC_RUNTIMES", place.path().join("runtimes")).output().unwrap()).expect(4).stderr;
    assert!(said.contains("TensorRT for RTX has version 1.6.1.120, expected 1.7"), "{said}");
    assert!(said.contains("libtensorrt_rtx.so.1.6.1") && said.contains("tensorrt-rtx-cu12-libs 1.7.1.116"), "{said}");
    assert!(!out.exists());
}
