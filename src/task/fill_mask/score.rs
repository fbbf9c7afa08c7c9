//! Scores of masked tokens.

use super::token_scores::targets;
use crate::bundle::{Bundle, EngineEntry};
use crate::error::Result;
use crate::eval::{Located, MaskScore, Masked, TokenScore, read_masked};
use crate::task::options::PipelineOptions;
use crate::task::pipeline::Pipeline;
use crate::task::scoring::{Agreement, Rows, ScoringRequest, figure, largest, pipeline};

/// What a row is, and the measures.
pub(in crate::task) const ROWS: &str = r#"{"text": "the [MASK] is slow", "label": "train"}; "labels": […] for several masks
→ top-1 and top-5 accuracy, perplexity of the correct tokens"#;

/// A text, and the tokens behind its masks.
type Text = (String, Vec<u32>);

/// Texts with masks, and the masked tokens.
pub(in crate::task) struct MaskedTexts {
    texts: Vec<Located<Text>>,
    options: PipelineOptions,
}

impl MaskedTexts {
    pub fn read(request: &ScoringRequest) -> Result<MaskedTexts> {
        let ScoringRequest { bundle, data, settings, .. } = *request;
        let encoder = bundle.encoder().map_err(|e| bundle.named_error(e))?;
        let targets = |Located { location, row: Masked { text, labels } }: Located<Masked>| {
            let targets = targets(&encoder, &text, &labels).map_err(|e| e.at(location.clone()))?;
            Ok(Located { location, row: (text, targets) })
        };
        let texts = read_masked(data)?.into_iter().map(targets).collect::<Result<_>>()?;
        Ok(MaskedTexts { texts, options: settings.into() })
    }
}

impl Rows for MaskedTexts {
    type Row = Located<Text>;

    type Model = Pipeline;

    /// A prediction for each mask.
    type Found = Vec<TokenScore>;

    type Score = MaskScore;

    fn rows(&self) -> &[Located<Text>] {
        &self.texts
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        pipeline(bundle, engine, self.options)
    }

    fn run(&self, model: &mut Pipeline, Located { location, row }: &Located<Text>) -> Result<Vec<TokenScore>> {
        let (text, targets) = row;
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
