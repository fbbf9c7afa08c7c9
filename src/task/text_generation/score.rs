//! Scores of text generation: how likely the model finds texts.

use serde::Serialize;

use super::generator::open_generator;
use crate::bundle::{Bundle, EngineEntry};
use crate::error::{Error, Result};
use crate::eval::{Located, Text, read_texts};
use crate::runtime;
use crate::runtime::generate::{Generator, Nll, Window};
use crate::task::scoring::{Agreement, Rows, ScoringRequest, figure};

/// What a row is, and the measures.
pub(in crate::task) const ROWS: &str = r#"{"text": "…"}
→ perplexity, in windows of the model's length that share half"#;

/// Texts, and the windows in which they are read.
pub(in crate::task) struct Texts {
    texts: Vec<Located<Text>>,
    /// Tokens of a window; none where the model has no limit.
    window: Option<usize>,
    /// Tokens that a window shares with the one before it.
    shared: usize,
    truncate: bool,
}

/// The measures of all texts.
#[derive(Serialize)]
pub(in crate::task) struct Score {
    /// The exponential of the mean negative log likelihood of a token.
    perplexity: Option<f64>,
    /// The mean negative log likelihood of a token, in nats.
    nll: Option<f64>,
    examples: usize,
    /// Tokens that were scored: of each text all but the first.
    tokens: usize,
}

impl Texts {
    pub fn read(request: &ScoringRequest) -> Result<Texts> {
        let ScoringRequest { bundle, data, settings, .. } = *request;
        let generation = bundle.manifest.generation.as_ref();
        let positions = [bundle.manifest.positions, generation.and_then(|generation| generation.positions)];
        let longest = positions.into_iter().flatten().min();
        if let Some(longest) = longest {
            settings.check(bundle.manifest.task, longest)?;
        }
        let window = settings.window.or(longest);
        let shared = settings.stride.unwrap_or(window.unwrap_or_default() / 2);
        if window.is_some_and(|window| shared >= window) {
            return Err(Error::bad_input(format!("the stride is {shared}, which is no less than the window")));
        }
        Ok(Texts { texts: read_texts(data)?, window, shared, truncate: settings.truncate == Some(true) })
    }

    /// The windows of a text. Each token is scored once, in the first window that it is in; those before it in a later
    /// window are its context.
    fn windows(&self, tokens: &[u32]) -> Vec<Window> {
        let longest = self.window.unwrap_or(tokens.len()).max(1);
        let (mut windows, mut begin, mut scored) = (Vec::new(), 0, 0);
        while scored < tokens.len() && !(self.truncate && scored > 0) {
            let end = tokens.len().min(begin + longest);
            let window = tokens.get(begin..end).unwrap_or_default().to_vec();
            windows.push(Window { tokens: window, context: scored - begin });
            (scored, begin) = (end, end - self.shared.min(end));
        }
        windows
    }
}

impl Rows for Texts {
    type Row = Located<Text>;

    type Model = Generator;

    type Found = Nll;

    type Score = Score;

    fn rows(&self) -> &[Located<Text>] {
        &self.texts
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Generator> {
        open_generator(bundle, engine, runtime::Options::default())
    }

    fn run(&self, model: &mut Generator, Located { location, row }: &Located<Text>) -> Result<Nll> {
        let mut scored = || -> Result<Nll> {
            let tokens = model.encode(&[&row.text])?.into_iter().next().unwrap_or_default();
            let found = model.decoding().score(&self.windows(&tokens))?;
            Ok(found.into_iter().fold(Nll::default(), |all, one| all + one))
        };
        scored().map_err(|e| e.at(location.clone()))
    }

    fn note(&self, _: &Generator, found: &[Nll]) -> Option<String> {
        let empty = found.iter().filter(|nll| nll.tokens == 0).count();
        (empty > 0).then(|| format!("{empty} texts have one token, which follows nothing and is not scored"))
    }

    fn score(&self, found: &[Nll]) -> Score {
        let all = found.iter().fold(Nll::default(), |all, one| all + *one);
        let nll = (all.tokens > 0).then(|| all.sum / all.tokens as f64);
        Score { perplexity: all.perplexity(), nll, examples: found.len(), tokens: all.tokens }
    }

    /// The largest difference of a text's mean negative log likelihood.
    fn agreement(&self, first: &[Nll], found: &[Nll]) -> Result<Agreement> {
        let mean = |nll: &Nll| nll.sum / nll.tokens.max(1) as f64;
        let differences = first.iter().zip(found).map(|(a, b)| (true, (mean(a) - mean(b)).abs()));
        Ok(Agreement { agreement: None, ..Agreement::of(differences) })
    }

    fn measures(&self, score: &Score) -> Vec<(&'static str, String)> {
        vec![("perplexity", figure(score.perplexity)), ("nll", figure(score.nll)), ("tokens", score.tokens.to_string())]
    }

    fn summary(&self, score: &Score) -> String {
        format!("perplexity {} over {} tokens of {} texts", figure(score.perplexity), score.tokens, score.examples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(window: usize, shared: usize, truncate: bool, tokens: usize) -> Vec<(usize, usize, usize)> {
        let texts = Texts { texts: Vec::new(), window: Some(window), shared, truncate };
        let tokens: Vec<u32> = (0..tokens as u32).collect();
        let windows = texts.windows(&tokens);
        windows.iter().map(|window| (window.tokens[0] as usize, window.tokens.len(), window.context)).collect()
    }

    #[test]
    fn windows_share_tokens_and_score_each_once() {
        assert_eq!(found(8, 4, false, 5), [(0, 5, 0)]);
        assert_eq!(found(8, 4, false, 13), [(0, 8, 0), (4, 8, 4), (8, 5, 4)]);
        assert_eq!(found(8, 0, false, 9), [(0, 8, 0), (8, 1, 0)]);
        assert_eq!(found(8, 4, true, 13), [(0, 8, 0)]);
    }
}
