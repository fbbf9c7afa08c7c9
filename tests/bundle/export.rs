//! Exports: files at other programs' paths, with the labels.

use std::fs;

use serde_json::Value;

use super::{bundle, contents, refusal};
use crate::common::{fixture, kilnc, names, place};

fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_hubs_layout_has_models_by_their_precision() {
    let place = place();
    let bundle = bundle(place.path());
    let out = place.path().join("hub");
    let made = kilnc(arguments!["bundle", "export", bundle, "--layout", "hub", "-o", out, "--json"]).expect(0).json();
    let files: Vec<_> = contents(&out).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "config.json",
        "onnx/model.onnx",
        "onnx/model_quantized.onnx",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(files, expected);
    assert_eq!(made["files"], serde_json::json!(expected));
    let read = |name: &str| fs::read(bundle.join(name)).unwrap();
    assert_eq!(fs::read(out.join("onnx/model.onnx")).unwrap(), read("engines/ort-cpu-fp32.onnx"));
    assert_eq!(fs::read(out.join("onnx/model_quantized.onnx")).unwrap(), read("engines/ort-cpu-int8.onnx"));
    let again = kilnc(arguments!["bundle", "export", bundle, "--layout", "hub", "-o", out]);
    assert!(refusal(again, place.path()).starts_with("the output hub is a folder that kilnc did not make\n"));
}

#[test]
fn labels_and_classes_are_those_of_the_built_model() {
    let place = place();
    let (kiln, out) = (place.path().join("b"), place.path().join("hub"));
    let labels = place.path().join("labels.json");
    fs::write(&labels, "[\"bad\", \"fair\", \"best\"]").unwrap();
    let build = arguments![
        "build",
        fixture("tiny-bert-base"),
        "--adapter",
        fixture("tiny-lora"),
        "--labels",
        labels,
        "--target",
        "ort-cpu",
        "-o",
        kiln,
        "--quiet"
    ];
    let manifest = kilnc(build.iter().chain(&arguments!["--json"])).expect(0).json();
    kilnc(arguments!["bundle", "export", kiln, "--layout", "hub", "-o", out]).expect(0);
    let config = json(&out.join("config.json"));
    assert_eq!(config["architectures"][0], "BertForSequenceClassification");
    assert_eq!((&config["id2label"]["2"], &config["label2id"]["fair"]), (&"best".into(), &1.into()));
    assert_eq!(json(&out.join("tokenizer_config.json"))["model_max_length"], manifest["max_length"]);
}

#[test]
fn a_repository_of_triton_names_inputs_outputs_and_labels() {
    let place = place();
    let bundle = bundle(place.path());
    let out = place.path().join("models");
    let export = arguments![
        "bundle",
        "export",
        bundle,
        "--layout",
        "triton",
        "--name",
        "m",
        "--version",
        "3",
        "--max-batch",
        "8",
        "-o",
        out
    ];
    kilnc(export).expect(0);
    let files: Vec<_> = contents(&out).into_iter().map(|(name, _)| name).collect();
    assert_eq!(files, ["m/3/model.onnx", "m/config.pbtxt", "m/labels.txt"]);
    let config = fs::read_to_string(out.join("m/config.pbtxt")).unwrap();
    for part in [
        "name: \"m\"\nbackend: \"onnxruntime\"\nmax_batch_size: 8\n",
        "input {\n  name: \"input_ids\"\n  data_type: TYPE_INT64\n  dims: [ -1 ]\n}\n",
        "output {\n  name: \"logits\"\n  data_type: TYPE_FP32\n  dims: [ 3 ]\n  label_filename: \"labels.txt\"\n}\n",
        "dynamic_batching {\n",
        "versions: 3\n",
    ] {
        assert!(config.contains(part), "{config}");
    }
    let int8 = fs::read(bundle.join("engines/ort-cpu-int8.onnx")).unwrap();
    assert_eq!(fs::read(out.join("m/3/model.onnx")).unwrap(), int8);
    let alone = place.path().join("alone");
    let engine = arguments![
        "bundle",
        "export",
        bundle,
        "--layout",
        "triton",
        "--engine",
        "ort-cpu-fp32",
        "--max-batch",
        "0",
        "-o",
        alone
    ];
    kilnc(engine).expect(0);
    let config = fs::read_to_string(alone.join("tiny/config.pbtxt")).unwrap();
    assert!(config.contains("max_batch_size: 0\n") && config.contains("dims: [ -1, -1 ]\n"), "{config}");
    assert!(!config.contains("dynamic_batching"), "{config}");
}

