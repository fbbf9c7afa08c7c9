//! `kilnc quantize` and its calibration: every kind of file, texts chosen from a corpus, saved statistics, and
//! refusals with nothing written.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::common::{Ran, TEXTS, copied, edit, fixture, jsonl, kilnc, names, place};
use kilnc::runtime::{Elements, TextEncoder};
use onnx_protobuf::ModelProto;
use protobuf::Message;
use serde_json::Value;
use zip::write::{SimpleFileOptions, ZipWriter};

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path
}

/// Runs `kilnc quantize` on the small classifier.
fn quantize(arguments: &[OsString]) -> Ran {
    let mut all: Vec<OsString> = arguments!["quantize", fixture("tiny-bert")].into();
    all.extend_from_slice(arguments);
    kilnc(all)
}

/// The ONNX file from a calibration file, and the report.
fn quantized(calibration: &Path) -> (Vec<u8>, Value) {
    let place = place();
    let out = place.path().join("model.onnx");
    let report = quantize(&arguments!["--calibration", calibration, "-o", out, "--json"]).expect(0).json();
    assert_eq!(names(place.path()), ["model.onnx"]);
    (fs::read(out).unwrap(), report)
}

fn check<'a>(report: &'a Value, measure: &str) -> &'a Value {
    let checks = report["gates"][0]["checks"].as_array().unwrap();
    checks.iter().find(|check| check["measure"] == measure).unwrap()
}

#[test]
fn the_report_holds_all_measures() {
    let place = place();
    let texts = jsonl(place.path());
    let (_, report) = quantized(&texts);
    assert_eq!(report["schema"], "kilnc.quantize/1");
    assert_eq!((&report["scheme"], &report["target"]), (&"int8".into(), &"ort-cpu".into()));
    let calibration = &report["calibration"];
    assert_eq!((&calibration["from"], &calibration["texts"]), (&"texts.jsonl".into(), &6.into()));
    assert_eq!(calibration["files"][0]["bytes"], fs::metadata(&texts).unwrap().len());
    let passes: Vec<_> = report["passes"].as_array().unwrap().iter().map(|pass| pass["name"].clone()).collect();
    assert_eq!(passes[passes.len() - 2..], ["quantize-dynamic", "quantize-embeddings"]);
    let gate = &report["gates"][0];
    assert_eq!((&gate["on"], &gate["rows"]), (&"texts.jsonl".into(), &6.into()));
    let drop = gate["accuracy"]["reference"].as_f64().unwrap() - gate["accuracy"]["found"].as_f64().unwrap();
    assert_eq!(check(&report, "accuracy_drop")["found"], drop);
    assert!(check(&report, "cosine")["found"].as_f64().unwrap() > 0.9, "{report}");
    assert_eq!(check(&report, "non_finite")["found"], 0.0);
}

#[test]
fn the_table_lists_calibration_changes_and_measures() {
    let place = place();
    let (texts, out) = (jsonl(place.path()), place.path().join("model.onnx"));
    let ran = quantize(&arguments!["--calibration", texts, "--gate", "agreement=0.5,cosine=0.8", "-o", out]).expect(0);
    let said = ran.stdout;
    assert!(said.contains("model.onnx: int8 in a reduced range for ort-cpu, 0."), "{said}");
    assert!(said.contains("calibrated on 6 texts of texts.jsonl, "), "{said}");
    assert!(said.contains("left pooler.dense") || said.contains("quantize-dynamic"), "{said}");
    assert!(
        said.contains("against ort-cpu fp32 on 6 texts of texts.jsonl, which it was calibrated on (ONNX Runtime)"),
        "{said}"
    );
    let line = |measure: &str| said.lines().find(|line| line.trim_start().starts_with(measure)).unwrap().to_owned();
    assert!(
        line("agreement").contains("≥ 0.5") && line("agreement").contains("of 6 predictions are the same"),
        "{said}"
    );
    assert!(line("cosine").contains("≥ 0.8"), "{said}");
    assert!(line("accuracy_drop").contains(" → "), "{said}");
    assert!(ran.stderr.contains("calibrated on 6 texts of texts.jsonl: "), "{}", ran.stderr);
    assert!(ran.stderr.contains(" texts a second"), "{}", ran.stderr);
}

