//! The arguments of `kilnc eval`.

use std::path::PathBuf;

use clap::Args;

use super::super::units::some;
use super::super::{TrustArgs, WindowArgs};
use kilnc::bundle::Bundle;
use kilnc::error::Result;
use kilnc::settings;
use kilnc::task::{Aggregation, PipelineOptions, Settings, Similarity, Task};

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc eval sections.kiln --data sections-eval.jsonl
  kilnc eval sections.kiln --data sections-eval.jsonl --engine ort-cpu-int8 --json
  kilnc eval sections.kiln --data sections-eval.jsonl --key release.pem.pub
  kilnc eval ner.kiln --data conll.jsonl
  kilnc eval squad.kiln --data squad.jsonl --max-answer-length 30
  kilnc eval minilm.kiln --data sts.jsonl --similarity dot

Each line of the data is an object, by the task that the bundle is for:
  text-classification   {\"text\": \"…\", \"label\": \"…\"}; \"labels\": [\"…\", …] where texts have any number of labels;
                        numbers for regression; \"pair\": \"…\" where two texts belong together
                        → accuracy; micro F1 (multi-label); mean absolute error and Spearman (regression)
  token-classification  {\"tokens\": [\"EU\", \"calls\"], \"tags\": [\"B-ORG\", \"O\"]}, or “ner_tags”, by name or number; or
                        {\"text\": \"EU calls\", \"entities\": [{\"start\": 0, \"end\": 2, \"label\": \"ORG\"}]}, in characters
                        → precision, recall and F1 of whole entities, as seqeval counts them; accuracy of tags
  question-answering    {\"question\": \"…\", \"context\": \"…\", \"answers\": [\"…\", …]}, or SQuAD's {\"text\": […], …};
                        an empty list where the text holds no answer
                        → exact match and F1, as SQuAD counts them
  text-generation       {\"text\": \"…\"}
                        → perplexity, in windows of the model's length that share half
  fill-mask             {\"text\": \"the [MASK] is slow\", \"label\": \"train\"}; \"labels\": […] for several masks
                        → top-1 and top-5 accuracy, perplexity of the correct tokens
  sentence-similarity,  {\"text\": \"…\", \"pair\": \"…\", \"score\": 3.5}, of any scale
  feature-extraction    → Pearson and Spearman of the similarity with the score, by the cosine or as the bundle says

Every engine of the bundle that can run here is scored, one text at a time; “agreement” and “max_abs” are compared with the
first. Texts that are longer than the model reads are read in windows, as kilnc run does; classifiers cut them, unless a flag
or the bundle sets it otherwise, with a warning. docs/eval.md says how each measure is taken.")]
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
    /// given.
    #[arg(long, value_name = "HOW")]
    pub similarity: Option<Similarity>,
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

    /// The options of the pipeline, one text at a time: the command line's, else the bundle's.
    pub fn options(&self, bundle: &Bundle) -> PipelineOptions {
        let words = Some(Aggregation::First).filter(|_| bundle.manifest.task == Task::TokenClassification);
        let aggregation = self.aggregation.or(bundle.manifest.pipeline.aggregation).or(words);
        Settings { aggregation, ..self.settings() }.into()
    }
}
