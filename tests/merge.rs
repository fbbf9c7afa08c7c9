//! `kilnc merge` writes what `transformers` would: the same tensors, and the same outputs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{copied, fixture, kilnc, names, place, repository};
use kilnc::back::onnx;
use kilnc::build::{self, Source};
use kilnc::eval::{Golden, Parity};
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::front::hub::checkpoint::Checkpoint;
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Runtime};
use kilnc::target::Target;
use serde_json::{Map, Value, json};

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn adapter(name: &str) -> PathBuf {
    fixture("adapters").join(name)
}

/// The checkpoint that an adapter was trained on.
fn base(name: &str) -> PathBuf {
    let config = read(&adapter(name).join("adapter_config.json"));
    fixture("families").join(config["base_model_name_or_path"].as_str().unwrap())
}

/// Merges an adapter of the fixtures.
fn merge(name: &str, out: &Path) -> Value {
    kilnc(arguments!["merge", base(name), "--adapter", adapter(name), "-o", out, "--json", "--quiet"]).expect(0).json()
}

/// The types of a checkpoint's tensors, by name.
fn types(dir: &Path) -> BTreeMap<String, String> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    checkpoint.state.iter().map(|(name, tensor)| (name.to_owned(), tensor.weight.ty().to_string())).collect()
}

/// The outputs of a checkpoint on ONNX Runtime, compared with a golden file.
fn parity(dir: &Path, golden: &Path) -> Parity {
    let source = Source { checkpoint: dir.to_owned(), adapters: Vec::new(), combine: None, task: None };
    let model = build::load(&source).unwrap();
    // The bias around a decoder that has its own.
    let telling: Vec<_> = model.unused.iter().filter(|name| *name != "cls.predictions.bias").collect();
    assert!(telling.is_empty(), "{telling:?}");
    let graph =
        build::compile(model.graph(), &build::Scheme::new(&Target::OrtCpu, Precision::Fp32), &mut Manager::default())
            .unwrap();
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&graph, &path, &|_| {}).unwrap();
    let mut engine = runtime::open(Runtime::Ort, &path, runtime::Options { threads: 1 }).unwrap();
    Golden::read(golden).unwrap().compare(&mut *engine).unwrap()
}

#[test]
fn a_merged_checkpoint_equals_that_of_transformers() {
    let folders = names(&fixture("adapters"));
    let summary: Vec<_> = folders.iter().filter(|name| adapter(name).join("merged.json").is_file()).collect();
    assert!(summary.len() >= 14, "the fixtures are not there");
    for name in summary {
        let place = place();
        let out = place.path().join("merged");
        merge(name, &out);
        assert_eq!(names(place.path()), ["merged"], "{name}");
        let summary = read(&adapter(name).join("merged.json"));
        let expected: BTreeMap<String, String> = serde_json::from_value(summary["tensors"].clone()).unwrap();
        // An adapter's decoder is written although it is tied.
        let found: BTreeMap<_, _> = types(&out).into_iter().filter(|(name, _)| !name.contains(".decoder.")).collect();
        assert_eq!(found, expected, "{name}");
        let config = read(&out.join("config.json"));
        for (key, value) in summary["config"].as_object().unwrap() {
            assert_eq!(&config[key], value, "{name}: {key}");
        }
        let parity = parity(&out, &adapter(name).join("golden.safetensors"));
        assert!(parity.max_abs <= 1e-4, "{name}: {parity:?}");
    }
}