#[test]
fn every_kind_of_file_with_the_same_texts_gives_the_same_model() {
    let place = place();
    let (expected, _) = quantized(&jsonl(place.path()));
    let csv = TEXTS.map(|(text, label)| format!("{label},\"{text}\"\n")).concat();
    let txt = TEXTS.map(|(text, _)| format!("{text}\n")).concat();
    for (name, content) in [("t.csv", format!("label,text\n{csv}")), ("t.txt", txt)] {
        let (found, report) = quantized(&write(place.path(), name, content));
        assert!(found == expected, "{name} gives another model");
        assert_eq!(report["calibration"]["texts"], 6);
    }
    let (found, report) = quantized(&npz(place.path(), |id| id));
    assert!(found == expected, "inputs give another model than texts");
    // Without other texts, the built-in ones are run.
    assert_eq!(report["gates"][0]["on"], "the built-in probes");
}

/// The texts as NumPy keeps them, padded to one length; `change` is done to every token.
fn npz(dir: &Path, change: fn(i64) -> i64) -> PathBuf {
    let encoder = TextEncoder::open(&fixture("tiny-bert").join("tokenizer.json"), 64).unwrap();
    let texts = TEXTS.map(|(text, _)| text);
    let path = dir.join("inputs.npz");
    let mut zip = ZipWriter::new(fs::File::create(&path).unwrap());
    for (name, tensor) in encoder.encode(&texts).unwrap() {
        let Elements::I64(values) = tensor.elements else { unreachable!() };
        let values: Vec<i64> = if name == "input_ids" { values.into_iter().map(change).collect() } else { values };
        let [texts, length] = tensor.shape[..] else { unreachable!() };
        let header = format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({texts}, {length}), }}\n");
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.write_all(bytemuck::cast_slice(&values)).unwrap();
    }
    zip.finish().unwrap();
    path
}

#[test]
fn saved_calibration_gives_the_same_model_again() {
    let place = place();
    let texts = jsonl(place.path());
    let [first, second, observed] = ["first.onnx", "second.onnx", "seen.kcal"].map(|name| place.path().join(name));
    quantize(&arguments!["--calibration", texts, "--save-calibration", observed, "-o", first]).expect(0);
    let ran = quantize(&arguments!["--calibration", observed, "--texts", texts, "-o", second]).expect(0);
    assert!(ran.stderr.contains("saved calibration on 6 texts, of seen.kcal"), "{}", ran.stderr);
    assert!(ran.stdout.contains("calibrated on 6 texts of seen.kcal"), "{}", ran.stdout);
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    assert_eq!(names(place.path()), ["first.onnx", "second.onnx", "seen.kcal", "texts.jsonl"]);
    let about = kilnc(arguments!["inspect", observed]).expect(0).stdout;
    assert!(about.contains("calibration"), "{about}");

    // The same graph of other weights is another model, and so is another graph.
    let other = place.path().join("other.onnx");
    for (checkpoint, adapter) in [("tiny-bert-base", Some("tiny-lora")), ("tiny-bert-base", None)] {
        let mut all: Vec<OsString> =
            arguments!["quantize", fixture(checkpoint), "--calibration", observed, "-o", other].into();
        all.extend(adapter.into_iter().flat_map(|adapter| arguments!["--adapter", fixture(adapter)]));
        let ran = kilnc(all).expect(2);
        assert!(ran.stderr.contains("error: this calibration is of another model: its "), "{}", ran.stderr);
        assert!(ran.stderr.contains("hint: calibrate on texts again"), "{}", ran.stderr);
    }
    assert!(!other.exists());
}

#[test]
fn a_missed_gate_exits_3_and_writes_nothing() {
    let place = place();
    let texts = jsonl(place.path());
    let observed = place.path().join("seen.kcal");
    for name in ["model.onnx", "model.kiln"] {
        let out = place.path().join(name);
        let bounds = "max_abs=1e-9,cosine=1";
        let given = arguments!["--calibration", texts, "--gate", bounds, "--save-calibration", observed, "-o", out];
        let ran = quantize(&given).expect(3);
        assert!(ran.stderr.contains("error: a gate was missed: ort-cpu-int8: "), "{}", ran.stderr);
        assert_eq!(names(place.path()), ["texts.jsonl"]);
    }
}

