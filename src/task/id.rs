//! Tasks by the Hub's names, and their facts as data.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::head::Head;
use crate::error::{Error, Result, printable};

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Hidden states of the bare encoder.
    FeatureExtraction,
    /// One row of logits for each text.
    TextClassification,
    /// One row of logits for each token.
    TokenClassification,
    /// Where in a text an answer begins and ends.
    QuestionAnswering,
    /// Logits over the vocabulary for each token.
    FillMask,
    /// One vector for each text, whose cosines say how similar texts are.
    SentenceSimilarity,
    /// Logits over the vocabulary for the token after each token.
    TextGeneration,
}

/// The parts of a task's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// One text.
    Text,
    /// One text or a pair, which the model reads together.
    TextOrPair,
    /// One text or a pair, whose texts the model reads one by one.
    TextOrTwo,
    /// A question and its context, which the model reads together.
    Question,
    /// A text to be continued.
    Prompt,
}

/// The facts of a task, as far as they are data.
#[derive(Debug)]
pub struct Facts {
    task: Task,
    /// The name on the Hub.
    pub name: &'static str,
    /// What its models have on top of their hidden states. Of tasks with the same head, the first in the table is that of
    /// a checkpoint that says no more.
    pub head: Head,
    /// PEFT's type of it, where its models need a head.
    pub peft: Option<&'static str>,
    /// The parts of an input.
    pub input: Input,
    /// Whether predictions have names.
    pub has_labels: bool,
    /// The fields of [`crate::settings::Settings`] that only some tasks have, and this one does.
    pub settings: &'static [&'static str],
}

/// The one table of them. A task is a line here and a file beside this one.
static FACTS: [Facts; 7] = [
    Facts {
        task: Task::FeatureExtraction,
        name: "feature-extraction",
        head: Head::HiddenStates,
        peft: None,
        input: Input::Text,
        has_labels: false,
        settings: &["similarity"],
    },
    Facts {
        task: Task::TextClassification,
        name: "text-classification",
        head: Head::TextLogits,
        peft: Some("SEQ_CLS"),
        input: Input::TextOrPair,
        has_labels: true,
        settings: &["join", "top_k"],
    },
    Facts {
        task: Task::TokenClassification,
        name: "token-classification",
        head: Head::TokenLogits,
        peft: Some("TOKEN_CLS"),
        input: Input::Text,
        has_labels: true,
        settings: &["aggregation"],
    },
    Facts {
        task: Task::QuestionAnswering,
        name: "question-answering",
        head: Head::SpanLogits,
        peft: Some("QUESTION_ANS"),
        input: Input::Question,
        has_labels: false,
        settings: &["max_answer_length", "no_answer", "top_k"],
    },
    Facts {
        task: Task::FillMask,
        name: "fill-mask",
        head: Head::MaskedTokens,
        peft: None,
        input: Input::Text,
        has_labels: false,
        settings: &["top_k"],
    },
    Facts {
        task: Task::SentenceSimilarity,
        name: "sentence-similarity",
        head: Head::Embedding,
        peft: None,
        input: Input::TextOrTwo,
        has_labels: false,
        settings: &["similarity"],
    },
    Facts {
        task: Task::TextGeneration,
        name: "text-generation",
        head: Head::NextToken,
        peft: Some("CAUSAL_LM"),
        input: Input::Prompt,
        has_labels: false,
        settings: &[],
    },
];

impl Task {
    /// Every task there is.
    pub const ALL: [Task; 7] = [
        Task::FeatureExtraction,
        Task::TextClassification,
        Task::TokenClassification,
        Task::QuestionAnswering,
        Task::FillMask,
        Task::SentenceSimilarity,
        Task::TextGeneration,
    ];

    /// Its facts.
    pub fn facts(self) -> &'static Facts {
        // The table is in the order of the variants, which a test holds.
        &FACTS[self as usize]
    }

    /// The task of a checkpoint whose models have that head, where nothing says more.
    pub fn of_head(head: Head) -> Option<Task> {
        FACTS.iter().find(|facts| facts.head == head).map(|facts| facts.task)
    }

    /// The task of one of PEFT's types, if it is one of those here that need a head.
    pub fn of_peft(task_type: &str) -> Option<Task> {
        FACTS.iter().find(|facts| facts.peft == Some(task_type)).map(|facts| facts.task)
    }

    /// What its models have on top of their hidden states.
    pub fn head(self) -> Head {
        self.facts().head
    }

    /// Whether predictions have names.
    pub fn has_labels(self) -> bool {
        self.facts().has_labels
    }

    /// Whether logits are over the vocabulary.
    pub fn is_over_vocabulary(self) -> bool {
        self.head().is_over_vocabulary()
    }

    /// Whether a text is continued, rather than read as a whole.
    pub fn generates(self) -> bool {
        self.facts().input == Input::Prompt
    }

    /// Whether a text has masks, whose tokens are predicted.
    pub fn fills_masks(self) -> bool {
        self.head() == Head::MaskedTokens
    }

    /// Whether an input is a question and its context.
    pub fn reads_questions(self) -> bool {
        self.facts().input == Input::Question
    }

    /// Whether the model reads two texts together.
    pub fn reads_pairs(self) -> bool {
        matches!(self.facts().input, Input::TextOrPair | Input::Question)
    }

    /// Whether it has that field of the settings.
    pub fn has_setting(self, field: &str) -> bool {
        self.facts().settings.contains(&field)
    }

    /// The tasks for which that holds.
    pub fn all_with(holds: impl Fn(Task) -> bool) -> Vec<Task> {
        Task::ALL.into_iter().filter(|task| holds(*task)).collect()
    }

    /// The name on the Hub.
    pub fn name(self) -> &'static str {
        self.facts().name
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(text: &str) -> Result<Task> {
        let names = Task::ALL.map(Task::name);
        Task::ALL.into_iter().find(|task| task.name() == text).ok_or_else(|| {
            let error = Error::bad_input(format!("unknown task `{}`; known: {}", printable(text), names.join(", ")));
            error.hint_nearest(text, names)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_task_in_its_order() {
        for task in Task::ALL {
            assert_eq!(task.facts().task, task);
            assert_eq!(serde_json::to_value(task).unwrap(), task.name());
            assert_eq!(task.name().parse::<Task>().unwrap(), task);
        }
    }

    #[test]
    fn a_head_and_a_type_of_peft_say_their_task() {
        for head in Head::ALL {
            assert_eq!(Task::of_head(head).map(Task::head), Some(head), "no task has the head {head:?}");
        }
        assert_eq!(Task::of_peft("CAUSAL_LM"), Some(Task::TextGeneration));
        assert_eq!(Task::of_peft("FEATURE_EXTRACTION"), None);
    }
}
