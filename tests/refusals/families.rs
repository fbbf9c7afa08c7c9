//! Options of a family that would change the answer and are not supported.

use std::path::Path;

use kilnc::front::hub::arch;
use kilnc::front::hub::checkpoint::Checkpoint;
use kilnc::task::Task;

use super::{copied, edit, fixture, floats, read_tensors, write_tensors};

const FILES: [&str; 2] = ["config.json", "model.safetensors"];

fn build_graph(dir: &Path, task: Option<Task>) -> kilnc::Result<()> {
    let checkpoint = Checkpoint::open(dir)?;
    let state = arch::canonical_state(&checkpoint)?;
    arch::build(&checkpoint, &state, task).map(drop)
}

/// The error for a fixture after `from` became `to` in its config.json.
#[track_caller]
fn refusal(fixture: &str, from: &str, to: &str) -> String {
    let dir = copied(&format!("families/{fixture}"), &FILES);
    edit(&dir.path().join("config.json"), from, to);
    let error = build_graph(dir.path(), None).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn deberta_of_the_first_version_is_another_family() {
    let message = refusal("deberta-v2/base", "\"model_type\": \"deberta-v2\"", "\"model_type\": \"deberta\"");
    assert!(message.starts_with("unknown model type `deberta`\n  in config.json: model_type\n"), "{message}");
}

#[test]
fn options_of_deberta_are_supported_or_refused_by_name() {
    let cases = [
        (
            "\"pooler_hidden_size\": 16",
            "\"pooler_hidden_size\": 8",
            "only 16 is supported, found 8\n  in config.json: pooler_hidden_size",
        ),
        (
            "\"hidden_size\": 16",
            "\"hidden_size\": 16, \"attention_head_size\": 8",
            "only 4 is supported, found 8\n  in config.json: attention_head_size",
        ),
        (
            "\"norm_rel_ebd\": \"layer_norm\"",
            "\"norm_rel_ebd\": \"layer_norm | batch_norm\"",
            "`batch_norm` is not supported; known: none, layer_norm\n  in config.json: norm_rel_ebd",
        ),
        ("\"c2p\"", "\"p2p\"", "`p2p` is not supported; known: c2p, p2c\n  in config.json: pos_att_type"),
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
fn a_head_that_the_configuration_does_not_name_is_refused() {
    assert_eq!(
        refusal("deberta-v2/mlm-lm-predictions", "\"legacy\": false", "\"legacy\": true"),
        "the head is `lm_predictions`, the configuration names `cls.predictions`\n  in config.json: legacy\n\n\
         hint: `\"legacy\": false` in config.json takes the head that is there"
    );
}

#[test]
fn options_of_xlnet_are_supported_or_refused_by_name() {
    let cases = [
        ("\"attn_type\": \"bi\"", "\"attn_type\": \"uni\"", "only `bi` is supported\n  in config.json: attn_type"),
        (
            "\"bi_data\": false",
            "\"bi_data\": true",
            "a batch whose second half is read backwards is not built\n  in config.json: bi_data",
        ),
        (
            "\"summary_type\": \"last\"",
            "\"summary_type\": \"mean\"",
            "only `last`, `first` and `cls_index` are supported\n  in config.json: summary_type",
        ),
        (
            "\"summary_type\": \"last\"",
            "\"summary_type\": \"attn\"",
            "only `last`, `first` and `cls_index` are supported\n  in config.json: summary_type",
        ),
        (
            "\"summary_use_proj\": true",
            "\"summary_use_proj\": true, \"summary_proj_to_labels\": true",
            "only `false` is supported\n  in config.json: summary_proj_to_labels",
        ),
        ("\"d_head\": 4", "\"d_head\": 8", "only `d_model` over `n_head` is supported\n  in config.json: d_head"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(refusal("xlnet/seqcls", from, to), expected, "{to}");
    }
}

#[test]
fn unsupported_heads_of_xlnet_are_named() {
    let dir = copied("families/xlnet/qa", &FILES);
    edit(&dir.path().join("config.json"), "XLNetForQuestionAnsweringSimple", "XLNetForQuestionAnswering");
    let path = dir.path().join("model.safetensors");
    let mut tensors = read_tensors(&path);
    tensors.retain(|name, _| !name.starts_with("qa_outputs"));
    tensors.insert("start_logits.dense.weight".to_owned(), floats(&[1, 16], 0.5));
    write_tensors(&path, &tensors);
    assert_eq!(
        build_graph(dir.path(), Some(Task::QuestionAnswering)).unwrap_err().to_string(),
        "the head of XLNetForQuestionAnswering searches for spans, which is not built\n\n\
         hint: XLNetForQuestionAnsweringSimple's head is"
    );
    assert_eq!(
        build_graph(&fixture("families/xlnet/base"), Some(Task::FillMask)).unwrap_err().to_string(),
        "XLNet predicts tokens in permuted order, which is not supported\n\nhint: choose --task feature-extraction"
    );
}

/// Without an index, and there is none, the last token is that of the text.
#[test]
fn xlnet_sums_up_by_the_last_token_where_no_index_is_given() {
    let graph = |from: &str, to: &str| {
        let dir = copied("families/xlnet/seqcls", &FILES);
        edit(&dir.path().join("config.json"), from, to);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let state = arch::canonical_state(&checkpoint).unwrap();
        arch::build(&checkpoint, &state, None).unwrap().graph.to_string()
    };
    let last = graph("\"last\"", "\"last\"");
    assert_eq!(graph("\"last\"", "\"cls_index\""), last);
    assert_ne!(graph("\"last\"", "\"first\""), last);
    // The defaults of a configuration.
    assert_eq!(graph("\"summary_activation\": \"tanh\",", ""), last);
    assert_ne!(graph("\"summary_activation\": \"tanh\",", "\"summary_activation\": null,"), last);
}
