//! Plans on a GPU: messages without one, and with one, that a plan gives the processor's outputs.
#![cfg(feature = "tensorrt")]

#[macro_use]
mod common;

use std::path::{Path, PathBuf};

use common::{fixture, kilnc, place};
use kilnc::bundle::Bundle;
use kilnc::runtime::{self, Nvidia, Options, Runtime};

/// What this build runs plans with.
const PLANS: Runtime = if cfg!(feature = "enterprise") { Runtime::TensorRt } else { Runtime::TensorRtRtx };

/// The device node shows whether there is a GPU; without one nothing of NVIDIA's is there, strict or not.
fn gpu() -> bool {
    Nvidia::here().is_there()
}

/// A bundle of the small classifier for tract and for a GPU; nothing where the library is missing, loudly.
fn bundle(dir: &Path, target: &str) -> Option<PathBuf> {
    if let Err(e) = PLANS.library().unwrap().find() {
        // Set-up installs TensorRT for RTX, and not the system's.
        assert!(std::env::var_os("KILNC_TEST_STRICT").is_none() || PLANS == Runtime::TensorRt, "{e}");
        eprintln!("SKIPPED: plans on a GPU: {}", e.message());
        return None;
    }
    let out = dir.join("model.kiln");
    let arguments = arguments!["build", fixture("tiny-bert"), "--target", "tract", "--target", target, "-o", out];
    kilnc([arguments.as_slice(), &arguments!["--quiet"]].concat()).expect(0);
    Some(out)
}

