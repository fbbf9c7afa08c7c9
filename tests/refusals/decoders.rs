//! Configurations of decoders that are refused, by the field.

use serde_json::{Map, Value, json};

use super::{copied, fixture};
use kilnc::front::hub::arch;
use kilnc::front::hub::checkpoint::Checkpoint;

const FILES: [&str; 2] = ["config.json", "model.safetensors"];

/// The error of a fixture whose configuration has other fields; null takes one out.
#[track_caller]
fn refusal(name: &str, changes: Value) -> String {
    let dir = copied(&format!("decoders/{name}"), &FILES);
    let mut config: Map<String, Value> =
        serde_json::from_slice(&std::fs::read(fixture(&format!("decoders/{name}/config.json"))).unwrap()).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        config.remove(field);
        if !value.is_null() {
            config.insert(field.clone(), value.clone());
        }
    }
    std::fs::write(dir.path().join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let state = arch::canonical_state(&checkpoint).unwrap();
    let error = arch::build(&checkpoint, &state, None).map(drop).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn a_decoder_without_layers_is_refused() {
    for (name, field) in [("llama/lm", "num_hidden_layers"), ("gpt2/lm", "n_layer"), ("bloom/lm", "n_layer")] {
        let said = refusal(name, json!({field: 0}));
        assert!(said.starts_with("expected a decoder with a layer, and none is found"), "{name}: {said}");
    }
}

#[test]
fn a_layer_without_the_bias_of_others_is_refused() {
    let said = |name: &str, without: &str| {
        let dir = copied(name, &FILES);
        let path = dir.path().join("model.safetensors");
        let mut tensors = kilnc::safetensors::read(&path).unwrap();
        let all = tensors.len();
        tensors.retain(|(name, _)| name != without);
        assert_eq!(tensors.len() + 1, all, "{without} is not there");
        let other = tempfile::tempdir().unwrap();
        kilnc::back::safetensors::write(&tensors, other.path(), u64::MAX, &|_| {}).unwrap();
        std::fs::copy(other.path().join("model.safetensors"), &path).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let state = arch::canonical_state(&checkpoint).unwrap();
        arch::build(&checkpoint, &state, None).map(drop).unwrap_err().to_string()
    };
    let cases = [
        ("decoders/gpt2/lm", "transformer.h.0.mlp.c_fc.bias"),
        ("decoders/gpt2/lm", "transformer.h.1.attn.c_attn.bias"),
        ("decoders/openai-gpt/lm", "transformer.h.0.mlp.c_proj.bias"),
        ("decoders/phi/lm", "lm_head.bias"),
        ("families/bert/seqcls", "bert.encoder.layer.0.attention.self.query.bias"),
        ("families/roberta/seqcls", "roberta.encoder.layer.1.output.dense.bias"),
    ];
    for (name, tensor) in cases {
        let said = said(name, tensor);
        assert!(said.starts_with(&format!("tensor `{tensor}` is missing\n")), "{name}: {said}");
        assert!(tensor == "lm_head.bias" || said.contains("hint: other layers have one"), "{name}: {said}");
    }
}

#[test]
fn heads_that_do_not_divide_are_refused() {
    assert_eq!(
        refusal("llama/lm", json!({"num_key_value_heads": 3})),
        "4 heads of queries cannot share 3 heads of keys and values\n  in config.json: num_attention_heads, num_key_value_heads"
    );
    assert_eq!(
        refusal("llama/lm", json!({"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": null})),
        "`num_attention_heads` 3 does not divide `hidden_size` 16\n  in config.json"
    );
    let said = refusal("llama/lm", json!({"head_dim": 6}));
    assert!(
        said.starts_with("tensor `model.layers.0.self_attn.q_proj.weight` has shape [16, 16], expected [24, 16]\n")
    );
    let said = refusal("llama/lm", json!({"head_dim": 0}));
    assert_eq!(said, "expected 1 or more, found 0\n  in config.json: head_dim");
    let said = refusal("llama/lm", json!({"head_dim": 100_000_000_000_u64}));
    assert_eq!(said, "expected at most 65536 channels of a head, found 100000000000\n  in config.json: head_dim");
    // No table is made of what the weights do not have.
    let said = refusal("llama/lm", json!({"head_dim": 65536, "max_position_embeddings": 131_072}));
    assert!(
        said.starts_with("tensor `model.layers.0.self_attn.q_proj.weight` has shape [16, 16], expected [262144, 16]")
    );
}

#[test]
fn a_configuration_without_heads_of_keys_is_one_with_as_many_as_queries() {
    // As many as the weights have, or refused by them.
    let said = refusal("llama/lm", json!({"num_key_value_heads": null}));
    assert!(said.starts_with(
        "tensor `model.layers.0.self_attn.k_proj.weight` has shape [8, 16], expected [16, 16]\n  in model.safetensors; \
         the expectation comes from `num_key_value_heads` in config.json"
    ));
}

#[test]
fn rotary_positions_are_read_whole_or_refused_by_name() {
    let of = |scaling: Value| refusal("llama/lm", json!({ "rope_scaling": scaling }));
    assert_eq!(
        of(json!({"rope_type": "mrope", "mrope_section": [1, 1]})),
        "rotary positions of the kind `mrope` are not built\n  in config.json: rope_scaling\n\n\
         hint: known: default, linear, dynamic, llama3, yarn, longrope"
    );
    assert_eq!(
        of(json!({"type": "linear"})),
        "rotary positions of the kind `linear` need `factor`\n  in config.json: rope_scaling"
    );
    assert_eq!(
        of(json!({"rope_type": "dynamic"})),
        "rotary positions of the kind `dynamic` need `factor`\n  in config.json: rope_scaling"
    );
    assert_eq!(
        refusal("phi/lm", json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})),
        "a base that grows needs more than one pair of channels\n  in config.json: rope_scaling"
    );
    assert_eq!(
        of(json!({"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0], "long_factor": [1.0]})),
        "expected 2 positive numbers, one for each pair of channels, found 1\n  in config.json: rope_scaling.short_factor"
    );
    assert_eq!(
        refusal("llama/lm", json!({"rope_theta": 1.0})),
        "expected a base of more than 1, found 1\n  in config.json: rope_scaling"
    );
    let both = json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}});
    let said = refusal("llama/lm", both);
    assert!(said.starts_with("`rope_scaling` {\"factor\":2.0,\"type\":\"linear\"} and `rope_parameters` "), "{said}");
    let said = refusal("llama/lm", json!({"rope_parameters": {"rope_type": "default", "rope_theta": 20.0}}));
    assert!(said.starts_with("`rope_theta` 10000.0 and `rope_theta` 20.0 contradict each other\n"), "{said}");
    assert_eq!(
        refusal("llama/lm", json!({"partial_rotary_factor": 0.5})),
        "models of this family turn whole heads\n  in config.json: partial_rotary_factor"
    );
    assert_eq!(
        refusal("phi/lm", json!({"partial_rotary_factor": 0.25})),
        "1 of a head's 4 channels would be turned, expected pairs of them\n  in config.json"
    );
}

