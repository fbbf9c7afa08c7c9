//! Text classification: labels, or numbers, of texts and pairs.

use super::EvalArgs;
use super::engines::{Agreement, Labelled, figure, pipeline};
use kilnc::bundle::{Bundle, EngineEntry};
use kilnc::error::{Error, Result};
use kilnc::eval::{Example, Parity, Score, Truth, read_examples};
use kilnc::runtime::ProblemType;
use kilnc::task::{Pipeline, PipelineOptions, Predicted, Settings};

/// Texts and their labels.
pub(super) struct Data {
    problem_type: ProblemType,
    examples: Vec<Example>,
    options: PipelineOptions,
    /// Whether no option for long texts was set, so that they are cut as in training.
    unasked: bool,
}

impl Data {
    pub fn read(args: &EvalArgs, bundle: &Bundle) -> Result<Data> {
        let classes = bundle.classes();
        let examples = read_examples(&args.data, &classes)?;
        if !examples.iter().all(|example| example.truth.is_some()) {
            return Err(Error::bad_input(format!("some texts of {} have no label", args.data.display())));
        }
        let mut options = args.options(bundle);
        let Settings { window, stride, truncate, join, .. } = options.settings.over(bundle.manifest.pipeline);
        let unasked = (window, stride, truncate, join) == (None, None, None, None);
        options.settings.truncate = if unasked { Some(true) } else { options.settings.truncate };
        Ok(Data { problem_type: classes.problem_type, examples, options, unasked })
    }

    fn logits(found: &[Predicted<Vec<f32>>]) -> impl Iterator<Item = &[f32]> {
        found.iter().map(|predicted| predicted.prediction.as_slice())
    }
}

impl Labelled for Data {
    type Model = Pipeline;

    /// The logits.
    type Found = Predicted<Vec<f32>>;

    type Score = Score;

    fn texts(&self) -> usize {
        self.examples.len()
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        pipeline(bundle, engine, self.options)
    }

    fn run(&self, model: &mut Pipeline, number: usize) -> Result<Predicted<Vec<f32>>> {
        let example = self.examples.get(number).ok_or_else(|| Error::bug("there is no text of that number"))?;
        model.logits(example.into()).map_err(|e| e.at(format!("text {}", number + 1)))
    }

    fn note(&self, model: &Pipeline, found: &[Predicted<Vec<f32>>]) -> Option<String> {
        let cut = found.iter().filter(|predicted| predicted.tokens_cut > 0).count();
        let (texts, window) = (found.len(), model.lengths().window);
        let how = if self.unasked { "; kilnc run reads them in windows, and --truncate=false scores that" } else { "" };
        (cut > 0).then(|| format!("{cut} of {texts} texts were cut to {window} tokens{how}"))
    }

    fn score(&self, found: &[Predicted<Vec<f32>>]) -> Score {
        let truths: Vec<&Truth> = self.examples.iter().filter_map(|example| example.truth.as_ref()).collect();
        let rows: Vec<Vec<f32>> = Data::logits(found).map(<[f32]>::to_vec).collect();
        Score::of(self.problem_type, &rows, &truths)
    }

    fn agreement(&self, first: &[Predicted<Vec<f32>>], found: &[Predicted<Vec<f32>>]) -> Result<Agreement> {
        let pairs = Data::logits(first).zip(Data::logits(found));
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