#[test]
fn a_folder_is_a_bundle_with_its_calibration() {
    let place = place();
    let (texts, out) = (jsonl(place.path()), place.path().join("model.kiln"));
    let given = arguments!["--calibration", texts, "--scheme", "int8-fast", "--samples", "4", "--seed", "7", "-o", out];
    quantize(&given).expect(0);
    kilnc(arguments!["verify", out]).expect(0);
    let manifest = kilnc(arguments!["inspect", out, "--json"]).expect(0).json();
    assert_eq!(manifest["engines"][0]["name"], "ort-cpu-int8-fast");
    assert_eq!((&manifest["calibration"]["texts"], &manifest["calibration"]["seed"]), (&4.into(), &7.into()));
    kilnc(arguments!["run", out, "--text", "the game"]).expect(0);
}

#[test]
fn texts_like_a_domain_are_chosen_and_the_seed_makes_it_the_same_again() {
    let place = place();
    let corpus =
        TEXTS.iter().flat_map(|(text, _)| (0..20).map(move |i| format!("{text} {}\n", "abcdefghij".repeat(i))));
    let corpus = write(place.path(), "corpus.txt", corpus.collect::<String>());
    let domain = write(place.path(), "domain.csv", "text\nmail server\nsend mail\n");
    let run = |seed: &str, samples: &str| {
        let out = place.path().join("model.onnx");
        let like = arguments!["--calibration-like", domain, "--samples", samples, "--seed", seed];
        let given = arguments!["--calibration", corpus, "--texts", jsonl(place.path()), "-o", out, "--json"];
        let ran = quantize(&[&like[..], &given[..]].concat()).expect(0);
        (ran.json()["calibration"].clone(), ran.stderr, fs::read(out).unwrap())
    };
    let (calibration, said, model) = run("7", "3");
    assert_eq!((&calibration["texts"], &calibration["files"].as_array().unwrap().len()), (&3.into(), &2));
    assert!(said.contains("3 texts of corpus.txt, the most like those of domain.csv"), "{said}");
    assert!(run("7", "3").2 == model);
    // 40 of the corpus have a word of the domain's.
    let (calibration, said, _) = run("7", "60");
    assert_eq!(calibration["texts"], 40);
    assert!(
        said.contains("warning: 60 texts were requested: corpus.txt has no more that are similar and differ"),
        "{said}"
    );
}

#[test]
fn texts_longer_than_the_model_are_cut_and_counted() {
    let place = place();
    let long = "the game ".repeat(100);
    let texts = write(place.path(), "t.txt", format!("{long}\nplay this\n{long} and mail\n"));
    let out = place.path().join("model.onnx");
    let ran = quantize(&arguments!["--calibration", texts, "-o", out]).expect(0);
    assert!(ran.stderr.contains("2 cut to the model's length, "), "{}", ran.stderr);
    assert!(ran.stdout.contains("2 of them cut to the model's length"), "{}", ran.stdout);
    let ran = quantize(&arguments!["--calibration", texts, "--max-length", "8", "-o", out, "--json"]).expect(0);
    assert_eq!((&ran.json()["calibration"]["cut"], &ran.json()["calibration"]["tokens"]), (&2.into(), &20.into()));
}

#[test]
fn export_is_calibrated_on_the_same_texts() {
    let place = place();
    let texts = jsonl(place.path());
    let out = place.path().join("model.onnx");
    let export = |more: &[OsString]| {
        let given = arguments!["export", fixture("tiny-bert"), "-o", out];
        kilnc([&given[..], more].concat())
    };
    export(&arguments!["--precision", "int8", "--calibration", texts]).expect(0);
    assert!(fs::read(&out).unwrap() == quantized(&texts).0, "export and quantize give other models");
    let ran = export(&arguments!["--precision", "int8"]).expect(0);
    assert!(
        ran.stderr.contains("warning: no texts of the task are given: 8-bit layers are calibrated on 8 built-in ones")
    );
    let ran = export(&arguments!["--calibration", texts]).expect(2);
    assert!(ran.stderr.contains("error: fp32 is calibrated on no texts\n  in --calibration"), "{}", ran.stderr);
}

