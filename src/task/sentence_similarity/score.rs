//! Scores of sentence similarity.

use crate::bundle::{Bundle, EngineEntry};
use crate::error::Result;
use crate::eval::{Correlation, Located, Pair, read_pairs};
use crate::settings::Similarity;
use crate::task::options::PipelineOptions;
use crate::task::pipeline::Pipeline;
use crate::task::scoring::{Agreement, Rows, ScoringRequest, figure, prompted_pipeline};

/// What a row is, and the measures.
pub(in crate::task) const ROWS: &str = r#"{"text": "…", "pair": "…", "score": 3.5}, of any scale
→ Pearson and Spearman of the similarity with the score, by the cosine or as the bundle says"#;

/// Pairs of texts, and their scored similarity.
pub(in crate::task) struct Pairs {
    pairs: Vec<Located<Pair>>,
    options: PipelineOptions,
    prompt: Option<String>,
    similarity: Similarity,
}

impl Pairs {
    pub fn read(request: &ScoringRequest) -> Result<Pairs> {
        let ScoringRequest { bundle, data, settings, prompt } = *request;
        let similarity = settings.over(bundle.manifest.pipeline).similarity.unwrap_or_default();
        Ok(Pairs { pairs: read_pairs(data)?, options: settings.into(), prompt: prompt.map(str::to_owned), similarity })
    }
}

impl Rows for Pairs {
    type Row = Located<Pair>;

    type Model = Pipeline;

    /// The similarity of the two texts' vectors.
    type Found = f64;

    type Score = Correlation;

    fn rows(&self) -> &[Located<Pair>] {
        &self.pairs
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        prompted_pipeline(bundle, engine, self.options, self.prompt.as_deref())
    }

    fn run(&self, model: &mut Pipeline, Located { location, row }: &Located<Pair>) -> Result<f64> {
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
