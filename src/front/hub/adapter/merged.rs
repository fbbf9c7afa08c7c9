//! What was merged, for the manifest and for those who ask.

use std::path::PathBuf;

use crate::error::printable;

/// What was merged, for the manifest and for those who ask.
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
    /// The tensors that the adapter brought whole, such as a classifier.
    pub saved: Vec<String>,
    /// Modules of the model that the configuration names and the file does not change.
    pub untouched: Vec<String>,
    /// Tensors of the model that the configuration says were trained and the file does not hold.
    pub lost: Vec<Lost>,
    /// What is said of options that are not known.
    pub unknown: Option<String>,
    /// What the adapter was trained for, in PEFT's words, such as `SEQ_CLS`.
    pub task: Option<String>,
}

/// A tensor of the model that an adapter's configuration says was trained, and that its file does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The file and the field that say so.
    pub location: &'static str,
    /// The tensor, by its name in the model.
    pub tensor: String,
}

impl Merged {
    /// What was done, in words.
    pub fn summary(&self) -> String {
        summary(self.changed, self.inserted, self.tokens, self.saved.len())
    }

    /// What its user has to know.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let more = match self.untouched.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let named = self.untouched.first().map(|module| {
            format!(
                "target_modules in adapter_config.json names `{}`{more}, and the file does not hold what was trained \
                 there: the base's stays",
                printable(module)
            )
        });
        self.unknown.iter().cloned().chain(named)
    }
}

/// How much of a model an adapter changes, in words.
pub fn summary(changed: usize, inserted: usize, tokens: usize, saved: usize) -> String {
    let mut parts = vec![format!("into {changed} weights")];
    if inserted > 0 {
        parts.push(format!("{inserted} tensors inserted"));
    }
    if tokens > 0 {
        parts.push(format!("{tokens} tokens replaced"));
    }
    parts.push(format!("{saved} brought whole"));
    parts.join(", ")
}
