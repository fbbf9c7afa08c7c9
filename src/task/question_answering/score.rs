//! Scores of question answering: spans of texts.

use super::span::Span;
use crate::bundle::{Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::eval::{Located, Question, SpanScore, read_questions};
use crate::runtime::TextInput;
use crate::settings::Settings;
use crate::task::options::PipelineOptions;
use crate::task::pipeline::Pipeline;
use crate::task::prediction::Prediction;
use crate::task::scoring::{Agreement, Rows, ScoringRequest, figure, pipeline};

/// What a row is, and the measures.
pub(in crate::task) const ROWS: &str = r#"{"question": "…", "context": "…", "answers": ["…", …]}, or SQuAD's {"text": […], …};
an empty list where the text holds no answer
→ exact match and F1, as SQuAD counts them"#;

/// Questions and their answers.
pub(in crate::task) struct Questions {
    questions: Vec<Located<Question>>,
    options: PipelineOptions,
}

impl Questions {
    /// “No answer” competes where one question at least has none, or the bundle says so.
    pub fn read(request: &ScoringRequest) -> Result<Questions> {
        let questions = read_questions(request.data)?;
        let no_answer = questions.iter().any(|question| question.row.answers.is_empty()).then_some(true);
        Ok(Questions { questions, options: Settings { no_answer, ..request.settings }.into() })
    }
}

impl Rows for Questions {
    type Row = Located<Question>;

    type Model = Pipeline;

    /// The best answer, where any has a probability.
    type Found = Option<Span>;

    type Score = SpanScore;

    fn rows(&self) -> &[Located<Question>] {
        &self.questions
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        pipeline(bundle, engine, self.options)
    }

    fn run(&self, model: &mut Pipeline, Located { location, row }: &Located<Question>) -> Result<Option<Span>> {
        let predicted = model.predict(TextInput::question(&row.question, &row.context));
        match predicted.map_err(|e| e.at(location.clone()))?.prediction {
            Prediction::Spans { answers } => Ok(answers.into_iter().next()),
            _ => Err(Error::bug("a question's prediction is no span")),
        }
    }

    fn score(&self, found: &[Option<Span>]) -> SpanScore {
        let each = self.questions.iter().zip(found);
        let pairs = each.map(|(question, found)| (text(found), question.row.answers.as_slice()));
        SpanScore::of(&pairs.collect::<Vec<_>>())
    }

    fn agreement(&self, first: &[Option<Span>], found: &[Option<Span>]) -> Result<Agreement> {
        let score = |span: &Option<Span>| span.as_ref().map_or(0.0, |span| f64::from(span.score));
        let pairs = first.iter().zip(found);
        Ok(Agreement::of(pairs.map(|(a, b)| (text(a) == text(b), (score(a) - score(b)).abs()))))
    }

    fn measures(&self, score: &SpanScore) -> Vec<(&'static str, String)> {
        let mut measures = vec![("exact match", figure(score.all.exact_match)), ("F1", figure(score.all.f1))];
        measures.extend(score.has_answer.map(|part| ("F1 has answer", figure(part.f1))));
        measures.extend(score.no_answer.map(|part| ("F1 no answer", figure(part.f1))));
        measures
    }

    fn summary(&self, score: &SpanScore) -> String {
        let all = score.all;
        format!("exact match {:.4}, F1 {:.4} over {} questions", all.exact_match, all.f1, all.examples)
    }
}

fn text(span: &Option<Span>) -> &str {
    span.as_ref().map_or("", |span| span.answer.as_str())
}
