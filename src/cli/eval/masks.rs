//! Masked tokens.

use super::EvalArgs;
use super::engines::{Agreement, Labelled, figure, largest, pipeline};
use kilnc::bundle::{Bundle, EngineEntry};
use kilnc::error::{Error, Result};
use kilnc::eval::{self, Located, MaskScore, TokenScore, read_masked};
use kilnc::task::{self, Pipeline, PipelineOptions};

/// Texts with masks, and the masked tokens.
pub(super) struct Data {
    texts: Vec<Located<(String, Vec<u32>)>>,
    options: PipelineOptions,
}

impl Data {
    pub fn read(args: &EvalArgs, bundle: &Bundle) -> Result<Data> {
        let encoder = bundle.encoder().map_err(|e| bundle.named_error(e))?;
        let targets = |Located { location, row }: Located<eval::Masked>| {
            let targets = task::targets(&encoder, &row.text, &row.labels).map_err(|e| e.at(location.clone()))?;
            Ok(Located { location, row: (row.text, targets) })
        };
        let texts = read_masked(&args.data)?.into_iter().map(targets).collect::<Result<_>>()?;
        Ok(Data { texts, options: args.options(bundle) })
    }
}

impl Labelled for Data {
    type Model = Pipeline;

    /// A prediction for each mask.
    type Found = Vec<TokenScore>;

    type Score = MaskScore;

    fn texts(&self) -> usize {
        self.texts.len()
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        pipeline(bundle, engine, self.options)
    }

    fn run(&self, model: &mut Pipeline, number: usize) -> Result<Vec<TokenScore>> {
        let Located { location, row: (text, targets) } =
            self.texts.get(number).ok_or_else(|| Error::bug("there is no text of that number"))?;
        Ok(model.token_scores(text, targets).map_err(|e| e.at(location.clone()))?.prediction)
    }

    fn score(&self, found: &[Vec<TokenScore>]) -> MaskScore {
        MaskScore::of(found)
    }

    fn agreement(&self, first: &[Vec<TokenScore>], found: &[Vec<TokenScore>]) -> Result<Agreement> {
        Ok(Agreement::of(first.iter().zip(found).map(|(a, b)| (same(a, b), difference(a, b)))))
    }

    fn measures(&self, score: &MaskScore) -> Vec<(&'static str, String)> {
        vec![
            ("top-1", figure(score.top_1_accuracy)),
            ("top-5", figure(score.top_5_accuracy)),
            ("perplexity", format!("{:.3}", score.perplexity)),
        ]
    }

    fn summary(&self, score: &MaskScore) -> String {
        format!("perplexity {:.3}, {:.4} of {} masks predicted", score.perplexity, score.top_1_accuracy, score.masks)
    }
}

/// Whether the likeliest token of every mask is the same.
fn same(a: &[TokenScore], b: &[TokenScore]) -> bool {
    a.iter().map(|guess| guess.likeliest).eq(b.iter().map(|guess| guess.likeliest))
}

/// The largest difference of a right token's log-probability.
fn difference(a: &[TokenScore], b: &[TokenScore]) -> f64 {
    largest(a.iter().zip(b).map(|(a, b)| (a.log_probability - b.log_probability).abs()))
}
