//! Question answering: the span of a text that answers a question, as `pipeline("question-answering")` finds it.

mod score;
mod span;

use super::batches::{self, Row, Tokenized};
use super::characters::Characters;
use super::definition::Definition;
use super::model::Model;
use super::pipeline::Pipeline;
use super::prediction::{Predicted, Prediction};
use super::scoring::{self, Scoring, ScoringRequest};
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::ports::PortKind;
use crate::runtime::{TextInput, softmax};
use crate::settings::Settings;

pub use span::Span;

/// The logit that `transformers` gives tokens that cannot be answers.
const NEVER: f32 = -10_000.0;

pub(super) struct QuestionAnswering;

impl Definition for QuestionAnswering {
    fn check(&self, input: TextInput) -> Result<()> {
        match input.pair {
            Some(_) => Ok(()),
            None => Err(Error::bad_input("there is no question to the text")
                .hint("--question Q --text TEXT; in JSON lines, `question` and `context`")),
        }
    }

    fn empty(&self) -> &'static str {
        "the question or its text is empty"
    }

    fn predict(&self, pipeline: &mut Pipeline, inputs: &[TextInput], watch: &Watch) -> Result<Vec<Predicted>> {
        let tokenized = pipeline.encode(inputs, watch)?;
        let (engine, parts) = pipeline.parts(watch);
        parts.batches.run(engine, &tokenized, &Spans { model: parts.model, settings: parts.settings })
    }

    fn rows(&self) -> &'static str {
        score::ROWS
    }

    fn scoring(&self, request: &ScoringRequest) -> Result<Box<dyn Scoring>> {
        Ok(scoring::of(score::Questions::read(request)?))
    }
}

/// Reads the spans of answers.
struct Spans<'a> {
    model: &'a Model,
    settings: &'a Settings,
}

/// The scores of a window.
pub(super) struct Part {
    window: usize,
    /// Spans by the positions of their first and last token in the window, the highest score first.
    spans: Vec<(f32, usize, usize)>,
    /// The score of no answer.
    none: f32,
}

impl batches::Reader for Spans<'_> {
    type Part = Part;

    type Prediction = Prediction;

    fn read(&self, tokenized: &Tokenized, window: usize, row: &Row) -> Result<Part> {
        let tokens = tokens_of(tokenized, window);
        let class = class_token(tokenized, tokens);
        let context = if self.model.context_first { 0 } else { 1 };
        let in_context: Vec<bool> = tokens.iter().map(|t| tokenized.encoded.sequence(*t) == Some(context)).collect();
        let probabilities = |kind: PortKind| -> Result<Vec<f32>> {
            let logits = row.per_token(kind)?;
            let masked = logits.iter().zip(&in_context).enumerate().map(|(at, (logit, in_context))| match logit {
                [logit] if *in_context || Some(at) == class => *logit,
                _ => NEVER,
            });
            Ok(softmax(&masked.collect::<Vec<_>>()))
        };
        let (mut start, mut end) = (probabilities(PortKind::StartLogits)?, probabilities(PortKind::EndLogits)?);
        let mut none = 0.0;
        if let Some(at) = class
            && let (Some(start), Some(end)) = (start.get_mut(at), end.get_mut(at))
        {
            none = *start * *end;
            (*start, *end) = (0.0, 0.0);
        }
        Ok(Part { window, spans: self.candidates(&start, &end, &in_context), none })
    }

    fn join(&self, tokenized: &Tokenized, parts: Vec<Part>) -> Result<Prediction> {
        let text = Characters::of(tokenized.input.pair.unwrap_or_default());
        let mut answers: Vec<Span> = Vec::new();
        for part in &parts {
            for (score, first, last) in &part.spans {
                let (start, end) = by_words(tokenized, tokens_of(tokenized, part.window), *first, *last);
                let answer = text.slice(start, end);
                match answers.iter_mut().find(|known| known.answer.to_lowercase() == answer.to_lowercase()) {
                    Some(known) => known.score += score,
                    None => answers.push(Span { score: *score, start, end, answer: answer.to_owned() }),
                }
            }
        }
        if self.settings.no_answer == Some(true) {
            let score = parts.iter().map(|part| part.none).fold(f32::INFINITY, f32::min);
            answers.push(Span { score, start: 0, end: 0, answer: String::new() });
        }
        answers.sort_by(|a, b| b.score.total_cmp(&a.score));
        answers.truncate(self.top_k());
        Ok(Prediction::Spans { answers })
    }
}

