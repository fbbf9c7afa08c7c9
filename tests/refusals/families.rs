//! Options of a family that would change the answer and are not drawn.

use std::path::Path;

use kilnc::arch;
use kilnc::checkpoint::Checkpoint;

use super::{copied, edit};

const FILES: [&str; 2] = ["config.json", "model.safetensors"];

fn draw(dir: &Path) -> kilnc::Result<()> {
    let checkpoint = Checkpoint::open(dir)?;
    let state = arch::canonical_state(&checkpoint)?;
    arch::draw(&checkpoint, &state, None).map(drop)
}

/// What is said of a fixture after `from` became `to` in its config.json.
#[track_caller]
fn refusal(fixture: &str, from: &str, to: &str) -> String {
    let dir = copied(&format!("families/{fixture}"), &FILES);
    edit(&dir.path().join("config.json"), from, to);
    let error = draw(dir.path()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn deberta_of_the_first_version_is_another_family() {
    let message = refusal("deberta-v2/base", "\"model_type\": \"deberta-v2\"", "\"model_type\": \"deberta\"");
    assert!(message.starts_with("unknown model type `deberta`\n  in config.json: model_type\n"), "{message}");
}

#[test]
fn options_of_deberta_are_drawn_or_refused_by_name() {
    let cases = [
        (
            "\"pooler_hidden_size\": 16",
            "\"pooler_hidden_size\": 8",
            "only 16 is drawn, found 8\n  in config.json: pooler_hidden_size",
        ),
        (
            "\"hidden_size\": 16",
            "\"hidden_size\": 16, \"attention_head_size\": 8",
            "only 4 is drawn, found 8\n  in config.json: attention_head_size",
        ),
        (
            "\"norm_rel_ebd\": \"layer_norm\"",
            "\"norm_rel_ebd\": \"layer_norm | batch_norm\"",
            "`batch_norm` is not drawn; known: none, layer_norm\n  in config.json: norm_rel_ebd",
        ),
        ("\"c2p\"", "\"p2p\"", "`p2p` is not drawn; known: c2p, p2c\n  in config.json: pos_att_type"),
        (
            "\"position_buckets\": 8",
            "\"position_buckets\": 1",
            "1 bucket holds no distances\n  in config.json: position_buckets",
        ),
        (
            "\"position_buckets\": 8",
            "\"position_buckets\": 12",
            "tensor `deberta.encoder.rel_embeddings.weight` has shape [16, 16], expected [24, 16]\n  in model.safetensors; \
             the expectation comes from `position_buckets` in config.json\n\n\
             hint: the weights and config.json look like different models",
        ),
        (
            "\"hidden_size\": 16",
            "\"hidden_size\": 16, \"conv_kernel_size\": 4",
            "a convolution over 4 tokens in 1 groups does not keep the shape\n  in config.json: conv_kernel_size",
        ),
        (
            "\"hidden_size\": 16",
            "\"hidden_size\": 16, \"conv_kernel_size\": 3, \"conv_groups\": 3",
            "a convolution over 3 tokens in 3 groups does not keep the shape\n  in config.json: conv_kernel_size",
        ),
        (
            "\"layer_norm_eps\": 0.01",
            "\"layer_norm_eps\": -1",
            "expected a small positive number, found -1\n  in config.json: layer_norm_eps",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(refusal("deberta-v2/seqcls", from, to), expected, "{to}");
    }
}

#[test]
fn a_head_that_the_configuration_does_not_ask_for_is_named() {
    assert_eq!(
        refusal("deberta-v2/mlm-lm-predictions", "\"legacy\": false", "\"legacy\": true"),
        "the head is `lm_predictions`, the configuration asks for `cls.predictions`\n  in config.json: legacy\n\n\
         hint: `\"legacy\": false` in config.json takes the head that is there"
    );
}