/// A configuration as either version of `transformers` writes it becomes one that both read. `scripts/peers/load_merged.py`
/// loads them.
#[test]
fn a_merged_modernbert_is_the_same_to_both_versions_of_transformers() {
    let configs: BTreeMap<String, Map<String, Value>> =
        serde_json::from_value(read(&fixture("families/configs-5.json"))).unwrap();
    let five = configs["modernbert/base"].clone();
    assert!(five.contains_key("layer_types") && !five.contains_key("global_rope_theta"));
    let four = read(&fixture("families/modernbert/base/config.json")).as_object().unwrap().clone();
    assert!(four.contains_key("global_rope_theta") && !four.contains_key("layer_types"));
    let newer = |fields: [(&str, Value); 2]| {
        let mut config = five.clone();
        config.remove("global_attn_every_n_layers");
        config.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        config
    };
    let [every, no_pattern] =
        [["full_attention", "sliding_attention"].repeat(2), vec!["sliding_attention"; 4]].map(|kinds| json!(kinds));
    let angles = |global: f64, local: f64| {
        json!({"full_attention": {"rope_theta": global, "rope_type": "default"},
               "sliding_attention": {"rope_theta": local, "rope_type": "default"}})
    };
    let cases = [
        (four.clone(), angles(160_000.0, 10_000.0), Some(2)),
        (five.clone(), angles(160_000.0, 10_000.0), Some(2)),
        (newer([("layer_types", every.clone()), ("rope_parameters", angles(50.0, 20.0))]), angles(50.0, 20.0), Some(2)),
        (
            newer([("layer_types", no_pattern.clone()), ("rope_parameters", Value::Null)]),
            angles(160_000.0, 10_000.0),
            None,
        ),
    ];
    for (config, angles, count) in cases {
        let base = copied("families/modernbert/base");
        fs::write(base.path().join("config.json"), Value::Object(config.clone()).to_string()).unwrap();
        let place = place();
        let out = place.path().join("merged");
        let invoked = arguments!["merge", base.path(), "--adapter", adapter("modernbert-lora"), "-o", out];
        let ran = kilnc([invoked.as_slice(), &arguments!["--dtype", "bf16"]].concat()).expect(0);
        let found = read(&out.join("config.json"));
        assert_eq!(found["rope_parameters"], angles);
        assert_eq!(found["global_rope_theta"], angles["full_attention"]["rope_theta"]);
        assert_eq!(found["local_rope_theta"], angles["sliding_attention"]["rope_theta"]);
        assert_eq!(found["layer_types"], if count.is_some() { every.clone() } else { no_pattern.clone() });
        assert_eq!(found.get("global_attn_every_n_layers").cloned(), count.map(|count| json!(count)));
        assert_eq!(ran.stderr.contains("cannot read these `layer_types`"), count.is_none(), "{}", ran.stderr);
        assert_eq!((&found["dtype"], found.get("torch_dtype")), (&json!("bfloat16"), None));
        let graph = |dir: &Path, adapters: Vec<AdapterSource>| {
            let source = Source { checkpoint: dir.to_owned(), adapters, combine: None, task: None };
            build::load(&source).unwrap().graph().to_string()
        };
        // It reads back as the same model; only values were rounded.
        let invoked = arguments!["merge", base.path(), "--adapter", adapter("modernbert-lora"), "-o", out];
        kilnc(invoked).expect(0);
        let rotations =
            |graph: &str| graph.lines().filter(|line| line.contains("Rotary")).map(str::to_owned).collect::<Vec<_>>();
        let lora = vec![AdapterSource { dir: adapter("modernbert-lora"), scale: 1.0 }];
        let (merged, over) = (graph(&out, Vec::new()), graph(base.path(), lora));
        assert_eq!(rotations(&merged), rotations(&over));
    }
    // Two names of one field are both set.
    let base = copied("families/bert/base");
    crate::common::edit(&base.path().join("config.json"), "\"dtype\"", "\"torch_dtype\": \"float32\", \"dtype\"");
    let place = place();
    let out = place.path().join("merged");
    kilnc(arguments!["merge", base.path(), "--adapter", adapter("lora"), "-o", out, "--dtype", "fp16"]).expect(0);
    let found = read(&out.join("config.json"));
    assert_eq!((&found["dtype"], &found["torch_dtype"]), (&json!("float16"), &json!("float16")));
}

#[test]
fn the_merged_adapters_are_listed_beside_it() {
    let place = place();
    let out = place.path().join("merged");
    let said = merge("lora-over-mlm", &out);
    assert_eq!(said, read(&out.join("kilnc.json")));
    assert_eq!(said["architecture"], "BertForSequenceClassification");
    assert_eq!(said["files"], json!(["config.json", "model.safetensors"]));
    assert_eq!(said["adapters"][0]["kind"], "LORA");
    assert_eq!(said["adapters"][0]["changed"], 4);
    assert_eq!(said["adapters"][0]["saved"].as_array().unwrap().len(), 4);
    let dropped = said["dropped"].as_array().unwrap();
    assert!(dropped.contains(&json!("cls.predictions.bias")), "{dropped:?}");
    assert_eq!(dropped.len(), types(&base("lora-over-mlm")).keys().filter(|name| name.starts_with("cls.")).count());
}

