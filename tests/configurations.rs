//! Configurations as `transformers` 5 and 4 write them, and as people leave parts of them out: the same graph for the same
//! task, or a refusal by name. That these graphs give PyTorch's outputs is checked by `tests/families.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{fixture, kilnc, names, place};
use kilnc::build::{self, Source};
use kilnc::task::Task;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

type Fields = Map<String, Value>;

fn read(path: &Path) -> Fields {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Fields by family or folder, as `make_configs.py` wrote them.
fn written(name: &str) -> BTreeMap<String, Fields> {
    let read = |place| -> BTreeMap<String, Fields> {
        serde_json::from_str(&fs::read_to_string(fixture(place).join(name)).unwrap()).unwrap()
    };
    PLACES.into_iter().flat_map(read).collect()
}

/// A fixture with another configuration.
fn with_config(folder: &Path, config: &Fields) -> TempDir {
    let copy = place();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        fs::copy(&entry, copy.path().join(entry.file_name().unwrap())).unwrap();
    }
    fs::write(copy.path().join("config.json"), serde_json::to_string_pretty(config).unwrap()).unwrap();
    copy
}

/// The task and the graph, or the error; and the warnings.
fn loaded(checkpoint: &Path, task: Option<Task>) -> (Result<(Task, String), String>, Vec<String>) {
    let source = Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task };
    match build::load(&source) {
        Ok(model) => (Ok((model.task, model.graph().to_string())), build::warnings(&model)),
        Err(e) => (Err(e.to_string()), Vec::new()),
    }
}

/// Where the fixtures of families are.
const PLACES: [&str; 2] = ["families", "decoders"];

/// Fixtures that are refused.
const NOT_BUILT: [&str; 1] = ["lm-cross"];

/// The fixture `family/head`.
fn of_family(folder: &str) -> PathBuf {
    PLACES.map(|place| fixture(place).join(folder)).into_iter().find(|path| path.is_dir()).unwrap()
}

/// Every fixture of a family, as `family/head`.
fn fixtures() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for root in PLACES.map(fixture) {
        for family in names(&root).into_iter().filter(|name| root.join(name).is_dir()) {
            for head in names(&root.join(&family)) {
                let path = root.join(&family).join(&head);
                if path.join("config.json").is_file() && !NOT_BUILT.contains(&head.as_str()) {
                    found.push((format!("{family}/{head}"), path));
                }
            }
        }
    }
    assert!(found.len() > 100, "the fixtures are not there");
    found
}

#[test]
fn every_family_is_read_as_version_5_saves_it() {
    let configs = written("configs-5.json");
    let families: Vec<&str> = configs.keys().filter_map(|folder| folder.strip_suffix("/base")).collect();
    assert_eq!(families.len(), kilnc::front::hub::arch::FAMILIES.len(), "{families:?}");
    let refused = |folder: &str| NOT_BUILT.iter().any(|head| folder.ends_with(head));
    for (folder, config) in configs.iter().filter(|(folder, _)| !refused(folder)) {
        assert_eq!(config["transformers_version"], "5.24.0");
        let path = of_family(folder);
        let expected = loaded(&path, None);
        assert!(expected.0.is_ok() && expected.1.is_empty(), "{folder}: {expected:?}");
        assert_eq!(loaded(with_config(&path, config).path(), None), expected, "{folder}");
        // Fields of version 5 alone: the older ones may be missing.
        let newer = config.iter().filter(|(name, _)| *name != "global_attn_every_n_layers");
        let newer: Fields = newer.map(|(name, value)| (name.clone(), value.clone())).collect();
        assert_eq!(loaded(with_config(&path, &newer).path(), None), expected, "{folder}");
    }
}

#[test]
fn missing_fields_of_a_configuration_are_as_in_its_class() {
    for version in ["defaults-4.json", "defaults-5.json"] {
        let defaults = written(version);
        for (name, path) in fixtures() {
            let config = read(&path.join("config.json"));
            let Some(class) = defaults.get(name.split_once('/').unwrap().0) else {
                assert!(name.starts_with("ministral3/") && version == "defaults-4.json", "{name}");
                continue;
            };
            let said = |(field, value): &(&String, &Value)| {
                ["model_type", "architectures"].contains(&field.as_str()) || class.get(*field) != Some(value)
            };
            let short: Fields = config.iter().filter(said).map(|(name, value)| (name.clone(), value.clone())).collect();
            assert!(short.len() < config.len(), "{name}");
            assert_eq!(loaded(with_config(&path, &short).path(), None), loaded(&path, None), "{name}, {version}");
        }
    }
}

