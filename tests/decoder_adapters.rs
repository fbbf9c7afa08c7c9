//! Every kind of adapter that PEFT makes, over language models: merged, in merged checkpoints, and as inputs of one engine,
//! PyTorch's numbers and greedy tokens.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{copied, edit, kilnc, names, place};
use crate::decoders::{decoders, differences, engine_differences, generates_pytorchs_tokens, load};
use kilnc::back;
use kilnc::build::{self, MergeRequest, Model, Source};
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::front::hub::adapter::combine::{Combine, CombineOptions};
use kilnc::front::hub::checkpoint::Checkpoint;
use kilnc::ir::{DType, Weight};
use kilnc::runtime::{self, Options, Runtime};

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn kinds(name: &str) -> PathBuf {
    decoders("adapters/kinds").join(name)
}

/// The names of all adapters.
fn all() -> Vec<String> {
    names(&kinds(""))
}

fn config(name: &str) -> Value {
    read(&kinds(name).join("adapter_config.json"))
}

/// The checkpoint that an adapter was trained on.
fn base(name: &str) -> PathBuf {
    decoders(config(name)["base_model_name_or_path"].as_str().unwrap())
}

/// The kind of an adapter, as the page has it.
fn kind(name: &str) -> String {
    let config = config(name);
    let dora = if config["use_dora"] == true { " (DoRA)" } else { "" };
    format!("{}{dora}", config["peft_type"].as_str().unwrap())
}

/// A table of what is tested here, for docs/adapters.md.
pub(crate) fn table() -> String {
    let mut rows: Vec<[String; 3]> = Vec::new();
    for name in all() {
        let base = config(&name)["base_model_name_or_path"].as_str().unwrap().to_owned();
        let short = ["llama-tied", "llama", "phi3", "gpt2", "gemma", "mistral"]
            .iter()
            .find_map(|family| name.strip_prefix(family)?.strip_prefix('-'));
        match rows.iter_mut().find(|row| row[0] == base && row[1] == kind(&name)) {
            Some(row) => row[2] += &format!(", {}", short.unwrap()),
            None => rows.push([base, kind(&name), short.unwrap().to_owned()]),
        }
    }
    rows.iter().map(|[base, kind, names]| format!("| {base} | {kind} | {names} |\n")).collect()
}

