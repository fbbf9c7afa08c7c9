//! `kilnc build` and the use of its bundles, on small checkpoints with known predictions.

use std::fs;
use std::path::Path;

use crate::common::{command, copied, edit, fixture, kilnc, names, place};
use serde_json::Value;

/// A recipe with one golden file and these engines.
fn recipe(dir: &Path, golden: &Path, max_abs: &str, engines: &[(&str, &str)]) -> std::path::PathBuf {
    let mut text = format!("name = \"tiny\"\n[golden]\nfile = {golden:?}\nmax_abs = {max_abs}\n");
    for (target, precision) in engines {
        text += &format!("[[engine]]\ntarget = {target:?}\nprecision = {precision:?}\n");
    }
    let path = dir.join("recipe.toml");
    fs::write(&path, text).unwrap();
    path
}

const FP32: &[(&str, &str)] = &[("ort-cpu", "fp32"), ("tract", "fp32")];

#[test]
fn a_checkpoint_becomes_a_bundle_that_predicts() {
    let place = place();
    let out = place.path().join("tiny.kiln");
    let golden = fixture("tiny-bert").join("golden.safetensors");
    let engines = [("ort-cpu", "fp32"), ("ort-cpu", "int8"), ("tract", "fp32"), ("tract", "int8")];
    let recipe = recipe(place.path(), &golden, "1e-5", &engines);
    kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out, "--quiet"]).expect(0);
    assert_eq!(names(place.path()), ["recipe.toml", "tiny.kiln"]);
    assert_eq!(names(&out), ["bom.cdx.json", "engines", "hub", "manifest.json", "tokenizer.json"]);

    let manifest = kilnc(arguments!["inspect", out, "--json"]).expect(0).json();
    assert_eq!(manifest["task"], "text-classification");
    assert_eq!(manifest["engines"].as_array().unwrap().len(), 4);
    let gate = &manifest["engines"][0]["gates"][0];
    assert_eq!((&gate["against"], &gate["rows"]), (&Value::from("golden"), &Value::from(4)));

    let answers = kilnc(arguments!["run", out, "--text", "the movie", "--text", "not good", "--json"]).expect(0).json();
    assert_eq!(answers.as_array().unwrap().len(), 2);
    let label = answers[0]["label"].as_str().unwrap();
    assert!(manifest["labels"].as_array().unwrap().iter().any(|known| known == label));
    kilnc(arguments!["verify", out]).expect(0);

    let texts = place.path().join("texts.jsonl");
    fs::write(&texts, format!("{{\"text\": \"the movie\", \"label\": {label:?}}}\n")).unwrap();
    let scores = kilnc(arguments!["eval", out, "--data", texts, "--json"]).expect(0).json();
    assert_eq!(scores.as_array().unwrap().len(), 4);
    assert_eq!(scores[1]["accuracy"], 1.0);
}

#[test]
fn merged_adapters_give_pytorchs_outputs() {
    for adapter in ["tiny-lora", "tiny-lora-rslora"] {
        let place = place();
        let recipe = recipe(place.path(), &fixture(adapter).join("golden.safetensors"), "1e-5", FP32);
        let out = place.path().join("out");
        kilnc(arguments![
            "build",
            fixture("tiny-bert-base"),
            "--adapter",
            fixture(adapter),
            "--recipe",
            recipe,
            "-o",
            out,
            "--quiet"
        ])
        .expect(0);
    }
}