#[test]
fn several_adapters_become_one_checkpoint() {
    let place = place();
    let out = place.path().join("merged");
    let pair = |name: &str, scale: &str| format!("{}@{scale}", adapter("pairs").join(name).display());
    let mut arguments: Vec<std::ffi::OsString> = arguments!["merge", fixture("families/bert/base"), "-o", out].into();
    arguments.extend(arguments!["--adapter", pair("a", "0.7"), "--adapter", pair("b", "0.6"), "--json"]);
    arguments.extend(arguments!["--combine", "ties", "--density", "0.5"]);
    let said = kilnc(arguments).expect(0).json();
    assert_eq!(said["combined"], "ties, density 0.5, majority by total");
    assert_eq!(said["adapters"][1]["scale"], 0.6);
    let parity = parity(&out, &adapter("combined").join("ties.safetensors"));
    assert!(parity.max_abs <= 1e-4, "{parity:?}");
}

#[test]
fn the_bases_element_types_stay_or_all_are_one() {
    let place = place();
    let half = fixture("families/bert/seqcls-f16");
    let lora = adapter("lora");
    for (dtype, expected) in [(None, "f16"), (Some("bf16"), "bf16"), (Some("fp32"), "f32")] {
        let out = place.path().join(expected);
        let mut arguments: Vec<std::ffi::OsString> = arguments!["merge", half, "--adapter", lora, "-o", out].into();
        if let Some(dtype) = dtype {
            arguments.extend(arguments!["--dtype", dtype]);
        }
        kilnc(arguments).expect(0);
        assert!(types(&out).values().all(|ty| ty.starts_with(&format!("{expected}["))), "{:?}", types(&out));
        let summary =
            ["float16", "bfloat16", "float32"][["f16", "bf16", "f32"].iter().position(|t| *t == expected).unwrap()];
        assert_eq!(read(&out.join("config.json"))["dtype"], summary);
    }
}

#[test]
fn long_weights_are_shared_out() {
    let place = place();
    let (whole, out) = (place.path().join("whole"), place.path().join("shards"));
    merge("lora", &whole);
    let (base, lora) = (base("lora"), adapter("lora"));
    kilnc(arguments!["merge", base, "--adapter", lora, "-o", out, "--max-shard-size", "9KB"]).expect(0);
    let shards = names(&out);
    assert!(shards.contains(&"model.safetensors.index.json".to_owned()), "{shards:?}");
    assert!(shards.contains(&"model-00001-of-00003.safetensors".to_owned()), "{shards:?}");
    assert_eq!(types(&out), types(&whole));
    let parity = parity(&out, &lora.join("golden.safetensors"));
    assert!(parity.max_abs <= 1e-4, "{parity:?}");
}

#[test]
fn labels_and_tokenizer_come_along() {
    let place = place();
    let out = place.path().join("merged");
    let labels = place.path().join("labels.json");
    fs::write(&labels, r#"["games", "mail", "sound"]"#).unwrap();
    let (base, lora) = (fixture("tiny-bert-base"), fixture("tiny-lora"));
    let arguments = arguments!["merge", base, "--adapter", lora, "--labels", labels, "-o", out];
    kilnc(arguments.clone()).expect(0);
    let config = read(&out.join("config.json"));
    assert_eq!(config["id2label"], json!({"0": "games", "1": "mail", "2": "sound"}));
    assert_eq!(config["label2id"], json!({"games": 0, "mail": 1, "sound": 2}));
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"] {
        assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(base.join(file)).unwrap(), "{file}");
    }
    let parity = parity(&out, &lora.join("golden.safetensors"));
    assert!(parity.max_abs <= 1e-4, "{parity:?}");

    // An adapter that was saved with its tokenizer was trained with that one.
    let own = copied("tiny-lora");
    fs::write(own.path().join("tokenizer.json"), "{}").unwrap();
    kilnc(arguments!["merge", base, "--adapter", own.path(), "-o", out]).expect(0);
    assert_eq!(fs::read_to_string(out.join("tokenizer.json")).unwrap(), "{}");
    assert!(!out.join("vocab.txt").exists());

    fs::write(&labels, r#"["games", "mail"]"#).unwrap();
    let ran = kilnc(arguments).expect(2);
    assert!(ran.stderr.contains("2 labels, but the classifier has 3 classes"), "{}", ran.stderr);
}

