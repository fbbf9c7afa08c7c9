//! Decoders: every fixture gives PyTorch's numbers in one run, in steps with the cache and padded on either side, and the
//! same greedy tokens, on ONNX Runtime, tract and the evaluator.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{copied, edit, kilnc, place, repository};
use kilnc::back;
use kilnc::build::{self, Model, Scheme, Source};
use kilnc::eval::Golden;
use kilnc::evaluate::Arithmetic;
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::passes::Manager;
use kilnc::ports::PortKind;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Elements, Engine, Named, Options, Runtime, Tensor};
use kilnc::target::Target;
use kilnc::task::Task;

/// Largest difference of any output from PyTorch's, in FP32.
pub(crate) const BOUND: f32 = 1e-4;

pub(crate) fn decoders(name: &str) -> PathBuf {
    repository("tests/fixtures/decoders").join(name)
}

/// Every family with fixtures, in order.
pub(crate) fn families() -> Vec<String> {
    let mut found = crate::common::names(&decoders(""));
    found.retain(|name| name != "adapters" && decoders(name).is_dir());
    found
}

/// The folders below `name` with a golden file, in order.
fn folders(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(decoders(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| !goldens(path).is_empty()).collect();
    found.sort();
    found
}

/// The golden files of a folder.
fn goldens(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_golden = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("golden");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(is_golden).collect();
    found.sort();
    found
}

pub(crate) fn load(checkpoint: PathBuf, adapters: &[PathBuf], task: Option<Task>) -> kilnc::Result<Model> {
    let adapters = adapters.iter().map(|dir| AdapterSource { dir: dir.clone(), scale: 1.0 }).collect();
    build::load(&Source { checkpoint, adapters, combine: None, task })
}

/// A model on everything that runs it here, by name.
pub(crate) fn engines(model: &Model) -> Vec<(&'static str, Box<dyn Engine>)> {
    let place = place();
    let lowered = |target: &Target| {
        build::compile(model.graph(), &Scheme::new(target, Precision::Fp32), &mut Manager::default()).unwrap()
    };
    let mut engines: Vec<(&'static str, Box<dyn Engine>)> = Vec::new();
    for (name, target, runtime) in [("ort", Target::OrtCpu, Runtime::Ort), ("tract", Target::Tract, Runtime::Tract)] {
        let path = place.path().join(format!("{name}.onnx"));
        back::onnx::write(&lowered(&target), &path, &|_| {}).unwrap();
        engines.push((name, runtime::open(runtime, &path, Options { threads: 1 }).unwrap()));
    }
    // TensorRT takes no experts.
    let gpu = back::lower(model.graph(), &"tensorrt-rtx:sm75".parse().unwrap());
    let lowered = gpu.unwrap_or_else(|_| lowered(&Target::OrtCpu));
    engines.push(("evaluator", build::open_evaluator(&lowered, Arithmetic::default()).unwrap()));
    engines
}

pub(crate) fn tensor<'a>(named: &'a Named, name: &str) -> &'a Tensor {
    &named.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("no {name}")).1
}

pub(crate) fn port(named: &Named, kind: PortKind) -> &Tensor {
    tensor(named, &kind.name())
}

pub(crate) fn integers(tensor: &Tensor) -> &[i64] {
    match &tensor.elements {
        Elements::I64(values) => values,
        _ => panic!("these are no integers"),
    }
}

pub(crate) fn floats(tensor: &Tensor) -> &[f32] {
    match &tensor.elements {
        Elements::F32(values) => values,
        _ => panic!("these are no floats"),
    }
}

/// The columns `range` of a matrix of integers.
fn columns(tensor: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let width = tensor.shape[1];
    let rows = integers(tensor).chunks(width).flat_map(|row| row[range.clone()].to_vec());
    Tensor { elements: Elements::I64(rows.collect()), shape: vec![tensor.shape[0], range.len()] }
}

/// A language model's state: what it is given besides tokens.
struct Decoding<'a> {
    model: &'a Model,
    engine: &'a mut dyn Engine,
    cache: Named,
}

