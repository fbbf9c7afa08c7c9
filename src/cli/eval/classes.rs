//! Text classification: labels, or numbers, of texts and pairs.

use super::EvalArgs;
use super::engines::{Labelled, Likeness, told};
use crate::bundle::{self, Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::eval::{Example, Parity, Score, Truth, read_examples};
use crate::runtime::{self, Engine, Options, Reading, TextEncoder};

/// Texts and their labels.
pub(super) struct Data {
    reading: Reading,
    examples: Vec<Example>,
}

/// A bundle's engine, opened with what it needs to answer.
pub(super) struct Classifier {
    engine: Box<dyn Engine>,
    encoder: TextEncoder,
}

impl Data {
    pub fn read(args: &EvalArgs, bundle: &Bundle) -> Result<Data> {
        let classes = bundle.classes();
        let examples = read_examples(&args.data, &classes)?;
        match examples.iter().all(|example| example.truth.is_some()) {
            true => Ok(Data { reading: classes.reading, examples }),
            false => Err(Error::bad_input(format!("some texts of {} have no label", args.data.display()))),
        }
    }
}

impl Labelled for Data {
    type Model = Classifier;

    /// The logits.
    type Found = Vec<f32>;

    type Score = Score;

    fn texts(&self) -> usize {
        self.examples.len()
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Classifier> {
        let opened = runtime::open_apart(engine.runtime, &bundle.engine(engine)?, Options::default(), &[]);
        Ok(Classifier {
            engine: opened.map_err(|e| bundle.explained(engine.runtime, e))?,
            encoder: TextEncoder::open(&bundle.file(bundle::TOKENIZER)?, bundle.manifest.max_length)?,
        })
    }

    fn ask(&self, model: &mut Classifier, number: usize) -> Result<Vec<f32>> {
        let example = self.examples.get(number).ok_or_else(|| Error::bug("there is no text of that number"))?;
        let rows = runtime::logits(&mut *model.engine, &model.encoder, &[example.into()])?;
        rows.into_iter().next().ok_or_else(|| Error::bug("a text was not answered"))
    }

    fn score(&self, found: &[Vec<f32>]) -> Score {
        let truths: Vec<&Truth> = self.examples.iter().filter_map(|example| example.truth.as_ref()).collect();
        Score::of(self.reading, found, &truths)
    }

    fn likeness(&self, first: &[Vec<f32>], found: &[Vec<f32>]) -> Result<Likeness> {
        let pairs = first.iter().zip(found).map(|(a, b)| (a.as_slice(), b.as_slice()));
        let Parity { agreement, max_abs, .. } = Parity::of_answers(pairs, self.reading)?;
        Ok(Likeness { same_answer: agreement, max_abs })
    }

    fn measures(&self, score: &Score) -> Vec<(&'static str, String)> {
        let right = format!("{}/{}", score.right.unwrap_or_default(), score.texts);
        match self.reading {
            Reading::OneLabel => vec![("accuracy", told(score.accuracy)), ("right/texts", right)],
            Reading::ManyLabels => {
                let (exact, f1) = (told(score.accuracy), told(score.micro_f1));
                vec![("exact match", exact), ("micro F1", f1), ("right/texts", right)]
            }
            Reading::Numbers | Reading::Score => {
                vec![("mean abs error", told(score.mean_abs_error)), ("spearman", told(score.spearman))]
            }
        }
    }

    fn in_words(&self, score: &Score) -> String {
        match (score.right, score.mean_abs_error) {
            (Some(right), _) => format!("{right} of {} right", score.texts),
            (None, Some(error)) => format!("off by {error:.4} on average"),
            (None, None) => format!("{} texts", score.texts),
        }
    }
}
