//! Gates that cannot be fooled: every output counts, non-finite values never pass, and requested gates are checked.

use std::fs;

use crate::common::{Half, Ran, change, command, copied, fixture, jsonl, kilnc, names, place};

#[test]
fn non_finite_values_in_any_output_never_pass() {
    // The second of two outputs; the one that nothing but itself is compared with; and what 8 bits make of it.
    for (head, tensor, output) in
        [("bert/qa", "qa_outputs.bias", "end_logits"), ("bert/base", "pooler.dense.bias", "pooler_output")]
    {
        let model = copied(&format!("answers/{head}"));
        change(model.path(), tensor, Half::Second, |_| f32::NAN);
        for more in [vec!["--target", "tract"], vec!["--target", "ort-cpu", "--quantize", "int8"]] {
            let place = place();
            let out = place.path().join("out");
            let build = arguments!["build", model.path(), "-o", out, "--quiet"];
            let more: Vec<std::ffi::OsString> = more.iter().map(Into::into).collect();
            let said = kilnc(build.into_iter().chain(more)).expect(3).stderr;
            assert!(said.contains(&format!("numbers that are NaN or infinite in `{output}`")), "{said}");
            assert_eq!(names(place.path()), Vec::<String>::new());
        }
    }
}

#[test]
fn bounds_hold_for_every_output() {
    let model = copied("answers/bert/qa");
    // The ends are read by weights that are a hundred times as large, and so are their errors.
    change(model.path(), "qa_outputs.weight", Half::Second, |x| 100.0 * x);
    let place = place();
    let out = place.path().join("out");
    let build = arguments!["build", model.path(), "--target", "ort-cpu", "--quantize", "int8", "-o", out, "--json"];
    let manifest = kilnc(build).expect(0).json();
    let checks = manifest["engines"][1]["gates"][0]["checks"].as_array().unwrap().clone();
    let found = |output: &str| {
        let check = checks.iter().find(|check| check["output"] == output && check["measure"] == "max_abs");
        check.unwrap_or_else(|| panic!("no {output} in {checks:?}"))["found"].as_f64().unwrap()
    };
    let (starts, ends) = (found("start_logits"), found("end_logits"));
    assert!(ends > 2.0 * starts, "{starts} {ends}");
    fs::remove_dir_all(&out).unwrap();
    let gate = format!("max_abs={}", (starts * ends).sqrt());
    let build =
        arguments!["build", model.path(), "--target", "ort-cpu", "--quantize", "int8", "--gate", gate, "-o", out];
    let said = kilnc(build).expect(3).stderr;
    assert!(said.contains("a gate was missed: ort-cpu-int8: end_logits max_abs "), "{said}");
    assert!(!said.contains("also ort-cpu-int8: start_logits"), "{said}");
    assert_eq!(names(place.path()), Vec::<String>::new());
}

#[test]
fn a_requested_gate_is_checked_or_ends_the_build() {
    let place = place();
    let (out, none) = (place.path().join("out"), place.path().join("none"));
    fs::create_dir(&none).unwrap();
    let build = |more: &[&str]| -> Ran {
        let build = arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "--quantize", "int8", "-o", out];
        let mut build = command(build.iter().cloned().chain(more.iter().map(Into::into)));
        build.env("KILNC_RUNTIMES", &none).env("HOME", &none).env("XDG_DATA_HOME", &none);
        build.env_remove("ORT_DYLIB_PATH").output().unwrap().into()
    };
    let said = build(&["--gate", "agreement=0.5"]).expect(4).stderr;
    assert!(said.contains("its gate cannot be checked here: ONNX Runtime is not found"), "{said}");
    assert!(said.contains("hint: get it with: ") && said.contains("or leave the engine out"), "{said}");
    assert_eq!(names(place.path()), ["none"]);
    // Without a gate it is built, and its user is warned.
    assert!(build(&[]).expect(0).stderr.contains("ort-cpu-int8 was NOT CHECKED: ONNX Runtime is not found"));
    let said = kilnc(arguments!["run", out, "--engine", "ort-cpu-int8", "--text", "a mail server"]).expect(0).stderr;
    assert!(said.contains("warning: ort-cpu-int8 was never checked: ONNX Runtime is not found"), "{said}");
}

/// A golden file is a gate of every engine in fp32.
#[test]
fn a_golden_file_is_compared_or_ends_the_build() {
    let place = place();
    let (out, none) = (place.path().join("out"), place.path().join("none"));
    let golden = fixture("tiny-bert").join("golden.safetensors");
    let recipe = |precision: &str| {
        let engine = format!("[[engine]]\ntarget = \"ort-cpu\"\nprecision = \"{precision}\"\n");
        let path = place.path().join("r.toml");
        fs::write(&path, format!("golden = {{ file = {golden:?}, max_abs = 1e-4 }}\n{engine}")).unwrap();
        command(arguments!["build", fixture("tiny-bert"), "--recipe", path, "-o", out])
    };
    let mut bare = recipe("fp32");
    bare.env("KILNC_RUNTIMES", &none).env("HOME", &none).env("XDG_DATA_HOME", &none).env_remove("ORT_DYLIB_PATH");
    let said = Ran::from(bare.output().unwrap()).expect(4).stderr;
    assert!(said.contains("its gate cannot be checked here: ONNX Runtime is not found"), "{said}");
    let said = Ran::from(recipe("int8").output().unwrap()).expect(2).stderr;
    assert!(said.contains("no engine is in fp32, and only such engines are compared with it\n  in golden"), "{said}");
    assert_eq!(names(place.path()), ["r.toml"]);
}