#[test]
fn a_checkpoint_without_a_class_is_known_by_its_head() {
    let mut invoked = Vec::new();
    for (name, path) in fixtures() {
        let mut config = read(&path.join("config.json"));
        config.remove("architectures").unwrap();
        let copy = with_config(&path, &config);
        let (expected, _) = loaded(&path, None);
        match loaded(copy.path(), None) {
            (Err(said), _) => {
                let task = expected.as_ref().unwrap().0;
                let flag = format!("--task {task}");
                assert!(said.starts_with("the weights may be those of several models: "), "{name}: {said}");
                assert!(said.lines().last().unwrap().contains(&flag), "{name}: {said}");
                assert_eq!(loaded(copy.path(), Some(task)).0, expected, "{name}");
                invoked.push(name);
            }
            (found, _) => assert_eq!(found, expected, "{name}"),
        }
    }
    // A head of three tasks, and names that a language model's file may have too.
    let expected = ["modernbert/qa", "modernbert/seqcls", "modernbert/seqcls-mean", "modernbert/tokcls"];
    let bare = [
        "bloom/base",
        "cohere/base",
        "gemma/base",
        "gemma2/base",
        "gemma3_text/base",
        "gpt2/base",
        "gpt2/lm-bare",
        "lfm2/base",
        "openai-gpt/base",
        "openai-gpt/lm-bare",
        "opt/base",
        "opt/lm-bare",
        "smollm3/base",
        "starcoder2/base",
    ];
    assert_eq!(invoked, [expected.as_slice(), &bare].concat());
}

/// The binary's error for a fixture after its configuration was changed; nothing may be written.
fn refusal(folder: &str, change: impl FnOnce(&mut Fields)) -> String {
    let path = fixture(folder);
    let mut config = read(&path.join("config.json"));
    change(&mut config);
    let (copy, out) = (with_config(&path, &config), place());
    let ran = kilnc(arguments!["build", copy.path(), "-o", out.path().join("new.kiln"), "--quiet"]).expect(2);
    assert!(names(out.path()).is_empty(), "{:?}", names(out.path()));
    ran.stderr
}

#[test]
fn classes_that_are_not_built_are_refused_by_name() {
    let classes = [
        ("bert", "seqcls-one", "BertForMultipleChoice"),
        ("bert", "base", "BertForNextSentencePrediction"),
        ("bert", "mlm", "BertForPreTraining"),
        ("bert", "mlm", "BertLMHeadModel"),
        ("albert", "mlm", "AlbertForPreTraining"),
        ("camembert", "mlm", "CamembertForCausalLM"),
        ("deberta-v2", "seqcls", "DebertaV2ForMultipleChoice"),
        ("distilbert", "seqcls", "DistilBertForMultipleChoice"),
        ("electra", "base", "ElectraForPreTraining"),
        ("modernbert", "tokcls", "ModernBertForMultipleChoice"),
        ("mpnet", "tokcls", "MPNetForMultipleChoice"),
        ("roberta", "mlm", "RobertaForCausalLM"),
        ("xlm-roberta", "seqcls", "XLMRobertaForMultipleChoice"),
        ("xlnet", "base", "XLNetLMHeadModel"),
        ("xlnet", "qa", "XLNetForQuestionAnswering"),
        ("bert", "seqcls", "JinaBertForSequenceClassification"),
    ];
    for (family, head, class) in classes {
        let said = refusal(&format!("families/{family}/{head}"), |config| {
            config.insert("architectures".to_owned(), json!([class]));
        });
        let expected = format!("error: the class `{class}` is not built\n  in config.json: architectures\n\nhint: of ");
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.contains("--task feature-extraction builds the encoder alone"), "{said}");
        assert_eq!(said.contains("--task fill-mask"), head == "mlm", "{said}");
    }
    let own = json!({"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Classifier"});
    let said = refusal("families/bert/seqcls", |config| {
        config.remove("architectures");
        config.insert("auto_map".to_owned(), own.clone());
    });
    assert!(said.starts_with("error: the class `own.Classifier` is not built\n"), "{said}");
}

#[test]
fn a_requested_task_overrides_the_class() {
    let path = fixture("families/bert/mlm");
    let mut config = read(&path.join("config.json"));
    config.insert("architectures".to_owned(), json!(["BertForPreTraining"]));
    let copy = with_config(&path, &config);
    assert_eq!(loaded(copy.path(), Some(Task::FillMask)).0, loaded(&path, None).0);
    let (found, warnings) = loaded(copy.path(), Some(Task::FeatureExtraction));
    assert_eq!(found.unwrap().0, Task::FeatureExtraction);
    assert!(warnings[0].contains("does not use `cls.predictions."), "{warnings:?}");
}