#[test]
fn kinds_of_layers_that_are_not_built_are_refused() {
    assert_eq!(
        refusal("gemma2/lm", json!({"layer_types": ["chunked_attention", "full_attention"]})),
        "layers of the kind `chunked_attention` are not built\n  in config.json: layer_types\n\n\
         hint: known: full_attention and sliding_attention"
    );
    assert_eq!(
        refusal("gemma2/lm", json!({"layer_types": ["full_attention"]})),
        "1 kinds for 2 layers\n  in config.json: layer_types"
    );
    assert_eq!(
        refusal("mistral/lm", json!({"sliding_window": 0})),
        "expected 1 or more tokens, found 0\n  in config.json: sliding_window"
    );
    assert_eq!(
        refusal("qwen2/lm", json!({"layer_types": ["sliding_attention", "full_attention"]})),
        "layers of sliding_attention need a window\n  in config.json: layer_types, use_sliding_window, sliding_window"
    );
    assert_eq!(
        refusal("smollm3/lm", json!({"no_rope_layers": [1]})),
        "1 flags for 3 layers\n  in config.json: no_rope_layers"
    );
    assert_eq!(
        refusal("llama/lm", json!({"num_hidden_layers": 100_000_000_000_u64})),
        "expected at most 4096 layers, found 100000000000\n  in config.json: num_hidden_layers"
    );
}

#[test]
fn settings_of_short_convolutions_are_refused_by_field() {
    assert_eq!(
        refusal("lfm2/lm", json!({"layer_types": ["conv", "linear_attention", "conv"]})),
        "layers of the kind `linear_attention` are not built\n  in config.json: layer_types\n\n\
         hint: known: full_attention and conv"
    );
    assert_eq!(
        refusal("lfm2/lm", json!({"layer_types": ["conv"]})),
        "1 kinds for 3 layers\n  in config.json: layer_types"
    );
    assert_eq!(
        refusal("lfm2/lm", json!({"layer_types": ["conv", "conv", "conv"]})),
        "models without a layer of attention are not built\n  in config.json: layer_types"
    );
    assert_eq!(
        refusal("lfm2/lm", json!({"conv_L_cache": 1})),
        "expected a convolution over 2 tokens or more, found 1\n  in config.json: conv_L_cache"
    );
    assert_eq!(
        refusal("lfm2/lm", json!({"block_multiple_of": 0})),
        "expected 1 or more, found 0\n  in config.json: block_multiple_of"
    );
    assert_eq!(
        refusal("lfm2/lm", json!({"theta": 100.0})),
        "versions of transformers differ in whether they read this field\n  in config.json: theta\n\n\
         hint: name it rope_theta"
    );
    let said = refusal("lfm2/lm", json!({"conv_L_cache": 100_000_000_000_u64}));
    assert!(
        said.starts_with(
            "tensor `model.layers.0.conv.conv.weight` has shape [16, 1, 3], expected [16, 1, 100000000000]"
        )
    );
}

