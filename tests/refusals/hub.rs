//! AdapterHub's adapters and heads that are damaged, that belong to another model, or of a kind that is not supported.

use std::path::Path;

use kilnc::build::{self, Model, Source};
use kilnc::error::Result;
use kilnc::front::hub::adapter::AdapterSource;
use serde_json::{Value, json};

use super::{Tensors, fixture, floats, write_json, write_tensors};

/// A bottleneck adapter and a head as AdapterHub saves them, over a tiny BERT.
struct Adapter {
    base: &'static str,
    config: Value,
    tensors: Tensors,
    head: Option<(Value, Tensors)>,
    scale: f32,
}

const DOWN: &str = "bert.encoder.layer.0.output.adapters.a.adapter_down.0.weight";
const UP: &str = "bert.encoder.layer.0.output.adapters.a.adapter_up.weight";

impl Adapter {
    fn sound() -> Adapter {
        let mut tensors = Tensors::new();
        for layer in 0..2 {
            let path = format!("bert.encoder.layer.{layer}.output.adapters.a");
            tensors.insert(format!("{path}.adapter_down.0.weight"), floats(&[8, 16], 0.1));
            tensors.insert(format!("{path}.adapter_down.0.bias"), floats(&[8], 0.1));
            tensors.insert(format!("{path}.adapter_up.weight"), floats(&[16, 8], 0.1));
            tensors.insert(format!("{path}.adapter_up.bias"), floats(&[16], 0.1));
        }
        Adapter {
            base: "families/bert/base",
            config: json!({"name": "a", "model_class": "BertAdapterModel", "version": "adapters.1.3.0", "config": {
                "mh_adapter": false, "output_adapter": true, "reduction_factor": 2, "non_linearity": "relu",
                "original_ln_before": true, "inv_adapter": null,
            }}),
            tensors,
            head: None,
            scale: 1.0,
        }
    }

    /// With a linear adapter instead, of rank 2 over one projection.
    fn lora() -> Adapter {
        let path = "bert.encoder.layer.0.attention.self.query.loras.a";
        let tensors = [("lora_A", floats(&[2, 16], 0.5)), ("lora_B", floats(&[16, 2], 0.25))];
        Adapter {
            config: json!({"name": "a", "model_class": "BertAdapterModel", "version": "adapters.1.3.0",
                "config": {"architecture": "lora", "r": 2, "alpha": 4, "composition_mode": "add"}}),
            tensors: tensors.map(|(name, tensor)| (format!("{path}.{name}"), tensor)).into(),
            ..Adapter::sound()
        }
    }

    fn with_head(mut self) -> Adapter {
        let config = json!({"name": "a", "model_class": "BertAdapterModel", "config": {
            "head_type": "classification", "layers": 1, "num_labels": 2, "use_pooler": false, "label2id": null,
        }});
        let tensors = [("heads.a.1.weight", floats(&[2, 16], 0.5)), ("heads.a.1.bias", floats(&[2], 0.5))];
        self.head = Some((config, tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into()));
        self
    }

    fn save(&self, dir: &Path) -> AdapterSource {
        write_json(&dir.join("adapter_config.json"), &self.config);
        write_tensors(&dir.join("adapter.safetensors"), &self.tensors);
        if let Some((config, tensors)) = &self.head {
            write_json(&dir.join("head_config.json"), config);
            write_tensors(&dir.join("model_head.safetensors"), tensors);
        }
        AdapterSource { dir: dir.to_owned(), scale: self.scale }
    }

    fn load(&self) -> Result<Model> {
        load(self.base, &[self])
    }
}

fn load(base: &str, adapters: &[&Adapter]) -> Result<Model> {
    let dirs: Vec<_> = adapters.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let adapters = adapters.iter().zip(&dirs).map(|(adapter, dir)| adapter.save(dir.path())).collect();
    build::load(&Source { checkpoint: fixture(base), adapters, combine: None, task: None })
}