impl Spans<'_> {
    /// How many answers are returned.
    fn top_k(&self) -> usize {
        self.settings.top_k.unwrap_or(1)
    }

    /// The best spans of a window, more than are returned: several may be of the same words.
    fn candidates(&self, start: &[f32], end: &[f32], in_context: &[bool]) -> Vec<(f32, usize, usize)> {
        let can_be = |at: &usize| in_context.get(*at).copied().unwrap_or(false);
        let mut spans = Vec::new();
        for (first, begins) in start.iter().enumerate().filter(|(at, _)| can_be(at)) {
            let ends = end.iter().enumerate().skip(first).take(self.settings.longest_answer());
            let of_first = ends.filter(|(at, _)| can_be(at)).map(|(last, ends)| (begins * ends, first, last));
            spans.extend(of_first.filter(|(score, ..)| *score > 0.0));
        }
        spans.sort_by(|a, b| b.0.total_cmp(&a.0));
        spans.truncate(self.top_k().saturating_mul(2).saturating_add(10));
        spans
    }
}

fn tokens_of<'a>(tokenized: &'a Tokenized, window: usize) -> &'a [usize] {
    tokenized.encoded.windows().get(window).map(|window| window.tokens.as_slice()).unwrap_or_default()
}

/// The position of the token of the whole text, and of no answer: the first, or the last where
/// texts are padded on the left.
fn class_token(tokenized: &Tokenized, tokens: &[usize]) -> Option<usize> {
    let special = |at: &usize| tokens.get(*at).is_some_and(|token| tokenized.encoded.is_special(*token));
    [0, tokens.len().checked_sub(1)?].into_iter().find(special)
}

/// Where the words of the first and the last token begin and end, in characters, as far as the window shows them; the
/// tokens themselves, where the tokenizer knows no words.
fn by_words(tokenized: &Tokenized, tokens: &[usize], first: usize, last: usize) -> (usize, usize) {
    let encoded = &tokenized.encoded;
    let of = |at: usize| tokens.get(at).and_then(|token| Some((encoded.sequence(*token), encoded.word(*token)?)));
    let (mut begin, mut end) = (first, last);
    if let (Some(first), Some(last)) = (of(first), of(last)) {
        while begin.checked_sub(1).and_then(of) == Some(first) {
            begin -= 1;
        }
        while of(end + 1) == Some(last) {
            end += 1;
        }
    }
    let offsets = |at: usize| tokens.get(at).map(|token| encoded.offsets(*token)).unwrap_or_default();
    (offsets(begin).0, offsets(end).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Classes;
    use crate::task::Task;

    #[test]
    fn spans_are_in_the_context_in_order_and_within_the_longest() {
        let model = Model::new(Task::QuestionAnswering, Classes::default());
        let settings = Settings { max_answer_length: Some(2), top_k: Some(9), ..Settings::default() };
        let spans = Spans { model: &model, settings: &settings };
        let found = spans.candidates(&[0.9, 0.5, 0.25, 0.0], &[0.1, 0.5, 0.1, 0.9], &[false, true, true, true]);
        let places: Vec<_> = found.iter().map(|(_, first, last)| (*first, *last)).collect();
        assert_eq!(places, [(1, 1), (2, 3), (1, 2), (2, 2)]);
    }
}
