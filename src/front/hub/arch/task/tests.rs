use std::path::PathBuf;

use super::*;
use crate::front::hub::arch::FAMILIES;
use crate::front::hub::checkpoint::Tensor;
use crate::ir::{DType, Weight};
use crate::json;

/// A checkpoint of nothing but a configuration, and tensors of that many rows.
fn found(model_type: &str, config: &str, tensors: &[(&str, usize)]) -> Result<Task> {
    decided(model_type, config, tensors, (None, &[], None))
}

/// The same with a task that is requested, PEFT's task types, and the class of the head of an adapter of AdapterHub.
fn decided(
    model_type: &str,
    config: &str,
    tensors: &[(&str, usize)],
    (requested, peft, class): (Option<Task>, &[(&str, bool)], Option<&str>),
) -> Result<Task> {
    let family = FAMILIES.iter().find(|family| family.model_type == model_type).unwrap();
    let mut state = StateDict::default();
    let encoder = format!("{}.layer", family.prefix);
    for (name, rows) in tensors.iter().copied().chain([(encoder.as_str(), 4)]) {
        let weight = Weight::source(name, DType::F32, vec![rows, 4], None).unwrap();
        state.insert(name.to_owned(), Tensor { weight, file: "model.safetensors".into() });
    }
    let mut common = json::parse::<CommonConfig>(config, "config.json").unwrap();
    common.model_type = Some(model_type.to_owned());
    let checkpoint = Checkpoint {
        dir: PathBuf::new(),
        encoder: PathBuf::new().into(),
        config: config.to_owned(),
        common,
        sentence: None,
        state: state.clone(),
        quantized: None,
        files: Vec::new(),
        notes: Vec::new(),
    };
    let state = state.with_prefix(family.prefix, crate::front::hub::arch::canonical::HEADS).unwrap();
    let head = class.map(|class| AddedHead::OfClass { class: class.to_owned(), adapter: "adapter".to_owned() });
    let mut inserted = Insertions::default();
    inserted.head = head;
    Sources { requested, peft, inserted: &inserted, checkpoint: &checkpoint, base: &state, state: &state }.task()
}

fn refusal(model_type: &str, config: &str, tensors: &[(&str, usize)]) -> String {
    found(model_type, config, tensors).unwrap_err().to_string()
}

#[test]
fn sources_decide_in_their_order() {
    let config = r#"{"architectures": ["BertForMaskedLM"]}"#;
    let of = |requested, peft: &[(&str, bool)], class| decided("bert", config, &[], (requested, peft, class));
    let head = Some("BertForQuestionAnswering");
    let both: &[(&str, bool)] = &[("TOKEN_CLS", true), ("SEQ_CLS", true), ("QUESTION_ANS", false)];
    assert_eq!(of(Some(Task::FeatureExtraction), both, head).unwrap(), Task::FeatureExtraction);
    // The last of PEFT's adapters that has a head for its task; a type alone says nothing of an encoder.
    assert_eq!(of(None, both, head).unwrap(), Task::TextClassification);
    assert_eq!(of(None, &[("SEQ_CLS", false), ("CAUSAL_LM", false)], head).unwrap(), Task::QuestionAnswering);
    assert_eq!(of(None, &[], None).unwrap(), Task::FillMask);
    let language_model = decided("gpt2", "{}", &[("score.weight", 3)], (None, &[("CAUSAL_LM", false)], None));
    assert_eq!(language_model.unwrap(), Task::TextGeneration);
    for class in ["BertForMultipleChoice", "XLNetForQuestionAnswering", "BertModel"] {
        let said = of(Some(Task::FillMask), &[], Some(class)).unwrap_err().to_string();
        let expected =
            format!("heads of the class `{class}` are not supported\n  in head_config.json: model_class\n  in adapter");
        assert_eq!(said, expected);
    }
}