#[test]
fn experts_that_cannot_be_chosen_are_refused() {
    assert_eq!(
        refusal("qwen3_moe/lm", json!({"num_experts_per_tok": 6})),
        "a token cannot choose 6 of 5 experts\n  in config.json: num_experts_per_tok"
    );
    assert_eq!(
        refusal("gpt_oss/lm", json!({"num_experts_per_tok": 0})),
        "a token cannot choose 0 of 5 experts\n  in config.json: num_experts_per_tok"
    );
    assert_eq!(
        refusal("gpt_oss/lm", json!({"num_local_experts": 100_000_000})),
        "expected 1 to 1024 experts, found 100000000\n  in config.json: num_local_experts"
    );
    assert_eq!(
        refusal("gpt_oss/lm", json!({"swiglu_limit": 0})),
        "expected a positive number, found 0\n  in config.json: swiglu_limit"
    );
    let said = refusal("qwen3_moe/lm", json!({"num_experts": 6}));
    assert!(said.starts_with("tensor `model.layers.0.mlp.gate.weight` has shape [5, 16], expected [6, 16]"), "{said}");
}

#[test]
fn queries_that_become_larger_need_their_parameters() {
    let parameters = |more: Value| {
        let mut parameters = json!({"rope_type": "default", "rope_theta": 50.0});
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        refusal("ministral3/lm", json!({ "rope_parameters": parameters }))
    };
    assert_eq!(
        parameters(json!({"original_max_position_embeddings": 4})),
        "queries of this family become larger with their position, and `llama_4_scaling_beta` is missing\n  \
         in config.json: rope_parameters"
    );
    let said = parameters(json!({"llama_4_scaling_beta": 0.1}));
    assert!(said.contains("and `original_max_position_embeddings` is missing"), "{said}");
    assert_eq!(
        parameters(json!({"llama_4_scaling_beta": "much", "original_max_position_embeddings": 4})),
        "expected a number\n  in config.json: rope_parameters.llama_4_scaling_beta"
    );
}

#[test]
fn fields_that_no_class_knows_are_warned_of() {
    let dir = copied("decoders/llama/lm", &FILES);
    let path = dir.path().join("config.json");
    let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.insert("layer_scale".to_owned(), json!(0.5));
    config.insert("layer_shift".to_owned(), json!(false));
    std::fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
    let source =
        kilnc::build::Source { checkpoint: dir.path().to_owned(), adapters: Vec::new(), combine: None, task: None };
    let model = kilnc::build::load(&source).unwrap();
    assert_eq!(kilnc::build::warnings(&model), ["config.json: `layer_scale` is not read"]);
}

#[test]
fn options_of_decoders_that_are_not_built_are_refused() {
    assert_eq!(
        refusal("gemma3_text/lm", json!({"use_bidirectional_attention": true})),
        "a model that attends to the tokens after generates no text\n  in config.json: use_bidirectional_attention\n\n\
         hint: --task feature-extraction builds the model without a head"
    );
    assert_eq!(
        refusal("gemma3_text/lm", json!({"attn_logit_softcapping": 50.0})),
        "bounded scores are not built for this family\n  in config.json: attn_logit_softcapping"
    );
    assert_eq!(
        refusal("gemma2/lm", json!({"final_logit_softcapping": 0.0})),
        "expected a positive number, found 0\n  in config.json: final_logit_softcapping"
    );
    assert_eq!(
        refusal("granite/lm", json!({"logits_scaling": 0.0})),
        "expected a number other than 0, found 0\n  in config.json: logits_scaling"
    );
    assert_eq!(
        refusal("opt/lm", json!({"layer_norm_elementwise_affine": false})),
        "norms without weights are not built, and transformers 4.57 cannot load them\n  \
         in config.json: layer_norm_elementwise_affine"
    );
    let said = refusal("llama/lm", json!({"hidden_act": "relu2"}));
    assert!(said.starts_with("config.json: hidden_act: unknown variant `relu2`"), "{said}");
}
