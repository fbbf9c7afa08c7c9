//! What was merged, for the manifest and for those who ask.

use std::path::PathBuf;

use crate::error::printable;

/// The merged adapter, for the manifest and for reports.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// PEFT's name of the kind, such as `LORA`.
    pub kind: &'static str,
    /// The files that were read.
    pub files: Vec<PathBuf>,
    /// How many modules were changed.
    pub changed: usize,
    /// How many tensors of a bottleneck adapter went into the graph.
    pub inserted: usize,
    /// How many rows of embeddings were replaced.
    pub tokens: usize,
    /// The tensors that the adapter saved whole (`modules_to_save`), such as a classifier.
    pub saved: Vec<String>,
    /// Modules of the model that the configuration names and the file does not change.
    pub untouched: Vec<String>,
    /// Tensors of the model that the configuration lists as trained and the file lacks.
    pub lost: Vec<Lost>,
    /// Where word embeddings that the projection to the vocabulary shares were changed, by more than rows of tokens: whether
    /// the projection follows (`ensure_weight_tying`).
    pub follows: Option<bool>,
    /// The warning of unknown options.
    pub unknown: Option<String>,
    /// The adapter's PEFT task type, such as `SEQ_CLS`.
    pub task: Option<String>,
}

/// A tensor of the model that an adapter's configuration lists as trained, and that its file lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The file and the field of it.
    pub location: &'static str,
    /// The tensor, by its name in the model.
    pub tensor: String,
}

impl Merged {
    /// A summary of the merge.
    pub fn summary(&self) -> String {
        summary(self.changed, self.inserted, self.tokens, self.saved.len())
    }

    /// The warning.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let more = match self.untouched.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let named = self.untouched.first().map(|module| {
            format!(
                "target_modules in adapter_config.json names `{}`{more}, and the file lacks the trained tensors: \
                 the base's stay",
                printable(module)
            )
        });
        self.unknown.iter().cloned().chain(named)
    }
}

/// A summary of an adapter's changes of a model.
pub fn summary(changed: usize, inserted: usize, tokens: usize, saved: usize) -> String {
    let mut parts = vec![format!("into {changed} weights")];
    if inserted > 0 {
        parts.push(format!("{inserted} tensors inserted"));
    }
    if tokens > 0 {
        parts.push(format!("{tokens} tokens replaced"));
    }
    parts.push(format!("{saved} from modules_to_save"));
    parts.join(", ")
}