impl<'a> Decoding<'a> {
    fn new(model: &'a Model, engine: &'a mut dyn Engine, rows: usize) -> Decoding<'a> {
        let mut cache = Vec::new();
        for id in model.graph().inputs() {
            let value = model.graph().value(*id);
            if let Some(kind) = PortKind::of(&value.name).filter(|kind| kind.is_past()) {
                let mut shape: Vec<usize> = value.ty.shape.iter().map(|size| size.fixed().unwrap_or(0)).collect();
                shape[0] = rows;
                assert_eq!(shape.iter().position(|size| *size == 0), kind.grows());
                let zeros = vec![0.0; shape.iter().product()];
                cache.push((value.name.clone(), Tensor { shape, elements: Elements::F32(zeros) }));
            }
        }
        Decoding { model, engine, cache }
    }

    /// Logits of the next tokens, for a mask over all of them.
    fn step(&mut self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor {
        let kinds = [PortKind::TokenIds, PortKind::AttentionMask, PortKind::PositionIds];
        let given = kinds.into_iter().zip([ids, mask, positions]);
        // Some families count positions themselves.
        let declared = given.filter(|(kind, _)| self.model.graph().port(*kind).is_some());
        let mut inputs: Named = declared.map(|(kind, value)| (kind.name().into_owned(), value)).collect();
        inputs.append(&mut self.cache);
        let outputs = self.engine.run(&inputs).unwrap();
        for (name, tensor) in &outputs {
            if let Some(next) = PortKind::of(name).unwrap().next() {
                self.cache.push((next.name().into_owned(), tensor.clone()));
            }
        }
        assert_eq!(self.cache.len() + 1, self.model.graph().outputs().len());
        port(&outputs, PortKind::Logits).clone()
    }
}

/// How the tokens of a batch are given to a language model: how many at first, and whether the rest comes one by one.
const PIECES: [usize; 3] = [usize::MAX, 1, 4];

/// The outputs of a model for golden inputs, once for each way in which they can be given.
pub(crate) fn outputs(model: &Model, engine: &mut dyn Engine, inputs: &Named) -> Vec<Named> {
    if model.task != Task::TextGeneration {
        let asked = |kind: PortKind| (kind.name().into_owned(), port(inputs, kind).clone());
        let inputs: Named = [PortKind::TokenIds, PortKind::AttentionMask].map(asked).into();
        return vec![engine.run(&inputs).unwrap()];
    }
    let [ids, mask, positions] =
        [PortKind::TokenIds, PortKind::AttentionMask, PortKind::PositionIds].map(|kind| port(inputs, kind));
    let (rows, length) = (ids.shape[0], ids.shape[1]);
    let mut all = Vec::new();
    for first in PIECES {
        let mut decoding = Decoding::new(model, engine, rows);
        let mut logits: Vec<Vec<f32>> = vec![Vec::new(); rows];
        let (mut start, mut end, mut vocabulary) = (0, first.min(length), 0);
        while start < length {
            let piece = decoding.step(columns(ids, start..end), columns(mask, 0..end), columns(positions, start..end));
            assert_eq!(piece.shape[..2], [rows, end - start]);
            vocabulary = piece.shape[2];
            for (row, found) in logits.iter_mut().zip(floats(&piece).chunks((end - start) * vocabulary)) {
                row.extend(found);
            }
            (start, end) = (end, end + 1);
        }
        let elements = Elements::F32(logits.concat());
        let logits = Tensor { shape: vec![rows, length, vocabulary], elements };
        all.push(vec![(PortKind::Logits.name().into_owned(), logits)]);
    }
    all
}

/// Outputs of a way in which tokens are given that are others than the whole has: where angles follow the length of a
/// text.
fn in_steps(folder: &Path, file: &str, way: usize) -> Option<Golden> {
    let steps = folder.join(file.replace("golden", &format!("steps-{}", PIECES[way])));
    steps.is_file().then(|| Golden::read(&steps).unwrap())
}

/// What is wrong with a model's answers to golden inputs, on any engine.
pub(crate) fn differences(model: &Model, folder: &Path) -> Vec<String> {
    let engines = engines(model).into_iter();
    engines.flat_map(|(name, mut engine)| engine_differences(name, &mut *engine, model, folder)).collect()
}

