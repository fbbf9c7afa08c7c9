//! The arguments of `kilnc eval`.

use std::path::PathBuf;

use clap::Args;

use super::super::units::some;
use super::super::{TrustArgs, WindowArgs};
use kilnc::error::Result;
use kilnc::settings;
use kilnc::task::{self, Aggregation, Settings, Similarity, Task};

#[derive(Args)]
#[command(after_help = after_help())]
pub struct EvalArgs {
    /// The bundle.
    pub bundle: PathBuf,
    /// Labelled texts, one JSON object on each line.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Which of the bundle's engines; all that run here by default.
    #[arg(long, value_name = "NAME")]
    pub engine: Vec<String>,
    /// How tokens become words in texts that come whole: none, simple, first, average, max; the
    /// bundle's, or first by default.
    #[arg(long, value_name = "HOW")]
    pub aggregation: Option<Aggregation>,
    /// Longest answer to a question, in tokens; the bundle's, or 15 by default.
    #[arg(long, value_name = "N", value_parser = some)]
    pub max_answer_length: Option<usize>,
    /// How the vectors of two texts are compared: cosine, dot, euclidean, manhattan; the bundle's way, or cosine by
    /// default.
    #[arg(long, value_name = "HOW")]
    pub similarity: Option<Similarity>,
    /// Which of the model's prompts is put before every text.
    #[arg(long, value_name = "NAME")]
    pub prompt_name: Option<String>,
    #[command(flatten)]
    pub windows: WindowArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
}

impl EvalArgs {
    /// Fails where an option does not belong to the task.
    pub fn check(&self, task: Task) -> Result<()> {
        match self.settings().misplaced(task) {
            None => Ok(()),
            Some((field, of)) => Err(settings::of_other_tasks(&settings::flag(field), &of, task)),
        }
    }

    /// The command line's options.
    pub fn settings(&self) -> Settings {
        let EvalArgs { aggregation, max_answer_length, similarity, .. } = *self;
        Settings { aggregation, max_answer_length, similarity, ..self.windows.settings() }
    }
}

/// Examples, and what rows are and measures for each task.
fn after_help() -> String {
    format!(
        "\
Examples:
  kilnc eval sections.kiln --data sections-eval.jsonl
  kilnc eval sections.kiln --data sections-eval.jsonl --engine ort-cpu-int8 --json
  kilnc eval sections.kiln --data sections-eval.jsonl --key release.pem.pub
  kilnc eval ner.kiln --data conll.jsonl
  kilnc eval squad.kiln --data squad.jsonl --max-answer-length 30
  kilnc eval minilm.kiln --data sts.jsonl --similarity dot

Each line of the data is an object, by the task that the bundle is for:
{}
Every engine of the bundle that can run here is scored, one text at a time; “agreement” and “max_abs” are compared with the
first. Texts that are longer than the model reads are read in windows, as kilnc run does; classifiers cut them, unless a flag
or the bundle sets it otherwise, with a warning. docs/eval.md says how each measure is taken.",
        task::labelled_rows()
    )
}