#[test]
fn a_recipe_has_the_same_settings() {
    let place = place();
    jsonl(place.path());
    let recipe = "texts = \"texts.jsonl\"\n[calibration]\nfile = \"texts.jsonl\"\nsamples = 4\nseed = 1\nsave = \"seen.kcal\"\n\
                  [[engine]]\ntarget = \"ort-cpu\"\nprecision = \"int8\"\ngate = { cosine = 0.5 }\n";
    let recipe = write(place.path(), "r.toml", recipe);
    let out = place.path().join("out");
    let build = |more: &[OsString]| {
        let given = arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out, "--json"];
        kilnc([&given[..], more].concat())
    };
    assert_eq!(build(&[]).expect(0).json()["calibration"]["texts"], 4);
    assert!(place.path().join("seen.kcal").is_file());
    // Another file on the command line replaces the recipe's.
    let all = build(&arguments!["--calibration", place.path().join("texts.jsonl")]).expect(0).json();
    assert_eq!(all["calibration"]["texts"], 6);
    let ran = build(&arguments!["--quantize", "fp32", "--save-calibration", place.path().join("other.kcal")]).expect(2);
    assert!(
        ran.stderr.contains("no statistics were collected that could be saved: no engine is in 8 bits"),
        "{}",
        ran.stderr
    );
    assert!(!place.path().join("other.kcal").exists());
}

/// Where a target computes in 32 bits, only weights are stored in FP16; those of layers in `keep` stay in FP32.
#[test]
fn layers_stay_in_fp32_where_half_precision_is_only_stored() {
    let place = place();
    let out = place.path().join("out");
    let build = |keep: &str, precision: &str, targets: &[&str]| {
        let engine =
            |target: &&str| format!("[[engine]]\ntarget = \"{target}\"\nprecision = \"{precision}\"\n{keep}\n");
        let recipe = write(place.path(), "r.toml", targets.iter().map(engine).collect::<String>());
        kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out, "--json"])
    };
    let wide = |engine: &str| -> Vec<String> {
        let path = out.join(format!("engines/{engine}.onnx"));
        let model = ModelProto::parse_from_bytes(&fs::read(path).unwrap()).unwrap();
        let matrices = model.graph.initializer.iter().filter(|tensor| tensor.dims.len() == 2 && tensor.data_type == 1);
        matrices.map(|tensor| tensor.name.clone()).collect()
    };
    let targets = ["ort-cpu", "openvino", "tract"];
    build("", "fp16", &targets).expect(0);
    let none = targets.map(|target| wide(&format!("{target}-fp16")).len());
    let manifest = build("keep = [\"ffn-out/0\", \"embedding\"]", "fp16", &targets).expect(0).json();
    for (engine, none) in manifest["engines"].as_array().unwrap().iter().zip(none) {
        let name = engine["name"].as_str().unwrap();
        let passes = engine["passes"].as_array().unwrap();
        let left = passes.iter().find(|pass| pass["name"] == "stored").unwrap()["left"].as_array().unwrap();
        let kept = |layer: &str| left.iter().any(|line| *line == format!("{layer}: `keep` holds it in full precision"));
        assert!(kept("bert.encoder.layer.0.output.dense"), "{name}: {left:?}");
        assert!(
            !left.iter().any(|line| line.as_str().unwrap().starts_with("bert.encoder.layer.1.")),
            "{name}: {left:?}"
        );
        // A layer, and the tables of words, positions and types.
        let wide = wide(name);
        assert_eq!((none, wide.len(), left.len()), (0, 4, 4), "{name}: {wide:?}");
    }
    // Where a runtime computes in another type by an option, it does so with all layers.
    let said = build("keep = [\"ffn-out/0\"]", "bf16", &["openvino"]).expect(2).stderr;
    assert!(said.contains("openvino computes all layers in bf16, and none can stay in full precision"), "{said}");
}