/// The same on one engine.
pub(crate) fn engine_differences(name: &str, engine: &mut dyn Engine, model: &Model, folder: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in goldens(folder) {
        let golden = Golden::read(&path).unwrap();
        let (inputs, expected) = (golden.inputs(), golden.outputs());
        assert!(!expected.is_empty());
        let mask = integers(port(inputs, PortKind::AttentionMask));
        let file = path.file_name().unwrap().to_str().unwrap();
        for (way, found) in outputs(model, engine, inputs).iter().enumerate() {
            let steps = in_steps(folder, file, way);
            assert_eq!(way > 0 && folder.join("steps-1-left.safetensors").is_file(), steps.is_some());
            for (output, expected) in steps.as_ref().map_or(expected, Golden::outputs) {
                let found = tensor(found, output);
                assert_eq!(found.shape, expected.shape, "{output}");
                let by_token = expected.shape[0] * expected.shape.get(1).copied().unwrap_or(1) == mask.len()
                    && !matches!(model.task, Task::TextClassification);
                let width = if by_token { expected.shape[2..].iter().product() } else { 1 };
                let (found, expected) = (floats(found).chunks(width), floats(expected).chunks(width));
                let pairs = found.zip(expected).enumerate().filter(|(i, _)| !by_token || mask[*i] != 0);
                let far = pairs.flat_map(|(_, (a, b))| a.iter().zip(b).map(|(a, b)| (a - b).abs()));
                let far = far.fold(0.0, |most: f32, x| if x > most || x.is_nan() { x } else { most });
                if far.is_nan() || far > BOUND {
                    wrong.push(format!("{} {output} on {name}, way {way}: {far}", path.display()));
                }
            }
        }
    }
    wrong
}

#[test]
fn every_decoder_gives_pytorchs_numbers_at_once_and_in_steps() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for family in families() {
        for folder in folders(&family) {
            let model = load(folder.clone(), &[], None).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            let warnings = build::warnings(&model);
            assert!(warnings.is_empty(), "{}: {warnings:?}", folder.display());
            wrong.extend(differences(&model, &folder));
            seen += 1;
        }
    }
    assert!(seen >= 130, "only {seen} fixtures");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Rows of integers of a JSON file.
fn matrix(value: &Value) -> Tensor {
    let rows: Vec<Vec<i64>> = serde_json::from_value(value.clone()).unwrap();
    Tensor { shape: vec![rows.len(), rows[0].len()], elements: Elements::I64(rows.concat()) }
}

/// A column behind a matrix.
fn with_column(tensor: &Tensor, column: &[i64]) -> Tensor {
    let width = tensor.shape[1];
    let rows = integers(tensor).chunks(width).zip(column).flat_map(|(row, next)| [row, &[*next]].concat());
    Tensor { elements: Elements::I64(rows.collect()), shape: vec![column.len(), width + 1] }
}

#[test]
fn every_language_model_generates_pytorchs_tokens() {
    let mut seen = 0;
    for folder in families().iter().flat_map(|family| folders(family)) {
        if folder.join("greedy.json").exists() {
            seen += generates_pytorchs_tokens(&load(folder.clone(), &[], None).unwrap(), &folder);
        }
    }
    assert!(seen >= 230, "only {seen} engines");
}

/// Fails where a model does not generate the greedy tokens of a folder. Returns on how many engines it does.
pub(crate) fn generates_pytorchs_tokens(model: &Model, folder: &Path) -> usize {
    let mut seen = 0;
    let text = std::fs::read_to_string(folder.join("greedy.json")).unwrap();
    let greedy: Value = serde_json::from_str(&text).unwrap();
    let expected: Vec<Vec<i64>> = greedy["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| serde_json::from_value(row["greedy"].clone()).unwrap())
        .collect();
    for (name, mut engine) in engines(model) {
        let batch = &greedy["left_padded"];
        let [mut ids, mut mask, mut positions] =
            ["input_ids", "attention_mask", "position_ids"].map(|key| matrix(&batch[key]));
        let mut decoding = Decoding::new(model, &mut *engine, expected.len());
        let mut found: Vec<Vec<i64>> = vec![Vec::new(); expected.len()];
        for _ in 0..20 {
            let length = ids.shape[1];
            let logits = decoding.step(ids, mask.clone(), positions.clone());
            let vocabulary = logits.shape[2];
            let largest = |row: &[f32]| {
                let last = &row[(length - 1) * vocabulary..];
                (0..vocabulary).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap() as i64
            };
            let next: Vec<i64> = floats(&logits).chunks(length * vocabulary).map(largest).collect();
            found.iter_mut().zip(&next).for_each(|(row, token)| row.push(*token));
            mask = with_column(&mask, &vec![1; next.len()]);
            let last = columns(&positions, length - 1..length);
            positions = Tensor { elements: Elements::I64(integers(&last).iter().map(|n| n + 1).collect()), ..last };
            ids = Tensor { shape: vec![next.len(), 1], elements: Elements::I64(next) };
        }
        assert_eq!(found, expected, "{} on {name}", folder.display());
        seen += 1;
    }
    seen
}

#[test]
fn adapters_give_pefts_numbers() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for folder in folders("adapters") {
        let config = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let base = config["base_model_name_or_path"].as_str().unwrap();
        let task = (config["task_type"] == "FEATURE_EXTRACTION").then_some(Task::FeatureExtraction);
        let model = load(decoders(base), std::slice::from_ref(&folder), task);
        let model = model.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        wrong.extend(differences(&model, &folder));
        seen += 1;
    }
    assert!(seen >= 33, "only {seen} adapters");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn attention_to_an_encoder_is_refused_by_its_field() {
    let error = load(decoders("gpt2/lm-cross"), &[], None).err().unwrap();
    assert_eq!(
        error.to_string(),
        "attention to the outputs of an encoder is not built\n  in config.json: add_cross_attention"
    );
}

/// What the tests here compare, for the page on what is covered.
pub fn covered() -> BTreeMap<String, Vec<String>> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    families().into_iter().map(|family| (family.clone(), folders(&family).into_iter().map(name).collect())).collect()
}

