//! The task of a checkpoint. The first source that has it decides:
//!
//! 1. the user, or an adapter with a head for a task;
//! 2. `modules.json`, which lists the modules around the encoder;
//! 3. the class in `architectures`;
//! 4. the tensors of the head.
//!
//! A class that is not built is refused by name, and so are tensors that may be those of several heads: a model that is
//! taken for another makes predictions, and wrong ones.

use super::{FAMILIES, Family};
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{Checkpoint, CommonConfig, Purpose as Made, StateDict};
use crate::task::id::Task;

/// The task of the layer `classifier`, where only the tensors of a family's models show it.
pub(super) enum ClassifierOf {
    /// One that labels texts, or compares choices, where that tensor is there; else one that labels tokens.
    TextsWith(&'static str),
    /// One that labels tokens; with one row, and that tensor beside it, one that compares choices. A head that labels texts has
    /// other names.
    TokensWithout(&'static str),
    /// One that labels tokens.
    Tokens,
    /// One that labels texts or tokens, or finds answers.
    Any,
}

/// The possible task of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// One of the tasks.
    Task(Task),
    /// Something else.
    Other(&'static str),
}

const CHOICES: Purpose = Purpose::Other("multiple choice");

/// The tasks of heads with their own names, by the prefix of the names.
const HEADS: [(&str, Purpose); 16] = [
    ("qa_outputs.", Purpose::Task(Task::QuestionAnswering)),
    ("start_logits.", Purpose::Other("question answering by beam search")),
    ("cls.predictions.", Purpose::Task(Task::FillMask)),
    ("predictions.", Purpose::Task(Task::FillMask)),
    ("lm_head.", Purpose::Task(Task::FillMask)),
    ("lm_predictions.", Purpose::Task(Task::FillMask)),
    ("generator_predictions.", Purpose::Task(Task::FillMask)),
    ("generator_lm_head.", Purpose::Task(Task::FillMask)),
    ("vocab_transform.", Purpose::Task(Task::FillMask)),
    ("decoder.", Purpose::Task(Task::FillMask)),
    ("cls.seq_relationship.", Purpose::Other("next-sentence prediction")),
    ("sop_classifier.", Purpose::Other("sentence-order prediction")),
    ("discriminator_predictions.", Purpose::Other("replaced-token detection")),
    ("mask_predictions.", Purpose::Other("replaced-token detection")),
    ("score.", Purpose::Task(Task::TextClassification)),
    ("lm_loss.", Purpose::Other("language modelling by permutations")),
];

/// The task of the model with the tensors `state`, which were made of the checkpoint's own, `base`, where the user has
/// not set for a task.
pub(super) fn of(family: &Family, checkpoint: &Checkpoint, base: &StateDict, state: &StateDict) -> Result<Task> {
    // The class that an adapter's base was saved from does not know the adapter's head.
    let added = state.iter().any(|(name, _)| state.is_head(name) && !base.contains(name));
    if added {
        return by_tensors(family, checkpoint, state);
    }
    if let Some(sentence) = &checkpoint.sentence
        && let Some(purpose) = sentence.purpose()?
    {
        return Ok(match purpose {
            Made::Vectors => Task::SentenceSimilarity,
            Made::Scores => Task::TextClassification,
        });
    }
    let classes = classes(&checkpoint.common);
    let mut found: Option<Task> = None;
    for name in &classes {
        let task = of_class(name).ok_or_else(|| not_built(name, family, state))?;
        if found.is_some_and(|found| found != task) {
            return Err(Error::bad_input("the classes are for several tasks")
                .at("config.json: architectures")
                .hint("say which with --task TASK"));
        }
        found = Some(task);
    }
    match found {
        Some(task) => Ok(task),
        None => by_tensors(family, checkpoint, state),
    }
}

/// The classes that the weights were saved from; those of a checkpoint's own code, where no others are named.
fn classes(common: &CommonConfig) -> Vec<&str> {
    let named: Vec<&str> = common.architectures.iter().flatten().map(String::as_str).collect();
    match named.is_empty() {
        true => common.own_classes().collect(),
        false => named,
    }
}

/// The task of a class of `transformers` that is built.
fn of_class(name: &str) -> Option<Task> {
    let name = name.strip_prefix("TF").or(name.strip_prefix("Flax")).unwrap_or(name);
    FAMILIES.iter().find_map(|family| family.task_of(name.strip_prefix(family.class)?))
}

impl Family {
    /// The task of the class whose name ends so.
    fn task_of(&self, ending: &str) -> Option<Task> {
        if let Some(decoder) = self.decoder {
            return decoder.classes.iter().find(|(known, _)| *known == ending).map(|(_, task)| *task);
        }
        Some(match (ending, self.class) {
            ("Model", _) => Task::FeatureExtraction,
            ("ForSequenceClassification", _) => Task::TextClassification,
            ("ForTokenClassification", _) => Task::TokenClassification,
            ("ForQuestionAnsweringSimple", "XLNet") => Task::QuestionAnswering,
            ("ForQuestionAnswering", class) if class != "XLNet" => Task::QuestionAnswering,
            ("ForMaskedLM", class) if class != "XLNet" => Task::FillMask,
            _ => return None,
        })
    }

    /// Whether its models continue texts.
    pub fn generates(&self) -> bool {
        self.decoder.is_some()
    }

    /// Whether a checkpoint's file has names as models with a head have them.
    fn is_below_prefix(&self, checkpoint: &Checkpoint) -> bool {
        let below = |name: &str| name.strip_prefix(self.prefix).is_some_and(|rest| rest.starts_with('.'));
        checkpoint.state.iter().any(|(name, _)| below(name))
    }

    /// The classes that are built, for messages.
    pub(super) fn classes(&self) -> String {
        let endings = [
            "Model",
            "ForSequenceClassification",
            "ForTokenClassification",
            "ForQuestionAnswering",
            "ForQuestionAnsweringSimple",
            "ForMaskedLM",
        ];
        let built: Vec<&str> = match self.decoder {
            Some(decoder) => decoder.classes.iter().map(|(ending, _)| *ending).collect(),
            None => endings.into_iter().filter(|ending| self.task_of(ending).is_some()).collect(),
        };
        built.into_iter().map(|ending| format!("{}{ending}", self.class)).collect::<Vec<_>>().join(", ")
    }

    /// The end of the name of its class for a task.
    pub fn ending(&self, task: Task) -> &'static str {
        let classes = self.decoder.map(|decoder| decoder.classes).unwrap_or_default();
        let own = classes.iter().find(|(_, of)| *of == task);
        own.map_or_else(|| task.architecture(), |(ending, _)| ending)
    }

    /// Whether it has a class for a task. Vectors of texts are made of its bare model.
    pub fn has(&self, task: Task) -> bool {
        let classes = self.decoder.map(|decoder| decoder.classes);
        task == Task::SentenceSimilarity || classes.is_none_or(|classes| classes.iter().any(|(_, of)| *of == task))
    }
}

fn not_built(class: &str, family: &Family, state: &StateDict) -> Error {
    Error::unsupported(format!("the class `{}` is not built", printable(class)))
        .at("config.json: architectures")
        .hint(format!("of {}, these are: {}", family.model_type, family.classes()))
        .hint(asked_for(&heads(family, state)))
}

/// The tasks that --task can choose for weights with these heads.
fn asked_for(heads: &[Purpose]) -> String {
    let encoder = "--task feature-extraction builds the encoder alone";
    let asked = |task: Task| heads.contains(&Purpose::Task(task));
    match () {
        () if asked(Task::FillMask) => format!("{encoder}, --task {} the head that fills masks", Task::FillMask),
        () if asked(Task::TextGeneration) => format!("{encoder}, --task {} the language model", Task::TextGeneration),
        () => encoder.to_owned(),
    }
}

/// The task of the head that is there; without one it is the encoder's.
fn by_tensors(family: &Family, checkpoint: &Checkpoint, state: &StateDict) -> Result<Task> {
    let mut purposes = heads(family, state);
    let of_classifier = classifier(family, &checkpoint.common, state);
    purposes.extend(of_classifier.into_iter().filter(|purpose| !purposes.contains(purpose)).collect::<Vec<_>>());
    let tasks = purposes.iter().filter_map(|purpose| match purpose {
        Purpose::Task(task) => Some(*task),
        Purpose::Other(_) => None,
    });
    let tasks: Vec<Task> = tasks.collect();
    match (purposes.as_slice(), tasks.as_slice()) {
        ([], _) if family.generates() && super::is_tied(&checkpoint.config)? => {
            match family.is_below_prefix(checkpoint) {
                true => Ok(Task::TextGeneration),
                // A language model's file may have names as the bare model has them.
                false => Err(several(&[Purpose::Task(Task::TextGeneration), Purpose::Task(Task::FeatureExtraction)])),
            }
        }
        ([], _) => Ok(Task::FeatureExtraction),
        ([_], [task]) => Ok(*task),
        ([Purpose::Other(what)], _) => Err(Error::unsupported(format!("models for {what} are not built"))
            .at("the weights; config.json names no class")
            .hint(asked_for(&purposes))),
        _ => Err(several(&purposes)),
    }
}

/// The error of weights that may be for any of these.
fn several(purposes: &[Purpose]) -> Error {
    let names: Vec<String> = purposes.iter().map(ToString::to_string).collect();
    let tasks = purposes.iter().filter_map(|purpose| match purpose {
        Purpose::Task(Task::FeatureExtraction) | Purpose::Other(_) => None,
        Purpose::Task(task) => Some(format!("--task {task}")),
    });
    let flags: Vec<String> = tasks.collect();
    Error::bad_input(format!("the weights may be those of several models: {}", names.join(", ")))
        .at("config.json: architectures, which names no class for them")
        .hint(format!("say which: {}, --task feature-extraction", flags.join(", ")))
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Purpose::Task(task) => std::fmt::Display::fmt(task, f),
            Purpose::Other(what) => f.write_str(what),
        }
    }
}

