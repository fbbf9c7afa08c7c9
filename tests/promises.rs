//! Adapters whose configuration says more than their file holds, or what kilnc does not know; adapters under names that
//! are not PEFT's, and at paths of a model.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{copied, edit, fixture, jsonl, kilnc, names, place};
use kilnc::build::{self, Source};
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::front::hub::checkpoint::read_weights;
use kilnc::task::Task;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The checkpoint that an adapter of the fixtures was trained on.
fn base(adapter: &Path) -> PathBuf {
    let config = json_of(&adapter.join("adapter_config.json"));
    fixture("families").join(config["base_model_name_or_path"].as_str().unwrap())
}

/// Writes a file of tensors again, with other names or without some. A pickle becomes a file of the other kind.
fn rename(path: &Path, name: impl Fn(&str) -> Option<String>) {
    let tensors = read_weights(path).unwrap();
    let kept = tensors.iter().filter_map(|(old, weight)| Some((name(old)?, weight)));
    let kept: Vec<_> = kept
        .map(|(name, weight)| {
            let values = weight.to_f32s().unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, weight.shape().to_vec(), bytes)
        })
        .collect();
    let views = kept.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let written = safetensors::serialize(views, None).unwrap();
    fs::remove_file(path).unwrap();
    let path = match path.file_name().unwrap().to_str().unwrap() {
        "pytorch_adapter.bin" => path.with_file_name("adapter.safetensors"),
        "pytorch_model_head.bin" => path.with_file_name("model_head.safetensors"),
        _ => path.to_owned(),
    };
    fs::write(path, written).unwrap();
}

/// An adapter of the fixtures in its own folder.
struct Copy(tempfile::TempDir, PathBuf);

impl Copy {
    fn of(name: &str) -> Copy {
        let copy = copied(&format!("adapters/{name}"));
        let base = base(copy.path());
        Copy(copy, base)
    }

    fn over(mut self, base: &str) -> Copy {
        self.1 = fixture("families").join(base);
        self
    }

    fn named(self, name: impl Fn(&str) -> Option<String>) -> Copy {
        rename(&self.0.path().join("adapter_model.safetensors"), name);
        self
    }

    /// Without the tensors whose names fit.
    fn without(self, fits: impl Fn(&str) -> bool) -> Copy {
        self.named(|name| (!fits(name)).then(|| name.to_owned()))
    }

    fn set(self, field: &str, value: Value) -> Copy {
        let path = self.0.path().join("adapter_config.json");
        let mut config = json_of(&path);
        config[field] = value;
        fs::write(path, config.to_string()).unwrap();
        self
    }

    fn load(&self, task: Option<Task>) -> kilnc::Result<build::Model> {
        let adapters = vec![AdapterSource { dir: self.0.path().to_owned(), scale: 1.0 }];
        build::load(&Source { checkpoint: self.1.clone(), adapters, combine: None, task })
    }

    /// The warnings where the model is built all the same. Names of folders are left out.
    fn warnings(&self) -> Vec<String> {
        let name = format!("{}: ", self.0.path().file_name().unwrap().to_str().unwrap());
        let model = self.load(None).unwrap_or_else(|e| panic!("{e}"));
        model.warnings.into_iter().map(|line| line.strip_prefix(&name).unwrap().to_owned()).collect()
    }

    /// The message of a refusal and its innermost location.
    fn refusal(&self) -> String {
        let error = self.load(None).err().expect("it was not refused");
        assert_eq!(error.exit_code(), 2, "{error}");
        format!("{} | {}", error.message(), error.locations()[0])
    }
}

#[test]
fn pefts_own_files_cause_no_warning() {
    let all = names(&fixture("adapters"));
    let all = all.iter().filter(|name| fixture("adapters").join(name).join("golden.safetensors").is_file());
    let mut checked = 0;
    for name in all {
        assert_eq!(Copy::of(name).warnings(), [""; 0], "{name}");
        checked += 1;
    }
    assert!(checked > 50, "the fixtures are not there");
}

