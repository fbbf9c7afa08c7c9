//! One engine for many adapters: ONNX Runtime's outputs with each of them active are those of the merged model.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{copied, fixture, kilnc, minilm, names, place, repository};
use kilnc::eval::{Golden, Parity};
use kilnc::runtime::{self, Elements, Options, Runtime};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Exports a base with its adapters as inputs to `base.onnx` in a folder, and returns the messages.
#[track_caller]
fn export(dir: &Path, base: &Path, adapters: &[PathBuf], more: &[&str]) -> serde_json::Value {
    let mut arguments =
        arguments!["export", base, "--adapter-as-input", "-o", dir.join("base.onnx"), "--json"].to_vec();
    adapters.iter().for_each(|adapter| arguments.extend(arguments!["--adapter", adapter]));
    arguments.extend(more.iter().map(std::ffi::OsString::from));
    kilnc(arguments).expect(0).json()
}

/// The model's outputs with those adapters active, compared with a golden file.
fn parity(model: &Path, adapters: &[PathBuf], golden: &Path) -> kilnc::Result<Parity> {
    let mut engine = runtime::open_with(Runtime::Ort, model, Options { threads: 1 }, adapters)?;
    Golden::read(golden)?.compare(&mut *engine)
}

fn golden(name: &str) -> PathBuf {
    fixture(name).join("golden.safetensors")
}

/// A copy of an adapter with its head's first labels only.
fn with_fewer_labels(adapter: &str, labels: usize) -> tempfile::TempDir {
    let copy = copied(adapter);
    let path = copy.path().join("adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cut = |(name, view): (String, TensorView<'_>)| {
        let mut shape = view.shape().to_vec();
        let head = name.contains(".classifier.");
        let row = view.data().len() / shape[0];
        let data = if head { &view.data()[..labels * row] } else { view.data() };
        if head {
            shape[0] = labels;
        }
        (name, view.dtype(), shape, data.to_vec())
    };
    let tensors: Vec<_> = file.tensors().into_iter().map(cut).collect();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    copy
}

#[test]
fn adapters_of_different_ranks_give_the_outputs_of_merged_ones() {
    let place = place();
    let adapters = ["tiny-lora", "tiny-lora-rslora"];
    let said = export(place.path(), &fixture("tiny-bert-base"), &adapters.map(fixture), &[]);
    assert_eq!(names(place.path()), ["base.onnx", "tiny-lora-rslora.onnx_adapter", "tiny-lora.onnx_adapter"]);
    let inputs: Vec<_> = said["adapters"].as_array().unwrap().iter().map(|a| a["inputs"].as_u64().unwrap()).collect();
    // Twice query and value with two factors, pooler and classifier; every dense with two factors, and the classifier.
    assert_eq!(inputs, [8 + 4, 26 + 2]);
    let model = place.path().join("base.onnx");
    for adapter in adapters {
        let file = place.path().join(format!("{adapter}.onnx_adapter"));
        let parity = parity(&model, &[file], &golden(adapter)).unwrap();
        assert!(parity.max_abs <= 1e-5, "{adapter}: {parity:?}");
    }
}

/// Adapters whose changes are not low-rank products of linear layers.
const REFUSED: [&str; 26] = [
    "distilbert-dora",
    "distilbert-ia3",
    "dora",
    "dora-embedding",
    "ia3",
    "ia3-regex",
    "loha",
    "lokr",
    "lokr-both",
    "lokr-full",
    "lora-bias",
    "lora-embedding",
    "lora-embedding-mlm",
    "lora-embedding-saved-mlm",
    "lora-extended",
    "lora-extended-mlm",
    "lora-extended-targeted",
    "lora-tokens",
    "lora-tokens-list",
    "lora-tokens-mlm",
    "modernbert-lora-embedding-mlm",
    "roberta-dora",
    "roberta-lora-embedding-mlm",
    "tokens",
    "tokens-mlm",
    "xlm-roberta-lora-embedding-mlm",
];