/// The error for an adapter, without the folder's path.
fn said(loaded: Result<Model>) -> String {
    let error = loaded.err().expect("it was not refused");
    assert_eq!(error.exit_code(), 2, "{error}");
    let lines = error.to_string();
    let kept: Vec<&str> = lines.lines().filter(|line| !line.starts_with("  in /")).collect();
    kept.join("\n")
}

/// The error for the sound adapter after a change.
fn refusal(change: impl FnOnce(&mut Adapter)) -> String {
    let mut adapter = Adapter::sound();
    change(&mut adapter);
    said(adapter.load())
}

fn lora_refusal(change: impl FnOnce(&mut Adapter)) -> String {
    let mut adapter = Adapter::lora();
    change(&mut adapter);
    said(adapter.load())
}

fn head_refusal(change: impl FnOnce(&mut Value, &mut Tensors)) -> String {
    let mut adapter = Adapter::sound().with_head();
    let (config, tensors) = adapter.head.as_mut().unwrap();
    change(config, tensors);
    said(adapter.load())
}

fn with(option: &str, value: Value) -> impl FnOnce(&mut Adapter) {
    move |adapter| adapter.config["config"][option] = value
}

#[test]
fn sound_ones_are_built() {
    let model = Adapter::sound().with_head().load().unwrap();
    assert_eq!(model.task.name(), "text-classification");
    let (_, merged) = &model.merged[0];
    assert_eq!((merged.changed, merged.inserted, merged.saved.len()), (0, 8, 2));
    let (_, merged) = &Adapter::lora().load().unwrap().merged[0];
    assert_eq!((merged.changed, merged.inserted, merged.saved.len()), (1, 0, 0));
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    assert_eq!(
        refusal(|adapter| drop(adapter.tensors.insert(UP.to_owned(), floats(&[24, 8], 0.0)))),
        format!(
            "tensor `{UP}` has shape [24, 8], expected [16, 8]\n  in adapter.safetensors; the expectation comes from \
             `hidden_size` in config.json\n\nhint: the weights and config.json look like different models"
        )
    );
    assert_eq!(
        refusal(|adapter| drop(adapter.tensors.insert(DOWN.to_owned(), floats(&[4, 16], 0.0)))),
        format!(
            "tensor `{DOWN}` has shape [4, 16], expected [8, 16]\n  in adapter.safetensors; the expectation comes from \
             `config.reduction_factor` in adapter_config.json\n\n\
             hint: the weights and config.json look like different models"
        )
    );
    let missing = refusal(|adapter| drop(adapter.tensors.remove(UP)));
    assert!(missing.starts_with(&format!("tensor `{UP}` is missing\n")), "{missing}");
    assert_eq!(
        refusal(|adapter| drop(adapter.tensors.insert(UP.to_owned(), floats(&[16, 8], f32::NAN)))),
        format!("tensor `{UP}` holds NaN or infinity\n  in adapter.safetensors")
    );
    assert_eq!(
        refusal(|adapter| adapter.tensors.clear()),
        "the adapter changes nothing: it holds no tensors\n  in adapter.safetensors"
    );
    assert_eq!(
        refusal(|adapter| adapter.config["name"] = json!("b")),
        "tensor `bert.encoder.layer.0.output.adapters.a.adapter_down.0.bias` is not of the adapter `b`\n  \
         in adapter.safetensors"
    );
}

#[test]
fn tensors_that_belong_nowhere_are_refused() {
    let outside = UP.replace("layer.0", "layer.7");
    let no_place = |tensor: &str, family: &str| {
        format!(
            "tensor `{tensor}` of the adapter `a` belongs to no part of a {family} model by its configuration\n  \
             in adapter_config.json\n\n\
             hint: bottleneck adapters are supported in albert, bert, deberta-v2, distilbert, electra, roberta, xlm-roberta"
        )
    };
    let insert = |adapter: &mut Adapter| drop(adapter.tensors.insert(outside.clone(), floats(&[16, 8], 0.0)));
    assert_eq!(refusal(insert), no_place(&outside, "bert"));
    let left_out = "bert.encoder.layer.1.output.adapters.a.adapter_down.0.bias";
    assert_eq!(refusal(with("leave_out", json!([1]))), no_place(left_out, "bert"));
    let mpnet = "mpnet.bert.encoder.layer.0.output.adapters.a.adapter_down.0.bias";
    assert_eq!(refusal(|adapter| adapter.base = "families/mpnet/base"), no_place(mpnet, "mpnet"));
}

