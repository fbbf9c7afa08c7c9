//! Every variant of adapter that PEFT makes, merged, gives the outputs that it gave before the merge.
//!
//! The test also writes the table of coverage, `docs/adapters.md`; `UPDATE_SNAPSHOTS=1` refreshes it.

use std::path::{Path, PathBuf};

use crate::common::{assert_page, minilm, place, repository};
use kilnc::back::onnx;
use kilnc::build::{self, Source};
use kilnc::eval::{Golden, read_examples};
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::front::hub::adapter::combine::{Combine, CombineOptions};
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Classes, ProblemType, Runtime, TextEncoder};
use kilnc::safetensors;
use kilnc::target::Target;
use serde_json::Value;

/// Largest difference of any output from PyTorch's, in FP32.
const BOUND: f64 = 1e-4;

fn adapters() -> PathBuf {
    repository("tests/fixtures/adapters")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The names in a folder whose path fits.
fn names(dir: &Path, fits: impl Fn(&Path) -> bool) -> Vec<String> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> =
        paths.filter(|path| fits(path)).map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The checkpoint that an adapter was trained on.
fn base(adapter: &Path) -> PathBuf {
    let config = json(&adapter.join("adapter_config.json"));
    repository("tests/fixtures/families").join(config["base_model_name_or_path"].as_str().unwrap())
}

fn source(adapter: &str, scale: f32) -> AdapterSource {
    AdapterSource { dir: adapters().join(adapter), scale }
}

/// The largest differences from a golden file, on ONNX Runtime and on tract.
fn differences(source: &Source, golden: &Path) -> kilnc::Result<[f64; 2]> {
    let model = build::load(source)?;
    let golden = Golden::read(golden)?;
    let (place, mut found) = (place(), [0.0; 2]);
    for (i, (target, runtime)) in
        [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Tract)].into_iter().enumerate()
    {
        let graph =
            build::compile(model.graph(), &build::Scheme::new(&target, Precision::Fp32), &mut Manager::default())?;
        let path = place.path().join("model.onnx");
        onnx::write(&graph, &path, &|_| {})?;
        let mut engine = runtime::open(runtime, &path, runtime::Options { threads: 1 })?;
        found[i] = golden.compare(&mut *engine)?.max_abs;
    }
    Ok(found)
}

fn single() -> Vec<(String, kilnc::Result<[f64; 2]>)> {
    let folders = names(&adapters(), |path| path.join("golden.safetensors").is_file());
    assert!(folders.len() > 50, "the fixtures are not there");
    let measured = |name: &String| {
        let dir = adapters().join(name);
        let source = Source { checkpoint: base(&dir), adapters: vec![source(name, 1.0)], combine: None, task: None };
        differences(&source, &dir.join("golden.safetensors"))
    };
    folders.iter().map(|name| (name.clone(), measured(name))).collect()
}

/// What `make.py` made of several adapters: their names and factors, how, and the options.
fn combined() -> Vec<(String, kilnc::Result<[f64; 2]>)> {
    let folder = adapters().join("combined");
    let files = names(&folder, |path| path.extension().is_some_and(|e| e == "safetensors"));
    assert!(files.len() >= 16, "the fixtures are not there");
    let measured = |name: &String| {
        let path = folder.join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let made: Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["made"]).unwrap();
        let adapters: Vec<_> = made["adapters"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, scale)| source(&format!("pairs/{name}"), scale.as_f64().unwrap() as f32))
            .collect();
        let method = made["combine"].as_str().map(|method| method.parse().unwrap());
        let options = CombineOptions {
            density: made["density"].as_f64(),
            majority: made["majority_sign_method"].as_str().map(|how| how.parse().unwrap()),
            rank: made["svd_rank"].as_u64().map(|rank| rank as usize),
            seed: name.starts_with("dare").then_some(42),
        };
        let combine = method.map(|method| Combine::new(method, options).unwrap());
        let source = Source { checkpoint: base(&adapters[0].dir), adapters, combine, task: None };
        differences(&source, &path)
    };
    files.iter().map(|name| (name.clone(), measured(name))).collect()
}