/// Every adapter of PEFT's that the fixtures have is an input, or is refused with the tensor that cannot be one.
#[test]
fn low_rank_changes_are_inputs_and_others_are_refused() {
    let (mut inputs, mut wrong) = (0, Vec::new());
    for dir in folders(&fixture("adapters")) {
        let Ok(config) = fs::read_to_string(dir.join("adapter_config.json")) else { continue };
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let base = fixture("families").join(config["base_model_name_or_path"].as_str().unwrap());
        let (place, name) = (place(), dir.file_name().unwrap().to_str().unwrap().to_owned());
        let model = place.path().join("base.onnx");
        let ran = kilnc(arguments!["export", base, "--adapter", dir, "--adapter-as-input", "-o", model, "--quiet"]);
        if REFUSED.contains(&name.as_str()) {
            let named = ran.stderr.lines().next().unwrap_or_default().contains('`');
            if ran.code != 2 || !named || !names(place.path()).is_empty() {
                wrong.push(format!("{name}: {} {}", ran.code, ran.stderr));
            }
            continue;
        }
        ran.expect(0);
        let file = place.path().join(format!("{name}.onnx_adapter"));
        match parity(&model, &[file], &dir.join("golden.safetensors")) {
            Ok(parity) if parity.max_abs <= 1e-4 => inputs += 1,
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(inputs >= 36, "only {inputs} were inputs");
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn the_real_adapter_gives_the_outputs_of_the_merged_one() {
    let (place, lora) = (place(), repository("models/sections-lora"));
    export(place.path(), &minilm(), std::slice::from_ref(&lora), &[]);
    let file = place.path().join("sections-lora.onnx_adapter");
    let parity = parity(&place.path().join("base.onnx"), &[file], &lora.join("golden.safetensors")).unwrap();
    assert_eq!(parity.rows, 64);
    assert!(parity.max_abs <= 1e-4 && parity.agreement == Some(1.0), "{parity:?}");
}

#[test]
fn without_an_adapter_the_base_runs() {
    let place = place();
    let base = fixture("tiny-bert");
    export(place.path(), &base, &[fixture("tiny-lora"), fixture("tiny-lora-rslora")], &[]);
    let alone = parity(&place.path().join("base.onnx"), &[], &golden("tiny-bert")).unwrap();
    assert!(alone.max_abs <= 1e-5, "{alone:?}");

    let features = ["--task", "feature-extraction"];
    export(place.path(), &fixture("tiny-bert-base"), &[fixture("tiny-lora")], &features);
    let alone = parity(&place.path().join("base.onnx"), &[], &golden("tiny-bert-base")).unwrap();
    assert!(alone.max_abs <= 1e-5, "{alone:?}");
}

/// A base without a head has no labels, and every adapter has its own.
#[test]
fn adapters_may_have_other_labels() {
    let place = place();
    let fewer = with_fewer_labels("tiny-lora", 2);
    let name = fewer.path().file_name().unwrap().to_str().unwrap().to_owned();
    export(place.path(), &fixture("tiny-bert-base"), &[fixture("tiny-lora"), fewer.path().to_owned()], &[]);
    let inputs = Golden::read(&golden("tiny-lora")).unwrap();
    let model = place.path().join("base.onnx");
    let logits = |adapters: &[PathBuf]| {
        let mut engine = runtime::open_with(Runtime::Ort, &model, Options { threads: 1 }, adapters).unwrap();
        let (_, tensor) = engine.run(inputs.inputs()).unwrap().remove(0);
        let Elements::F32(values) = tensor.elements else { panic!("logits are floats") };
        (tensor.shape, values)
    };
    let file = |name: &str| place.path().join(format!("{name}.onnx_adapter"));
    assert_eq!(logits(&[]).0, [4, 0]);
    let (three, all) = logits(&[file("tiny-lora")]);
    let (two, some) = logits(&[file(&name)]);
    assert_eq!((three, two), (vec![4, 3], vec![4, 2]));
    let pairs = all.chunks(3).zip(some.chunks(2));
    assert!(pairs.flat_map(|(a, b)| a.iter().zip(b)).all(|(a, b)| (a - b).abs() < 1e-5), "{all:?} {some:?}");
}

#[test]
fn other_precisions_are_for_the_base() {
    let place = place();
    let model = place.path().join("base.onnx");
    let adapter = [place.path().join("tiny-lora.onnx_adapter")];
    for (precision, bound) in [("fp16", 0.9999), ("int8", 0.99)] {
        export(place.path(), &fixture("tiny-bert-base"), &[fixture("tiny-lora")], &["--precision", precision]);
        let parity = parity(&model, &adapter, &golden("tiny-lora")).unwrap();
        assert!(parity.min_cosine >= bound && parity.non_finite == 0, "{precision}: {parity:?}");
    }
}

#[test]
fn ten_adapters_over_one_base_cost_one_base() {
    let place = place();
    let dirs: Vec<_> = (0..10).map(|_| copied("tiny-lora")).collect();
    let adapters: Vec<PathBuf> = dirs.iter().map(|dir| dir.path().to_owned()).collect();
    let ten = export(place.path(), &fixture("tiny-bert-base"), &adapters, &[]);
    let one = export(place.path(), &fixture("tiny-bert-base"), &adapters[..1], &[]);
    assert_eq!(ten["bytes"], one["bytes"]);
    let bytes: Vec<u64> = ten["adapters"].as_array().unwrap().iter().map(|a| a["bytes"].as_u64().unwrap()).collect();
    let trained = fs::metadata(fixture("tiny-lora").join("adapter_model.safetensors")).unwrap().len();
    assert!(bytes.len() == 10 && bytes.iter().all(|bytes| *bytes < trained * 3 / 2), "{bytes:?} {trained}");
}

#[test]
fn the_same_adapter_has_the_same_bytes() {
    let place = place();
    let file = place.path().join("tiny-lora.onnx_adapter");
    let written = [(); 2].map(|()| {
        export(place.path(), &fixture("tiny-bert-base"), &[fixture("tiny-lora")], &[]);
        fs::read(&file).unwrap()
    });
    assert!(written[0] == written[1]);
    // The root's offset, the format's name.
    assert_eq!(&written[0][4..8], b"TORT");
}

/// The error where `--adapter-as-input` is impossible; nothing is written then.
#[track_caller]
fn refusal(base: &Path, adapters: &[&Path], more: &[&str]) -> String {
    let place = place();
    let mut arguments =
        arguments!["export", base, "--adapter-as-input", "-o", place.path().join("base.onnx"), "--quiet"].to_vec();
    adapters.iter().for_each(|adapter| arguments.extend(arguments!["--adapter", adapter]));
    arguments.extend(more.iter().map(std::ffi::OsString::from));
    let ran = kilnc(arguments).expect(2);
    assert!(names(place.path()).is_empty(), "left behind: {:?}", names(place.path()));
    ran.stderr
}

#[test]
fn changes_that_cannot_be_inputs_are_refused_by_name() {
    let (base, lora) = (fixture("tiny-bert-base"), fixture("tiny-lora"));
    assert_eq!(refusal(&base, &[], &[]), "error: --adapter-as-input needs an --adapter\n");
    assert_eq!(
        refusal(&base, &[&lora], &["--target", "tract"]),
        "error: tract takes no adapters as inputs; only ONNX Runtime does\n\n\
         hint: merge them: leave --adapter-as-input out\n"
    );
    assert_eq!(
        refusal(&base, &[&lora, &lora], &[]),
        "error: two adapters are called tiny-lora\n\nhint: their files would have one name: rename one of the folders\n"
    );
    let houlsby = repository("tests/fixtures/adapters-bottleneck/bert/base/houlsby");
    assert_eq!(
        refusal(&fixture("families/bert/base"), &[&houlsby], &[]),
        "error: adapters of AdapterHub's library cannot be inputs\n  in adapter houlsby\n\n\
         hint: leave --adapter-as-input out: they are merged or built into the graph\n"
    );
    let other = fixture("tiny-lora-rslora");
    assert_eq!(
        refusal(&base, &[&lora, &other], &["--combine", "ties", "--density", "0.5"]),
        "error: --combine makes one change of several, and --adapter-as-input keeps them separate\n"
    );
    let headless = copied("tiny-lora");
    strip_head(&headless.path().join("adapter_model.safetensors"));
    let name = headless.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(
        refusal(&base, &[&lora, headless.path()], &["--task", "text-classification"]),
        format!(
            "error: text-classification needs a head, and there is no `classifier.weight`\n  in adapter {name}\n\n\
             hint: add --adapter with a trained head, or choose --task feature-extraction\n"
        )
    );
    assert_eq!(
        refusal(&base, &[&lora, headless.path()], &[]),
        format!(
            "error: the adapter {name} is for feature-extraction, the first one for text-classification\n\n\
             hint: one engine does one task: export them separately, or choose --task\n"
        )
    );
}

fn strip_head(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<_> = file.tensors().into_iter().filter(|(name, _)| !name.contains("classifier")).collect();
    fs::write(path, safetensors::serialize(kept, None).unwrap()).unwrap();
}

#[test]
fn a_file_that_is_no_adapter_of_the_engine_is_refused() {
    let place = place();
    export(place.path(), &fixture("tiny-bert-base"), &[fixture("tiny-lora")], &[]);
    let (model, file) = (place.path().join("base.onnx"), place.path().join("tiny-lora.onnx_adapter"));
    let cut = place.path().join("cut.onnx_adapter");
    let bytes = fs::read(&file).unwrap();
    for length in [0, 7, 40, bytes.len() / 2] {
        fs::write(&cut, &bytes[..length]).unwrap();
        let said = parity(&model, std::slice::from_ref(&cut), &golden("tiny-lora")).unwrap_err();
        assert!(said.message().starts_with("ONNX Runtime does not load the adapter cut.onnx_adapter: "), "{said}");
    }
    let plain = place.path().join("plain.onnx");
    kilnc(arguments!["export", fixture("tiny-bert"), "-o", plain]).expect(0);
    let said = parity(&plain, std::slice::from_ref(&file), &golden("tiny-bert")).unwrap_err();
    assert!(said.message().contains("Invalid input name"), "{said}");
    let said = runtime::open_with(Runtime::Tract, &plain, Options { threads: 1 }, &[file]).err().unwrap();
    assert_eq!(said.message(), "tract takes no adapters beside an engine");
}

#[test]
fn an_engine_is_measured_alone_and_with_an_adapter() {
    let place = place();
    export(place.path(), &fixture("tiny-bert"), &[fixture("tiny-lora")], &[]);
    let (model, file) = (place.path().join("base.onnx"), place.path().join("tiny-lora.onnx_adapter"));
    let short = ["--rounds", "1", "--seconds", "0.05", "--length", "8", "--json"];
    let mut arguments = arguments!["bench", model, "--onnx-adapter", file].to_vec();
    arguments.extend(short.iter().map(std::ffi::OsString::from));
    let report = kilnc(arguments).expect(0).json();
    let names: Vec<_> = report["engines"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2);
    assert!(names[1].ends_with("base.onnx + tiny-lora.onnx_adapter"), "{names:?}");
    assert!(report["engines"].as_array().unwrap().iter().all(|e| e["failed"].is_null()), "{report}");
}

#[test]
fn an_engine_runs_texts_with_an_adapter_active() {
    let place = place();
    export(place.path(), &fixture("tiny-bert"), &[fixture("tiny-lora")], &[]);
    let (model, adapter) = (place.path().join("base.onnx"), place.path().join("tiny-lora.onnx_adapter"));
    let labels = place.path().join("labels.json");
    fs::write(&labels, r#"["red", "green", "blue"]"#).unwrap();
    let tokenizer = fixture("tiny-bert").join("tokenizer.json");
    let answer = |more: &[std::ffi::OsString]| {
        let texts = ["the movie", "not good", "the acting was good", "bad"];
        let mut arguments = arguments!["run", model, "--tokenizer", tokenizer, "--labels", labels, "--json"].to_vec();
        texts.iter().for_each(|text| arguments.extend(arguments!["--text", text]));
        arguments.extend_from_slice(more);
        kilnc(arguments).expect(0).json()
    };
    let (base, adapted) = (answer(&[]), answer(&arguments!["--onnx-adapter", adapter]));
    assert_ne!(base, adapted);
    assert_eq!(adapted.as_array().unwrap().len(), 4);

    let said = kilnc(arguments!["run", model, "--text", "the movie"]).expect(2).stderr;
    assert_eq!(said, "error: an ONNX model needs --tokenizer\n\nhint: a bundle has it inside\n");
    let said =
        kilnc(arguments!["run", place.path(), "--onnx-adapter", adapter, "--text", "the movie"]).expect(2).stderr;
    assert_eq!(said, "error: --onnx-adapter is for an ONNX model, not for a bundle\n");
}