#[test]
fn unsupported_options_are_named() {
    let at = |option: &str| format!("\n  in adapter_config.json: config.{option}");
    assert_eq!(
        refusal(with("cross_adapter", json!(true))),
        format!("adapters after cross-attention are not supported{}", at("cross_adapter"))
    );
    assert_eq!(
        refusal(with("inv_adapter", json!("glow"))),
        format!("invertible adapters of the kind glow are not supported{}", at("inv_adapter"))
    );
    assert_eq!(
        refusal(with("inv_adapter", json!("real"))),
        format!("unknown kind `real`; known: nice{}", at("inv_adapter"))
    );
    assert_eq!(
        refusal(with("shift", json!(1))),
        format!("this option is unknown, and may change the predictions{}", at("shift"))
    );
    let activation = refusal(with("non_linearity", json!("mish")));
    assert!(
        activation.starts_with("the non-linearity `mish` is not supported\n  in adapter_config.json: "),
        "{activation}"
    );
    assert_eq!(
        refusal(|adapter| adapter.scale = 0.5),
        "a bottleneck adapter is not linear, so it cannot be taken 0.5 times\n\nhint: leave the factor out"
    );
}

#[test]
fn architectures_are_named() {
    let place = "\n  in adapter_config.json: config.architecture";
    for known in ["mtl_lora", "prefix_tuning", "prompt_tuning", "reft", "union"] {
        assert_eq!(
            refusal(with("architecture", json!(known))),
            format!(
                "adapters of the architecture {known} are not supported{place}\n\nhint: known: bottleneck adapters, lora"
            )
        );
    }
    assert_eq!(
        refusal(with("architecture", json!("lara"))),
        format!("unknown architecture `lara`{place}\n\nhint: did you mean lora?")
    );
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    let factor = |value: Value| refusal(with("reduction_factor", value));
    let place = "\n  in adapter_config.json: config.reduction_factor";
    assert_eq!(factor(json!(0)), format!("expected a number above 0, found 0{place}"));
    assert_eq!(factor(json!(-2)), format!("expected a number above 0, found -2{place}"));
    assert_eq!(factor(json!({"1": 2})), format!("layer 0 has none, and there is no default{place}"));
    assert_eq!(
        factor(json!("wide")),
        "adapter_config.json: config.reduction_factor: expected a number, or one for each layer"
    );
    assert_eq!(
        refusal(with("scaling", json!(1e300))),
        "1e300 is too large for f32\n  in adapter_config.json: config.scaling"
    );
    assert_eq!(
        refusal(with("scaling", json!("large"))),
        "expected a number, \"learned\" or \"channel\", found `large`\n  in adapter_config.json: config.scaling"
    );
    assert_eq!(
        refusal(|adapter| {
            adapter.config["config"]["original_ln_before"] = json!(false);
            adapter.config["config"]["residual_before_ln"] = json!("post_add");
        }),
        "\"post_add\" needs original_ln_before, which is off\n  in adapter_config.json: config.residual_before_ln"
    );
    assert_eq!(
        refusal(|adapter| {
            adapter.config["config"]["phm_layer"] = json!(true);
            adapter.config["config"]["phm_dim"] = json!(3);
        }),
        "3 does not divide 16 and 8\n  in adapter_config.json: config.phm_dim"
    );
    assert_eq!(
        refusal(|adapter| {
            adapter.config["config"]["phm_layer"] = json!(true);
            adapter.config["config"]["reduction_factor"] = json!(1e-7);
        }),
        "a product of 16 × 160000000 numbers is too large\n  in adapter_config.json: config.phm_dim"
    );
}