#[test]
fn a_head_that_was_lost_is_refused_by_name() {
    let is_head = |name: &str| name.contains(".classifier.");
    // The base has none, so there is nothing that could replace it.
    assert_eq!(
        Copy::of("lora").without(is_head).refusal(),
        "the file holds no tensor of `classifier` or `score`, and the base model has none | \
         adapter_config.json: modules_to_save"
    );
    // The base has one, which the adapter was not trained with.
    let lost = |tensor: &str, field: &str| {
        format!("the file holds no `{tensor}`, which the configuration says was trained | adapter_config.json: {field}")
    };
    for (name, over) in [
        ("lora", "bert/seqcls"),
        ("dora", "bert/seqcls"),
        ("ia3", "bert/seqcls"),
        ("loha", "bert/seqcls"),
        ("lokr", "bert/seqcls"),
        ("vera", "bert/seqcls"),
        ("adalora", "bert/seqcls"),
        ("ln-tuning", "bert/seqcls"),
        ("lora-tokcls", "bert/tokcls"),
    ] {
        let adapter = Copy::of(name).over(over).without(is_head);
        assert_eq!(adapter.refusal(), lost("classifier.bias", "modules_to_save"), "{name}");
        // Tensors that the graph does not read cannot change its outputs.
        adapter.load(Some(Task::FeatureExtraction)).unwrap();
    }
    let one = Copy::of("lora").over("bert/seqcls").without(|name| name.ends_with(".classifier.weight"));
    assert_eq!(one.refusal(), lost("classifier.weight", "modules_to_save"));
    let spans = Copy::of("lora-qa").over("bert/qa").without(|name| name.contains(".qa_outputs."));
    assert_eq!(spans.refusal(), lost("qa_outputs.bias", "modules_to_save"));
    let roberta = Copy::of("roberta-lora").over("roberta/seqcls").without(|name| name.contains(".classifier.dense."));
    assert_eq!(roberta.refusal(), lost("classifier.dense.bias", "modules_to_save"));
    // PEFT compares the ends of names, so that it saves this one too.
    let distilbert =
        Copy::of("distilbert-ia3").over("distilbert/seqcls").without(|name| name.contains(".pre_classifier."));
    assert_eq!(distilbert.refusal(), lost("pre_classifier.bias", "modules_to_save"));
    let pooler = Copy::of("lora-saved").without(|name| name.contains(".pooler."));
    assert_eq!(pooler.refusal(), lost("bert.pooler.dense.bias", "modules_to_save"));
}

#[test]
fn biases_that_were_lost_are_refused_by_name() {
    let lost = |tensor: &str| {
        format!("the file holds no `{tensor}`, which the configuration says was trained | adapter_config.json: bias")
    };
    let is_norm = |name: &str| name.contains(".embeddings.LayerNorm.bias");
    assert_eq!(Copy::of("lora-bias-all").without(is_norm).refusal(), lost("bert.embeddings.LayerNorm.bias"));
    let query = "bert.encoder.layer.1.attention.self.query.bias";
    let is_query = |name: &str| name.contains(".layer.1.attention.self.query") && name.ends_with(".bias");
    assert_eq!(Copy::of("lora-bias-only").without(is_query).refusal(), lost(query));
    for name in ["lora", "adalora", "vera"] {
        let said = Copy::of(name).set("bias", json!("all")).refusal();
        assert_eq!(said, lost("bert.embeddings.LayerNorm.bias"), "{name}");
    }
    assert_eq!(
        Copy::of("lora").set("bias", json!("some")).refusal(),
        "unknown value `some`; known: none, all, lora_only | adapter_config.json: bias"
    );
}

#[test]
fn rows_of_tokens_that_were_lost_are_refused() {
    let is_row = |name: &str| name.contains("trainable_tokens_delta");
    let none = |of: &str, field: &str| format!("the file holds no rows of tokens{of} | adapter_config.json: {field}");
    let field = "trainable_token_indices";
    assert_eq!(Copy::of("lora-tokens").without(is_row).refusal(), none(" of `word_embeddings`", field));
    assert_eq!(Copy::of("lora-tokens-list").without(is_row).refusal(), none("", field));
    assert_eq!(Copy::of("lora-tokens-mlm").without(is_row).refusal(), none(" of `word_embeddings`", field));
    let also = json!({"word_embeddings": [2, 11, 7], "position_embeddings": [1]});
    assert_eq!(
        Copy::of("lora-tokens").set(field, also).refusal(),
        "the file holds no `bert.embeddings.position_embeddings.weight`, which the configuration says was trained | \
         adapter_config.json: trainable_token_indices"
    );
}

/// Every kind that changes modules, and what its tensors are called.
const KINDS: [(&str, &str); 8] = [
    ("lora", "lora_"),
    ("dora", "lora_"),
    ("adalora", "lora_"),
    ("ia3", "ia3_"),
    ("ln-tuning", "ln_tuning_"),
    ("loha", "hada_"),
    ("lokr", "lokr_"),
    ("vera", "vera_lambda"),
];