/// The tasks of the heads with their own names, each once.
fn heads(family: &Family, state: &StateDict) -> Vec<Purpose> {
    let mut found = Vec::new();
    let of_family = |purpose: Purpose| match (purpose, family.decoder) {
        (Purpose::Task(Task::FillMask), Some(_)) => Purpose::Task(Task::TextGeneration),
        _ => purpose,
    };
    for (_, purpose) in HEADS.iter().filter(|(start, _)| state.iter().any(|(name, _)| name.starts_with(start))) {
        let purpose = of_family(*purpose);
        if !found.contains(&purpose) {
            found.push(purpose);
        }
    }
    found
}

/// The possible tasks of the classifier, where there is one.
fn classifier(family: &Family, common: &CommonConfig, state: &StateDict) -> Vec<Purpose> {
    let [texts, tokens] = [Task::TextClassification, Task::TokenClassification].map(Purpose::Task);
    let rows = |name: &str| state.get(name).map(|tensor| tensor.weight.shape().first().copied().unwrap_or_default());
    // A model that compares choices has the tensors of one that gives each text a score.
    let scores = |rows: usize| match rows == 1 && !common.gives_one_number() {
        true => vec![texts, CHOICES],
        false => vec![texts],
    };
    if rows("classifier.out_proj.weight").is_some() {
        return vec![texts];
    }
    if let Some(rows) = rows("logits_proj.weight") {
        return scores(rows);
    }
    let Some(rows) = rows("classifier.weight") else {
        // A head without its own last layer is tied to the word embeddings.
        let tied = matches!(family.classifier, ClassifierOf::Any) && state.contains("head.dense.weight");
        return if tied { vec![Purpose::Task(Task::FillMask)] } else { Vec::new() };
    };
    match family.classifier {
        ClassifierOf::Tokens => vec![tokens],
        ClassifierOf::TokensWithout(pooler) if rows == 1 && state.contains(pooler) => vec![CHOICES],
        ClassifierOf::TokensWithout(_) => vec![tokens],
        // Older versions saved the pooler with models that label tokens, too.
        ClassifierOf::TextsWith(pooler) if state.contains(pooler) && common.names_tags() => vec![texts, tokens],
        ClassifierOf::TextsWith(pooler) if state.contains(pooler) => scores(rows),
        ClassifierOf::TextsWith(_) => vec![tokens],
        ClassifierOf::Any if common.problem_type.is_some() => vec![texts],
        ClassifierOf::Any if common.names_tags() => vec![tokens],
        ClassifierOf::Any => match rows {
            1 => vec![texts, tokens, CHOICES],
            2 => vec![texts, tokens, Purpose::Task(Task::QuestionAnswering)],
            _ => vec![texts, tokens],
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::front::hub::checkpoint::Tensor;
    use crate::ir::{DType, Weight};
    use crate::json;

    /// A checkpoint of nothing but a configuration, and tensors of that many rows.
    fn found(model_type: &str, config: &str, tensors: &[(&str, usize)]) -> Result<Task> {
        let family = FAMILIES.iter().find(|family| family.model_type == model_type).unwrap();
        let mut state = StateDict::default();
        let encoder = format!("{}.layer", family.prefix);
        for (name, rows) in tensors.iter().copied().chain([(encoder.as_str(), 4)]) {
            let weight = Weight::source(name, DType::F32, vec![rows, 4], None).unwrap();
            state.insert(name.to_owned(), Tensor { weight, file: "model.safetensors".into() });
        }
        let checkpoint = Checkpoint {
            dir: PathBuf::new(),
            encoder: PathBuf::new(),
            config: config.to_owned(),
            common: json::parse::<CommonConfig>(config, "config.json").unwrap(),
            sentence: None,
            state: state.clone(),
            files: Vec::new(),
        };
        let state = state.with_prefix(family.prefix, super::super::HEADS).unwrap();
        of(family, &checkpoint, &state, &state)
    }

    fn refusal(model_type: &str, config: &str, tensors: &[(&str, usize)]) -> String {
        found(model_type, config, tensors).unwrap_err().to_string()
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
            for class in family.classes().split(", ") {
                let config = format!(r#"{{"architectures": ["{class}"]}}"#);
                assert!(found(family.model_type, &config, &[]).is_ok(), "{class}");
            }
        }
        assert_eq!(of_class("TFBertForQuestionAnswering"), Some(Task::QuestionAnswering));
        assert_eq!(of_class("FlaxRobertaModel"), Some(Task::FeatureExtraction));
    }
}
