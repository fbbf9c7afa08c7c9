//! Models of sentence-transformers whose modules contradict themselves, or that kilnc does not build.

use std::path::Path;

use kilnc::error::Result;
use kilnc::front::hub::arch::{self, Built};
use kilnc::front::hub::checkpoint::Checkpoint;
use kilnc::task::Task;

use super::edit;
use crate::common::copied;

const POOLING: &str = "sentence_transformers.models.Pooling";
const DENSE: &str = "sentence_transformers.models.Dense";

fn build_graph(dir: &Path, task: Option<Task>) -> Result<Built> {
    let checkpoint = Checkpoint::open(dir)?;
    arch::build(&checkpoint, &arch::canonical_state(&checkpoint)?, task)
}

/// What is said of a model with all modes of pooling, a Dense and a Normalize, after `from` became `to` in `file`.
fn refusal(file: &str, from: &str, to: &str) -> String {
    let dir = copied("sentence/all-modes-dense");
    edit(&dir.path().join(file), from, to);
    let error = build_graph(dir.path(), None).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn modules_that_are_not_built_are_refused_by_name() {
    let encoder = "\n\nhint: --task feature-extraction builds the encoder alone";
    for class in ["sentence_transformers.models.CNN", "sentence_transformers.models.Transformer", "custom_st.Dense"] {
        assert_eq!(
            refusal("modules.json", DENSE, class),
            format!("the module `{class}` is not built\n  in modules.json: 2_Dense{encoder}")
        );
    }
    let sigmoid = "torch.nn.modules.activation.Sigmoid";
    assert_eq!(
        refusal("2_Dense/config.json", "torch.nn.modules.activation.Tanh", sigmoid),
        format!("the `activation_function` `{sigmoid}` is not built\n  in modules.json: 2_Dense{encoder}")
    );
}

#[test]
fn the_encoder_alone_is_built_with_any_modules_behind_it() {
    let dir = copied("sentence/all-modes-dense");
    edit(&dir.path().join("modules.json"), POOLING, "custom_st.Pooling");
    let built = build_graph(dir.path(), Some(Task::FeatureExtraction)).unwrap();
    assert!(built.unused.iter().any(|name| name == "2_Dense.linear.weight"), "{:?}", built.unused);
}

#[test]
fn modules_that_do_not_fit_each_other_are_refused() {
    assert_eq!(
        refusal("2_Dense/config.json", r#""in_features": 96"#, r#""in_features": 16"#),
        "`in_features` is 16, but the module before has 96 outputs\n  in modules.json: 2_Dense"
    );
    assert_eq!(
        refusal("2_Dense/config.json", r#""bias": true"#, r#""bias": false"#),
        "`bias` is false, but the weights say otherwise\n  in modules.json: 2_Dense"
    );
    assert_eq!(
        refusal("2_Dense/config.json", r#""out_features": 8"#, r#""out_features": 9"#),
        "tensor `2_Dense.linear.weight` has shape [8, 96], expected [9, 96]\n  \
         in 2_Dense/model.safetensors; the expectation comes from `out_features` in config.json\n  \
         in modules.json: 2_Dense\n\nhint: the weights and config.json look like different models"
    );
    let dir = copied("sentence/all-modes-dense");
    edit(&dir.path().join("modules.json"), POOLING, "sentence_transformers.models.Normalize");
    assert_eq!(
        build_graph(dir.path(), None).unwrap_err().to_string(),
        "there is no vector yet: the pooling has to come first\n  in modules.json: 1_Pooling"
    );
}

#[test]
fn an_encoder_in_a_folder_of_its_own_is_found() {
    let dir = copied("sentence/mean");
    let encoder = dir.path().join("0_Transformer");
    std::fs::create_dir(&encoder).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json"] {
        std::fs::rename(dir.path().join(file), encoder.join(file)).unwrap();
    }
    edit(&dir.path().join("modules.json"), r#""path": "","#, r#""path": "0_Transformer","#);
    assert_eq!(build_graph(dir.path(), None).unwrap().task, Task::SentenceSimilarity);
    edit(&dir.path().join("modules.json"), "0_Transformer", "../0_Transformer");
    assert_eq!(
        build_graph(dir.path(), None).unwrap_err().to_string(),
        "`../0_Transformer` leads out of the checkpoint\n  in modules.json: ../0_Transformer"
    );
}
