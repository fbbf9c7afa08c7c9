//! The task of a model: the one rule, which everything that can say it goes through ([`Sources`]). The first that has it
//! decides:
//!
//! 1. the user;
//! 2. an adapter of PEFT with a head, by its task type; the last one that has both;
//! 3. the head of an adapter of AdapterHub, by its kind or its class;
//! 4. the tensors of a head that adapters have added;
//! 5. `modules.json`, which lists the modules around the encoder;
//! 6. the class in `architectures`;
//! 7. the tensors of the head.
//!
//! The class and the kind of a head say the head, and the table of tasks (`src/task/id.rs`) whose that is.
//!
//! A class that is not built is refused by name, and so are tensors that may be those of several heads: a model that is
//! taken for another makes predictions, and wrong ones.

use super::Family;
use super::classes::head_of;
use super::family::ClassifierOf;
use crate::error::{Error, Result, printable};
use crate::front::hub::adapter::hub::{AddedHead, Insertions};
use crate::front::hub::checkpoint::{Checkpoint, CommonConfig, Purpose as Made, StateDict};
use crate::task::head::Head;
use crate::task::id::Task;

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
const HEADS: [(&str, Purpose); 17] = [
    ("qa_outputs.", Purpose::Task(Task::QuestionAnswering)),
    ("start_logits.", Purpose::Other("question answering by beam search")),
    ("cls.predictions.", Purpose::Task(Task::FillMask)),
    ("predictions.", Purpose::Task(Task::FillMask)),
    ("lm_head.", Purpose::Task(Task::FillMask)),
    ("embed_out.", Purpose::Task(Task::FillMask)),
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

/// What can decide the task of a model.
pub struct Sources<'a> {
    /// The user's choice.
    pub requested: Option<Task>,
    /// PEFT's task types of adapters, in their order, each with whether its adapter has tensors of a head.
    pub peft: &'a [(&'a str, bool)],
    /// AdapterHub's adapters.
    pub inserted: &'a Insertions,
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// Its own tensors, by the names of its family.
    pub base: &'a StateDict,
    /// The model's: the checkpoint's own, or with adapters merged.
    pub state: &'a StateDict,
}

impl Sources<'_> {
    /// The task of the model. Fails where its class is not built, and where its tensors may be those of several heads.
    pub fn task(&self) -> Result<Task> {
        let family = super::family(&self.checkpoint.common)?;
        // Always read: a head that is not supported is an error, whatever the user asks for.
        let of_hub = self.of_hub()?;
        match self.requested.or_else(|| self.of_peft(family)).or(of_hub) {
            Some(task) => Ok(task),
            None => self.of_checkpoint(family),
        }
    }

    /// The task of the last of PEFT's adapters that has a head for it, or is of a language model of a family that has
    /// such: its head is the base's.
    fn of_peft(&self, family: &Family) -> Option<Task> {
        self.peft.iter().rev().find_map(|(kind, brings_head)| {
            let task = Task::of_peft(kind)?;
            (*brings_head || task.head() == Head::NextToken && family.generates()).then_some(task)
        })
    }

    /// The task of the head of AdapterHub's adapters.
    fn of_hub(&self) -> Result<Option<Task>> {
        match &self.inserted.head {
            None => Ok(None),
            Some(AddedHead::Flexible(head)) => Ok(Task::of_head(head.kind.head())),
            Some(AddedHead::OfClass { class, adapter }) => {
                let task = head_of(class).filter(|head| *head != Head::HiddenStates).and_then(Task::of_head);
                task.map(Some).ok_or_else(|| {
                    Error::unsupported(format!("heads of the class `{}` are not supported", printable(class)))
                        .at("head_config.json: model_class")
                        .at(adapter.clone())
                })
            }
        }
    }

    /// The task by the modules, the class or the tensors.
    fn of_checkpoint(&self, family: &Family) -> Result<Task> {
        let Sources { checkpoint, base, state, .. } = *self;
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
        let mut found: Option<Task> = None;
        for name in &classes(&checkpoint.common) {
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
    head_of(name).and_then(Task::of_head)
}

/// Whether a checkpoint's file has names as models with a head have them.
fn is_below_prefix(family: &Family, checkpoint: &Checkpoint) -> bool {
    let below = |name: &str| name.strip_prefix(family.prefix).is_some_and(|rest| rest.starts_with('.'));
    checkpoint.state.iter().any(|(name, _)| below(name))
}

fn not_built(class: &str, family: &Family, state: &StateDict) -> Error {
    Error::unsupported(format!("the class `{}` is not built", printable(class)))
        .at("config.json: architectures")
        .hint(format!("of {}, these are: {}", family.model_type, family.class_names()))
        .hint(choices(&heads(family, state)))
}

/// The tasks that --task can choose for weights with these heads.
fn choices(heads: &[Purpose]) -> String {
    let encoder = "--task feature-extraction builds the encoder alone";
    let has = |task: Task| heads.contains(&Purpose::Task(task));
    match () {
        () if has(Task::FillMask) => format!("{encoder}, --task {} the head that fills masks", Task::FillMask),
        () if has(Task::TextGeneration) => format!("{encoder}, --task {} the language model", Task::TextGeneration),
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
            match is_below_prefix(family, checkpoint) {
                true => Ok(Task::TextGeneration),
                // A language model's file may have names as the bare model has them.
                false => Err(several(&[Purpose::Task(Task::TextGeneration), Purpose::Task(Task::FeatureExtraction)])),
            }
        }
        ([], _) => Ok(Task::FeatureExtraction),
        ([_], [task]) => Ok(*task),
        ([Purpose::Other(what)], _) => Err(Error::unsupported(format!("models for {what} are not built"))
            .at("the weights; config.json names no class")
            .hint(choices(&purposes))),
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
    // Newer decoders have one name for both heads of labels; only that of tokens has a bias.
    let labels_tokens = family.has(Head::TokenLogits) && state.contains("score.bias");
    // A head over the vocabulary has the same names in both kinds of families.
    let of_family = |purpose: Purpose| match purpose {
        Purpose::Task(Task::FillMask) if family.generates() => Purpose::Task(Task::TextGeneration),
        Purpose::Task(Task::TextClassification) if family.generates() && labels_tokens => {
            Purpose::Task(Task::TokenClassification)
        }
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
mod tests;
