//! Adapters that are damaged, that belong to another model, or of a kind that is not merged.

use std::fs;
use std::path::Path;

use kilnc::build::{self, Source};
use kilnc::error::Result;
use kilnc::front::hub::adapter::combine::{Combine, CombineOptions};
use kilnc::front::hub::adapter::{self, AdapterSource, Merged};
use kilnc::front::hub::arch;
use kilnc::front::hub::checkpoint::{Checkpoint, StateDict};
use serde_json::{Value, json};

use super::{Tensors, fixture, floats, write_tensors};

const MODULE: &str = "bert.encoder.layer.0.attention.self.query";
const FACTOR_A: &str = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight";
const FACTOR_B: &str = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight";

/// The shape of a tensor and its bytes.
type Stored = (Vec<usize>, Vec<u8>);

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

    /// An adapter of another kind, over the same projection.
    fn of(kind: &str, config: Value, tensors: &[(&str, Stored)]) -> Adapter {
        let mut adapter = Adapter::sound();
        adapter.config = config;
        adapter.config["peft_type"] = json!(kind);
        let named = |(part, tensor): &(&str, _)| (format!("base_model.model.{MODULE}.{part}"), Clone::clone(tensor));
        adapter.tensors = tensors.iter().map(named).collect();
        adapter
    }

    fn put(&mut self, part: &str, tensor: (Vec<usize>, Vec<u8>)) {
        self.tensors.insert(format!("base_model.model.{MODULE}.{part}"), tensor);
    }

    fn save(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("adapter_config.json"), self.config.to_string()).unwrap();
        write_tensors(&dir.join("adapter_model.safetensors"), &self.tensors);
    }

    /// Saves the adapter and merges it. A refusal must leave the base as it was.
    fn merge(&self) -> Result<(Merged, StateDict)> {
        let (mut merged, state) = merge_all(&[self], None)?;
        Ok((merged.remove(0), state))
    }
}

/// Saves adapters as `0`, `1`, … and merges them all. A refusal must leave the base as it was.
fn merge_all(adapters: &[&Adapter], combine: Option<&Combine>) -> Result<(Vec<Merged>, StateDict)> {
    let dir = tempfile::tempdir().unwrap();
    let place = |i: usize| dir.path().join(i.to_string());
    adapters.iter().enumerate().for_each(|(i, adapter)| adapter.save(&place(i)));
    let source = |(i, adapter): (usize, &&Adapter)| AdapterSource { dir: place(i), scale: adapter.scale };
    let sources: Vec<_> = adapters.iter().enumerate().map(source).collect();
    let mut state = base();
    let merged = adapter::merge_all(&mut state, &sources, combine);
    if merged.is_err() {
        assert_eq!(described(&state), described(&base()));
    }
    Ok((merged?, state))
}