#[test]
fn modules_that_were_lost_are_named() {
    for (name, marker) in KINDS {
        let adapter = Copy::of(name);
        let kind = json_of(&adapter.0.path().join("adapter_config.json"))["peft_type"].as_str().unwrap().to_owned();
        let said = adapter.without(|name| name.contains(marker)).refusal();
        assert!(
            said.starts_with(&format!("the file holds no {kind} tensors, and the configuration names `")),
            "{said}"
        );
        assert!(said.ends_with(" | adapter_config.json: target_modules"), "{said}");
        let said = Copy::of(name).without(|name| name.contains(".layer.1.") && name.contains(marker)).warnings();
        assert_eq!(said.len(), 1, "{name}: {said:?}");
        assert!(
            said[0].starts_with("target_modules in adapter_config.json names `bert.encoder.layer.1."),
            "{name}: {said:?}"
        );
    }
    // Every linear layer, and layers by number.
    let all = Copy::of("lora").set("target_modules", json!("all-linear"));
    assert!(
        all.warnings()[0].contains("names `bert.encoder.layer.0.attention.output.dense` and 7 more"),
        "{:?}",
        all.warnings()
    );
    let layers = Copy::of("lora-layers").without(|name| name.contains("intermediate"));
    assert!(
        layers.warnings()[0].contains("names `bert.encoder.layer.1.intermediate.dense`"),
        "{:?}",
        layers.warnings()
    );
    let norm = Copy::of("ln-tuning").without(|name| name.ends_with("layer.0.output.LayerNorm.ln_tuning_layers.bias"));
    assert!(norm.refusal().starts_with("ln_tuning_layers.bias is missing | adapter_model.safetensors: "));
}

#[test]
fn options_that_are_on_and_not_known_are_named() {
    for (name, _) in KINDS.iter().chain(&[("tokens", "")]) {
        let kind = json_of(&fixture("adapters").join(name).join("adapter_config.json"))["peft_type"].clone();
        let said = format!(
            "adapter_config.json sets `some_option`, an option of {} that PEFT 0.21.2 does not know: the predictions may be \
             others",
            kind.as_str().unwrap()
        );
        assert_eq!(Copy::of(name).set("some_option", json!(true)).warnings(), [said], "{name}");
        assert_eq!(Copy::of(name).set("some_option", json!(false)).warnings(), [""; 0], "{name}");
    }
    // Every command with adapters prints it.
    let (adapter, place) = (Copy::of("lora").set("some_option", json!({"x": 1})), place());
    let (base, dir) = (&adapter.1, adapter.0.path());
    for arguments in [
        arguments!["merge", base, "--adapter", dir, "-o", place.path().join("merged")].to_vec(),
        arguments!["export", base, "--adapter", dir, "-o", place.path().join("model.onnx")].to_vec(),
        arguments!["export", base, "--adapter", dir, "--adapter-as-input", "-o", place.path().join("base.onnx")]
            .to_vec(),
    ] {
        let ran = kilnc(arguments).expect(0);
        assert!(ran.stderr.contains("warning") && ran.stderr.contains("`some_option`"), "{}", ran.stderr);
    }
}

#[test]
fn names_with_a_prefix_too_many_are_refused_by_it() {
    let said = |prefix: &str, once: &str| {
        format!(
            "every name begins with `{prefix}`, and PEFT puts `base_model.model.` before the names of the model{once} | \
             adapter_model.safetensors"
        )
    };
    for name in ["lora", "ia3", "loha", "ln-tuning", "adalora"] {
        let with = |prefix: &'static str| Copy::of(name).named(|name| Some(format!("{prefix}{name}"))).refusal();
        assert_eq!(with("base_model.model."), said("base_model.model.base_model.model.", " once"), "{name}");
        assert_eq!(with("module."), said("module.base_model.model.", ""), "{name}");
        assert_eq!(with("_orig_mod."), said("_orig_mod.base_model.model.", ""), "{name}");
        let inside = |word: &'static str| {
            let put = |name: &str| Some(name.replace("base_model.model.", &format!("base_model.model.{word}")));
            Copy::of(name).named(put).refusal()
        };
        assert_eq!(inside("module."), said("base_model.model.module.", ""), "{name}");
        assert_eq!(inside("_orig_mod."), said("base_model.model._orig_mod.", ""), "{name}");
        assert_eq!(inside("model."), said("base_model.model.model.", ""), "{name}");
    }
    let bare = Copy::of("lora").named(|name| Some(name.replace("base_model.model.", "")));
    assert!(bare.refusal().contains("does not begin with `base_model.model.` | "), "{}", bare.refusal());
    assert!(!bare.refusal().contains("trained on another model"));
    // AdapterHub's library puts nothing before the model's names.
    let hub = copied("adapters-bottleneck/bert/base/houlsby");
    rename(&hub.path().join("pytorch_adapter.bin"), |name| Some(format!("module.{name}")));
    let adapters = vec![AdapterSource { dir: hub.path().to_owned(), scale: 1.0 }];
    let source = Source { checkpoint: fixture("families/bert/base"), adapters, combine: None, task: None };
    let error = build::load(&source).err().unwrap();
    assert_eq!(error.message(), "every name begins with `module.`, which is not the model's");
}