/// Of two engines one can be made and checked, the other cannot.
#[test]
fn a_gate_of_an_engine_that_cannot_be_made_ends_the_build_at_the_end() {
    let place = place();
    let (out, none, recipe) = (place.path().join("out"), place.path().join("none"), place.path().join("recipe.toml"));
    fs::create_dir(&none).unwrap();
    let engines = |gate: &str| {
        let gate = if gate.is_empty() { String::new() } else { format!("gate = {{ {gate} }}\n") };
        let made = "[[engine]]\ntarget = \"tract\"\n";
        format!("{made}[[engine]]\ntarget = \"tensorrt-rtx:sm75\"\nprecision = \"fp16\"\n{gate}")
    };
    let build = |gate: &str, more: &[&str]| -> Ran {
        fs::write(&recipe, engines(gate)).unwrap();
        let build = arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out];
        let mut build = command(build.iter().cloned().chain(more.iter().map(Into::into)));
        build.env("KILNC_RUNTIMES", &none).env("HOME", &none).env("XDG_DATA_HOME", &none);
        build.env_remove("ORT_DYLIB_PATH").output().unwrap().into()
    };
    for (gate, more) in [("agreement = 0.5", &[][..]), ("", &["--gate", "agreement=0.5"])] {
        let said = build(gate, more).expect(4).stderr;
        let error = said.split_once("error: ").unwrap();
        assert!(error.1.starts_with("tensorrt-rtx-sm75-fp16: its gate cannot be checked here: "), "{said}");
        assert!(error.1.contains("hint: or leave the engine out"), "{said}");
        assert!(error.0.contains("tensorrt-rtx-sm75-fp16 is SKIPPED: "), "{said}");
        assert!(error.0.contains("tract-fp32 against itself"), "{said}");
        assert_eq!(names(place.path()), ["none", "recipe.toml"]);
    }
    assert!(build("", &[]).expect(0).stderr.contains("tensorrt-rtx-sm75-fp16 is SKIPPED: "));
}

#[test]
fn a_gate_that_bounds_nothing_is_refused_and_one_of_a_cut_model_bounds_all() {
    let place = place();
    let (out, recipe) = (place.path().join("out"), place.path().join("recipe.toml"));
    let plain = arguments!["build", fixture("tiny-bert"), "--target", "tract", "--gate", "agreement=0.5", "-o", out];
    let said = kilnc(plain).expect(2).stderr;
    assert!(said.contains("no engine is quantized, and nothing is cut: there is nothing to bound"), "{said}");
    let texts = jsonl(place.path());
    fs::write(&recipe, format!("[prune]\nheads = 0.5\n[calibration]\nfile = {:?}\n", texts.to_str().unwrap())).unwrap();
    let cut = arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "--target", "tract", "-o", out, "--quiet"];
    let gated = |gate: &str| kilnc(cut.iter().cloned().chain(["--gate".into(), gate.into()]));
    let said = gated("cosine=1").expect(3).stderr;
    assert!(said.contains("a gate was missed: tract-fp32: "), "{said}");
    gated("cosine=-0").expect(0);
}

#[test]
fn engines_are_run_as_they_were_checked() {
    let place = place();
    let (out, texts) = (place.path().join("out"), jsonl(place.path()));
    let precisions = arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "--quantize", "int8", "-o", out];
    let manifest = kilnc([precisions.as_slice(), &arguments!["--json", "--quiet"]].concat()).expect(0).json();
    let batches = [0, 1].map(|engine| manifest["engines"][engine]["gates"][0]["batch"].as_u64());
    assert_eq!(batches, [Some(16), Some(1)]);
    let run = |more: &[&str]| {
        let run = arguments!["run", out, "--engine", "ort-cpu-int8", "--jsonl", texts, "--quiet"];
        kilnc(run.into_iter().chain(more.iter().map(Into::into))).expect(0)
    };
    let (usual, alone, together) = (run(&[]), run(&["--batch", "1"]), run(&["--batch", "6"]));
    assert_eq!(usual.stdout, alone.stdout);
    assert_ne!(usual.stdout, together.stdout);
    assert!(!usual.stderr.contains("warning"), "{}", usual.stderr);
    assert!(together.stderr.contains("in batches of 6 a prediction depends on the other texts"), "{}", together.stderr);
}
