//! Sentence similarity.

use super::EvalArgs;
use super::engines::{Agreement, Labelled, figure, pipeline};
use kilnc::bundle::{Bundle, EngineEntry};
use kilnc::error::{Error, Result};
use kilnc::eval::{Correlation, Located, Pair, read_pairs};
use kilnc::settings::Similarity;
use kilnc::task::{Pipeline, PipelineOptions};

/// Pairs of texts, and their scored similarity.
pub(super) struct Data {
    pairs: Vec<Located<Pair>>,
    options: PipelineOptions,
    similarity: Similarity,
}

impl Data {
    pub fn read(args: &EvalArgs, bundle: &Bundle) -> Result<Data> {
        let options = args.options(bundle);
        let similarity = options.settings.over(bundle.manifest.pipeline).similarity.unwrap_or_default();
        Ok(Data { pairs: read_pairs(&args.data)?, options, similarity })
    }
}

impl Labelled for Data {
    type Model = Pipeline;

    /// The similarity of the two texts' vectors.
    type Found = f64;

    type Score = Correlation;

    fn texts(&self) -> usize {
        self.pairs.len()
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        pipeline(bundle, engine, self.options)
    }

    fn run(&self, model: &mut Pipeline, number: usize) -> Result<f64> {
        let Located { location, row } =
            self.pairs.get(number).ok_or_else(|| Error::bug("there is no pair of that number"))?;
        model.similarity(&row.text, &row.pair).map(f64::from).map_err(|e| e.at(location.clone()))
    }

    fn score(&self, found: &[f64]) -> Correlation {
        let pairs = found.iter().zip(&self.pairs).map(|(found, pair)| (*found, pair.row.score));
        Correlation::of(&pairs.collect::<Vec<_>>())
    }

    fn agreement(&self, first: &[f64], found: &[f64]) -> Result<Agreement> {
        let difference = first.iter().zip(found).map(|(a, b)| (true, (a - b).abs()));
        Ok(Agreement { agreement: None, ..Agreement::of(difference) })
    }

    fn measures(&self, score: &Correlation) -> Vec<(&'static str, String)> {
        vec![("pearson", figure(score.pearson)), ("spearman", figure(score.spearman))]
    }

    fn summary(&self, score: &Correlation) -> String {
        format!("spearman {} over {} pairs, by {}", figure(score.spearman), score.examples, self.similarity)
    }
}
