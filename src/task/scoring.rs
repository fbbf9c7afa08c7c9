//! Engines are scored on labelled rows, each compared with the first.
//!
//! What a row is, how a model is run on it and what is measured are in the file of each task: a [`Rows`]. All that is the
//! same for every task is here.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::options::PipelineOptions;
use super::pipeline::Pipeline;
use crate::bundle::{Bundle, EngineEntry};
use crate::error::Result;
use crate::observer::Observer;
use crate::runtime;
use crate::settings::Settings;

/// What is scored, and by which rows.
#[derive(Clone, Copy)]
pub struct ScoringRequest<'a> {
    /// The bundle.
    pub bundle: &'a Bundle,
    /// The file with the rows.
    pub data: &'a Path,
    /// Settings that hold before the bundle's.
    pub settings: Settings,
    /// The prompt before every text; the model's default one, if not given.
    pub prompt: Option<&'a str>,
}

/// ScoringRequest rows that have been read, and what the first engine found for them.
pub trait Scoring {
    /// Runs an engine of the bundle on every row, one at a time, so that none affects another's prediction, and scores
    /// it. The agreement is with the engine that was scored first. Fails where a row cannot be run, and names it.
    fn score(&mut self, bundle: &Bundle, engine: &EngineEntry, observer: &dyn Observer) -> Result<EngineScore>;
}

/// How an engine did. As JSON it is one object: the engine, the measures, the agreement, the speed.
#[derive(Serialize)]
pub struct EngineScore {
    /// The name of the engine.
    pub engine: String,
    /// All measures of the task.
    #[serde(flatten)]
    score: Box<dyn erased_serde::Serialize>,
    /// Its agreement with the first engine.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// Rows a second, tokenizing included.
    pub texts_per_second: f64,
    /// The measures that a table shows, with their names.
    #[serde(skip)]
    pub measures: Vec<(&'static str, String)>,
}

/// The agreement of two engines.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Agreement {
    /// Share of texts with the first engine's prediction; none for regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Largest difference of a number from the first engine's: of logits, probabilities, their logarithms or similarities.
    pub max_abs: f64,
}

impl Agreement {
    /// Of predictions in pairs: whether the two of a pair are the same, and how far their numbers differ.
    pub(super) fn of(pairs: impl IntoIterator<Item = (bool, f64)>) -> Agreement {
        let (mut texts, mut same, mut max_abs) = (0, 0, 0.0);
        for (agrees, difference) in pairs {
            texts += 1;
            same += usize::from(agrees);
            max_abs = largest([max_abs, difference]);
        }
        Agreement { agreement: (texts > 0).then(|| same as f64 / f64::from(texts)), max_abs }
    }
}

/// The labelled rows of a task.
pub(super) trait Rows {
    /// One of them.
    type Row;
    /// The opened model.
    type Model;
    /// The recorded part of a prediction.
    type Found;
    /// The measures of all predictions.
    type Score: Serialize;

    /// The rows.
    fn rows(&self) -> &[Self::Row];

    /// Opens an engine of a bundle whose files are those of the manifest.
    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Self::Model>;

    /// Runs a row. Fails where it cannot be run, and names it.
    fn run(&self, model: &mut Self::Model, row: &Self::Row) -> Result<Self::Found>;

    /// Scores the prediction for each row.
    fn score(&self, found: &[Self::Found]) -> Self::Score;

    /// Compares predictions with those of the first engine.
    fn agreement(&self, first: &[Self::Found], found: &[Self::Found]) -> Result<Agreement>;

    /// A note on how the rows were run.
    fn note(&self, _model: &Self::Model, _found: &[Self::Found]) -> Option<String> {
        None
    }