#[test]
fn every_kind_over_a_decoder_gives_pefts_numbers_and_tokens() {
    let (mut wrong, mut engines) = (Vec::new(), 0);
    let found = all();
    assert!(found.len() >= 110, "only {} adapters", found.len());
    for name in found {
        match load(base(&name), &[kinds(&name)], None) {
            Ok(model) => {
                let differ = differences(&model, &kinds(&name));
                if differ.is_empty() {
                    engines += generates_pytorchs_tokens(&model, &kinds(&name));
                }
                wrong.extend(differ);
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(engines >= 330, "only {engines} engines");
}

/// Merges into a checkpoint, which is read again.
fn merged(name: &str, dtype: DType, largest: u64, output: &Path) -> kilnc::Result<Model> {
    let adapters = vec![AdapterSource { dir: kinds(name), scale: 1.0 }];
    let source = Source { checkpoint: base(name), adapters, combine: None, task: None };
    let request = MergeRequest { source, dtype: Some(dtype), labels: None, largest, output: output.to_owned() };
    build::merge(&request, &())?;
    load(output.to_owned(), &[], None)
}

#[test]
fn merged_checkpoints_of_decoders_give_pytorchs_numbers() {
    let (place, mut wrong) = (place(), Vec::new());
    for name in all() {
        let out = place.path().join(&name);
        match merged(&name, DType::F32, 9_000, &out) {
            Ok(model) => {
                assert!(out.join("model.safetensors.index.json").is_file(), "{name} is in one file");
                let tokens = read(&out.join("config.json"))["vocab_size"].as_u64();
                assert_eq!(tokens.unwrap() as usize, model.checkpoint.common.vocab_size.unwrap(), "{name}");
                wrong.extend(differences(&model, &kinds(&name)));
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The tensors of a checkpoint, by name.
fn tensors(dir: &Path) -> Vec<(String, Weight)> {
    let state = Checkpoint::open(dir).unwrap().state;
    state.iter().map(|(name, tensor)| (name.to_owned(), tensor.weight.clone())).collect()
}

/// Sums are made in 32 bits and rounded once, so a merged tensor in 16 bits is that in 32 bits, rounded.
#[test]
fn a_merge_into_half_precision_is_rounded_once() {
    let place = place();
    let chosen =
        ["llama-dora", "phi3-lora", "gpt2-adalora", "gemma-lora-words", "mistral-loha", "llama-tied-lora-head"];
    for name in chosen {
        let [whole, half] = ["whole", "half"].map(|folder| place.path().join(format!("{name}-{folder}")));
        merged(name, DType::F32, u64::MAX, &whole).unwrap();
        for dtype in [DType::BF16, DType::F16] {
            merged(name, dtype, u64::MAX, &half).unwrap();
            let (whole, half) = (tensors(&whole), tensors(&half));
            assert_eq!(whole.len(), half.len());
            for ((tensor, exact), (other, rounded)) in whole.iter().zip(&half) {
                assert_eq!((tensor, rounded.dtype()), (other, dtype));
                let expected = exact.cast(dtype);
                let expected = expected.evaluate().unwrap();
                let rounded = rounded.evaluate().unwrap();
                assert_eq!(rounded.as_bytes(), expected.as_bytes(), "{name}: {tensor}");
            }
        }
    }
}

#[test]
fn two_adapters_over_a_decoder_are_those_of_peft() {
    let mut seen = 0;
    for name in names(&decoders("adapters/combined")) {
        let folder = decoders("adapters/combined").join(&name);
        let made = read(&folder.join("made.json"));
        let of = |(name, scale): (&String, &Value)| AdapterSource {
            dir: kinds(name),
            scale: scale.as_f64().unwrap() as f32,
        };
        let adapters = made["adapters"].as_object().unwrap().iter().map(of).collect();
        let method = made["combine"].as_str().map(|method| method.parse().unwrap());
        let combine = method.map(|method| Combine::new(method, CombineOptions::default()).unwrap());
        let checkpoint = decoders(made["base"].as_str().unwrap());
        let model = build::load(&Source { checkpoint, adapters, combine, task: None }).unwrap();
        assert_eq!(differences(&model, &folder), Vec::<String>::new());
        seen += generates_pytorchs_tokens(&model, &folder);
    }
    assert_eq!(seen, 6);
}

#[test]
fn adapters_over_decoders_are_inputs_or_are_refused_by_name() {
    let reasons = [
        "is changed by more than a low-rank product, which cannot be an input",
        "cannot be an input: it is read by `model.embed_tokens`, which is no linear layer",
        "cannot be an input: it is read by `transformer.wte`, which is no linear layer",
        "which the projection to the vocabulary shares and which cannot be an input",
        "`vocab_size` is 35 with the adapter and 32 without, and all inputs of one engine share the base's",
        "`vocab_size` is 34 with the adapter and 32 without, and all inputs of one engine share the base's",
    ];
    let (mut wrong, mut inputs, mut refused) = (Vec::new(), BTreeSet::new(), Vec::new());
    for name in all() {
        let place = place();
        let path = place.path().join("base.onnx");
        let arguments = arguments!["export", base(&name), "--adapter", kinds(&name), "--adapter-as-input", "-o", &path];
        let ran = crate::common::command(arguments).output().unwrap();
        if !ran.status.success() {
            let said = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(2), "{name}: {said}");
            assert!(reasons.iter().any(|why| said.contains(why)), "{name}: {said}");
            refused.push(name);
            continue;
        }
        let model = load(base(&name), &[], None).unwrap();
        let file = place.path().join(format!("{name}.onnx_adapter"));
        let mut engine = runtime::open_with(Runtime::Ort, &path, Options { threads: 1 }, &[file]).unwrap();
        wrong.extend(engine_differences("ort", &mut *engine, &model, &kinds(&name)));
        inputs.insert(name);
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    let expected = [
        "llama-lora",
        "phi3-lora",
        "gpt2-lora",
        "gemma-lora",
        "mistral-lora",
        "llama-lora-patterns",
        "phi3-lora-patterns",
        "llama-lora-bias",
        "llama-ln-tuning",
        "llama-lora-saved",
        "mistral-lora-head",
        "llama-tied-lora-head",
        "llama-tied-lora-head-alone",
        "gemma-lora-head-alone",
    ];
    let missing: Vec<_> = expected.into_iter().filter(|name| !inputs.contains(*name)).collect();
    assert!(missing.is_empty(), "refused as inputs: {missing:?}");
    assert!(inputs.len() >= 30 && refused.len() >= 30, "{} and {}", inputs.len(), refused.len());
}

#[test]
fn run_generates_with_an_adapter_of_the_onnx_file_active() {
    let place = place();
    let (base, adapter) = (decoders("gpt2/lm"), decoders("adapters/lora-all"));
    let (onnx, bundle) = (place.path().join("base.onnx"), place.path().join("merged.kiln"));
    kilnc(arguments!["export", base, "--adapter", adapter, "--adapter-as-input", "-o", onnx]).expect(0);
    kilnc(arguments!["build", base, "--adapter", adapter, "--target", "ort-cpu", "-o", bundle]).expect(0);
    let prompt = ["--prompt", "the water of the river", "--max-new-tokens", "20"];
    let run = |more: &[std::ffi::OsString]| {
        let arguments = arguments!["run"].into_iter().chain(more.iter().cloned()).chain(prompt.map(Into::into));
        kilnc(arguments).expect(0).stdout
    };
    let tokenizer = base.join("tokenizer.json");
    let file = place.path().join("lora-all.onnx_adapter");
    let alone = run(&arguments![onnx, "--tokenizer", tokenizer]);
    let adapted = run(&arguments![onnx, "--tokenizer", tokenizer, "--onnx-adapter", file]);
    assert_eq!(adapted, run(&arguments![bundle]));
    assert_ne!(adapted, alone);

    fs::write(&file, "no adapter").unwrap();
    let more = arguments!["run", onnx, "--tokenizer", tokenizer, "--onnx-adapter", file];
    let said = kilnc(more.into_iter().chain(prompt.map(Into::into))).expect(2).stderr;
    assert!(said.contains("ONNX Runtime does not load the adapter lora-all.onnx_adapter"), "{said}");
}

/// A copy of an adapter with other fields in its configuration.
fn with(name: &str, fields: Value) -> tempfile::TempDir {
    let copy = copied(&format!("decoders/adapters/kinds/{name}"));
    let path = copy.path().join("adapter_config.json");
    let mut config = read(&path);
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    fs::write(&path, config.to_string()).unwrap();
    copy
}

fn refusal(base: &str, adapters: &[&Path]) -> String {
    let adapters: Vec<PathBuf> = adapters.iter().map(|dir| dir.to_path_buf()).collect();
    let error = load(decoders(base), &adapters, None).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn tokens_of_a_projection_that_is_changed_by_itself_are_refused() {
    let expected =
        "tokens are trained in `model.embed_tokens.weight`, and the projection that shares it is changed by itself";
    let (tokens, head) = (kinds("llama-tied-lora-tokens"), kinds("llama-tied-lora-head-alone"));
    for adapters in [[tokens.as_path(), &head], [&head, &tokens]] {
        let said = refusal("llama/lm-tied", &adapters);
        assert!(said.starts_with(expected), "{said}");
    }
    // The same where the file holds the projection, too.
    let copy = copied("decoders/llama/lm-tied");
    let path = copy.path().join("model.safetensors");
    let mut tensors = kilnc::safetensors::read(&path).unwrap();
    let words = tensors.iter().find(|(name, _)| name == "model.embed_tokens.weight").unwrap().1.clone();
    tensors.push(("lm_head.weight".to_owned(), words));
    let written = place();
    back::safetensors::write(&tensors, written.path(), u64::MAX, &|_| {}).unwrap();
    fs::copy(written.path().join("model.safetensors"), &path).unwrap();
    for adapters in [[tokens.clone(), head.clone()], [head, tokens]] {
        let error = load(copy.path().to_owned(), &adapters, None).err().unwrap();
        assert!(error.message().starts_with(expected), "{error}");
    }
    // What follows does so there, too.
    for name in ["llama-tied-lora-tie-alone", "llama-tied-lora-tokens", "llama-tied-lora-embedding"] {
        let model = load(copy.path().to_owned(), &[kinds(name)], None).unwrap();
        assert_eq!(differences(&model, &kinds(name)), Vec::<String>::new());
    }
}

#[test]
fn a_projection_that_cannot_follow_the_embeddings_is_refused() {
    let tied = kinds("llama-tied-lora-tie-alone");
    let head = kinds("llama-tied-lora-head-alone");
    let said = refusal("llama/lm-tied", &[&head, &tied]);
    let follows = "`lm_head.weight` follows `model.embed_tokens.weight`, and another adapter changes it by itself";
    assert!(said.starts_with(follows), "{said}");
    let one = "the projection to the vocabulary follows the word embeddings of one adapter and not of another";
    let said = refusal("llama/lm-tied", &[&tied, &kinds("llama-tied-lora-embedding")]);
    assert!(said.starts_with(one), "{said}");

    let dora = with("llama-tied-lora-tie-alone", json!({ "use_dora": true }));
    let path = dora.path().join("adapter_model.safetensors");
    let mut tensors = kilnc::safetensors::read(&path).unwrap();
    for (module, size) in
        [("model.embed_tokens", 16), ("model.layers.0.self_attn.q_proj", 16), ("model.layers.1.self_attn.q_proj", 16)]
    {
        let lengths = Weight::f32s(vec![size], &vec![1.0; size]).unwrap();
        tensors.push((format!("base_model.model.{module}.lora_magnitude_vector"), lengths));
    }
    let written = place();
    back::safetensors::write(&tensors, written.path(), u64::MAX, &|_| {}).unwrap();
    fs::copy(written.path().join("model.safetensors"), &path).unwrap();
    let said = refusal("llama/lm-tied", &[dora.path()]);
    let lengths =
        "DoRA has its own lengths for `lm_head.weight`, and the file holds only those of `model.embed_tokens.weight`";
    assert!(said.starts_with(lengths), "{said}");
}

#[test]
fn a_copy_of_the_base_in_an_adapter_that_is_another_is_no_input() {
    // As PEFT saves it, `lm_head.base_layer.weight` is the base's; another is added to by the low-rank product.
    let copy = copied("decoders/adapters/kinds/mistral-lora-head");
    let path = copy.path().join("adapter_model.safetensors");
    let mut tensors = kilnc::safetensors::read(&path).unwrap();
    let own = tensors.iter_mut().find(|(name, _)| name.ends_with("lm_head.base_layer.weight")).unwrap();
    own.1 = Weight::f32s(vec![32, 16], &[0.5; 512]).unwrap();
    let written = place();
    back::safetensors::write(&tensors, written.path(), u64::MAX, &|_| {}).unwrap();
    fs::copy(written.path().join("model.safetensors"), &path).unwrap();
    let onnx = written.path().join("base.onnx");
    let base = decoders("mistral/lm");
    let said = kilnc(arguments!["export", base, "--adapter", copy.path(), "--adapter-as-input", "-o", &onnx]).expect(2);
    let expected = "`lm_head.weight` is changed by more than a low-rank product, which cannot be an input";
    assert!(said.stderr.contains(expected), "{}", said.stderr);
    assert!(!onnx.exists());
}

#[test]
fn an_option_that_ties_nothing_changes_nothing() {
    // Over a base whose projection is its own, PEFT warns and leaves it alone.
    let copy = copied("decoders/adapters/kinds/llama-lora-tie-nothing");
    let path = copy.path().join("adapter_config.json");
    edit(&path, "\"ensure_weight_tying\": true", "\"ensure_weight_tying\": false");
    let model = load(decoders("llama/lm"), &[copy.path().to_owned()], None).unwrap();
    assert_eq!(differences(&model, &kinds("llama-lora-tie-nothing")), Vec::<String>::new());
}