#[test]
fn an_adapter_in_place_of_a_model_points_to_the_flag() {
    let (place, texts) = (place(), place());
    let (out, texts) = (place.path().join("out"), jsonl(texts.path()));
    let onnx = place.path().join("model.onnx");
    let hub = fixture("adapters-bottleneck/bert/base/houlsby");
    for (dir, model) in [(fixture("adapters/lora"), "bert/base"), (hub, "bert/base")] {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        for arguments in [
            arguments!["build", dir, "-o", out].to_vec(),
            arguments!["export", dir, "-o", onnx].to_vec(),
            arguments!["export", dir, "--adapter", dir, "--adapter-as-input", "-o", onnx].to_vec(),
            arguments!["merge", dir, "--adapter", dir, "-o", out].to_vec(),
            arguments!["prune", dir, "--heads", "0.25", "--calibration", texts, "-o", out].to_vec(),
            arguments!["tune", dir, "--max-drop", "0.1", "--calibration", texts, "-o", out].to_vec(),
        ] {
            let stderr = kilnc(&arguments).expect(2).stderr;
            assert!(stderr.contains(&format!("{name} holds an adapter and no model\n")), "{arguments:?}: {stderr}");
            let hint = format!(
                "hint: give the folder of its base model, `{model}`, and this one with --adapter: kilnc build BASE/ \
                 --adapter {name}/ -o OUT.kiln"
            );
            assert!(stderr.contains(&hint), "{arguments:?}: {stderr}");
            assert!(names(place.path()).is_empty());
        }
    }
}

/// `transformers` would load it over the base that it names.
#[test]
fn an_adapter_beside_a_model_is_named() {
    let both = copied("families/bert/base");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(fixture("adapters/lora").join(file), both.path().join(file)).unwrap();
    }
    let warnings = |adapters: Vec<AdapterSource>| {
        let source = Source { checkpoint: both.path().to_owned(), adapters, combine: None, task: None };
        build::load(&source).unwrap().warnings
    };
    let said = ["the checkpoint's folder also holds an adapter, which is not merged: --adapter takes it"];
    assert_eq!(warnings(Vec::new()), said);
    assert_eq!(warnings(vec![AdapterSource { dir: both.path().to_owned(), scale: 1.0 }]), [""; 0]);
    assert_eq!(warnings(vec![AdapterSource { dir: fixture("adapters/lora"), scale: 1.0 }]), said);
}

/// AdapterHub's LoRA says of which parts of which layers it was trained.
#[test]
fn adapterhubs_promises_are_kept_or_named() {
    let loaded = |damage: &dyn Fn(&Path)| {
        let copy = copied("adapters-bottleneck/bert/base/lora");
        damage(copy.path());
        let adapters = vec![AdapterSource { dir: copy.path().to_owned(), scale: 1.0 }];
        let source = Source { checkpoint: fixture("families/bert/base"), adapters, combine: None, task: None };
        build::load(&source).map(|model| model.warnings)
    };
    let without = |part: &'static str| {
        move |dir: &Path| {
            rename(&dir.join("pytorch_adapter.bin"), |name| (!name.contains(part)).then(|| name.to_owned()))
        }
    };
    assert_eq!(loaded(&|_| ()).unwrap(), [""; 0]);
    for (part, field, what) in [
        ("attention.self.query", "attn_matrices", "q"),
        ("intermediate", "intermediate_lora", "intermediate"),
        ("output.dense", "output_lora", "output"),
    ] {
        let error = loaded(&without(part)).unwrap_err();
        assert_eq!(error.message(), format!("the file holds nothing for `{what}`"));
        assert_eq!(error.locations()[0], format!("adapter_config.json: config.{field}"));
    }
    // The fixture leaves the second layer out; here it does not list it.
    let all = loaded(&|dir| {
        let path = dir.join("adapter_config.json");
        let mut config = json_of(&path);
        config["config"]["leave_out"] = json!([]);
        fs::write(path, config.to_string()).unwrap();
    });
    let said = all.unwrap();
    assert!(said[0].contains("names `bert.encoder.layer.1.attention.self.key` and 4 more"), "{said:?}");
    for (value, known) in [(json!(true), false), (json!(null), true), (json!(false), true)] {
        let tried = loaded(&|dir| {
            let path = dir.join("adapter_config.json");
            let mut config = json_of(&path);
            config["config"]["some_option"] = value.clone();
            fs::write(path, config.to_string()).unwrap();
        });
        match tried {
            Ok(_) => assert!(known, "{value}"),
            Err(error) => {
                assert!(!known, "{value}");
                assert_eq!(error.locations()[0], "adapter_config.json: config.some_option");
            }
        }
    }
}

