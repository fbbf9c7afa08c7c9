//! What a model is for, by the names the Hub uses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
    /// One vector for each text, whose cosines say how alike texts are.
    SentenceSimilarity,
    /// Logits over the vocabulary for the token after each token.
    TextGeneration,
}

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

    /// The task of a class of `transformers`, by the end of its name. Whether it is built is known to its family.
    pub fn of_architecture(name: &str) -> Option<Task> {
        const ENDINGS: [(&str, Task); 7] = [
            ("ForSequenceClassification", Task::TextClassification),
            ("ForTokenClassification", Task::TokenClassification),
            ("ForQuestionAnswering", Task::QuestionAnswering),
            ("ForQuestionAnsweringSimple", Task::QuestionAnswering),
            ("ForMaskedLM", Task::FillMask),
            ("ForCausalLM", Task::TextGeneration),
            ("Model", Task::FeatureExtraction),
        ];
        // These end like the bare encoder, and have heads.
        const OTHERS: [&str; 2] = ["LMHeadModel", "AdapterModel"];
        let known = ENDINGS.into_iter().find(|(ending, _)| name.ends_with(ending));
        known.filter(|_| !OTHERS.iter().any(|other| name.ends_with(other))).map(|(_, task)| task)
    }

    /// The task of one of PEFT's types, if it is one of those here that need a head.
    pub fn of_peft(task_type: &str) -> Option<Task> {
        match task_type {
            "SEQ_CLS" => Some(Task::TextClassification),
            "TOKEN_CLS" => Some(Task::TokenClassification),
            "QUESTION_ANS" => Some(Task::QuestionAnswering),
            "CAUSAL_LM" => Some(Task::TextGeneration),
            _ => None,
        }
    }

    /// The end of the name of its class.
    pub fn architecture(self) -> &'static str {
        match self {
            Task::FeatureExtraction | Task::SentenceSimilarity => "Model",
            Task::TextClassification => "ForSequenceClassification",
            Task::TokenClassification => "ForTokenClassification",
            Task::QuestionAnswering => "ForQuestionAnswering",
            Task::FillMask => "ForMaskedLM",
            Task::TextGeneration => "ForCausalLM",
        }
    }

    /// Whether answers have names.
    pub fn has_labels(self) -> bool {
        matches!(self, Task::TextClassification | Task::TokenClassification)
    }

    /// The name on the Hub.
    pub fn name(self) -> &'static str {
        match self {
            Task::FeatureExtraction => "feature-extraction",
            Task::TextClassification => "text-classification",
            Task::TokenClassification => "token-classification",
            Task::QuestionAnswering => "question-answering",
            Task::FillMask => "fill-mask",
            Task::SentenceSimilarity => "sentence-similarity",
            Task::TextGeneration => "text-generation",
        }
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