/// The manifest's entry of a target that this kilnc cannot compile for, and what a strict build does, which may name
/// paths of this machine.
fn skipped(target: &str) -> (String, String) {
    let place = place();
    let out = place.path().join("model.kiln");
    let arguments = arguments!["build", fixture("tiny-bert"), "--target", "tract", "--target", target, "-o", out];
    let said = kilnc([arguments.as_slice(), &arguments!["--strict"]].concat()).expect(4).stderr;
    assert!(!out.exists(), "{said}");
    let manifest = kilnc([arguments.as_slice(), &arguments!["--json", "--quiet"]].concat()).expect(0).json();
    let reason = manifest["skipped"][0]["reason"].as_str().unwrap().to_owned();
    for part in reason.split("; ") {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let names: Vec<_> = manifest["engines"].as_array().unwrap().iter().map(|engine| &engine["name"]).collect();
    assert_eq!(names, ["tract-fp32"]);
    (reason, said)
}

#[test]
fn a_target_of_the_other_product_is_skipped_with_the_build_that_has_it() {
    let (target, expected) = match PLANS {
        Runtime::TensorRt => (
            "tensorrt-rtx:sm75",
            "this kilnc was built for TensorRT, which leaves no room for TensorRT for RTX; build it with: cargo build \
             --release --features tensorrt (",
        ),
        _ => (
            "tensorrt",
            "this kilnc was built without TensorRT; build it with: cargo build --release --features enterprise (",
        ),
    };
    let (reason, _) = skipped(target);
    assert!(reason.starts_with(expected), "{reason}");
}

#[test]
#[cfg(feature = "enterprise")]
fn a_plan_of_tensorrt_is_not_compiled_without_a_gpu() {
    if gpu() {
        eprintln!("SKIPPED: the messages without a GPU: there is one");
        return;
    }
    let (reason, said) = skipped("tensorrt");
    assert!(reason.starts_with("cuda:0 cannot be used"), "{reason}");
    assert!(
        said.contains("error: cuda:0 cannot be used: no device node /dev/nvidia0 or /dev/dxg; no libcuda.so.1"),
        "{said}"
    );
    if PLANS.library().unwrap().find().is_err() {
        assert!(
            said.contains("TensorRT is not found: searched for libnvinfer.so* beside libnvonnxparser.so*"),
            "{said}"
        );
        assert!(said.contains("tensorrt-cu12-libs==11.4.0.106"), "{said}");
    }
}

#[test]
fn a_plan_gives_the_processors_outputs_on_a_gpu() {
    if !gpu() {
        eprintln!("SKIPPED: a plan on a GPU: there is no device node /dev/nvidia0 or /dev/dxg");
        return;
    }
    common::children();
    let card = runtime::gpu(0).unwrap();
    let known = kilnc::target::ComputeCapability::KNOWN.iter().any(|(number, _)| *number == card.capability);
    let target = match PLANS {
        Runtime::TensorRt => "tensorrt".to_owned(),
        _ => format!("tensorrt-rtx:sm{}", card.capability),
    };
    if !known && PLANS == Runtime::TensorRtRtx {
        eprintln!("SKIPPED: a plan on a GPU: {PLANS} does not know {card}");
        return;
    }
    let place = place();
    let Some(out) = bundle(place.path(), &target) else { return };
    let opened = Bundle::open(&out).unwrap();
    let mut engines: Vec<_> = [format!("{}-fp16", target.replace(':', "-")), "tract-fp32".to_owned()]
        .iter()
        .map(|name| {
            let (entry, _) = opened.choose(Some(name)).unwrap();
            let options = Options { threads: 1 };
            runtime::open_isolated(entry.runtime, &opened.engine(entry).unwrap(), options, &[]).unwrap()
        })
        .collect();
    // Shapes come again, so that graphs are captured and replayed, and change in between.
    for (batch, length) in [(1, 8), (4, 16), (1, 8), (1, 8), (4, 16), (2, 32), (1, 8)] {
        let ids = (0..batch * length).map(|i: i64| 5 + (i * 7 + length) % 40).collect();
        let tensor = |elements| runtime::Tensor {
            shape: vec![batch as usize, length as usize],
            elements: runtime::Elements::I64(elements),
        };
        let same = |value| tensor(vec![value; (batch * length) as usize]);
        let given = [("input_ids", tensor(ids)), ("attention_mask", same(1)), ("token_type_ids", same(0))];
        let inputs: runtime::Named = given.map(|(name, tensor)| (name.to_owned(), tensor)).into();
        let answers: Vec<Vec<f32>> = engines
            .iter_mut()
            .map(|engine| {
                let outputs = engine.run(&inputs).unwrap();
                outputs[0].1.rows().unwrap().flatten().copied().collect()
            })
            .collect();
        assert_eq!(answers[0].len(), answers[1].len());
        for (found, expected) in answers[0].iter().zip(&answers[1]) {
            assert!((found - expected).abs() < 0.02, "{batch}x{length}: {found} is not {expected}");
        }
    }
}

/// Plans that were compiled without a GPU.
#[cfg(not(feature = "enterprise"))]
mod rtx {
    use std::fs;

    use kilnc::runtime::Device;

    use super::*;

    #[test]
    fn a_plan_without_a_gpu_is_refused_with_the_searched_paths() {
        if gpu() {
            eprintln!("SKIPPED: the messages without a GPU: there is one");
            return;
        }
        let place = place();
        let Some(out) = bundle(place.path(), "tensorrt-rtx:sm75") else { return };
        let said =
            kilnc(arguments!["run", out, "--engine", "tensorrt-rtx-sm75-fp16", "--text", "a movie"]).expect(4).stderr;
        for part in [
            "cuda:0 cannot be used: ",
            "no device node /dev/nvidia0 or /dev/dxg",
            "hint: get NVIDIA's driver with: apt-get install nvidia-driver",
            "docker run --gpus all",
        ] {
            assert!(said.contains(part), "no {part}: {said}");
        }
        // The provider of ONNX Runtime is no part that a plan lacks.
        assert!(!said.contains("onnxruntime"), "{said}");
        let said = kilnc(arguments!["bench", out, "--device", "cuda:0"]).expect(4).stderr;
        assert!(said.contains("error: cuda:0 cannot be used: no device node /dev/nvidia0 or /dev/dxg"), "{said}");

        // Where the choice is left to kilnc, another engine runs, with the reason.
        let ran = kilnc(arguments!["run", out, "--text", "a movie"]).expect(0);
        let why =
            "not tensorrt-rtx-sm75-fp16: it needs an NVIDIA GPU, and there is no device node /dev/nvidia0 or /dev/dxg";
        assert!(ran.stderr.contains("engine tract-fp32") && ran.stderr.contains(why), "{}", ran.stderr);
        let quick = arguments!["bench", out, "--length", "16", "--rounds", "1", "--seconds", "0.01"];
        let said = kilnc(quick).expect(0).stderr;
        assert!(said.contains("warning: tensorrt-rtx-sm75-fp16 is left out: it needs an NVIDIA GPU"), "{said}");

        for error in [
            runtime::available(Runtime::TensorRtRtx).unwrap_err(),
            runtime::gpu(0).unwrap_err(),
            runtime::open(Runtime::TensorRtRtx, &out, Options { threads: 1 }).err().unwrap(),
            Device::Cuda(0).check_for(Runtime::TensorRtRtx).unwrap_err(),
        ] {
            assert_eq!(error.exit_code(), 4, "{error}");
            assert!(error.message().contains("no device node /dev/nvidia0 or /dev/dxg"), "{error}");
        }
    }

    #[test]
    fn a_plan_is_opened_only_as_the_manifest_lists_it() {
        let place = place();
        let Some(out) = bundle(place.path(), "tensorrt-rtx:sm75") else { return };
        let plan = out.join("engines/tensorrt-rtx-sm75-fp16.plan");
        let said = kilnc(arguments!["bench", plan]).expect(2).stderr;
        assert!(said.contains("a plan is native code, and is run out of a bundle that lists its digest"), "{said}");

        let mut bytes = fs::read(&plan).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&plan, bytes).unwrap();
        // Whether there is a GPU or not: it is not searched first.
        let said =
            kilnc(arguments!["run", out, "--engine", "tensorrt-rtx-sm75-fp16", "--text", "a movie"]).expect(2).stderr;
        assert!(
            said.contains("`engines/tensorrt-rtx-sm75-fp16.plan` is not the file that the manifest describes"),
            "{said}"
        );
    }
}