/// A copy of `tiny-lora` without the tensors that it saved whole.
fn without_saved() -> tempfile::TempDir {
    let copy = copied("tiny-lora");
    let path = copy.path().join("adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let changes = file.tensors().into_iter().filter(|(name, _)| name.contains(".lora_"));
    fs::write(&path, safetensors::serialize(changes, None).unwrap()).unwrap();
    let path = copy.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["modules_to_save"] = Value::Null;
    fs::write(&path, config.to_string()).unwrap();
    copy
}

#[test]
fn merged_adapters_are_in_the_manifest() {
    let (place, other) = (place(), without_saved());
    let tokenizer = fs::read(fixture("tiny-bert-base").join("tokenizer.json")).unwrap();
    fs::write(other.path().join("tokenizer.json"), [&tokenizer[..], b"\n"].concat()).unwrap();
    // Two halves of one change are the change.
    let recipe = recipe(place.path(), &fixture("tiny-lora").join("golden.safetensors"), "1e-5", FP32);
    let halves = [fixture("tiny-lora"), other.path().to_owned()].map(|dir| format!("{}@0.5", dir.display()));
    let out = place.path().join("out");
    let [one, two] = &halves;
    let arguments = arguments![
        "build",
        fixture("tiny-bert-base"),
        "--adapter",
        one,
        "--adapter",
        two,
        "--combine",
        "cat",
        "--recipe",
        recipe,
        "-o",
        out,
        "--json",
        "--quiet"
    ];
    let manifest = kilnc(arguments).expect(0).json();
    assert_eq!(manifest["combined"], "cat");
    let [first, second] = [0, 1].map(|i| &manifest["adapters"][i]);
    assert_eq!((&first["kind"], &first["scale"]), (&Value::from("LORA"), &Value::from(0.5)));
    assert_eq!((first["changed"].as_u64(), first["saved"].as_array().unwrap().len()), (Some(4), 4));
    assert_eq!((second["changed"].as_u64(), second["saved"].as_array().unwrap().len()), (Some(4), 0));
    let files = |entry: &Value| -> Vec<String> {
        entry["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(files(first), ["adapter_config.json", "adapter_model.safetensors"]);
    // An adapter that was saved with a tokenizer was trained with it.
    assert_eq!(files(second), ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(out.join("tokenizer.json")).unwrap().len(), tokenizer.len() + 1);
    let sources = manifest["sources"].as_array().unwrap();
    assert!(sources.iter().all(|file| file["path"] != "tokenizer.json"), "{sources:?}");
    let summary = kilnc(arguments!["inspect", out]).expect(0).stdout;
    assert!(
        summary.contains("× 0.5: LORA merged into 4 weights, 0 from modules_to_save\ncombined by cat\n"),
        "{summary}"
    );
}

#[test]
fn the_bare_encoder_gives_pytorchs_hidden_states() {
    let place = place();
    let recipe = recipe(place.path(), &fixture("tiny-bert-base").join("golden.safetensors"), "1e-5", FP32);
    let out = place.path().join("out");
    let manifest =
        kilnc(arguments!["build", fixture("tiny-bert-base"), "--recipe", recipe, "-o", out, "--json"]).expect(0).json();
    assert_eq!(manifest["task"], "feature-extraction");
    let outputs = &manifest["engines"][0]["components"][0]["outputs"];
    assert_eq!(outputs[0], "last_hidden_state: f32[batch_size, sequence_length, 32]");
    assert_eq!(outputs[1], "pooler_output: f32[batch_size, 32]");
}

#[test]
fn a_missed_gate_exits_3_and_keeps_the_old_output() {
    let place = place();
    let out = place.path().join("out");
    let golden = fixture("tiny-bert").join("golden.safetensors");
    let build = |max_abs| {
        let recipe = recipe(place.path(), &golden, max_abs, FP32);
        kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out])
    };
    let ran = build("0.0").expect(3);
    assert!(ran.stderr.contains("error: a gate was missed: ort-cpu-fp32: max_abs"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: nothing was written"), "{}", ran.stderr);
    assert_eq!(names(place.path()), ["recipe.toml"]);

    build("1e-5").expect(0);
    let before = fs::read(out.join("manifest.json")).unwrap();
    build("0.0").expect(3);
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), before);
    kilnc(arguments!["verify", out]).expect(0);
}

#[test]
fn the_gates_of_the_command_line_bound_quantized_engines() {
    let place = place();
    let out = place.path().join("out");
    let ran =
        kilnc(arguments!["build", fixture("tiny-bert"), "--quantize", "int8", "--gate", "max_abs=1e-9", "-o", out])
            .expect(3);
    assert!(ran.stderr.contains("ort-cpu-int8: max_abs"), "{}", ran.stderr);
    assert!(names(place.path()).is_empty());
}

#[test]
fn the_same_build_twice_gives_the_same_bytes() {
    let place = place();
    let golden = fixture("tiny-bert").join("golden.safetensors");
    let recipe = recipe(place.path(), &golden, "1e-5", &[("ort-cpu", "fp32"), ("ort-cpu", "int8"), ("tract", "fp32")]);
    let build = |name: &str| {
        let out = place.path().join(name);
        kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out, "--quiet"]).expect(0);
        fs::read(out.join("manifest.json")).unwrap()
    };
    // The manifest holds the digest of every file.
    assert_eq!(build("one"), build("two"));
}

