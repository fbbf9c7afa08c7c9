//! Adapters that are damaged, that belong to another model, or of a kind that is not merged.

use std::fs;

use kilnc::adapter::{self, AdapterSource, Merged};
use kilnc::arch;
use kilnc::checkpoint::{Checkpoint, StateDict};
use kilnc::error::Result;
use serde_json::{Value, json};

use super::{Tensors, fixture, floats, write_tensors};

const MODULE: &str = "bert.encoder.layer.0.attention.self.query";
const FACTOR_A: &str = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight";
const FACTOR_B: &str = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight";

/// An adapter as PEFT saves it: rank 2, over one projection of tiny-bert-base.
struct Adapter {
    config: Value,
    tensors: Tensors,
    scale: f32,
}

impl Adapter {
    fn sound() -> Adapter {
        let tensors = [(FACTOR_A, floats(&[2, 32], 0.5)), (FACTOR_B, floats(&[32, 2], 0.25))];
        Adapter {
            config: json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}),
            tensors: tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into(),
            scale: 1.0,
        }
    }

    /// Saves the adapter and merges it. A refusal must leave the base as it was.
    fn merge(&self) -> Result<(Merged, StateDict)> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("adapter_config.json"), self.config.to_string()).unwrap();
        write_tensors(&dir.path().join("adapter_model.safetensors"), &self.tensors);
        let mut state = base();
        let merged = adapter::merge(&mut state, &AdapterSource { dir: dir.path().to_owned(), scale: self.scale });
        if merged.is_err() {
            assert_eq!(described(&state), described(&base()));
        }
        Ok((merged?, state))
    }
}

fn base() -> StateDict {
    arch::canonical_state(&Checkpoint::open(&fixture("tiny-bert-base")).unwrap()).unwrap()
}

fn described(state: &StateDict) -> Vec<String> {
    state.iter().map(|(name, tensor)| format!("{name}: {:?}", tensor.weight)).collect()
}