/// The smallest cosine between the logits of a token and PyTorch's.
fn smallest_cosine(model: &Model, engine: &mut dyn Engine, folder: &Path) -> f32 {
    let golden = Golden::read(&folder.join("golden-left.safetensors")).unwrap();
    let mask = integers(port(golden.inputs(), PortKind::AttentionMask));
    let mut smallest: f32 = 1.0;
    for (way, found) in outputs(model, engine, golden.inputs()).iter().enumerate() {
        let steps = in_steps(folder, "golden-left.safetensors", way);
        let expected = port(steps.as_ref().map_or(golden.outputs(), Golden::outputs), PortKind::Logits);
        let width = *expected.shape.last().unwrap();
        let rows = floats(port(found, PortKind::Logits)).chunks(width).zip(floats(expected).chunks(width));
        for (a, b) in rows.zip(mask).filter(|(_, kept)| **kept != 0).map(|(rows, _)| rows) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            smallest = smallest.min(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
        }
    }
    smallest
}

/// Decoders with operations that the others have not.
const DIFFERENT: [&str; 11] = [
    "gpt2/lm",
    "openai-gpt/lm",
    "llama/lm",
    "llama/lm-dynamic",
    "gemma3_text/lm",
    "phi3/lm",
    "bloom/lm",
    "lfm2/lm",
    "ministral3/lm",
    "qwen3_moe/lm",
    "gpt_oss/lm",
];

/// The passes know roles and operations, no family; so decoders must come through them, with their caches.
#[test]
fn decoders_come_through_every_precision() {
    let gpu: Target = "tensorrt-rtx:sm75".parse().unwrap();
    let engines = [
        (Target::OrtCpu, Precision::Int8, Runtime::Ort),
        (Target::Tract, Precision::Int8, Runtime::Tract),
        (Target::Web, Precision::Int8, Runtime::Ort),
        (Target::OrtCpu, Precision::Int8Weights, Runtime::Ort),
        (Target::OrtCpu, Precision::Int4, Runtime::Ort),
        (Target::OrtCpu, Precision::Fp16, Runtime::Ort),
        (Target::Tract, Precision::Fp16, Runtime::Tract),
        (gpu, Precision::Fp16, Runtime::Ort),
    ];
    let place = place();
    let path = place.path().join("model.onnx");
    for name in DIFFERENT {
        let model = load(decoders(name), &[], None).unwrap();
        for (target, precision, runtime) in &engines {
            let scheme = Scheme::new(target, *precision);
            let graph = match build::compile(model.graph(), &scheme, &mut Manager::default()) {
                Err(error) if ["qwen3_moe/lm", "gpt_oss/lm"].contains(&name) && target.wants_plan() => {
                    assert!(error.message().starts_with("experts are not built for this target"), "{error}");
                    continue;
                }
                graph => graph.unwrap(),
            };
            back::onnx::write(&graph, &path, &|_| {}).unwrap();
            let mut engine = runtime::open(*runtime, &path, Options { threads: 1 }).unwrap();
            let found = smallest_cosine(&model, &mut *engine, &decoders(name));
            // Random weights are harder on few bits than trained ones: this only tells right from wrong.
            let bound = match precision {
                Precision::Fp16 => 0.9999,
                Precision::Int8 if name == "qwen3_moe/lm" => 0.8,
                Precision::Int4 if ["llama/lm-dynamic", "lfm2/lm", "ministral3/lm"].contains(&name) => 0.3,
                Precision::Int4 => 0.8,
                _ => 0.9,
            };
            assert!(found >= bound, "{name} for {target} in {precision}: {found}");
        }
    }
}