#[test]
fn without_native_libraries_kilnc_builds_and_runs_on_tract_and_names_what_is_missing() {
    let place = place();
    let out = place.path().join("out");
    let bare = |arguments: Vec<std::ffi::OsString>| -> crate::common::Ran {
        let nowhere = place.path().join("nowhere");
        command(arguments).env("KILNC_RUNTIMES", nowhere).env_remove("ORT_DYLIB_PATH").output().unwrap().into()
    };
    let targets = ["--target", "ort-cpu", "--target", "tract", "--target", "tensorrt-rtx:sm75"];
    let mut build: Vec<std::ffi::OsString> = arguments!["build", fixture("tiny-bert"), "-o", out].into();
    build.extend(targets.map(Into::into));
    let ran = bare(build.clone()).expect(0);
    assert!(ran.stderr.contains("warning: tensorrt-rtx-sm75-fp16 is SKIPPED: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning: ort-cpu-fp32 was NOT CHECKED: ONNX Runtime is not found"), "{}", ran.stderr);
    let predicted = bare(arguments!["run", out, "--text", "the movie"].into()).expect(0);
    assert!(predicted.stderr.contains("engine tract-fp32"), "{}", predicted.stderr);
    let doctor = bare(arguments!["doctor"].into()).expect(0);
    assert!(doctor.stdout.contains("MISSING ONNX Runtime"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("python3 -m pip install"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("MISSING wheels"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("python3 -m pip download --no-deps --only-binary"), "{}", doctor.stdout);

    build.push("--strict".into());
    let strict = bare(build).expect(4);
    assert!(strict.stderr.contains("error: "), "{}", strict.stderr);
    bare(arguments!["run", out, "--engine", "ort-cpu-fp32", "--text", "x"].into()).expect(4);
}

#[test]
fn a_bundle_that_was_changed_is_refused() {
    let place = place();
    let out = place.path().join("out");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"]).expect(0);
    fs::write(out.join("extra"), "x").unwrap();
    let ran = kilnc(arguments!["verify", out]).expect(2);
    assert!(ran.stderr.contains("the manifest does not list `extra`"), "{}", ran.stderr);
    fs::remove_file(out.join("extra")).unwrap();

    let engine = out.join("engines/tract-fp32.onnx");
    let mut bytes = fs::read(&engine).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&engine, bytes).unwrap();
    for arguments in [arguments!["verify", out].to_vec(), arguments!["run", out, "--text", "x"].to_vec()] {
        let ran = kilnc(arguments).expect(2);
        assert!(
            ran.stderr.contains("`engines/tract-fp32.onnx` is not the file that the manifest describes"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn the_weights_beside_an_engine_are_checked_with_it() {
    let place = place();
    let out = place.path().join("out");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"]).expect(0);
    // As of a model past 2 GiB: a second file, which the manifest lists.
    let (path, text) = ("engines/tract-fp32.onnx_data", "weights");
    fs::write(out.join(path), text).unwrap();
    let sha256 = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";
    let entry = format!("\"files\": [{{\"path\": {path:?}, \"bytes\": {}, \"sha256\": {sha256:?}}},", text.len());
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    let at = manifest.rfind("\"files\": [").unwrap();
    let (before, after) = manifest.split_at(at);
    fs::write(out.join("manifest.json"), format!("{before}{}", after.replacen("\"files\": [", &entry, 1))).unwrap();
    kilnc(arguments!["verify", out]).expect(0);
    kilnc(arguments!["run", out, "--text", "x"]).expect(0);
    fs::write(out.join(path), "w3ights").unwrap();
    let ran = kilnc(arguments!["run", out, "--text", "x"]).expect(2);
    assert!(ran.stderr.contains(&format!("`{path}` is not the file that the manifest describes")), "{}", ran.stderr);
}

#[test]
fn a_manifest_cannot_lead_out_of_its_bundle() {
    let place = place();
    let out = place.path().join("out");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"]).expect(0);
    edit(&out.join("manifest.json"), "\"tokenizer.json\"", "\"../tokenizer.json\"");
    let ran = kilnc(arguments!["verify", out]).expect(2);
    assert!(ran.stderr.contains("`../tokenizer.json` leads out of the bundle"), "{}", ran.stderr);
}

#[test]
fn a_folder_that_kilnc_did_not_make_is_not_replaced() {
    let place = place();
    let out = place.path().join("precious");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("work.txt"), "work").unwrap();
    let ran = kilnc(arguments!["build", fixture("tiny-bert"), "-o", out]).expect(2);
    assert!(ran.stderr.contains("is a folder that kilnc did not make"), "{}", ran.stderr);
    assert_eq!(names(&out), ["work.txt"]);
}

#[test]
fn labels_must_be_as_many_as_the_classes() {
    let place = place();
    let labels = place.path().join("labels.json");
    fs::write(&labels, "[\"a\", \"b\"]").unwrap();
    let ran =
        kilnc(arguments!["build", fixture("tiny-bert"), "--labels", labels, "-o", place.path().join("out")]).expect(2);
    assert!(ran.stderr.contains("error: 2 labels, but the classifier has 3 classes"), "{}", ran.stderr);
    assert_eq!(names(place.path()), ["labels.json"]);
}

#[test]
fn a_missing_tokenizer_is_refused_before_any_engine_is_made() {
    let checkpoint = copied("tiny-bert");
    fs::remove_file(checkpoint.path().join("tokenizer.json")).unwrap();
    let place = place();
    let ran = kilnc(arguments!["build", checkpoint.path(), "-o", place.path().join("out")]).expect(2);
    assert!(ran.stderr.contains("tokenizer.json is missing"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("MB of ONNX"), "{}", ran.stderr);
    assert!(names(place.path()).is_empty());
}

#[test]
#[cfg(unix)]
fn a_disk_that_is_full_leaves_the_old_output() {
    let place = place();
    let out = place.path().join("tiny.kiln");
    let arguments = arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"];
    kilnc(&arguments).expect(0);
    let before = fs::read(out.join("manifest.json")).unwrap();
    // Files that grow beyond 20 kB fail as they do on a full disk; the engine has 100.
    let limited = "trap '' XFSZ; ulimit -f 20; exec \"$0\" \"$@\"";
    let program = arguments!["-c", limited, env!("CARGO_BIN_EXE_kilnc")];
    let mut build = std::process::Command::new("bash");
    let ran: crate::common::Ran =
        build.args(program).args(&arguments).env("KILNC_CACHE", "off").output().unwrap().into();
    let said = ran.expect(5).stderr;
    assert!(said.starts_with("error: writing ") && said.contains("tract-fp32.onnx: File too large"), "{said}");
    assert_eq!(names(place.path()), ["tiny.kiln"]);
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), before);
}

#[test]
fn engines_are_timed_on_request_and_the_fastest_is_chosen() {
    let place = place();
    let out = place.path().join("tiny.kiln");
    let recipe = place.path().join("recipe.toml");
    let build = arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out, "--json"];
    let bench = "[bench]\nshapes = [[1, 8], [2, 400]]\nrounds = 1\nseconds = 0.01\n";
    fs::write(&recipe, bench).unwrap();
    let manifest = kilnc(&build).expect(0).json();
    let engines = manifest["bench"]["engines"].as_array().unwrap();
    let fastest = engines.iter().min_by(|a, b| {
        let mean = |engine: &Value| engine["points"][0]["mean_ms"].as_f64().unwrap();
        mean(a).total_cmp(&mean(b))
    });
    assert_eq!(engines.len(), 2);
    assert_eq!(engines[0]["points"][1]["length"], manifest["max_length"]);
    assert_eq!(manifest["varying"], serde_json::json!(["manifest.json"]));
    let said = kilnc(arguments!["run", out, "--text", "the movie"]).expect(0).stderr;
    let engine = fastest.unwrap()["engine"].as_str().unwrap();
    assert!(
        said.contains(&format!("engine {engine} on ")) && said.contains(" ms on such a processor when it was"),
        "{said}"
    );
    assert!(kilnc(arguments!["inspect", out]).expect(0).stdout.contains("1 × 8 tokens in "));
    for (wrong, said) in [
        ("shapes = []", "bench.shapes: expected pairs of 1…1024 texts and their length in tokens"),
        ("rounds = 0", "bench.rounds: expected 1…1000"),
        ("seconds = 0.0", "bench.seconds: expected more than 0 and at most 3600"),
    ] {
        fs::write(&recipe, format!("[bench]\n{wrong}\n")).unwrap();
        let stderr = kilnc(&build).expect(2).stderr;
        assert!(stderr.contains(said), "{stderr}");
    }
}