/// The largest value of every 8-bit matrix of an ONNX file.
fn largest(path: &Path) -> Vec<u8> {
    let model = ModelProto::parse_from_bytes(&fs::read(path).unwrap()).unwrap();
    let matrices = model.graph.initializer.iter().filter(|tensor| tensor.dims.len() == 2 && tensor.data_type == 3);
    matrices.map(|tensor| tensor.raw_data.iter().map(|byte| (*byte as i8).unsigned_abs()).max().unwrap()).collect()
}

#[test]
fn a_reduced_range_holds_all_weights_whose_sums_could_saturate() {
    let place = place();
    jsonl(place.path());
    let engine = |more: &str| format!("[[engine]]\ntarget = \"ort-cpu\"\nprecision = \"int8\"\n{more}");
    let recipe = format!(
        "[calibration]\nfile = \"texts.jsonl\"\n{}{}",
        engine("gate = { cosine = 0.9 }\n"),
        engine("reduce_range = false\ngate = { cosine = 0.9 }\n")
    );
    let recipe = write(place.path(), "r.toml", recipe);
    let out = place.path().join("out");
    let built =
        kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out, "--json"]).expect(0).json();
    let engines: Vec<_> =
        built["engines"].as_array().unwrap().iter().map(|e| (&e["name"], &e["reduced_range"])).collect();
    assert_eq!(engines, [(&"ort-cpu-int8".into(), &Value::Bool(true)), (&"ort-cpu-int8-full".into(), &Value::Null)]);
    let full = largest(&out.join("engines/ort-cpu-int8-full.onnx"));
    let reduced = largest(&out.join("engines/ort-cpu-int8.onnx"));
    assert!(full.len() >= 12 && full.iter().all(|most| *most == 127), "{full:?}");
    assert!(reduced.len() == full.len() && reduced.iter().all(|most| *most == 64), "{reduced:?}");
    let summary = kilnc(arguments!["inspect", out]).expect(0).stdout;
    assert!(summary.contains("engine   ort-cpu-int8: int8 in a reduced range on ONNX Runtime"), "{summary}");

    let model = place.path().join("model.onnx");
    let texts = place.path().join("texts.jsonl");
    // Nothing said and the default said are one.
    for (invoked, expected, is_reduced) in
        [(&[][..], &reduced, true), (&["--reduce-range"], &reduced, true), (&["--reduce-range=false"], &full, false)]
    {
        let invoked: Vec<OsString> = invoked.iter().map(OsString::from).collect();
        let quantized = quantize(&[&arguments!["--calibration", texts, "-o", model, "--json"], &invoked[..]].concat());
        assert_eq!(quantized.expect(0).json()["reduced_range"], is_reduced);
        assert_eq!(largest(&model), *expected);
        let export = arguments!["export", fixture("tiny-bert"), "--precision", "int8", "--calibration", texts];
        kilnc([&export[..], &arguments!["-o", model], &invoked[..]].concat()).expect(0);
        assert_eq!(largest(&model), *expected);
    }
    let build =
        arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "--target", "tract", "-o", out, "--json"];
    let eight = arguments!["--quantize", "int8", "--calibration", texts, "--reduce-range=false"];
    let names = kilnc([&build[..], &eight].concat()).expect(0).json()["engines"].clone();
    let names: Vec<_> = names.as_array().unwrap().iter().map(|engine| engine["name"].clone()).collect();
    assert_eq!(names, ["ort-cpu-fp32", "ort-cpu-int8-full", "tract-fp32"]);

    // Where it would cost accuracy and gain nothing, it is refused.
    let said = kilnc([&build[..], &arguments!["--reduce-range"]].concat()).expect(2).stderr;
    assert!(said.contains("no engine has products of 8 bits whose sums saturate"), "{said}");
    let refused = |more: &[OsString]| {
        refusal(&fixture("tiny-bert"), &[&arguments!["--calibration", texts, "--reduce-range"], more].concat())
    };
    for target in ["tract", "web"] {
        let said = refused(&arguments!["--target", target]);
        assert!(said.starts_with(&format!("{target} adds products of 8 bits in 32 everywhere")), "{said}");
    }
    let half = refused(&arguments!["--scheme", "fp16"]);
    assert!(half.starts_with("fp16 has no products of 8 bits whose sums could saturate"), "{half}");
}

