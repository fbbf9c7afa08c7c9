//! Masked tokens: what stood there.

use super::EvalArgs;
use super::engines::{Labelled, Likeness, answerer, largest, told};
use crate::answer::{self, Answerer, Guess, Options};
use crate::bundle::{Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::eval::{self, MaskScore, Placed, read_masked};

/// Texts with masks, and the tokens that stood there.
pub(super) struct Data {
    texts: Vec<Placed<(String, Vec<u32>)>>,
    options: Options,
}

impl Data {
    pub fn read(args: &EvalArgs, bundle: &Bundle) -> Result<Data> {
        let encoder = bundle.encoder().map_err(|e| bundle.named_error(e))?;
        let targets = |Placed { place, row }: Placed<eval::Masked>| {
            let targets = answer::targets(&encoder, &row.text, &row.labels).map_err(|e| e.at(place.clone()))?;
            Ok(Placed { place, row: (row.text, targets) })
        };
        let texts = read_masked(&args.data)?.into_iter().map(targets).collect::<Result<_>>()?;
        Ok(Data { texts, options: args.options(bundle) })
    }
}

impl Labelled for Data {
    type Model = Answerer;

    /// A guess for each mask.
    type Found = Vec<Guess>;

    type Score = MaskScore;

    fn texts(&self) -> usize {
        self.texts.len()
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Answerer> {
        answerer(bundle, engine, self.options)
    }

    fn ask(&self, model: &mut Answerer, number: usize) -> Result<Vec<Guess>> {
        let Placed { place, row: (text, targets) } =
            self.texts.get(number).ok_or_else(|| Error::bug("there is no text of that number"))?;
        Ok(model.guesses(text, targets).map_err(|e| e.at(place.clone()))?.answer)
    }

    fn score(&self, found: &[Vec<Guess>]) -> MaskScore {
        let of = |Guess { log_probability, rank, .. }: &Guess| eval::Guess {
            log_probability: *log_probability,
            rank: *rank,
        };
        let texts: Vec<Vec<eval::Guess>> = found.iter().map(|guesses| guesses.iter().map(of).collect()).collect();
        MaskScore::of(&texts)
    }

    fn likeness(&self, first: &[Vec<Guess>], found: &[Vec<Guess>]) -> Result<Likeness> {
        Ok(Likeness::of(first.iter().zip(found).map(|(a, b)| (same(a, b), apart(a, b)))))
    }

    fn measures(&self, score: &MaskScore) -> Vec<(&'static str, String)> {
        vec![
            ("top-1", told(score.top_1_accuracy)),
            ("top-5", told(score.top_5_accuracy)),
            ("perplexity", format!("{:.3}", score.perplexity)),
        ]
    }

    fn in_words(&self, score: &MaskScore) -> String {
        format!("perplexity {:.3}, {:.4} of {} masks guessed", score.perplexity, score.top_1_accuracy, score.masks)
    }
}

/// Whether the likeliest token of every mask is the same.
fn same(a: &[Guess], b: &[Guess]) -> bool {
    a.iter().map(|guess| guess.likeliest).eq(b.iter().map(|guess| guess.likeliest))
}

/// The largest difference of a right token's log-probability.
fn apart(a: &[Guess], b: &[Guess]) -> f64 {
    largest(a.iter().zip(b).map(|(a, b)| (a.log_probability - b.log_probability).abs()))
}
