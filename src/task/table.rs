//! The one table of the tasks' files.

use super::definition::Definition;
use super::id::Task;
use super::scoring::{Scoring, ScoringRequest};
use super::{
    feature_extraction, fill_mask, question_answering, sentence_similarity, text_classification, text_generation,
    token_classification,
};
use crate::error::{Error, Result};
use crate::runtime::TextInput;

/// What a task defines.
pub(super) fn definition(task: Task) -> &'static dyn Definition {
    match task {
        Task::FeatureExtraction => &feature_extraction::FeatureExtraction,
        Task::TextClassification => &text_classification::TextClassification,
        Task::TokenClassification => &token_classification::TokenClassification,
        Task::QuestionAnswering => &question_answering::QuestionAnswering,
        Task::FillMask => &fill_mask::FillMask,
        Task::SentenceSimilarity => &sentence_similarity::SentenceSimilarity,
        Task::TextGeneration => &text_generation::TextGeneration,
    }
}

/// Fails where an input does not fit the task.
pub(super) fn check(task: Task, input: TextInput) -> Result<()> {
    let definition = definition(task);
    if input.text.trim().is_empty() || input.pair.is_some_and(|pair| pair.trim().is_empty()) {
        return Err(Error::bad_input(definition.empty()));
    }
    definition.check(input)
}

/// Reads the labelled rows of a file, by which the engines of a bundle are scored. Fails, naming the line, where a row
/// is none of the task's, and where a setting does not fit the model.
pub fn scoring(request: &ScoringRequest) -> Result<Box<dyn Scoring>> {
    definition(request.bundle.manifest.task).scoring(request)
}

/// What labelled rows are and what is measured by them, for every task: lines of help. Tasks with the same rows are together.
pub fn labelled_rows() -> String {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for task in Task::ALL {
        let rows = definition(task).rows();
        match all.iter_mut().find(|(known, _)| *known == rows) {
            Some((_, tasks)) => tasks.push(task.name()),
            None => all.push((rows, vec![task.name()])),
        }
    }
    let width = Task::ALL.map(|task| task.name().len()).into_iter().max().unwrap_or_default() + 2;
    let mut help = String::new();
    for (rows, tasks) in all {
        let names = tasks.join(",\n");
        let (mut names, mut rows) = (names.lines(), rows.lines());
        loop {
            let (name, row) = (names.next(), rows.next());
            if (name, row) == (None, None) {
                break;
            }
            help += &format!("  {:width$}{}\n", name.unwrap_or_default(), row.unwrap_or_default());
        }
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_has_the_rows_of_every_task() {
        let help = labelled_rows();
        for task in Task::ALL {
            let first = help.lines().filter(|line| line.trim_start().starts_with(task.name()));
            assert_eq!(first.count(), 1, "{task}: {help}");
        }
        let shared = help.lines().find(|line| line.contains("feature-extraction")).unwrap();
        assert_eq!(shared, "  feature-extraction,   {\"text\": \"…\", \"pair\": \"…\", \"score\": 3.5}, of any scale");
    }

    #[test]
    fn texts_are_checked_against_the_task() {
        let said = |task, input| check(task, input).unwrap_err().message().to_owned();
        assert_eq!(said(Task::TextClassification, " \n".into()), "a text is empty");
        assert_eq!(said(Task::QuestionAnswering, "a text".into()), "there is no question to the text");
        let question = TextInput::question("", "a text");
        assert_eq!(said(Task::QuestionAnswering, question), "the question or its text is empty");
        let pair = TextInput { text: "a", pair: Some("b") };
        assert_eq!(said(Task::FillMask, pair), "fill-mask is of one text, not of a pair");
        assert!(check(Task::TextClassification, pair).is_ok());
    }
}
