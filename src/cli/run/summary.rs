//! Predictions as text, for people.

use serde::Serialize;

use kilnc::error::printable;
use kilnc::runtime::{self, Choice};
use kilnc::task::{Entity, Fill, Labels, Predicted, Prediction, Span};

/// Most numbers of a vector that are shown.
const SHOWN: usize = 6;

/// A text with its answer.
#[derive(Serialize)]
pub(super) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    #[serde(flatten)]
    pub predicted: Predicted,
}

/// Answers to read, one after another: of one line each, or each below its text.
#[derive(Default)]
pub(super) struct Table {
    /// Those of the columns so far.
    widths: Vec<usize>,
}

impl Table {
    pub fn lines(&mut self, lines: &[Line]) -> String {
        let cells: Option<Vec<Vec<String>>> = lines.iter().map(on_one_line).collect();
        match cells {
            Some(rows) => self.rows(&rows, ""),
            None => lines.iter().map(block).collect(),
        }
    }

    /// Rows with every cell but the last as wide as the widest of its column.
    fn rows(&mut self, rows: &[Vec<String>], indent: &str) -> String {
        for row in rows {
            let before_last = row.len().saturating_sub(1);
            self.widths.resize(self.widths.len().max(before_last), 0);
            for (width, cell) in self.widths.iter_mut().zip(row.iter().take(before_last)) {
                *width = cell.chars().count().max(*width);
            }
        }
        let widths = self.widths.iter().copied().chain(std::iter::repeat(0));
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(widths.clone()).enumerate().map(|(column, (cell, width))| {
                if column + 1 == row.len() { cell.clone() } else { format!("{cell:width$}") }
            });
            format!("{indent}{}\n", cells.collect::<Vec<_>>().join("  "))
        };
        rows.iter().map(line).collect()
    }
}

/// A separate table.
fn table(rows: &[Vec<String>], indent: &str) -> String {
    Table::default().rows(rows, indent)
}

/// The cells of a prediction that comes before the text.
fn on_one_line(line: &Line) -> Option<Vec<String>> {
    let pair = line.pair.as_ref().map(|pair| format!("  ·  {}", shortened(pair))).unwrap_or_default();
    let text = format!("{}{pair}{}", shortened(&line.text), windows(&line.predicted));
    let mut cells = match &line.predicted.prediction {
        Prediction::Labels(Labels { prediction, top: None }) => match prediction {
            runtime::Classification::Label(Choice { label, score, .. }) => {
                vec![printable(label), format!("{score:.3}")]
            }
            runtime::Classification::Labels { labels, .. } if labels.is_empty() => vec!["none".to_owned()],
            runtime::Classification::Labels { labels, .. } => vec![choices(labels)],
            runtime::Classification::Regression { numbers } => vec![numbers_of(numbers)],
            runtime::Classification::Score { score } => vec![format!("{score:.4}")],
        },
        Prediction::Labels(Labels { top: Some(top), .. }) => vec![choices(top)],
        Prediction::Similarity { score } => vec![format!("{score:.4}")],
        Prediction::Vector { embedding } => vec![vector(embedding)],
        _ => return None,
    };
    cells.push(text);
    Some(cells)
}

/// A prediction of several lines below its text.
fn block(line: &Line) -> String {
    let question = line.question.as_ref().map(|question| format!("{}  ·  ", shortened(question))).unwrap_or_default();
    let head = format!("{question}{}{}\n", shortened(&line.text), windows(&line.predicted));
    let below = match &line.predicted.prediction {
        Prediction::Entities { entities } => table(&entities.iter().map(entity).collect::<Vec<_>>(), "  "),
        Prediction::Spans { answers } => table(&answers.iter().map(span).collect::<Vec<_>>(), "  "),
        Prediction::Fills { masks } => {
            let of_mask = |fills: &Vec<Fill>| table(&fills.iter().map(fill).collect::<Vec<_>>(), "  ");
            masks.iter().map(of_mask).collect::<Vec<_>>().join("\n")
        }
        Prediction::Features { features, pooled } => {
            let pooled = pooled.as_ref().map(|pooled| format!("  pooled  {}\n", vector(pooled))).unwrap_or_default();
            let shown = features.first().map(|first| vector(first)).unwrap_or_default();
            format!("  {} tokens, the first of {shown}\n{pooled}", features.len())
        }
        Prediction::Labels(_) | Prediction::Similarity { .. } | Prediction::Vector { .. } => {
            on_one_line(line).map(|cells| format!("  {}\n", cells.join("  "))).unwrap_or_default()
        }
    };
    if below.is_empty() { format!("{head}  none\n") } else { head + &below }
}