/// What is said of the sound adapter after a change.
fn refusal(change: impl FnOnce(&mut Adapter)) -> String {
    let mut adapter = Adapter::sound();
    change(&mut adapter);
    let error = adapter.merge().err().unwrap();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

fn with(key: &str, value: Value) -> impl FnOnce(&mut Adapter) {
    move |adapter| adapter.config[key] = value
}

/// Where the errors of the one module are met.
fn in_module(message: &str) -> String {
    format!("{message}\n  in adapter_model.safetensors: {MODULE}")
}

#[test]
fn a_sound_adapter_is_merged() {
    let (merged, state) = Adapter::sound().merge().unwrap();
    assert_eq!((merged.changed, merged.saved.len()), (1, 0));
    let name = format!("{MODULE}.weight");
    let (before, after) = (base(), state.get(&name).unwrap().weight.to_f32s().unwrap().into_owned());
    let before = before.get(&name).unwrap().weight.to_f32s().unwrap();
    // alpha / r · (0.25 · 0.5 + 0.25 · 0.5)
    assert!(before.iter().zip(&after).all(|(before, after)| (after - before - 0.5).abs() < 1e-6));
}

#[test]
fn a_rank_that_is_none_or_another_is_refused() {
    let zero = "the rank must be 1 or more, found 0\n  in adapter_config.json: r";
    assert_eq!(refusal(with("r", json!(0))), in_module(zero));
    assert_eq!(refusal(with("rank_pattern", json!({"query": 0}))), in_module(zero));
    let other = |rank| in_module(&format!("lora_A has shape [2, 32], but the configuration says rank {rank}"));
    assert_eq!(refusal(with("r", json!(4))), other(4));
    assert_eq!(refusal(with("rank_pattern", json!({"self.query": 3}))), other(3));
    assert_eq!(
        refusal(|adapter| *adapter.tensors.get_mut(FACTOR_B).unwrap() = floats(&[32, 3], 0.0)),
        "LoRA factors A [2, 32] and B [32, 3] do not fit a weight of shape [32, 32]\n  \
         in adapter_model.safetensors: bert.encoder.layer.0.attention.self.query\n\n\
         hint: the adapter was trained on another model"
    );
    assert!(refusal(with("r", json!(-1))).starts_with("adapter_config.json: r: invalid value: integer `-1`"));
}

#[test]
fn a_factor_without_the_other_is_refused() {
    assert_eq!(refusal(|adapter| drop(adapter.tensors.remove(FACTOR_A))), in_module("lora_A is missing"));
    assert_eq!(refusal(|adapter| drop(adapter.tensors.remove(FACTOR_B))), in_module("lora_B is missing"));
}

#[test]
fn an_adapter_of_a_base_of_another_size_is_refused() {
    let mut state = base();
    let source = AdapterSource { dir: fixture("wrong-base-lora"), scale: 1.0 };
    let error = adapter::merge(&mut state, &source).unwrap_err();
    assert_eq!(
        error.to_string(),
        "LoRA factors A [4, 48] and B [48, 4] do not fit a weight of shape [32, 32]\n  \
         in adapter_model.safetensors: bert.encoder.layer.0.attention.self.query\n\n\
         hint: the adapter was trained on another model"
    );
    assert_eq!(described(&state), described(&base()));

    let key = "base_model.model.bert.pooler.dense.weight";
    assert_eq!(
        refusal(|adapter| drop(adapter.tensors.insert(key.to_owned(), floats(&[48, 48], 0.0)))),
        "saved tensor `bert.pooler.dense.weight` has shape [48, 48], the base model's [32, 32]\n  \
         in adapter_model.safetensors\n\nhint: the adapter was trained on another model"
    );
}

#[test]
fn a_target_outside_the_model_is_refused() {
    let rename = |key: &str| key.replace("layer.0", "layer.7");
    assert_eq!(
        refusal(|adapter| {
            let tensors = std::mem::take(&mut adapter.tensors);
            adapter.tensors = tensors.into_iter().map(|(key, tensor)| (rename(&key), tensor)).collect();
        }),
        "the base model has no tensor `bert.encoder.layer.7.attention.self.query.weight`\n  \
         in adapter_model.safetensors: bert.encoder.layer.7.attention.self.query\n\n\
         hint: the adapter was trained on another model"
    );
    assert_eq!(
        refusal(|adapter| drop(adapter.tensors.insert("layer.0.lora_A.weight".to_owned(), floats(&[2, 32], 0.0)))),
        "tensor `layer.0.lora_A.weight` does not begin with `base_model.model.`\n  in adapter_model.safetensors"
    );
    assert_eq!(
        refusal(|adapter| adapter.tensors.clear()),
        "the adapter changes nothing: it holds no tensors\n  in adapter_model.safetensors"
    );
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for (value, key) in [(f32::NAN, FACTOR_A), (f32::INFINITY, FACTOR_B), (f32::NEG_INFINITY, FACTOR_A)] {
        let said = refusal(|adapter| {
            let (_, data) = adapter.tensors.get_mut(key).unwrap();
            data[4..8].copy_from_slice(&value.to_le_bytes());
        });
        assert_eq!(said, format!("tensor `{key}` holds NaN or infinity\n  in adapter_model.safetensors"));
    }
    let alpha = "alpha must be a finite number, found inf\n  in adapter_config.json: lora_alpha";
    assert_eq!(refusal(with("lora_alpha", json!(1e39))), in_module(alpha));
    assert_eq!(refusal(with("alpha_pattern", json!({"query": 1e39}))), in_module(alpha));
    let large = |adapter: &mut Adapter| {
        adapter.config["lora_alpha"] = json!(1e38);
        adapter.scale = 100.0;
    };
    assert!(refusal(large).starts_with("the scale 100000000000000000000000000000000000000 / 2 · 100 is too large"));
}

#[test]
fn a_number_that_json_does_not_have_is_refused_with_its_field() {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": Infinity}"#;
    fs::write(dir.path().join("adapter_config.json"), config).unwrap();
    let error = adapter::merge(&mut base(), &AdapterSource { dir: dir.path().to_owned(), scale: 1.0 }).unwrap_err();
    assert!(error.message().starts_with("adapter_config.json: "), "{error}");
    assert!(error.message().contains("expected value at line 1 column 45"), "{error}");
}

#[test]
fn a_type_of_adapter_that_is_not_merged_is_named() {
    assert_eq!(
        refusal(with("peft_type", json!("LORRA"))),
        "unknown adapter type `LORRA`; known: LORA\n  in adapter_config.json: peft_type\n\nhint: did you mean LORA?"
    );
    assert_eq!(
        refusal(with("peft_type", json!("VERA"))),
        "adapters of type VERA are not merged yet\n  in adapter_config.json: peft_type\n\nhint: known: LORA"
    );
    assert_eq!(
        refusal(with("peft_type", json!("\u{1b}[2J"))),
        "unknown adapter type `\\u{1b}[2J`; known: LORA\n  in adapter_config.json: peft_type"
    );
    assert!(refusal(with("peft_type", Value::Null)).starts_with("adapter_config.json: peft_type: invalid type: null"));
}

#[test]
fn options_that_would_change_the_answer_are_refused_by_name() {
    let options = [
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("lora_only")),
        ("layer_replication", json!([[0, 2]])),
        ("alora_invocation_tokens", json!([1])),
    ];
    for (option, value) in options {
        assert_eq!(
            refusal(with(option, value)),
            format!("this option of LoRA is not merged yet\n  in adapter_config.json: {option}")
        );
    }
    let magnitude = format!("base_model.model.{MODULE}.lora_magnitude_vector.weight");
    assert_eq!(
        refusal(|adapter| drop(adapter.tensors.insert(magnitude.clone(), floats(&[32], 1.0)))),
        format!("tensor `{magnitude}` is of a kind that is not merged yet\n  in adapter_model.safetensors")
    );
}

#[test]
fn code_that_a_configuration_names_is_never_imported() {
    let mut adapter = Adapter::sound();
    adapter.config["auto_mapping"] = json!({"base_model_class": "Evil", "parent_library": "os"});
    adapter.config["base_model_name_or_path"] = json!("../../etc/passwd");
    assert_eq!(adapter.merge().unwrap().0.changed, 1);
}

#[test]
fn a_pattern_that_is_none_is_refused() {
    assert_eq!(
        refusal(with("rank_pattern", json!({"(query": 2}))),
        in_module("`(query` is not a pattern\n  in adapter_config.json: rank_pattern")
    );
}

#[test]
fn a_folder_without_an_adapter_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let source = AdapterSource { dir: dir.path().to_owned(), scale: 1.0 };
    let said = |state: &mut StateDict| adapter::merge(state, &source).unwrap_err().to_string();
    assert!(said(&mut base()).ends_with(
        " holds no adapter_config.json\n\nhint: --adapter takes the folder that PEFT's save_pretrained or AdapterHub's save_adapter wrote"
    ));
    fs::write(dir.path().join("adapter_config.json"), Adapter::sound().config.to_string()).unwrap();
    assert!(said(&mut base()).starts_with("adapter_model.safetensors is missing\n  in "));
    fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    assert!(
        said(&mut base())
            .ends_with("hint: adapter_model.bin is not read yet: save the adapter with safe_serialization=True")
    );
}