#[test]
fn a_decoder_is_calibrated_on_texts_from_an_empty_cache() {
    let place = place();
    for (target, precision) in [("ort-cpu", "int8"), ("ort-cpu", "int8-static"), ("tensorrt-rtx:sm75", "fp16")] {
        let path = place.path().join("model.onnx");
        let arguments = arguments!["export", decoders("gpt2/lm"), "--target", target, "--precision", precision];
        kilnc(arguments.into_iter().chain(arguments!["-o", &path])).expect(0);
        let model = load(decoders("gpt2/lm"), &[], None).unwrap();
        let mut engine = runtime::open(Runtime::Ort, &path, Options { threads: 1 }).unwrap();
        let found = smallest_cosine(&model, &mut *engine, &decoders("gpt2/lm"));
        assert!(found >= 0.9, "{target} in {precision}: {found}");
    }
}

#[test]
fn a_text_is_classified_alike_on_either_side_of_its_padding() {
    for name in [
        "gpt2/seqcls",
        "openai-gpt/seqcls",
        "gpt2/seqcls-no-pad",
        "llama/seqcls",
        "llama/seqcls-no-pad",
        "bloom/seqcls",
    ] {
        let model = load(decoders(name), &[], None).unwrap();
        for (engine_name, mut engine) in engines(&model) {
            let logits = |engine: &mut dyn Engine, file: &str| {
                let golden = Golden::read(&decoders(name).join(file)).unwrap();
                let found = outputs(&model, engine, golden.inputs()).remove(0);
                floats(port(&found, PortKind::Logits)).to_vec()
            };
            let [left, right] =
                ["golden-left.safetensors", "golden-right.safetensors"].map(|file| logits(&mut *engine, file));
            let far = left.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far <= 1e-5, "{name} on {engine_name}: {far}");
        }
    }
}