#[test]
fn a_cache_is_the_state_of_a_sequence_in_triton() {
    let place = place();
    let (bundle, out) = (place.path().join("lm.kiln"), place.path().join("models"));
    kilnc(arguments!["build", fixture("decoders/gpt2/lm"), "-o", bundle, "--quiet"]).expect(0);
    let ran = kilnc(arguments!["bundle", "export", bundle, "--layout", "triton", "-o", out]).expect(0);
    assert!(ran.stderr.contains("the requests of a text are one sequence"), "{}", ran.stderr);
    let config = fs::read_to_string(out.join("lm/config.pbtxt")).unwrap();
    let state = "  state {\n    input_name: \"past_key_values.1.value\"\n    output_name: \"present.1.value\"\n    \
                 data_type: TYPE_FP32\n    dims: [ 4, -1, 4 ]\n    initial_state {\n";
    assert!(config.contains("max_batch_size: 1\n") && config.contains(state), "{config}");
    assert!(
        !config.contains("dynamic_batching") && !config.contains("name: \"past_key_values.0.key\"\n  data"),
        "{config}"
    );
}

#[test]
fn an_image_holds_the_bundle_by_its_digests() {
    let place = place();
    let bundle = bundle(place.path());
    let out = place.path().join("image");
    kilnc(arguments!["bundle", "export", bundle, "--layout", "oci", "--tag", "1.0", "-o", out]).expect(0);
    assert_eq!(names(&out), ["blobs", "index.json", "oci-layout"]);
    let index = json(&out.join("index.json"));
    let descriptor = &index["manifests"][0];
    assert_eq!(descriptor["annotations"]["org.opencontainers.image.ref.name"], "1.0");
    let blob = |descriptor: &Value| out.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"));
    let manifest = json(&blob(descriptor));
    assert_eq!(manifest["artifactType"], "application/vnd.cncf.model.manifest.v1+json");
    let layers = manifest["layers"].as_array().unwrap();
    let files = contents(&bundle);
    assert_eq!(layers.len(), files.len());
    for (layer, (name, bytes)) in layers.iter().zip(&files) {
        assert_eq!(layer["annotations"]["org.cncf.model.filepath"], name.as_str());
        assert_eq!(&fs::read(blob(layer)).unwrap(), bytes);
    }
    let of =
        |name: &str| &layers.iter().find(|l| l["annotations"]["org.cncf.model.filepath"] == name).unwrap()["mediaType"];
    assert_eq!(of("engines/ort-cpu-int8.onnx"), "application/vnd.cncf.model.weight.v1.raw");
    assert_eq!(of("tokenizer.json"), "application/vnd.cncf.model.weight.config.v1.raw");
}

#[test]
fn parts_that_a_layout_cannot_hold_are_named() {
    let place = place();
    let (tract, out) = (place.path().join("tract.kiln"), place.path().join("out"));
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", tract, "--quiet"]).expect(0);
    let said = |more: &[&str]| {
        let mut all = arguments!["bundle", "export", tract, "-o", out].to_vec();
        all.extend(more.iter().map(Into::into));
        let said = refusal(kilnc(all), place.path());
        assert!(!out.exists());
        said
    };
    for layout in ["hub", "triton"] {
        let said = said(&["--layout", layout]);
        assert!(said.starts_with("the bundle has no engine for ONNX Runtime; it has tract-fp32\n"), "{said}");
    }
    assert!(
        said(&["--layout", "triton", "--engine", "tract-fp32"])
            .starts_with("tract-fp32 is for tract, not for ONNX Runtime\n")
    );
    assert!(said(&["--layout", "oci", "--name", "x"]).starts_with("--name is for --layout triton\n"));
    assert!(said(&["--layout", "hub", "--tag", "x"]).starts_with("--tag is for --layout oci\n"));
    assert!(said(&["--layout", "oci", "--tag", "a/b"]).starts_with("`a/b` is no tag of an image\n"));
    fs::remove_dir_all(&tract).unwrap();
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "-o", tract, "--quiet"]).expect(0);
    assert!(said(&["--layout", "triton", "--name", "../x"]).starts_with("`../x` is no name for a served model\n"));
    fs::remove_dir_all(tract.join("hub")).unwrap();
    let manifest = tract.join("manifest.json");
    let mut text = json(&manifest);
    let files = text["files"].as_array_mut().unwrap();
    files.retain(|file| !file["path"].as_str().unwrap().starts_with("hub/"));
    fs::write(&manifest, text.to_string()).unwrap();
    assert!(said(&["--layout", "hub"]).starts_with("the bundle has no hub/config.json, which the layout needs\n"));
}