    /// The measures with their names, as a table shows them.
    fn measures(&self, score: &Self::Score) -> Vec<(&'static str, String)>;

    /// The score in a few words.
    fn summary(&self, score: &Self::Score) -> String;
}

/// Rows by which no engine has been scored yet.
pub(super) fn of<R>(rows: R) -> Box<dyn Scoring>
where
    R: Rows + 'static,
    R::Found: 'static,
    R::Score: 'static,
{
    Box::new(Compared { rows, first: None })
}

/// Rows, and the predictions of the first engine for them.
struct Compared<R: Rows> {
    rows: R,
    first: Option<Vec<R::Found>>,
}

impl<R: Rows> Scoring for Compared<R>
where
    R::Score: 'static,
{
    fn score(&mut self, bundle: &Bundle, engine: &EngineEntry, observer: &dyn Observer) -> Result<EngineScore> {
        let Compared { rows, first } = self;
        let mut model = rows.open(bundle, engine)?;
        let all = rows.rows();
        observer.begin_texts(&engine.name, all.len() as u64);
        let start = Instant::now();
        let run = |row| {
            let found = rows.run(&mut model, row)?;
            observer.advance(1);
            Ok(found)
        };
        let found = all.iter().map(run).collect::<Result<Vec<R::Found>>>()?;
        let texts_per_second = all.len() as f64 / start.elapsed().as_secs_f64();
        let score = rows.score(&found);
        observer.done(&format!("{}: {}", engine.name, rows.summary(&score)));
        if let (None, Some(note)) = (&first, rows.note(&model, &found)) {
            observer.warn(&note);
        }
        let agreement = rows.agreement(first.as_deref().unwrap_or(&found), &found)?;
        first.get_or_insert(found);
        let measures = rows.measures(&score);
        Ok(EngineScore { engine: engine.name.clone(), score: Box::new(score), agreement, texts_per_second, measures })
    }
}

/// Opens an engine as the pipeline of its bundle's task.
pub(super) fn pipeline(bundle: &Bundle, engine: &EngineEntry, options: PipelineOptions) -> Result<Pipeline> {
    Pipeline::open(bundle, engine, runtime::Options::default(), options)
}

/// The same with another prompt than the model's default one.
pub(super) fn prompted_pipeline(
    bundle: &Bundle,
    engine: &EngineEntry,
    options: PipelineOptions,
    prompt: Option<&str>,
) -> Result<Pipeline> {
    let pipeline = pipeline(bundle, engine, options)?;
    Ok(prompt.into_iter().fold(pipeline, Pipeline::with_prompt))
}

/// The largest of differences. A NaN must not pass for a small one.
pub(super) fn largest(differences: impl IntoIterator<Item = f64>) -> f64 {
    differences.into_iter().map(|x| if x.is_nan() { f64::INFINITY } else { x }).fold(0.0, f64::max)
}

/// A measure as a share or a number; `?` where there is none.
pub(super) fn figure(measure: impl Into<Option<f64>>) -> String {
    measure.into().map_or_else(|| "?".to_owned(), |x| format!("{x:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_a_share_and_a_largest_difference() {
        let Agreement { agreement, max_abs } = Agreement::of([(true, 0.5), (false, 0.25)]);
        assert_eq!((agreement, max_abs), (Some(0.5), 0.5));
        assert_eq!(Agreement::of([(true, f64::NAN)]).max_abs, f64::INFINITY);
        assert_eq!(Agreement::of([(true, f64::NAN), (true, 0.5)]).max_abs, f64::INFINITY);
        assert_eq!(Agreement::of([]).agreement, None);
    }

    #[test]
    fn measures_are_one_object_with_the_engine() {
        #[derive(Serialize)]
        struct Score {
            zeal: f64,
            accuracy: f64,
        }
        let score = Box::new(Score { zeal: 1.0, accuracy: 0.5 });
        let agreement = Agreement { agreement: None, max_abs: 0.25 };
        let scored =
            EngineScore { engine: "a".to_owned(), score, agreement, texts_per_second: 2.0, measures: Vec::new() };
        let expected = r#"{"engine":"a","zeal":1.0,"accuracy":0.5,"max_abs":0.25,"texts_per_second":2.0}"#;
        assert_eq!(serde_json::to_string(&scored).unwrap(), expected);
    }
}