#[test]
fn a_merged_decoder_has_its_files_layout() {
    let place = place();
    let out = place.path().join("merged");
    for (base, adapter) in [("gpt2/lm", "adapters/lora-all"), ("gpt2/lm", "adapters/lora-seqcls")] {
        let ran = kilnc(arguments!["merge", decoders(base), "--adapter", decoders(adapter), "-o", &out]).expect(0);
        assert!(ran.stdout.contains("merged"), "{}", ran.stdout);
        let config: Value = serde_json::from_str(&std::fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
        let class = if adapter.ends_with("seqcls") { "GPT2ForSequenceClassification" } else { "GPT2LMHeadModel" };
        assert_eq!(config["architectures"], serde_json::json!([class]));
        let shape = |folder: &Path| {
            let tensors = kilnc::safetensors::read(&folder.join("model.safetensors")).unwrap();
            let of = |(name, weight): (String, kilnc::ir::Weight)| {
                name.ends_with("h.0.attn.c_attn.weight").then_some(weight)
            };
            tensors.into_iter().find_map(of).unwrap().shape().to_vec()
        };
        assert_eq!((shape(&out), shape(&decoders(base))), (vec![16, 48], vec![16, 48]));
        let [merged, alone] = [load(out.clone(), &[], None), load(decoders(base), &[decoders(adapter)], None)];
        let (merged, alone) = (merged.unwrap(), alone.unwrap());
        assert_eq!(merged.task, alone.task);
        assert_eq!(differences(&merged, &decoders(adapter)), Vec::<String>::new());
    }
}

#[test]
fn an_adapter_that_peft_does_not_train_in_conv1d_is_refused() {
    let place = place();
    let dir = place.path().join("loha");
    std::fs::create_dir(&dir).unwrap();
    let config = serde_json::json!({"peft_type": "LOHA", "r": 2, "alpha": 2, "target_modules": ["c_attn"]});
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let sizes = [("w1_a", [48, 2]), ("w1_b", [2, 16]), ("w2_a", [48, 2]), ("w2_b", [2, 16])];
    let tensors: Vec<(String, kilnc::ir::Weight)> = sizes
        .into_iter()
        .map(|(part, shape)| {
            let weight = kilnc::ir::Weight::f32s(shape.to_vec(), &vec![0.5; shape.iter().product()]).unwrap();
            (format!("base_model.model.transformer.h.0.attn.c_attn.hada_{part}"), weight)
        })
        .collect();
    let written = back::safetensors::write(&tensors, &dir, u64::MAX, &|_| {}).unwrap();
    std::fs::rename(dir.join(&written.files[0]), dir.join("adapter_model.safetensors")).unwrap();
    let said = load(decoders("gpt2/lm"), &[dir], None).err().unwrap().to_string();
    assert!(
        said.starts_with("PEFT has no LOHA for layers of the class Conv1D, which `transformer.h.0.attn.c_attn` is"),
        "{said}"
    );
}

#[test]
fn a_head_that_compares_choices_is_left_out_by_name() {
    let place = place();
    let folder = place.path().join("double");
    std::fs::create_dir(&folder).unwrap();
    let base = decoders("gpt2/lm");
    let mut tensors = kilnc::safetensors::read(&base.join("model.safetensors")).unwrap();
    let head = kilnc::ir::Weight::f32s(vec![1, 16], &[0.5; 16]).unwrap();
    tensors.push(("multiple_choice_head.summary.weight".to_owned(), head));
    back::safetensors::write(&tensors, &folder, u64::MAX, &|_| {}).unwrap();
    let config = std::fs::read_to_string(base.join("config.json")).unwrap();
    std::fs::write(folder.join("config.json"), config.replace("LMHeadModel", "DoubleHeadsModel")).unwrap();
    let model = load(folder, &[], None).unwrap();
    assert_eq!(model.task, Task::TextGeneration);
    let expected = "the text-generation graph does not use `multiple_choice_head.summary.weight`";
    assert_eq!(build::warnings(&model), [expected]);
    assert_eq!(differences(&model, &base), Vec::<String>::new());
}

#[test]
fn a_language_model_becomes_a_bundle_and_a_folder_of_the_hub() {
    let place = place();
    let (bundle, hub) = (place.path().join("lm.kiln"), place.path().join("hub"));
    let recipe = place.path().join("recipe.toml");
    let golden = decoders("gpt2/lm/golden-left.safetensors");
    let engines = ["ort-cpu", "tract"].map(|target| format!("[[engine]]\ntarget = \"{target}\"\n")).concat();
    let text = format!("[golden]\nfile = \"{}\"\nmax_abs = 1e-4\n{engines}", golden.display());
    std::fs::write(&recipe, text).unwrap();
    let ran = kilnc(arguments!["build", decoders("gpt2/lm"), "--recipe", &recipe, "-o", &bundle]).expect(0);
    for compared in ["tract-fp32 against golden: agreement 1", "present.* cosine 1, present.* max_abs"] {
        assert!(ran.stderr.contains(compared), "{}", ran.stderr);
    }
    kilnc(arguments!["bundle", "export", &bundle, "--layout", "hub", "-o", &hub]).expect(0);
    let read = |path: PathBuf| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    for name in ["generation_config.json", "config.json"] {
        let (exported, own) = (read(hub.join(name)), read(decoders("gpt2/lm").join(name)));
        assert_eq!(exported["eos_token_id"], own["eos_token_id"], "{name}");
    }
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        assert!(hub.join(name).is_file(), "{name}");
    }
    let model = load(decoders("gpt2/lm"), &[], None).unwrap();
    let mut engine = runtime::open(Runtime::Ort, &hub.join("onnx/model.onnx"), Options { threads: 1 }).unwrap();
    assert!(smallest_cosine(&model, &mut *engine, &decoders("gpt2/lm")) >= 0.99999);

    let genai = place.path().join("genai");
    kilnc(arguments!["bundle", "export", &bundle, "--layout", "genai", "-o", &genai]).expect(0);
    assert_eq!(std::fs::read(genai.join("model.onnx")).unwrap(), std::fs::read(hub.join("onnx/model.onnx")).unwrap());
    assert!(genai.join("tokenizer.json").is_file() && !genai.join("config.json").exists());
    let config = read(genai.join("genai_config.json"));
    let of = &config["model"];
    let expected: Value = serde_json::json!({
        "filename": "model.onnx", "session_options": { "provider_options": [] },
        "head_size": 4, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 3,
        "inputs": {
            "input_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"
        },
        "outputs": {
            "logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"
        }
    });
    assert_eq!(of["decoder"], expected);
    let sizes = [&of["type"], &of["eos_token_id"], &of["context_length"], &of["vocab_size"]];
    assert_eq!(sizes.map(Value::to_string), ["\"decoder\"", "319", "64", "320"]);
    assert_eq!(config["search"]["past_present_share_buffer"], false);
}