#[test]
fn options_that_would_change_the_outputs_are_refused_by_field() {
    let cases = [
        ("bert/seqcls", "is_decoder", json!(true), "an encoder used as a decoder is not built"),
        ("albert/seqcls", "add_cross_attention", json!(true), "an encoder used as a decoder is not built"),
        ("deberta-v2/seqcls", "is_encoder_decoder", json!(true), "an encoder used as a decoder is not built"),
        ("roberta/seqcls", "position_embedding_type", json!("alibi"), "only absolute positions are built"),
        ("electra/seqcls", "position_embedding_type", json!(null), "only absolute positions are built"),
        ("distilbert/seqcls", "pruned_heads", json!({"0": [1]}), "heads that are cut while the model is loaded"),
        ("mpnet/seqcls", "relative_attention_num_buckets", json!(16), "only 32 buckets of distances are built"),
        ("modernbert/seqcls", "layer_types", json!(["conv"]), "1 kinds for 4 layers"),
        ("xlnet/seqcls", "attn_type", json!("uni"), "only `bi` is"),
    ];
    for (folder, field, value, expected) in cases {
        let said = refusal(&format!("families/{folder}"), |config| {
            config.insert(field.to_owned(), value);
        });
        assert!(said.starts_with(&format!("error: {expected}")), "{said}");
        assert!(said.contains(&format!("\n  in config.json: {field}\n")), "{said}");
    }
    for (family, field) in [("bert", "hidden_act"), ("distilbert", "activation"), ("modernbert", "hidden_activation")] {
        let said = refusal(&format!("families/{family}/seqcls"), |config| {
            config.insert(field.to_owned(), json!("mish"));
        });
        assert!(said.starts_with(&format!("error: config.json: {field}: unknown variant `mish`")), "{said}");
    }
    let yarn = json!({"full_attention": {"rope_type": "yarn", "factor": 2.0}, "sliding_attention": null});
    let said = refusal("families/modernbert/seqcls", |config| {
        config.insert("rope_parameters".to_owned(), yarn);
    });
    assert!(said.contains("`factor` is not built") || said.contains("the type \"yarn\" are not built"), "{said}");
}

#[test]
fn fields_that_contradict_each_other_are_named() {
    let said = refusal("families/distilbert/seqcls", |config| {
        config.insert("num_hidden_layers".to_owned(), json!(3));
    });
    assert!(said.starts_with("error: `num_hidden_layers` 3 and `n_layers` 2 contradict each other\n"), "{said}");
    let said = refusal("families/modernbert/seqcls", |config| {
        config.insert(
            "layer_types".to_owned(),
            json!(["full_attention", "full_attention", "full_attention", "full_attention"]),
        );
    });
    assert!(said.starts_with("error: `global_attn_every_n_layers` 2 and `layer_types` "), "{said}");
    let said = refusal("families/modernbert/mlm-biases", |config| {
        config.insert("mlp_bias".to_owned(), json!(false));
    });
    let expected = "error: `mlp_bias` is false, but `model.layers.0.mlp.Wo.bias` is there\n  in config.json\n";
    assert!(said.starts_with(expected), "{said}");
    let said = refusal("families/modernbert/seqcls", |config| {
        config.insert("norm_bias".to_owned(), json!(true));
    });
    assert!(said.starts_with("error: `norm_bias` is true, but `model.final_norm.bias` is missing\n"), "{said}");
}

#[test]
fn code_of_a_models_own_is_warned_of_where_its_class_is_a_known_one() {
    let path = fixture("families/bert/seqcls");
    let mut config = read(&path.join("config.json"));
    config.insert("auto_map".to_owned(), json!({"AutoModel": "own.Model", "AutoTokenizer": ["a", null]}));
    let (found, warnings) = loaded(with_config(&path, &config).path(), None);
    assert_eq!(found, loaded(&path, None).0);
    let expected =
        "config.json names its own code (auto_map: own.Model), which is never run; the model is built as a bert";
    assert_eq!(warnings, [expected]);
}

#[test]
fn there_is_no_warning_of_an_unread_pooler() {
    let (out, place) = (fixture("sentence/mean"), place());
    let ran = kilnc(arguments!["export", out, "-o", place.path().join("model.onnx")]).expect(0);
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
}