/// The error for several adapters, without the folder's path.
fn refusal_of(adapters: &[&Adapter], combine: Option<&Combine>) -> String {
    let error = merge_all(adapters, combine).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    let said = error.to_string();
    let lines = said.lines().map(|line| match line.strip_prefix("  in /") {
        Some(path) => format!("  in {}", path.rsplit('/').next().unwrap()),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn base() -> StateDict {
    arch::canonical_state(&Checkpoint::open(&fixture("tiny-bert-base")).unwrap()).unwrap()
}

fn described(state: &StateDict) -> Vec<String> {
    state.iter().map(|(name, tensor)| format!("{name}: {:?}", tensor.weight)).collect()
}

/// The error for the sound adapter after a change.
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
        "saved tensor `bert.pooler.dense.weight` has shape [48, 48], the base model's [32, 32]\n  \
         in adapter_model.safetensors\n\nhint: the adapter was trained on another model"
    );
    assert_eq!(described(&state), described(&base()));

    let wide = |adapter: &mut Adapter| {
        adapter.put("lora_A.weight", floats(&[2, 48], 0.5));
        adapter.put("lora_B.weight", floats(&[48, 2], 0.5));
    };
    assert_eq!(
        refusal(wide),
        in_module("LoRA factors A [2, 48] and B [48, 2] do not fit a weight of shape [32, 32]")
            + "\n\nhint: the adapter was trained on another model"
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
        "tensor `layer.0.lora_A.weight` does not begin with `base_model.model.`\n  in adapter_model.safetensors\n\n\
         hint: PEFT puts that before every name: save the adapter with save_pretrained"
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

const KNOWN: &str = "ADALORA, IA3, LN_TUNING, LOHA, LOKR, LORA, TRAINABLE_TOKENS, VERA";

#[test]
fn a_configuration_that_is_no_plain_json_is_refused() {
    let said = |config: &str| {
        let dir = tempfile::tempdir().unwrap();
        Adapter::sound().save(dir.path());
        fs::write(dir.path().join("adapter_config.json"), config).unwrap();
        let source = AdapterSource { dir: dir.path().to_owned(), scale: 1.0 };
        adapter::merge(&mut base(), &source).unwrap_err().message().to_owned()
    };
    let lora = r#""peft_type": "LORA", "lora_alpha": 4, "target_modules": ["query"]"#;
    assert_eq!(said("\u{feff}{}"), "adapter_config.json: starts with a byte order mark");
    assert!(said(&format!("{{{lora}, \"r\": 2, \"r\": 4}}")).starts_with("adapter_config.json: duplicate `r`"));
    let twice = format!(r#"{{{lora}, "r": 2, "rank_pattern": {{"query": 2, "query": 4}}}}"#);
    assert!(said(&twice).starts_with("adapter_config.json: rank_pattern: duplicate `query`"), "{}", said(&twice));
    assert!(
        said(&format!("{{{lora}, \"r\": 1e300}}")).starts_with("adapter_config.json: r: invalid type: floating point")
    );
    assert!(said(&format!("{{{lora}, \"r\": \"2\"}}")).starts_with("adapter_config.json: r: invalid type: string"));
    assert!(
        said(&format!("{{{lora}, \"x\": {}1{}}}", "[".repeat(200), "]".repeat(200)))
            .starts_with("adapter_config.json: ")
    );
    let named = said(&format!(r#"{{{lora}, "r": 2, "target_modules": 5}}"#));
    assert!(named.starts_with("adapter_config.json: "), "{named}");
}

#[test]
fn a_type_of_adapter_that_is_not_merged_is_named() {
    assert_eq!(
        refusal(with("peft_type", json!("LORRA"))),
        format!(
            "unknown adapter type `LORRA`; known: {KNOWN}\n  in adapter_config.json: peft_type\n\n\
             hint: did you mean LORA?"
        )
    );
    for other in ["OFT", "PREFIX_TUNING", "XLORA"] {
        assert_eq!(
            refusal(with("peft_type", json!(other))),
            format!(
                "adapters of type {other} are not merged\n  in adapter_config.json: peft_type\n\nhint: known: {KNOWN}"
            )
        );
    }
    assert_eq!(
        refusal(with("peft_type", json!("\u{1b}[2J"))),
        format!("unknown adapter type `\\u{{1b}}[2J`; known: {KNOWN}\n  in adapter_config.json: peft_type")
    );
    assert!(refusal(with("peft_type", Value::Null)).starts_with("adapter_config.json: peft_type: invalid type: null"));
}

#[test]
fn options_that_would_change_the_outputs_are_refused_by_name() {
    let options = [
        ("layer_replication", json!([[0, 2]])),
        ("alora_invocation_tokens", json!([1])),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("arrow_config", json!({"top_k": 1})),
        ("kasa_config", json!({"beta": 1})),
        ("target_parameters", json!(["experts.weight"])),
    ];
    for (option, value) in options {
        assert_eq!(
            refusal(with(option, value)),
            format!("this option is not merged yet\n  in adapter_config.json: {option}")
        );
    }
    let unknown = format!("base_model.model.{MODULE}.lora_diag");
    assert_eq!(
        refusal(|adapter| drop(adapter.tensors.insert(unknown.clone(), floats(&[2], 1.0)))),
        format!("tensor `{unknown}` is of a kind that is not merged yet\n  in adapter_model.safetensors")
    );
}

#[test]
fn an_adapter_that_began_by_changing_the_base_belongs_to_that_base() {
    for way in ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"] {
        assert_eq!(
            refusal(with("init_lora_weights", json!(way))),
            format!(
                "a LoRA that was begun by {way} belongs to a base that this changed\n  \
                 in adapter_config.json: init_lora_weights\n\n\
                 hint: save it with path_initial_model_for_weight_conversion, which makes it a LoRA over the plain base"
            )
        );
    }
    for way in [json!("gaussian"), json!("eva"), json!(true), json!(false), Value::Null] {
        let mut adapter = Adapter::sound();
        adapter.config["init_lora_weights"] = way;
        adapter.merge().unwrap();
    }
}

#[test]
fn a_file_and_a_configuration_that_contradict_each_other_are_refused() {
    let parts = [("lora_magnitude_vector", "use_dora"), ("lora_B.bias", "lora_bias")];
    for (part, field) in parts {
        assert_eq!(
            refusal(|adapter| adapter.put(part, floats(&[32], 1.0))),
            in_module(&format!("{part} is there, and {field} is not set"))
        );
        assert_eq!(refusal(with(field, json!(true))), in_module(&format!("{part} is missing, and {field} is set")));
    }
    let both = |adapter: &mut Adapter| {
        adapter.config["use_dora"] = json!(true);
        adapter.config["lora_bias"] = json!(true);
    };
    assert_eq!(refusal(both), "lora_bias does not combine with DoRA\n  in adapter_config.json: lora_bias");
    let short = |adapter: &mut Adapter| {
        adapter.config["use_dora"] = json!(true);
        adapter.put("lora_magnitude_vector", floats(&[31], 1.0));
    };
    assert_eq!(
        refusal(short),
        in_module("f32[32, 32] and f32[31] do not fit along dimension 0")
            + "\n\nhint: the adapter was trained on another model"
    );
}

#[test]
fn targets_that_match_nothing_are_refused() {
    let place = "\n  in adapter_config.json: target_modules";
    let nearest = |said: String| said.split_once("nearest first: ").unwrap().1.split(", ").next().unwrap().to_owned();
    for target in [json!(["qeury"]), json!("bert\\.qeury"), json!(["decoder.qeury"])] {
        let named = target.as_str().or(target[0].as_str()).unwrap();
        let said = refusal(with("target_modules", target.clone()));
        assert!(said.starts_with(&format!("`{named}` matches no module of the model{place}")), "{said}");
    }
    assert_eq!(nearest(refusal(with("target_modules", json!(["qeury"])))), "query");
    assert!(refusal(with("layers_to_transform", json!([9]))).starts_with("`query` matches no module of the model"));
    assert_eq!(
        refusal(with("layers_to_transform", json!([1]))),
        format!("the file changes `{MODULE}`, which the configuration does not name{place}")
    );
    for (field, value) in
        [("exclude_modules", json!(["layer.0.attention.self.query"])), ("target_modules", json!(["key"]))]
    {
        assert_eq!(
            refusal(with(field, value)),
            format!("the file changes `{MODULE}`, which the configuration does not name{place}")
        );
    }
    let mut half = Adapter::sound();
    half.config["target_modules"] = json!(["query", "key"]);
    let merged = half.merge().unwrap().0;
    let other = ["0.attention.self.key", "1.attention.self.key", "1.attention.self.query"];
    assert_eq!(merged.untouched, other.map(|module| format!("bert.encoder.layer.{module}")));
    assert_eq!(merged.summary(), "into 1 weights, 0 from modules_to_save");
    assert_eq!(
        merged.warnings().collect::<Vec<_>>(),
        [
            "target_modules in adapter_config.json names `bert.encoder.layer.0.attention.self.key` and 2 more, and the file \
          lacks the trained tensors: the base's stay"
        ]
    );
    let pattern_and_layers = |adapter: &mut Adapter| {
        adapter.config["target_modules"] = json!(".*query");
        adapter.config["layers_to_transform"] = json!([0]);
    };
    assert_eq!(
        refusal(pattern_and_layers),
        "layers are chosen where target_modules is a pattern\n  in adapter_config.json: layers_to_transform"
    );
}

#[test]
fn names_may_leave_the_encoders_prefix_out_or_have_it() {
    for target in [
        json!(["query"]),
        json!(".*self.query"),
        json!("encoder.layer.*"),
        json!(["bert.encoder.layer.0.attention.self.query"]),
    ] {
        let mut adapter = Adapter::sound();
        adapter.config["target_modules"] = target;
        adapter.merge().unwrap();
        let tensors = std::mem::take(&mut adapter.tensors);
        adapter.tensors = tensors.into_iter().map(|(key, tensor)| (key.replace(".bert.", "."), tensor)).collect();
        let (_, state) = adapter.merge().unwrap();
        assert_eq!(state.iter().count(), base().iter().count());
    }
}

#[test]
fn a_bias_needs_one_in_the_base() {
    let bias = |adapter: &mut Adapter| {
        adapter.config["lora_bias"] = json!(true);
        adapter.put("lora_B.bias", floats(&[32], 1.0));
    };
    let mut adapter = Adapter::sound();
    bias(&mut adapter);
    assert_eq!(adapter.merge().unwrap().0.changed, 1);
    let key = "base_model.model.bert.embeddings.word_embeddings";
    let embedding = |adapter: &mut Adapter| {
        adapter.config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_bias": true});
        adapter.tensors = [
            (format!("{key}.lora_A.weight"), floats(&[2, 32], 0.5)),
            (format!("{key}.lora_B.weight"), floats(&[rows(), 2], 0.25)),
            (format!("{key}.lora_B.bias"), floats(&[rows()], 0.25)),
        ]
        .into();
    };
    assert_eq!(
        refusal(embedding),
        "the base model has no tensor `bert.embeddings.word_embeddings.bias`\n  \
         in adapter_model.safetensors: bert.embeddings.word_embeddings\n\n\
         hint: the adapter was trained on another model"
    );
}

/// The tokens that the base knows.
fn rows() -> usize {
    base().get("bert.embeddings.word_embeddings.weight").unwrap().weight.shape()[0]
}

#[test]
fn scales_are_refused_where_there_are_none() {
    let mut ia3 = Adapter::of("IA3", json!({"target_modules": ["query"]}), &[("ia3_l", floats(&[32, 1], 2.0))]);
    ia3.merge().unwrap();
    ia3.scale = 0.5;
    let error = ia3.merge().err().unwrap();
    assert_eq!(error.to_string(), "adapters of type IA3 have no scale, found @0.5\n  in --adapter");
}

#[test]
fn shapes_of_every_kind_are_checked() {
    let refused = |adapter: Adapter| adapter.merge().err().unwrap().to_string();
    let hinted = |message: &str| in_module(message) + "\n\nhint: the adapter was trained on another model";
    let ia3 = |shape: &[usize], config| refused(Adapter::of("IA3", config, &[("ia3_l", floats(shape, 2.0))]));
    assert_eq!(ia3(&[1, 32], json!({})), in_module("ia3_l has shape [1, 32], expected [n, 1]"));
    assert_eq!(
        ia3(&[32, 1], json!({"feedforward_modules": ["query"]})),
        in_module("ia3_l has shape [32, 1], expected [1, n], for a feed-forward module")
    );
    assert_eq!(ia3(&[31, 1], json!({})), hinted("f32[32, 32] and f32[31] do not fit along dimension 0"));

    let loha = |r: usize, a: [usize; 2]| {
        let parts = [("hada_w1_a", floats(&a, 0.5)), ("hada_w1_b", floats(&[2, 32], 0.5))];
        let more = [("hada_w2_a", floats(&a, 0.5)), ("hada_w2_b", floats(&[2, 32], 0.5))];
        refused(Adapter::of("LOHA", json!({"r": r, "alpha": 1}), &[parts, more].concat()))
    };
    assert_eq!(loha(3, [32, 2]), in_module("hada_w1_b has shape [2, 32], but the configuration says rank 3"));
    assert_eq!(loha(2, [31, 2]), hinted("f32[32, 32] and f32[31, 32] cannot be added"));
    assert_eq!(loha(2, [32, 3]), in_module("f32[32, 3] and f32[2, 32] cannot be multiplied"));

    let lokr = |parts: &[(&str, Stored)]| refused(Adapter::of("LOKR", json!({"r": 2, "alpha": 1}), parts));
    assert_eq!(
        lokr(&[("lokr_w1", floats(&[4, 4], 0.5)), ("lokr_w2", floats(&[8, 4], 0.5))]),
        hinted("f32[32, 32] and f32[32, 16] cannot be added")
    );
    assert_eq!(lokr(&[("lokr_w1", floats(&[4, 4], 0.5))]), in_module("lokr_w2_b is missing"));

    let ada = |a: [usize; 2], e: [usize; 2], b: [usize; 2]| {
        let parts = [("lora_A", floats(&a, 0.5)), ("lora_E", floats(&e, 0.5)), ("lora_B", floats(&b, 0.5))];
        refused(Adapter::of("ADALORA", json!({"init_r": 2, "lora_alpha": 1}), &parts))
    };
    let said = "lora_A has shape [3, 32] and lora_E [3, 1], but the configuration says rank 2";
    assert_eq!(ada([3, 32], [3, 1], [32, 3]), in_module(said));
    assert!(ada([2, 31], [2, 1], [32, 2]).starts_with("LoRA factors A [2, 31] and B [32, 2] do not fit"));

    let vera = Adapter::of(
        "VERA",
        json!({"r": 2}),
        &[("vera_lambda_b", floats(&[32], 0.5)), ("vera_lambda_d", floats(&[2], 0.5))],
    );
    assert_eq!(
        refused(vera),
        "`base_model.vera_A` is not in the file: it would have to be generated as PyTorch does\n  \
         in adapter_model.safetensors\n\nhint: save the adapter with save_projection=True"
    );
    let norm = Adapter::of("LN_TUNING", json!({}), &[("ln_tuning_layers.weight", floats(&[32], 1.0))]);
    assert_eq!(
        refused(norm),
        hinted("`bert.encoder.layer.0.attention.self.query.weight` has shape [32], the base model's [32, 32]")
    );
}

#[test]
fn rows_of_tokens_are_those_of_the_configuration() {
    let tokens = |config: Value, rows: usize| {
        let mut adapter = Adapter::sound();
        adapter.config = config;
        adapter.config["peft_type"] = json!("TRAINABLE_TOKENS");
        let key = "base_model.model.bert.embeddings.word_embeddings.trainable_tokens_delta".to_owned();
        adapter.tensors = [(key, floats(&[rows, 32], 0.5))].into();
        adapter
    };
    let refused = |config: Value, rows| tokens(config, rows).merge().err().unwrap().to_string();
    let place = "\n  in adapter_model.safetensors: bert.embeddings.word_embeddings";
    let hint = "\n\nhint: the adapter was trained on another model";
    assert_eq!(tokens(json!({"token_indices": [3, 1]}), 2).merge().unwrap().0.tokens, 2);
    assert_eq!(
        refused(json!({}), 2),
        format!(
            "the file holds rows of tokens, and the configuration does not say of which\n  \
             in adapter_config.json: trainable_token_indices{place}"
        )
    );
    let n = rows();
    assert_eq!(
        refused(json!({"token_indices": [3, n]}), 2),
        format!("there is no row {n} in a weight of shape [{n}, 32]{place}{hint}")
    );
    assert_eq!(
        refused(json!({"token_indices": [3]}), 2),
        format!("2 rows of 32 cannot replace 1 rows of a weight of shape [{n}, 32]{place}{hint}")
    );
    assert_eq!(
        refused(json!({"token_indices": [3, 3]}), 2),
        format!("2 rows of 32 cannot replace 1 rows of a weight of shape [{n}, 32]{place}{hint}")
    );
    assert!(refused(json!({"token_indices": [-1]}), 1).starts_with("adapter_config.json: token_indices: "));
    let (one, other) = (tokens(json!({"token_indices": [3, 1]}), 2), tokens(json!({"token_indices": [1]}), 1));
    assert_eq!(refusal_of(&[&one, &other], None), format!("token 1 was trained by two adapters{place}\n  in 1"));
}

#[test]
fn tensors_that_two_adapters_save_whole_are_refused() {
    let head = |adapter: &mut Adapter| {
        let key = "base_model.model.classifier.weight".to_owned();
        adapter.tensors.insert(key, floats(&[3, 32], 0.5));
    };
    let (plain, mut one) = (Adapter::sound(), Adapter::sound());
    head(&mut one);
    assert_eq!(merge_all(&[&plain, &one, &plain], None).unwrap().0[1].saved, ["classifier.weight"]);
    let said = "`classifier.weight` is saved whole by two adapters\n  in adapter_model.safetensors\n  in 2\n\n\
                hint: only one of them can be right";
    assert_eq!(refusal_of(&[&one, &plain, &one], None), said);
    let cat = Combine::new("cat".parse().unwrap(), CombineOptions::default()).unwrap();
    assert_eq!(refusal_of(&[&one, &plain, &one], Some(&cat)), said);
}

#[test]
fn adapters_that_cannot_be_combined_are_named() {
    let combine = |method: &str| Combine::new(method.parse().unwrap(), CombineOptions::default()).unwrap();
    let plain = Adapter::sound();
    assert_eq!(refusal_of(&[&plain], Some(&combine("linear"))), "--combine linear needs two adapters or more");
    let mut wide = Adapter::sound();
    wide.config["r"] = json!(3);
    wide.put("lora_A.weight", floats(&[3, 32], 0.5));
    wide.put("lora_B.weight", floats(&[32, 3], 0.5));
    assert_eq!(
        refusal_of(&[&plain, &wide], Some(&combine("linear"))),
        format!(
            "f32[2, 32] and f32[3, 32] cannot be added\n  in --combine linear: {MODULE}\n\n\
             hint: this way of combining needs adapters of one rank; cat and svd take any"
        )
    );
    for method in ["cat", "svd"] {
        merge_all(&[&plain, &wide], Some(&combine(method))).unwrap();
    }
    let mut dora = Adapter::sound();
    dora.config["use_dora"] = json!(true);
    dora.put("lora_magnitude_vector", floats(&[32], 1.0));
    let hint = "\n\nhint: without --combine, adapters are merged one after another";
    assert_eq!(
        refusal_of(&[&plain, &dora], Some(&combine("linear"))),
        in_module("DoRA cannot be combined") + "\n  in 1" + hint
    );
    let ia3 = Adapter::of("IA3", json!({}), &[("ia3_l", floats(&[32, 1], 2.0))]);
    assert_eq!(
        refusal_of(&[&ia3, &plain], Some(&combine("svd"))),
        format!("an adapter of type IA3 cannot be combined\n  in 0{hint}")
    );
    assert_eq!(merge_all(&[&ia3, &dora, &plain], None).unwrap().0.len(), 3);
}

#[test]
fn a_merge_that_leaves_the_numbers_is_refused_when_it_is_computed() {
    let mut adapter = Adapter::sound();
    adapter.config["lora_alpha"] = json!(2e38);
    adapter.put("lora_A.weight", floats(&[2, 32], 1e3));
    let (_, state) = adapter.merge().unwrap();
    let error = state.get(&format!("{MODULE}.weight")).unwrap().weight.evaluate().err().unwrap();
    assert_eq!(
        error.message(),
        "tensor `encoder.layer.0.attention.self.query.weight` holds NaN or infinity after the merge"
    );
}

/// Embeddings of more tokens need a projection to as many.
#[test]
fn embeddings_that_a_projection_shares_do_not_grow_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = Adapter {
        config: json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "modules_to_save": ["word_embeddings"]}),
        tensors: [("base_model.model.bert.embeddings.word_embeddings.weight".to_owned(), floats(&[70, 16], 0.5))]
            .into(),
        scale: 1.0,
    };
    adapter.save(dir.path());
    let source = |checkpoint: &str| Source {
        checkpoint: fixture(checkpoint),
        adapters: vec![AdapterSource { dir: dir.path().to_owned(), scale: 1.0 }],
        combine: None,
        task: None,
    };
    assert_eq!(
        build::load(&source("families/bert/mlm")).err().unwrap().to_string(),
        "the adapter has `bert.embeddings.word_embeddings.weight` in the shape [70, 16] in place of [64, 16], and no \
         projection to the vocabulary\n  in adapter_model.safetensors"
    );
    build::load(&source("families/bert/base")).unwrap();
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
fn a_folder_without_an_adapter_names_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let source = AdapterSource { dir: dir.path().to_owned(), scale: 1.0 };
    let said = |state: &mut StateDict| adapter::merge(state, &source).unwrap_err().to_string();
    assert!(said(&mut base()).ends_with(
        " holds no adapter_config.json\n\nhint: --adapter takes the folder that PEFT's save_pretrained or AdapterHub's save_adapter wrote"
    ));
    fs::write(dir.path().join("adapter_config.json"), Adapter::sound().config.to_string()).unwrap();
    let neither = "neither adapter_model.safetensors nor adapter_model.bin is there\n  in ";
    assert!(said(&mut base()).starts_with(neither));
    fs::write(dir.path().join("adapter_model.bin"), "no pickle").unwrap();
    assert!(said(&mut base()).contains("\n  in adapter_model.bin"), "{}", said(&mut base()));
}
