//! Sentence similarity: how alike two texts are.

use super::EvalArgs;
use super::engines::{Labelled, Likeness, answerer, told};
use crate::answer::{Answerer, Options};
use crate::bundle::{Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::eval::{Correlation, Pair, Placed, read_pairs};
use crate::settings::Similarity;

/// Pairs of texts, and how alike people found them.
pub(super) struct Data {
    pairs: Vec<Placed<Pair>>,
    options: Options,
    similarity: Similarity,
}

impl Data {
    pub fn read(args: &EvalArgs, bundle: &Bundle) -> Result<Data> {
        let options = args.options(bundle);
        let similarity = options.settings.over(bundle.manifest.answers).similarity.unwrap_or_default();
        Ok(Data { pairs: read_pairs(&args.data)?, options, similarity })
    }
}

impl Labelled for Data {
    type Model = Answerer;

    /// How alike the two texts' vectors are.
    type Found = f64;

    type Score = Correlation;

    fn texts(&self) -> usize {
        self.pairs.len()
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Answerer> {
        answerer(bundle, engine, self.options)
    }

    fn ask(&self, model: &mut Answerer, number: usize) -> Result<f64> {
        let Placed { place, row } =
            self.pairs.get(number).ok_or_else(|| Error::bug("there is no pair of that number"))?;
        model.likeness(&row.text, &row.pair).map(f64::from).map_err(|e| e.at(place.clone()))
    }

    fn score(&self, found: &[f64]) -> Correlation {
        let pairs = found.iter().zip(&self.pairs).map(|(found, pair)| (*found, pair.row.score));
        Correlation::of(&pairs.collect::<Vec<_>>())
    }

    fn likeness(&self, first: &[f64], found: &[f64]) -> Result<Likeness> {
        let apart = first.iter().zip(found).map(|(a, b)| (true, (a - b).abs()));
        Ok(Likeness { same_answer: None, ..Likeness::of(apart) })
    }

    fn measures(&self, score: &Correlation) -> Vec<(&'static str, String)> {
        vec![("pearson", told(score.pearson)), ("spearman", told(score.spearman))]
    }

    fn in_words(&self, score: &Correlation) -> String {
        format!("spearman {} over {} pairs, by {}", told(score.spearman), score.texts, self.similarity)
    }
}
