//! Every engine of a bundle that runs here, each scored and held against the first.

use std::time::Instant;

use serde::Serialize;

use super::super::Screen;
use super::EvalArgs;
use kilnc::build::Observer;
use kilnc::bundle::{Bundle, EngineEntry};
use kilnc::error::{Error, Kind, Result};
use kilnc::runtime;
use kilnc::task::{Pipeline, PipelineOptions};

/// Texts whose answers are known.
pub(super) trait Labelled {
    /// What answers them.
    type Model;
    /// What is kept of an answer.
    type Found;
    /// The measures of all answers.
    type Score: Serialize;

    /// How many texts there are.
    fn texts(&self) -> usize;

    /// Opens an engine of a bundle whose files are what the manifest says.
    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Self::Model>;

    /// Asks the text of that number.
    fn run(&self, model: &mut Self::Model, number: usize) -> Result<Self::Found>;

    /// Scores what was answered to each text.
    fn score(&self, found: &[Self::Found]) -> Self::Score;

    /// Holds answers against those of the first engine.
    fn agreement(&self, first: &[Self::Found], found: &[Self::Found]) -> Result<Agreement>;

    /// What there is to know of how the texts were asked.
    fn note(&self, _model: &Self::Model, _found: &[Self::Found]) -> Option<String> {
        None
    }

    /// The measures with their names, as a table shows them.
    fn measures(&self, score: &Self::Score) -> Vec<(&'static str, String)>;

    /// The score in a few words.
    fn summary(&self, score: &Self::Score) -> String;
}

/// How alike the answers of two engines are.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Agreement {
    /// Share of texts with the first engine's answer; none, where answers are numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_answer: Option<f64>,
    /// Largest difference of a number from the first engine's: of logits, probabilities, their logarithms or similarities.
    pub max_abs: f64,
}

impl Agreement {
    /// Of answers in pairs: whether the two of a pair are the same, and how far apart their numbers are.
    pub fn of(pairs: impl IntoIterator<Item = (bool, f64)>) -> Agreement {
        let (mut texts, mut same, mut max_abs) = (0, 0, 0.0);
        for (alike, difference) in pairs {
            texts += 1;
            same += usize::from(alike);
            max_abs = largest([max_abs, difference]);
        }
        Agreement { same_answer: (texts > 0).then(|| same as f64 / f64::from(texts)), max_abs }
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

/// Scores the engines that were asked for, or all that run here, and tells it.
pub(super) fn score<D: Labelled>(data: &D, args: &EvalArgs, bundle: &Bundle, screen: &Screen) -> Result<()> {
    let mut scored = Vec::new();
    let mut first: Option<Vec<D::Found>> = None;
    for name in engines(bundle, &args.engine, screen)? {
        let (entry, _) = bundle.choose(Some(&name))?;
        let mut model = data.open(bundle, entry)?;
        screen.begin_texts(&name, data.texts() as u64);
        let start = Instant::now();
        let found = answers(data, &mut model, screen)?;
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

/// Opens an engine with what it needs to answer the task of its bundle.
pub(super) fn pipeline(bundle: &Bundle, engine: &EngineEntry, options: PipelineOptions) -> Result<Pipeline> {
    Pipeline::open(bundle, engine, runtime::Options::default(), options)
}

/// The answers to all texts, asked one at a time.
fn answers<D: Labelled>(data: &D, model: &mut D::Model, screen: &Screen) -> Result<Vec<D::Found>> {
    let run = |number| {
        let found = data.run(model, number)?;
        screen.advance(1);
        Ok(found)
    };
    (0..data.texts()).map(run).collect()
}

/// The engines that were asked for, or all that run here; those that do not are named. Fails where the machine does.
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
pub(super) fn summary(measure: impl Into<Option<f64>>) -> String {
    measure.into().map_or_else(|| "?".to_owned(), |x| format!("{x:.4}"))
}

/// The measures, one line for each engine.
fn table<D: Labelled>(data: &D, scored: &[Scored<D::Score>]) -> String {
    let width = scored.iter().map(|s| s.engine.len()).max().unwrap_or(0);
    let mut out = String::new();
    for s in scored {
        let mut cells = data.measures(&s.score);
        cells.push(match s.agreement {
            Agreement { same_answer: Some(share), .. } => ("same answer", summary(share)),
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
    fn answers_are_alike_by_their_share_and_their_numbers() {
        let Agreement { same_answer, max_abs } = Agreement::of([(true, 0.5), (false, 0.25)]);
        assert_eq!((same_answer, max_abs), (Some(0.5), 0.5));
        assert_eq!(Agreement::of([(true, f64::NAN)]).max_abs, f64::INFINITY);
        assert_eq!(Agreement::of([(true, f64::NAN), (true, 0.5)]).max_abs, f64::INFINITY);
        assert_eq!(Agreement::of([]).same_answer, None);
    }
}
