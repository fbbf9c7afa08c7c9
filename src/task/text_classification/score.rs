//! Scores of text classification: labels, or numbers, of texts and pairs.

use crate::bundle::{Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::eval::{Example, Located, Parity, Score, Truth, read_examples};
use crate::runtime::ProblemType;
use crate::settings::Settings;
use crate::task::options::PipelineOptions;
use crate::task::pipeline::Pipeline;
use crate::task::prediction::Predicted;
use crate::task::scoring::{Agreement, Rows, ScoringRequest, figure, prompted_pipeline};

/// What a row is, and the measures.
pub(in crate::task) const ROWS: &str = r#"{"text": "…", "label": "…"}; "labels": ["…", …] where texts have any number of labels;
numbers for regression; "pair": "…" where two texts belong together
→ accuracy; micro F1 (multi-label); mean absolute error and Spearman (regression)"#;

/// Texts and their labels.
pub(in crate::task) struct LabelledTexts {
    problem_type: ProblemType,
    texts: Vec<Located<Example>>,
    options: PipelineOptions,
    prompt: Option<String>,
    /// Whether no option for long texts was set, so that they are cut as in training.
    unasked: bool,
}

impl LabelledTexts {
    pub fn read(request: &ScoringRequest) -> Result<LabelledTexts> {
        let ScoringRequest { bundle, data, settings, prompt } = *request;
        let classes = bundle.classes();
        let examples = read_examples(data, &classes)?;
        if !examples.iter().all(|example| example.truth.is_some()) {
            return Err(Error::bad_input(format!("some texts of {} have no label", data.display())));
        }
        let Settings { window, stride, truncate, join, .. } = settings.over(bundle.manifest.pipeline);
        let unasked = (window, stride, truncate, join) == (None, None, None, None);
        let truncate = if unasked { Some(true) } else { settings.truncate };
        let located = |(number, row)| Located { location: format!("text {}", number + 1), row };
        Ok(LabelledTexts {
            problem_type: classes.problem_type,
            texts: examples.into_iter().enumerate().map(located).collect(),
            options: Settings { truncate, ..settings }.into(),
            prompt: prompt.map(str::to_owned),
            unasked,
        })
    }

    fn logits(found: &[Predicted<Vec<f32>>]) -> impl Iterator<Item = &[f32]> {
        found.iter().map(|predicted| predicted.prediction.as_slice())
    }
}

impl Rows for LabelledTexts {
    type Row = Located<Example>;

    type Model = Pipeline;

    /// The logits.
    type Found = Predicted<Vec<f32>>;

    type Score = Score;

    fn rows(&self) -> &[Located<Example>] {
        &self.texts
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        prompted_pipeline(bundle, engine, self.options, self.prompt.as_deref())
    }

    fn run(&self, model: &mut Pipeline, text: &Located<Example>) -> Result<Predicted<Vec<f32>>> {
        model.logits((&text.row).into()).map_err(|e| e.at(text.location.clone()))
    }

    fn note(&self, model: &Pipeline, found: &[Predicted<Vec<f32>>]) -> Option<String> {
        let cut = found.iter().filter(|predicted| predicted.tokens_cut > 0).count();
        let (texts, window) = (found.len(), model.lengths().window);
        let how = if self.unasked { "; kilnc run reads them in windows, and --truncate=false scores that" } else { "" };
        (cut > 0).then(|| format!("{cut} of {texts} texts were cut to {window} tokens{how}"))
    }

    fn score(&self, found: &[Predicted<Vec<f32>>]) -> Score {
        let truths: Vec<&Truth> = self.texts.iter().filter_map(|text| text.row.truth.as_ref()).collect();
        let rows: Vec<Vec<f32>> = LabelledTexts::logits(found).map(<[f32]>::to_vec).collect();
        Score::of(self.problem_type, &rows, &truths)
    }

    fn agreement(&self, first: &[Predicted<Vec<f32>>], found: &[Predicted<Vec<f32>>]) -> Result<Agreement> {
        let pairs = LabelledTexts::logits(first).zip(LabelledTexts::logits(found));
        let Parity { agreement, max_abs, .. } = Parity::of_predictions(pairs, self.problem_type)?;
        Ok(Agreement { agreement, max_abs })
    }

    fn measures(&self, score: &Score) -> Vec<(&'static str, String)> {
        let correct = format!("{}/{}", score.correct.unwrap_or_default(), score.examples);
        match self.problem_type {
            ProblemType::SingleLabel | ProblemType::Logits => {
                vec![("accuracy", figure(score.accuracy)), ("correct/examples", correct)]
            }
            ProblemType::MultiLabel => {
                let (exact, f1) = (figure(score.accuracy), figure(score.micro_f1));
                vec![("exact match", exact), ("micro F1", f1), ("correct/examples", correct)]
            }
            ProblemType::Regression | ProblemType::Score => {
                vec![("mean abs error", figure(score.mean_abs_error)), ("spearman", figure(score.spearman))]
            }
        }
    }

    fn summary(&self, score: &Score) -> String {
        match (score.correct, score.mean_abs_error) {
            (Some(correct), _) => format!("{correct} of {} correct", score.examples),
            (None, Some(error)) => format!("off by {error:.4} on average"),
            (None, None) => format!("{} texts", score.examples),
        }
    }
}