#[test]
fn only_what_kilnc_wrote_is_replaced() {
    let place = place();
    let out = place.path().join("merged");
    merge("lora", &out);
    let before = fs::read(out.join("model.safetensors")).unwrap();
    merge("dora", &out);
    assert_ne!(fs::read(out.join("model.safetensors")).unwrap(), before);
    merge("lora", &out);
    assert_eq!(fs::read(out.join("model.safetensors")).unwrap(), before);

    fs::write(out.join("README.md"), "mine").unwrap();
    let arguments = arguments!["merge", base("lora"), "--adapter", adapter("lora"), "-o", out];
    let ran = kilnc(arguments).expect(2);
    assert!(ran.stderr.contains("is a folder that kilnc did not make"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(out.join("README.md")).unwrap(), "mine");
    let copy = copied("tiny-bert");
    let ran = kilnc(arguments!["merge", copy.path(), "-o", copy.path()]).expect(2);
    assert!(ran.stderr.contains(" would replace the input "), "{}", ran.stderr);
    assert_eq!(names(place.path()), ["merged"]);
}

#[test]
fn a_merge_that_fails_leaves_nothing() {
    let place = place();
    let out = place.path().join("merged");
    let over = copied("adapters/lora-features");
    crate::common::edit(&over.path().join("adapter_config.json"), "\"lora_alpha\": 8", "\"lora_alpha\": 1e38");
    let mut arguments: Vec<std::ffi::OsString> = arguments!["merge", fixture("families/bert/base"), "-o", out].into();
    for _ in 0..8 {
        arguments.extend(arguments!["--adapter", format!("{}@10", over.path().display())]);
    }
    let ran = kilnc(arguments).expect(2);
    assert!(ran.stderr.contains("holds NaN or infinity after the merge"), "{}", ran.stderr);
    let wrong = fixture("wrong-base-lora");
    kilnc(arguments!["merge", fixture("tiny-bert-base"), "--adapter", wrong, "-o", out]).expect(2);
    assert!(names(place.path()).is_empty(), "{:?}", names(place.path()));
}

#[test]
fn a_model_of_sentence_transformers_stays_one() {
    let place = place();
    let out = place.path().join("merged");
    kilnc(arguments!["merge", crate::common::minilm(), "--dtype", "fp16", "-o", out]).expect(0);
    let checkpoint = Checkpoint::open(&out).unwrap();
    let modules = |checkpoint: Checkpoint| checkpoint.sentence.unwrap().modules;
    assert_eq!(modules(checkpoint), modules(Checkpoint::open(&crate::common::minilm()).unwrap()));
    assert!(out.join("1_Pooling/config.json").is_file());
    let lora = repository("models/sections-lora");
    let said =
        kilnc(arguments!["merge", crate::common::minilm(), "--adapter", lora, "-o", out, "--json"]).expect(0).json();
    assert_eq!(said["architecture"], "BertForSequenceClassification");
    assert!(Checkpoint::open(&out).unwrap().sentence.is_none());
}

/// A checkpoint cannot hold nodes: writing the tensors alone would lose their effect.
#[test]
fn changes_beyond_weights_are_not_merged() {
    let hub = |name: &str| fixture("adapters-bottleneck/bert/base").join(name);
    let base = fixture("families/bert/base");
    for (name, what) in [("houlsby", "the bottleneck adapter of houlsby"), ("lora", "the flexible head of lora")] {
        let place = place();
        let ran = kilnc(arguments!["merge", base, "--adapter", hub(name), "-o", place.path().join("out"), "--quiet"]);
        assert_eq!(
            ran.expect(2).stderr,
            format!(
                "error: {what} is no change of weights\n\n\
                 hint: build or export with it instead: its nodes go into the graph\n"
            )
        );
        assert!(names(place.path()).is_empty());
    }
}