/// sentence-transformers saves an adapter with its modules: those count, for every base.
#[test]
fn an_adapter_with_modules_of_its_own_is_used_with_them() {
    let pooling = |cls: bool| json!({"word_embedding_dimension": 32, "pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": !cls});
    let modules = |dir: &Path, cls: bool| {
        let list = json!([
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]);
        fs::create_dir_all(dir.join("1_Pooling")).unwrap();
        fs::write(dir.join("modules.json"), list.to_string()).unwrap();
        fs::write(dir.join("1_Pooling/config.json"), pooling(cls).to_string()).unwrap();
        fs::write(dir.join("sentence_bert_config.json"), r#"{"max_seq_length": 24}"#).unwrap();
    };
    let (base, adapter, place) = (copied("families/bert/base"), copied("adapters/lora-features"), place());
    let graph = |base: &Path, adapter: &Path| {
        let adapters = vec![AdapterSource { dir: adapter.to_owned(), scale: 1.0 }];
        build::load(&Source { checkpoint: base.to_owned(), adapters, combine: None, task: None }).unwrap()
    };
    assert_eq!(graph(base.path(), adapter.path()).task, Task::FeatureExtraction);
    modules(adapter.path(), true);
    let first = graph(base.path(), adapter.path());
    assert_eq!(first.task, Task::SentenceSimilarity);
    // Over those of the base.
    modules(base.path(), false);
    let same = graph(base.path(), adapter.path());
    assert_eq!(first.graph().to_string(), same.graph().to_string());
    fs::remove_file(adapter.path().join("modules.json")).unwrap();
    assert_ne!(first.graph().to_string(), graph(base.path(), adapter.path()).graph().to_string());
    modules(adapter.path(), true);
    let merged = place.path().join("merged");
    kilnc(arguments!["merge", base.path(), "--adapter", adapter.path(), "-o", merged]).expect(0);
    assert_eq!(json_of(&merged.join("1_Pooling/config.json")), pooling(true));
    let said = json_of(&merged.join("kilnc.json"));
    assert!(said["adapters"][0]["files"].to_string().contains("modules.json"), "{said}");
    // An engine for many adapters has one pooling.
    let ran = kilnc(arguments![
        "export",
        base.path(),
        "--adapter",
        adapter.path(),
        "--adapter-as-input",
        "-o",
        place.path().join("m.onnx")
    ]);
    assert!(ran.expect(2).stderr.contains("the adapter has its own modules"));
}

#[test]
fn a_part_of_a_tokenizer_is_named() {
    let adapter = Copy::of("lora");
    fs::write(adapter.0.path().join("added_tokens.json"), r#"{"[NEW]": 60}"#).unwrap();
    assert_eq!(
        adapter.warnings(),
        ["the folder holds added_tokens.json and no tokenizer.json: its tokenizer is not the one that is used"]
    );
    // One that says the same but for what only training needs may go with others.
    let (own, base, place) = (copied("tiny-lora"), fixture("tiny-bert-base"), place());
    let tokenizer = own.path().join("tokenizer.json");
    let mut fields = json_of(&base.join("tokenizer.json"));
    fields["truncation"] = json!({"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0});
    fs::write(&tokenizer, fields.to_string()).unwrap();
    let arguments =
        arguments!["export", base, "--adapter", own.path(), "--adapter-as-input", "-o", place.path().join("m.onnx")];
    kilnc(&arguments).expect(0);
    edit(&tokenizer, "\"lowercase\":true", "\"lowercase\":false");
    let ran = kilnc(&arguments).expect(2);
    assert!(ran.stderr.contains("the adapter has its own tokenizer"), "{}", ran.stderr);
}