#[test]
fn the_head_decides_the_task_of_a_checkpoint_without_a_class() {
    use Task::{
        FeatureExtraction, FillMask, QuestionAnswering, TextClassification, TextGeneration, TokenClassification,
    };
    let labels = r#"{"id2label": {"0": "a"}}"#;
    let tags = r#"{"id2label": {"0": "O", "1": "B-PER", "2": "I-PER"}}"#;
    let multi = r#"{"problem_type": "multi_label_classification"}"#;
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, usize)], Task);
    let cases: &[Case] = &[
        ("bert", "{}", &[("classifier.weight", 3), ("bert.pooler.dense.weight", 4)], TextClassification),
        ("bert", labels, &[("classifier.weight", 1), ("bert.pooler.dense.weight", 4)], TextClassification),
        ("bert", "{}", &[("classifier.weight", 3)], TokenClassification),
        ("bert", tags, &[("classifier.weight", 3)], TokenClassification),
        ("bert", "{}", &[("cls.predictions.bias", 4)], FillMask),
        ("bert", "{}", &[("qa_outputs.weight", 2), ("bert.pooler.dense.weight", 4)], QuestionAnswering),
        ("bert", "{}", &[], FeatureExtraction),
        ("bert", r#"{"architectures": []}"#, &[("bert.pooler.dense.weight", 4)], FeatureExtraction),
        ("albert", "{}", &[("classifier.weight", 3), ("albert.pooler.weight", 4)], TextClassification),
        ("albert", "{}", &[("classifier.weight", 3)], TokenClassification),
        ("albert", "{}", &[("predictions.dense.weight", 4)], FillMask),
        ("camembert", "{}", &[("classifier.out_proj.weight", 1)], TextClassification),
        ("roberta", "{}", &[("classifier.weight", 5), ("roberta.pooler.dense.weight", 4)], TokenClassification),
        ("xlm-roberta", "{}", &[("lm_head.dense.weight", 4)], FillMask),
        ("mpnet", "{}", &[("classifier.weight", 1)], TokenClassification),
        ("electra", "{}", &[("classifier.dense.weight", 4), ("classifier.out_proj.weight", 2)], TextClassification),
        ("electra", "{}", &[("generator_predictions.dense.weight", 4)], FillMask),
        ("distilbert", "{}", &[("pre_classifier.weight", 4), ("classifier.weight", 2)], TextClassification),
        ("distilbert", "{}", &[("classifier.weight", 2)], TokenClassification),
        ("distilbert", "{}", &[("vocab_transform.weight", 4)], FillMask),
        ("deberta-v2", "{}", &[("pooler.dense.weight", 4), ("classifier.weight", 2)], TextClassification),
        ("deberta-v2", "{}", &[("classifier.weight", 2)], TokenClassification),
        ("deberta-v2", "{}", &[("lm_predictions.lm_head.dense.weight", 4)], FillMask),
        ("modernbert", multi, &[("head.dense.weight", 4), ("classifier.weight", 3)], TextClassification),
        ("modernbert", tags, &[("head.dense.weight", 4), ("classifier.weight", 3)], TokenClassification),
        ("modernbert", "{}", &[("head.dense.weight", 4), ("decoder.bias", 4)], FillMask),
        ("modernbert", "{}", &[("head.dense.weight", 4)], FillMask),
        ("gpt2", "{}", &[], TextGeneration),
        ("gpt2", "{}", &[("lm_head.weight", 4)], TextGeneration),
        ("gpt2", r#"{"tie_word_embeddings": false}"#, &[], FeatureExtraction),
        ("gpt2", "{}", &[("score.weight", 3)], TextClassification),
        ("gpt2", "{}", &[("classifier.weight", 3)], TokenClassification),
        ("openai-gpt", "{}", &[("multiple_choice_head.summary.weight", 1)], TextGeneration),
        ("xlnet", "{}", &[("logits_proj.weight", 3)], TextClassification),
        ("xlnet", "{}", &[("classifier.weight", 1)], TokenClassification),
        ("xlnet", "{}", &[("qa_outputs.weight", 2)], QuestionAnswering),
    ];
    for (model_type, config, tensors, expected) in cases {
        let task = found(model_type, config, tensors);
        assert_eq!(task.as_ref().ok(), Some(expected), "{model_type} {config} {tensors:?}: {task:?}");
    }
}

#[test]
fn unsupported_heads_are_refused_by_their_task() {
    type Case<'a> = (&'a str, &'a [(&'a str, usize)], &'a str);
    let cases: &[Case] = &[
        ("bert", &[("cls.seq_relationship.weight", 2)], "next-sentence prediction"),
        ("albert", &[("sop_classifier.classifier.weight", 2)], "sentence-order prediction"),
        ("electra", &[("discriminator_predictions.dense.weight", 4)], "replaced-token detection"),
        ("deberta-v2", &[("mask_predictions.dense.weight", 4)], "replaced-token detection"),
        ("electra", &[("sequence_summary.summary.weight", 4), ("classifier.weight", 1)], "multiple choice"),
        ("roberta", &[("roberta.pooler.dense.weight", 4), ("classifier.weight", 1)], "multiple choice"),
        ("mpnet", &[("mpnet.pooler.dense.weight", 4), ("classifier.weight", 1)], "multiple choice"),
        ("xlnet", &[("lm_loss.weight", 4)], "language modelling by permutations"),
        ("xlnet", &[("start_logits.dense.weight", 1)], "question answering by beam search"),
    ];
    for (model_type, tensors, what) in cases {
        assert_eq!(
            refusal(model_type, "{}", tensors),
            format!(
                "models for {what} are not built\n  in the weights; config.json names no class\n\n\
                 hint: --task feature-extraction builds the encoder alone"
            )
        );
    }
}