#[test]
fn adapters_over_conv1d_are_inputs_of_one_engine() {
    let place = place();
    let path = place.path().join("base.onnx");
    let names = ["lora", "lora-all"];
    let [first, second] = names.map(|name| decoders(&format!("adapters/{name}")));
    let arguments = arguments!["export", decoders("gpt2/lm"), "--adapter", &first, "--adapter", &second];
    kilnc(arguments.into_iter().chain(arguments!["--adapter-as-input", "-o", &path])).expect(0);
    let model = load(decoders("gpt2/lm"), &[], None).unwrap();
    for (name, adapter) in names.into_iter().zip([first, second]) {
        let file = place.path().join(format!("{name}.onnx_adapter"));
        let options = Options { threads: 1 };
        let mut engine = runtime::open_with(Runtime::Ort, &path, options, &[file]).unwrap();
        assert_eq!(engine_differences("ort", &mut *engine, &model, &adapter), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_decoders_sizes_are_those_of_its_file() {
    for (family, name) in [("gpt2", "ln_1.weight"), ("openai-gpt", "attn.c_attn.weight")] {
        let base = decoders(&format!("{family}/lm"));
        let config: Value = serde_json::from_str(&std::fs::read_to_string(base.join("config.json")).unwrap()).unwrap();
        let said = |field: &str, value: i64| {
            let place = place();
            std::fs::copy(base.join("model.safetensors"), place.path().join("model.safetensors")).unwrap();
            let mut config = config.clone();
            config[field] = value.into();
            std::fs::write(place.path().join("config.json"), config.to_string()).unwrap();
            load(place.path().to_owned(), &[], None).err().unwrap().to_string()
        };
        let layer = said("n_layer", 1 << 31);
        assert!(layer.starts_with(&format!("tensor `transformer.h.3.{name}` is missing")), "{layer}");
        let inner = said("n_embd", 12);
        assert!(inner.contains("expected [320, 12]") || inner.contains("expected [159, 12]"), "{inner}");
        let positions = said("n_positions", 1 << 40);
        assert!(positions.contains("has shape [64, 16], expected [1099511627776, 16]"), "{positions}");
        let heads = said("n_head", 5);
        assert!(heads.starts_with("`num_attention_heads` 5 does not divide `hidden_size` 16"), "{heads}");
    }
    let place = place();
    let base = decoders("gpt2/lm-inner");
    std::fs::copy(base.join("model.safetensors"), place.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(base.join("config.json")).unwrap();
    std::fs::write(place.path().join("config.json"), config.replace("\"n_inner\": 20", "\"n_inner\": 21")).unwrap();
    let said = load(place.path().to_owned(), &[], None).err().unwrap().to_string();
    // As the file has it, whose layers keep their inputs as rows.
    assert!(
        said.starts_with("tensor `transformer.h.0.mlp.c_fc.weight` has shape [12, 20], expected [12, 21]"),
        "{said}"
    );
}

#[test]
fn spaces_that_would_be_cleaned_up_are_warned_of() {
    let copy = copied("decoders/gpt2/lm");
    let build = || {
        let place = place();
        let out = place.path().join("lm.kiln");
        kilnc(arguments!["build", copy.path(), "--target", "tract", "-o", out]).expect(0).stderr
    };
    assert!(!build().contains("clean_up_tokenization_spaces"));
    let config = copy.path().join("tokenizer_config.json");
    edit(&config, "\"clean_up_tokenization_spaces\": false", "\"clean_up_tokenization_spaces\": true");
    assert!(build().contains("clean_up_tokenization_spaces is true, which is not applied"));
}