/// The error for arguments, with nothing written.
#[track_caller]
fn refusal(checkpoint: &Path, more: &[OsString]) -> String {
    let place = place();
    let mut all: Vec<OsString> = arguments!["quantize", checkpoint, "--quiet"].into();
    all.extend_from_slice(more);
    for name in ["model.onnx", "model.kiln"] {
        let mut all = all.clone();
        all.extend(arguments!["-o", place.path().join(name)]);
        let ran = kilnc(all).expect(2);
        assert!(names(place.path()).is_empty(), "left behind: {:?}", names(place.path()));
        if name == "model.kiln" {
            return ran.stderr.strip_prefix("error: ").unwrap_or(&ran.stderr).to_owned();
        }
    }
    unreachable!()
}

#[test]
fn a_model_that_is_quantized_already_is_refused() {
    let place = place();
    let texts = jsonl(place.path());
    let given = arguments!["--calibration", texts];
    let copy = copied("tiny-bert");
    edit(
        &copy.path().join("config.json"),
        "\"hidden_act\": \"gelu\"",
        "\"hidden_act\": \"gelu\", \"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_8bit\": true}",
    );
    assert_eq!(
        refusal(copy.path(), &given),
        "the model is quantized by bitsandbytes, and no tensor is packed so\n  \
         in config.json: quantization_config.quant_method\n\n\
         hint: if its weights are floats, take `quantization_config` out of config.json\n"
    );
    let copy = copied("tiny-bert");
    let path = copy.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let name = "bert.encoder.layer.0.attention.self.query.weight";
    let bytes = vec![1u8; 32 * 32];
    let int8 = safetensors::tensor::TensorView::new(safetensors::Dtype::I8, vec![32, 32], &bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(n, view)| if n == name { (n, int8.clone()) } else { (n, view) });
    fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    assert_eq!(
        refusal(copy.path(), &given),
        format!(
            "the model is already quantized: tensor `{name}` holds i8\n  in model.safetensors\n\n\
             hint: give the checkpoint that it was quantized from, or say how it was quantized in \
             `quantization_config` of config.json\n"
        )
    );
    assert!(
        refusal(&fixture("tiny-bert"), &arguments!["--scheme", "fp32"])
            .contains("fp32 is what a quantized model is compared")
    );
}

#[test]
fn texts_that_cannot_be_used_are_refused_by_file_and_line() {
    let place = place();
    let model = fixture("tiny-bert");
    let given =
        |name: &str, content: &str| refusal(&model, &arguments!["--calibration", write(place.path(), name, content)]);
    assert_eq!(
        given("t.jsonl", "{\"text\": \"a\", \"label\": \"neutral\"}\n{\"text\": \"b\", \"label\": \"neutrl\"}\n"),
        "unknown label `neutrl`\n  in t.jsonl line 2\n\nhint: did you mean `neutral`?\n"
    );
    assert!(given("t.jsonl", "").contains("t.jsonl holds no texts"));
    assert!(given("t.csv", "text,label\n").contains("t.csv holds no texts"));
    assert!(given("t.jsonl", "hello\n").starts_with("t.jsonl line 1: expected value"));
    let nowhere = refusal(&model, &arguments!["--calibration", "nowhere.jsonl"]);
    assert!(nowhere.starts_with("reading nowhere.jsonl: "), "{nowhere}");
    let column = arguments!["--calibration", write(place.path(), "t.csv", "text\na\n"), "--text-column", "body"];
    assert!(refusal(&model, &column).starts_with("t.csv line 1: no column `body`; there are: text"));
    // Labels of texts that no prediction is compared with do not matter.
    let other = write(place.path(), "other.jsonl", "{\"text\": \"a\", \"label\": \"other\"}\n");
    let out = place.path().join("model.onnx");
    quantize(&arguments!["--calibration", other, "--texts", jsonl(place.path()), "-o", out]).expect(0);
}

