//! Every engine of a bundle that runs here, each scored and compared with the first.

use std::time::Instant;

use serde::Serialize;

use super::super::Screen;
use super::EvalArgs;
use kilnc::build::Observer;
use kilnc::bundle::{Bundle, EngineEntry};
use kilnc::error::{Error, Kind, Result};
use kilnc::runtime;
use kilnc::task::{Pipeline, PipelineOptions};

/// Labelled texts.
pub(super) trait Labelled {
    /// The opened model.
    type Model;
    /// The recorded part of a prediction.
    type Found;
    /// The measures of all predictions.
    type Score: Serialize;

    /// How many texts there are.
    fn texts(&self) -> usize;

    /// Opens an engine of a bundle whose files are those of the manifest.
    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Self::Model>;

    /// Runs the text of that number.
    fn run(&self, model: &mut Self::Model, number: usize) -> Result<Self::Found>;

    /// Scores the prediction for each text.
    fn score(&self, found: &[Self::Found]) -> Self::Score;

    /// Compares predictions with those of the first engine.
    fn agreement(&self, first: &[Self::Found], found: &[Self::Found]) -> Result<Agreement>;

    /// Notes on how the texts were run.
    fn note(&self, _model: &Self::Model, _found: &[Self::Found]) -> Option<String> {
        None
    }

    /// The measures with their names, as a table shows them.
    fn measures(&self, score: &Self::Score) -> Vec<(&'static str, String)>;

    /// The score in a few words.
    fn summary(&self, score: &Self::Score) -> String;
}

/// The agreement of two engines.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Agreement {
    /// Share of texts with the first engine's prediction; none for regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Largest difference of a number from the first engine's: of logits, probabilities, their logarithms or similarities.
    pub max_abs: f64,
}

impl Agreement {
    /// Of predictions in pairs: whether the two of a pair are the same, and how far their numbers differ.
    pub fn of(pairs: impl IntoIterator<Item = (bool, f64)>) -> Agreement {
        let (mut texts, mut same, mut max_abs) = (0, 0, 0.0);
        for (agrees, difference) in pairs {
            texts += 1;
            same += usize::from(agrees);
            max_abs = largest([max_abs, difference]);
        }
        Agreement { agreement: (texts > 0).then(|| same as f64 / f64::from(texts)), max_abs }
    }
}

/// The largest of differences. A NaN must not pass for a small one.
pub(super) fn largest(differences: impl IntoIterator<Item = f64>) -> f64 {
    differences.into_iter().map(|x| if x.is_nan() { f64::INFINITY } else { x }).fold(0.0, f64::max)
}

#[derive(Serialize)]
struct Scored<S> {
    engine: String,
    #[serde(flatten)]
    score: S,
    #[serde(flatten)]
    agreement: Agreement,
    texts_per_second: f64,
}

/// Scores the requested engines, or all that run here, and prints the result.
pub(super) fn score<D: Labelled>(data: &D, args: &EvalArgs, bundle: &Bundle, screen: &Screen) -> Result<()> {
    let mut scored = Vec::new();
    let mut first: Option<Vec<D::Found>> = None;
    for name in engines(bundle, &args.engine, screen)? {
        let (entry, _) = bundle.choose(Some(&name))?;
        let mut model = data.open(bundle, entry)?;
        screen.begin_texts(&name, data.texts() as u64);
        let start = Instant::now();
        let found = predictions(data, &mut model, screen)?;
        let texts_per_second = data.texts() as f64 / start.elapsed().as_secs_f64();
        let score = data.score(&found);
        screen.done(&format!("{name}: {}", data.summary(&score)));
        if let (None, Some(note)) = (&first, data.note(&model, &found)) {
            screen.warn(&note);
        }
        let agreement = data.agreement(first.as_deref().unwrap_or(&found), &found)?;
        first.get_or_insert(found);
        scored.push(Scored { engine: name, score, agreement, texts_per_second });
    }
    if scored.is_empty() {
        return Err(Error::runtime_missing("none of the bundle's engines can run here")
            .hint("kilnc doctor says what is missing"));
    }
    screen.result(&scored, |scored| table(data, scored))
}

/// Opens an engine as the pipeline of its bundle's task.
pub(super) fn pipeline(bundle: &Bundle, engine: &EngineEntry, options: PipelineOptions) -> Result<Pipeline> {
    Pipeline::open(bundle, engine, runtime::Options::default(), options)
}

/// The predictions for all texts, run one at a time.
fn predictions<D: Labelled>(data: &D, model: &mut D::Model, screen: &Screen) -> Result<Vec<D::Found>> {
    let run = |number| {
        let found = data.run(model, number)?;
        screen.advance(1);
        Ok(found)
    };
    (0..data.texts()).map(run).collect()
}

/// The requested engines, or all that run here; those that do not are named. Fails where the machine does.
fn engines(bundle: &Bundle, asked: &[String], screen: &Screen) -> Result<Vec<String>> {
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    let mut names = Vec::new();
    for engine in &bundle.manifest.engines {
        match bundle.available(engine) {
            Ok(_) => names.push(engine.name.clone()),
            Err(e) if e.kind() == Kind::MachineFailed => return Err(e.at(format!("engine {}", engine.name))),
            Err(e) => screen.warn(&format!("{} is left out: {}", engine.name, e.message())),
        }
    }
    Ok(names)
}

/// A measure as a share or a number; `?` where there is none.
pub(super) fn figure(measure: impl Into<Option<f64>>) -> String {
    measure.into().map_or_else(|| "?".to_owned(), |x| format!("{x:.4}"))
}

/// The measures, one line for each engine.
fn table<D: Labelled>(data: &D, scored: &[Scored<D::Score>]) -> String {
    let width = scored.iter().map(|s| s.engine.len()).max().unwrap_or(0);
    let mut out = String::new();
    for s in scored {
        let mut cells = data.measures(&s.score);
        cells.push(match s.agreement {
            Agreement { agreement: Some(share), .. } => ("agreement", figure(share)),
            Agreement { max_abs, .. } => ("max_abs", format!("{max_abs:.1e}")),
        });
        cells.push(("texts/s", format!("{:.1}", s.texts_per_second)));
        if out.is_empty() {
            out += &line("engine", width, cells.iter().map(|(name, _)| (*name, *name)));
        }
        out += &line(&s.engine, width, cells.iter().map(|(name, cell)| (*name, cell.as_str())));
    }
    out
}

/// Cells below the names of their columns.
fn line<'a>(engine: &str, width: usize, cells: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let aligned = cells.map(|(name, cell)| format!("  {cell:>0$}", name.chars().count().max(7)));
    format!("{engine:width$}{}\n", aligned.collect::<String>())
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
}