#[test]
fn tensors_of_several_models_are_refused_with_the_tasks_to_choose_from() {
    let pooler = ("bert.pooler.dense.weight", 4);
    let tags = r#"{"id2label": {"0": "O", "1": "B-PER"}}"#;
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, usize)], &'a str, &'a str);
    let cases: &[Case] = &[
        (
            "bert",
            "{}",
            &[("classifier.weight", 1), pooler],
            "text-classification, multiple choice",
            "--task text-classification",
        ),
        (
            "bert",
            tags,
            &[("classifier.weight", 2), pooler],
            "text-classification, token-classification",
            "--task text-classification, --task token-classification",
        ),
        (
            "bert",
            "{}",
            &[("cls.predictions.bias", 4), ("cls.seq_relationship.weight", 2)],
            "fill-mask, next-sentence prediction",
            "--task fill-mask",
        ),
        (
            "distilbert",
            "{}",
            &[("pre_classifier.weight", 4), ("classifier.weight", 1)],
            "text-classification, multiple choice",
            "--task text-classification",
        ),
        (
            "modernbert",
            "{}",
            &[("head.dense.weight", 4), ("classifier.weight", 2)],
            "text-classification, token-classification, question-answering",
            "--task text-classification, --task token-classification, --task question-answering",
        ),
        (
            "roberta",
            "{}",
            &[("lm_head.dense.weight", 4), ("qa_outputs.weight", 2)],
            "question-answering, fill-mask",
            "--task question-answering, --task fill-mask",
        ),
    ];
    for (model_type, config, tensors, what, tasks) in cases {
        assert_eq!(
            refusal(model_type, config, tensors),
            format!(
                "the weights may be those of several models: {what}\n  \
                 in config.json: architectures, which names no class for them\n\n\
                 hint: say which: {tasks}, --task feature-extraction"
            )
        );
    }
}

#[test]
fn every_class_that_is_not_built_is_refused_by_name() {
    let unbuilt = [
        "BertForMultipleChoice",
        "BertForNextSentencePrediction",
        "BertForPreTraining",
        "BertLMHeadModel",
        "BertAdapterModel",
        "BertPreTrainedModel",
        "JinaBertModel",
        "BertForSequenceClassificationWithLoss",
        "XLNetForQuestionAnswering",
        "XLNetLMHeadModel",
        "RobertaForCausalLM",
        "ElectraForPreTraining",
        "T5ForConditionalGeneration",
        "",
    ];
    for class in unbuilt {
        let config = format!(r#"{{"architectures": ["{class}"]}}"#);
        let said = refusal("bert", &config, &[("classifier.weight", 1), ("bert.pooler.dense.weight", 4)]);
        assert_eq!(
            said,
            format!(
                "the class `{class}` is not built\n  in config.json: architectures\n\n\
                 hint: of bert, these are: BertModel, BertForSequenceClassification, BertForTokenClassification, \
                 BertForQuestionAnswering, BertForMaskedLM\n\
                 hint: --task feature-extraction builds the encoder alone"
            )
        );
    }
    let said = refusal("bert", r#"{"architectures": ["BertForPreTraining"]}"#, &[("cls.predictions.bias", 4)]);
    assert!(said.ends_with("--task fill-mask the head that fills masks"), "{said}");
    let own = r#"{"auto_map": {"AutoConfig": "own.Config", "AutoModelForMaskedLM": "own.Model"}}"#;
    assert!(refusal("bert", own, &[]).starts_with("the class `own.Model` is not built\n"));
    let two = r#"{"architectures": ["BertForMaskedLM", "BertForQuestionAnswering"]}"#;
    assert!(refusal("bert", two, &[]).starts_with("the classes are for several tasks\n"));
}

#[test]
fn every_class_that_is_built_is_known() {
    for family in FAMILIES {
        for class in family.class_names().split(", ") {
            let config = format!(r#"{{"architectures": ["{class}"]}}"#);
            assert!(found(family.model_type, &config, &[]).is_ok(), "{class}");
        }
    }
}