#[test]
fn incompatible_options_are_refused() {
    let place = place();
    let model = fixture("tiny-bert");
    let texts = jsonl(place.path());
    let like = write(place.path(), "domain.txt", "zebra\n");
    let with = |more: &[OsString]| refusal(&model, &[&arguments!["--calibration", texts], more].concat());
    assert!(with(&arguments!["--seed", "7"]).starts_with("--seed changes nothing: nothing is random"));
    assert!(with(&arguments!["--samples", "0"]).contains("`0` is not a whole number from 1 to "));
    assert!(with(&arguments!["--save-calibration", "seen.bin"]).contains("does not end in .kcal"));
    assert!(
        with(&arguments!["--calibration-like", like])
            .contains("no text of texts.jsonl has a word of those of domain.txt")
    );
    assert!(
        refusal(&model, &arguments!["--samples", "3"])
            .contains("`samples` has nothing to choose from: there is no file")
    );
    let foreign = refusal(&model, &arguments!["--calibration", npz(place.path(), |id| id + 1000)]);
    assert!(foreign.starts_with("`input_ids` of text 1 holds 1"), "{foreign}");
    assert!(foreign.contains("but the model's table has 121 rows\n  in inputs.npz"), "{foreign}");
    let out = place.path().join("model.kiln");
    let inside =
        quantize(&arguments!["--calibration", texts, "--save-calibration", out.join("s.kcal"), "-o", out]).expect(2);
    assert!(inside.stderr.contains("would replace the input"), "{}", inside.stderr);
    assert!(!out.exists());
}

#[test]
fn a_model_that_computes_nan_is_refused_by_value() {
    let place = place();
    let texts = jsonl(place.path());
    let copy = copied("tiny-bert");
    let path = copy.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bias = file.tensor("bert.embeddings.LayerNorm.bias").unwrap().data();
    let at = bias.as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let said = refusal(copy.path(), &arguments!["--calibration", texts]);
    assert!(said.starts_with("the model computes NaN\n  in text 1: value "), "{said}");
    assert!(said.contains("\n  in texts.jsonl\n"), "{said}");
}

#[test]
fn static_ranges_are_found_by_the_requested_estimator() {
    let place = place();
    let texts = jsonl(place.path());
    let made = |ranges: &str| {
        let out = place.path().join(format!("{ranges}.onnx"));
        quantize(&arguments!["--scheme", "int8-static", "--ranges", ranges, "--calibration", texts, "-o", out])
            .expect(0);
        fs::read(out).unwrap()
    };
    let (whole, clipped) = (made("min-max"), made("percentile:90"));
    assert_eq!(whole.len(), clipped.len());
    assert_ne!(whole, clipped);
    let out = place.path().join("no.onnx");
    let ran = quantize(&arguments!["--ranges", "minmax", "--calibration", texts, "-o", out]).expect(2);
    assert!(ran.stderr.contains("unknown estimator `minmax`; known: min-max, moving-average"), "{}", ran.stderr);
    assert!(!out.exists());
}

#[test]
fn every_scheme_is_made_and_checked_for_openvino_too() {
    if !crate::common::openvino("schemes for OpenVINO") {
        return;
    }
    let place = place();
    let texts = jsonl(place.path());
    for scheme in ["int8", "int8-fast", "int8-static", "int8-weights", "int4", "bf16", "fp16"] {
        let out = place.path().join(format!("{scheme}.onnx"));
        let arguments =
            arguments!["--scheme", scheme, "--target", "openvino", "--calibration", texts, "-o", out, "--json"];
        let report = quantize(&arguments).expect(0).json();
        assert_eq!(report["gates"][0]["ran_by"], "OpenVINO", "{scheme}");
        assert_eq!(check(&report, "non_finite")["found"], 0.0, "{scheme}");
    }
}

#[test]
fn a_format_that_no_target_has_is_refused_and_not_left_out() {
    let place = place();
    let out = place.path().join("model.kiln");
    let build = |target: &str| {
        kilnc(arguments!["build", fixture("tiny-bert"), "--target", target, "--quantize", "bf16", "-o", out])
    };
    let said = build("ort-cpu").expect(2).stderr;
    assert!(said.contains("no engine in bf16 is made for ort-cpu"), "{said}");
    assert!(!out.exists());
}