fn entity(entity: &Entity) -> Vec<String> {
    let (start, end) = entity.position();
    let (label, word) = (printable(entity.label()), printable(entity.word()));
    vec![label, format!("{:.3}", entity.score()), word, format!("{start}…{end}")]
}

fn span(Span { score, start, end, answer }: &Span) -> Vec<String> {
    match answer.is_empty() {
        true => vec![format!("{score:.3}"), "no answer".to_owned()],
        false => vec![format!("{score:.3}"), shortened(answer), format!("{start}…{end}")],
    }
}

fn fill(Fill { score, token_str, sequence, .. }: &Fill) -> Vec<String> {
    vec![format!("{score:.3}"), printable(token_str), shortened(sequence)]
}

fn choices(labels: &[Choice]) -> String {
    let choice = |Choice { label, score, .. }: &Choice| format!("{} {score:.3}", printable(label));
    labels.iter().map(choice).collect::<Vec<_>>().join(", ")
}

fn numbers_of(numbers: &[f32]) -> String {
    numbers.iter().map(|n| format!("{n:.4}")).collect::<Vec<_>>().join(", ")
}

/// The first numbers of a vector, and how many there are.
fn vector(numbers: &[f32]) -> String {
    let length = numbers.iter().map(|x| x * x).sum::<f32>().sqrt();
    let more = if numbers.len() > SHOWN { ", …" } else { "" };
    let first = numbers.get(..SHOWN).unwrap_or(numbers);
    format!("{} numbers of length {length:.3}: {}{more}", numbers.len(), numbers_of(first))
}

fn windows(predicted: &Predicted) -> String {
    if predicted.windows > 1 { format!("  ({} windows)", predicted.windows) } else { String::new() }
}

fn shortened(text: &str) -> String {
    let short = printable(text);
    if short.chars().count() <= 80 { short } else { short.chars().take(79).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(prediction: Prediction) -> Line {
        let predicted = Predicted { prediction, windows: 2, tokens_cut: 0 };
        Line { question: Some("who?".to_owned()), text: "a text".to_owned(), pair: None, predicted }
    }

    #[test]
    fn spans_are_printed_below_their_question() {
        let span = |score, answer: &str, end| Span { score, start: 0, end, answer: answer.to_owned() };
        let answers = vec![span(0.5, "Angela", 6), span(0.25, "", 0)];
        let summary = Table::default().lines(&[line(Prediction::Spans { answers })]);
        assert_eq!(summary, "who?  ·  a text  (2 windows)\n  0.500  Angela  0…6\n  0.250  no answer\n");
    }

    #[test]
    fn a_text_without_entities_is_printed_so() {
        let summary = Table::default().lines(&[line(Prediction::Entities { entities: Vec::new() })]);
        assert_eq!(summary, "who?  ·  a text  (2 windows)\n  none\n");
    }

    #[test]
    fn columns_keep_the_width_that_they_had() {
        let mut table = Table::default();
        let rows = |label: &str| vec![vec![label.to_owned(), "text".to_owned()]];
        assert_eq!(table.rows(&rows("long"), ""), "long  text\n");
        assert_eq!(table.rows(&rows("a"), ""), "a     text\n");
    }

    #[test]
    fn a_vector_shows_its_first_numbers() {
        let summary = Table::default().lines(&[line(Prediction::Vector { embedding: vec![0.5; 4] })]);
        assert_eq!(summary, "4 numbers of length 1.000: 0.5000, 0.5000, 0.5000, 0.5000  a text  (2 windows)\n");
    }
}
