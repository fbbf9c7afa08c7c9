//! What a model is for, by the names the Hub uses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, nearest, printable};

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Hidden states of the bare encoder.
    FeatureExtraction,
    /// One row of logits for each text.
    TextClassification,
}

impl Task {
    /// Every task there is.
    pub const ALL: [Task; 2] = [Task::FeatureExtraction, Task::TextClassification];

    /// The name on the Hub.
    pub fn name(self) -> &'static str {
        match self {
            Task::FeatureExtraction => "feature-extraction",
            Task::TextClassification => "text-classification",
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
            match nearest(text, names) {
                Some(name) => error.hint(format!("did you mean {name}?")),
                None => error,
            }
        })
    }
}