#[test]
fn stacks_that_make_no_sense_are_refused() {
    let sound = Adapter::sound();
    assert_eq!(
        said(load(sound.base, &[&sound, &sound])),
        "two adapters are called `a`\n\nhint: save one of them under another name"
    );
    let mut second = Adapter::lora();
    second.config["name"] = json!("b");
    second.tensors = second.tensors.into_iter().map(|(name, tensor)| (name.replace(".a.", ".b."), tensor)).collect();
    assert_eq!(
        said(load(sound.base, &[&Adapter::lora(), &second])),
        "`b` after `a`: AdapterHub feeds one LoRA into the next, which is not supported"
    );
    let mut invertible = Adapter::sound();
    invertible.config["config"]["inv_adapter"] = json!("nice");
    invertible.config["config"]["inv_adapter_reduction_factor"] = json!(2);
    assert_eq!(
        said(load(sound.base, &[&second, &invertible])),
        "only the first adapter of a stack can have an invertible part\n  in adapter_config.json: config.inv_adapter\n\n\
         hint: give this adapter first"
    );
    let (mut one, mut two) = (Adapter::sound().with_head(), Adapter::lora().with_head());
    one.config["name"] = json!("a");
    two.config["name"] = json!("a");
    assert_eq!(
        said(load(sound.base, &[&one, &two])),
        "two adapters have a head\n\nhint: remove head_config.json from one of them"
    );
}

#[test]
fn a_lora_that_does_not_fit_is_refused() {
    const QUERY: &str = "bert.encoder.layer.0.attention.self.query";
    let factor = |which: &str| format!("{QUERY}.loras.a.lora_{which}");
    assert_eq!(
        lora_refusal(with("r", json!(0))),
        "the rank must be 1 or more, found 0\n  in adapter_config.json: config.r"
    );
    assert_eq!(
        lora_refusal(with("r", json!(4))),
        format!("lora_A has shape [2, 16], but the configuration says rank 4\n  in {QUERY}")
    );
    assert_eq!(
        lora_refusal(|adapter| drop(adapter.tensors.remove(&factor("A")))),
        format!("lora_A is missing\n  in {QUERY}")
    );
    assert_eq!(
        lora_refusal(|adapter| drop(adapter.tensors.insert(factor("B"), floats(&[24, 2], 0.0)))),
        format!(
            "LoRA factors A [2, 16] and B [24, 2] do not fit a weight of shape [16, 16]\n  in {QUERY}\n\n\
             hint: the adapter was trained on another model"
        )
    );
    assert_eq!(
        lora_refusal(with("alpha", json!(1e300))),
        "the scale 1e300 / 2 · 1 is too large for f32\n  in adapter_config.json: config.alpha"
    );
    for (option, value) in
        [("use_gating", json!(true)), ("use_dora", json!(true)), ("vera_d", json!(0.1)), ("vera_b", json!(0.0))]
    {
        assert_eq!(
            lora_refusal(with(option, value)),
            format!("this option of AdapterHub's LoRA is not merged\n  in adapter_config.json: config.{option}")
        );
    }
    assert_eq!(
        lora_refusal(with("composition_mode", json!("sum"))),
        "unknown mode `sum`; known: add, scale\n  in adapter_config.json: config.composition_mode"
    );
    let outside = |key: &str| key.replace("layer.0", "layer.7");
    assert_eq!(
        lora_refusal(|adapter| {
            let tensors = std::mem::take(&mut adapter.tensors);
            adapter.tensors = tensors.into_iter().map(|(key, tensor)| (outside(&key), tensor)).collect();
        }),
        format!(
            "the base model has no tensor `{0}.weight`\n  in {0}\n\nhint: the adapter was trained on another model",
            outside(QUERY)
        )
    );
}