#[test]
fn every_variant_gives_pefts_outputs() {
    let mut wrong = Vec::new();
    let mut checked = |rows: Vec<(String, kilnc::Result<[f64; 2]>)>| -> Vec<String> {
        let mut kept = Vec::new();
        for (name, found) in rows {
            match found {
                Ok(found) if found.iter().all(|difference| *difference <= BOUND) => kept.push(name),
                other => wrong.push(format!("{name}: {other:?}")),
            }
        }
        kept
    };
    let (single, combined) = (checked(single()), checked(combined()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_page("docs/adapters.md", &table(&single, &combined));
}

/// The real LoRA over the real checkpoint, on every text of its evaluation, one text at a time.
#[test]
fn the_sections_adapter_gives_pytorchs_predictions() {
    let read = safetensors::read(&repository("tests/fixtures/sections-answers.safetensors")).unwrap();
    let logits = read.into_iter().find(|(name, _)| name == "logits").unwrap().1;
    let expected = logits.to_f32s().unwrap();
    let lora = repository("models/sections-lora");
    let labels: Vec<String> = serde_json::from_value(json(&lora.join("labels.json"))).unwrap();
    let texts = read_examples(
        &repository("models/sections-eval.jsonl"),
        &Classes { labels: labels.clone(), problem_type: ProblemType::SingleLabel },
    )
    .unwrap();
    assert_eq!(logits.shape(), [texts.len(), labels.len()]);
    assert_eq!(texts.len(), 590);

    let adapters = vec![AdapterSource { dir: lora, scale: 1.0 }];
    let source = Source { checkpoint: minilm(), adapters, combine: None, task: None };
    let model = build::load(&source).unwrap();
    let graph =
        build::compile(model.graph(), &build::Scheme::new(&Target::OrtCpu, Precision::Fp32), &mut Manager::default())
            .unwrap();
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&graph, &path, &|_| {}).unwrap();
    let mut engine = runtime::open(Runtime::Ort, &path, runtime::Options::default()).unwrap();
    let encoder = TextEncoder::open(&minilm().join("tokenizer.json"), 128).unwrap();
    let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let (mut difference, mut other) = (0f32, Vec::new());
    for (text, expected) in texts.iter().zip(expected.chunks(labels.len())) {
        let outputs = engine.run(&encoder.encode(&[text]).unwrap()).unwrap();
        let found = outputs[0].1.rows().unwrap().next().unwrap().to_vec();
        difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(difference, f32::max);
        if best(&found) != best(expected) {
            other.push(&text.text);
        }
    }
    assert!(other.is_empty(), "other predictions: {other:#?}");
    assert!(difference <= 1e-4, "{difference}");
}

fn table(single: &[String], combined: &[String]) -> String {
    let mut out = String::from(
        "# Which adapters are merged\n\nMade by `tests/adapters.rs` from `tests/fixtures/adapters`: tiny adapters by \
         PEFT, with the outputs that they give unmerged.\nEvery output element of every row is within 1e-4 of PEFT's, in \
         FP32, on ONNX Runtime and on tract.\n\n| adapter | kind | base |\n|---|---|---|\n",
    );
    for name in single {
        let config = json(&adapters().join(name).join("adapter_config.json"));
        let (kind, base) = (config["peft_type"].as_str().unwrap(), config["base_model_name_or_path"].as_str().unwrap());
        out += &format!("| {name} | {kind} | {base} |\n");
    }
    out += "\nOver language models, made by `tests/decoder_adapters.rs` from `tests/fixtures/decoders/adapters/kinds`: the logits in one \
            run and in steps with the cache, and 20 greedy tokens, on ONNX Runtime and on tract; and the logits of what \
            `kilnc merge` writes.\n`embed_tokens` and `lm_head` are one tensor in llama/lm-tied and gemma/lm, and two in the \
            others.\n\n| base | kind | adapters |\n|---|---|---|\n";
    out += &crate::decoder_adapters::table();
    out += "\nSeveral at once, over bert/base, by the methods of `add_weighted_adapter` (`sum`: one after another):\n\n\
            | combination |\n|---|\n";
    for name in combined {
        out += &format!("| {name} |\n");
    }
    out + NOTES
}

const NOTES: &str = "
Where kilnc and PEFT 0.21.2 part:

- The random choice of `dare_…` is kilnc's own generator, by seed, position and name. PEFT had the same random numbers for this table.
- `add_weighted_adapter` gives the adapter that it makes the base's head; kilnc keeps an adapter's own head.
- With rsLoRA, `add_weighted_adapter` multiplies the result by the root of the rank once more. kilnc does not.
- DoRA and `lora_bias` cannot be combined: PEFT would initialise the first anew and drop the second. One after another they can.
- A tensor in the file that the configuration does not name is refused; PEFT leaves it out.
- Word embeddings that were changed whole, or by LoRA, where a masked language model's decoder shares them: the decoder
  keeps the base's, as in PEFT before the merge. PEFT's merge changes both.
- Language models whose projection to the vocabulary shares the word embeddings are the same: a LoRA of the one, or either
  saved whole, leaves the other as it was, and `merge` writes two tensors with `tie_word_embeddings` false. With
  `ensure_weight_tying` the projection follows. Trained tokens are in both.
- LoRA that began as PiSSA, OLoRA, CorDA, LoftQ or LoRA-GA and was not converted belongs to a changed base: refused.
";