#[test]
fn an_ia3_that_does_not_fit_is_refused() {
    const QUERY: &str = "bert.encoder.layer.0.attention.self.query";
    let ia3 = |rows: usize, scale: f32| {
        let mut adapter = Adapter::lora();
        adapter.config["config"]["composition_mode"] = json!("scale");
        adapter.tensors = [(format!("{QUERY}.loras.a.lora_B"), floats(&[rows, 1], 0.5))].into();
        adapter.scale = scale;
        adapter.load()
    };
    assert_eq!(ia3(16, 1.0).unwrap().merged[0].1.changed, 1);
    assert_eq!(
        said(ia3(24, 1.0)),
        format!(
            "f32[16, 16] and f32[24] do not fit along dimension 0\n  in {QUERY}\n\n\
             hint: the adapter was trained on another model"
        )
    );
    assert_eq!(said(ia3(16, 0.5)), "(IA)³ multiplies, so it cannot be taken 0.5 times\n\nhint: leave the factor out");
}

#[test]
fn unsupported_heads_are_named() {
    let place = "\n  in head_config.json: config.head_type";
    let kind = |kind: &'static str| head_refusal(move |config, _| config["config"] = json!({"head_type": kind}));
    let known = "known: classification, masked_lm, question_answering, tagging";
    for name in ["causal_lm", "dependency_parsing", "multilabel_classification", "multiple_choice"] {
        assert_eq!(kind(name), format!("heads of the type {name} are not supported{place}\n\nhint: {known}"));
    }
    assert_eq!(kind("taging"), format!("unknown head type `taging`{place}\n\nhint: did you mean tagging?"));
    assert_eq!(
        head_refusal(|config, _| config["config"]["layers"] = json!(0)),
        "expected 1 or more, found 0\n  in head_config.json: config.layers"
    );
    let option = head_refusal(|config, _| config["config"]["kernel"] = json!(3));
    assert_eq!(option, "this option is unknown, and may change the predictions\n  in head_config.json: config.kernel");
    assert_eq!(
        head_refusal(|config, _| {
            config["config"] = json!(null);
            config["model_class"] = json!("BertForMultipleChoice");
        }),
        "heads of the class `BertForMultipleChoice` are not supported\n  in head_config.json: model_class"
    );
    assert_eq!(
        said(Adapter { base: "families/bert/base-nopool", ..Adapter::sound() }.with_head().pooled().load()),
        "the head reads the pooler's output, and the model has no pooler\n  in head_config.json: config.use_pooler"
    );
}

impl Adapter {
    fn pooled(mut self) -> Adapter {
        self.head.as_mut().unwrap().0["config"]["use_pooler"] = json!(true);
        self
    }
}

#[test]
fn a_head_that_does_not_fit_is_refused() {
    let narrow = head_refusal(|_, tensors| drop(tensors.insert("heads.a.1.weight".to_owned(), floats(&[2, 8], 0.0))));
    assert_eq!(
        narrow,
        "tensor `heads.a.1.weight` has shape [2, 8], expected [2, 16]\n  in model_head.safetensors; the expectation \
         comes from `hidden_size` in config.json\n\nhint: the weights and config.json look like different models"
    );
    let missing = head_refusal(|_, tensors| drop(tensors.remove("heads.a.1.weight")));
    assert!(missing.starts_with("tensor `heads.a.1.weight` is missing\n"), "{missing}");
}

#[test]
fn folders_of_other_kinds_are_named() {
    let cases = [
        ("adapter_fusion_config.json", "the fusion of adapters is not supported"),
        ("adapter_interface.json", "an adapter with its own interface is not supported"),
    ];
    for (file, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        let source = Adapter::sound().save(dir.path());
        write_json(&dir.path().join(file), &json!({}));
        let source =
            Source { checkpoint: fixture("families/bert/base"), adapters: vec![source], combine: None, task: None };
        assert_eq!(said(build::load(&source)), format!("{message}\n  in {file}"));
    }
}

#[test]
fn a_folder_without_weights_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = Adapter::sound().save(dir.path());
    std::fs::remove_file(dir.path().join("adapter.safetensors")).unwrap();
    let source =
        Source { checkpoint: fixture("families/bert/base"), adapters: vec![source], combine: None, task: None };
    assert_eq!(said(build::load(&source)), "neither adapter.safetensors nor pytorch_adapter.bin is there");
}
