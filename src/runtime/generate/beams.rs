//! Beam search for one prompt, as `transformers` has it (`GenerationMixin._beam_search`).
//!
//! Beams are continued by the tokens whose log probabilities are the largest when they are added to those of the beam. What
//! ends is compared by its score, the log probability divided by the number of its tokens to the power of the length
//! penalty; the best `num_beams` of them are kept.

use serde::{Deserialize, Serialize};

use super::choose::{DecodeOptions, all_forbidden, id, largest};
use super::logits::{Context, process};
use super::schema::Constrained;
use crate::error::{Error, Result};
use crate::settings::{EarlyStopping, Never};

/// The score of what is no candidate. A sum of log probabilities is not so low.
const LOWEST: f32 = -1e9;

/// A text that a search found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hypothesis {
    /// What was generated, the token that ended it among them.
    pub tokens: Vec<u32>,
    /// Its score.
    pub score: f32,
    /// Whether it is JSON of the schema, where it has to follow one.
    pub complete: bool,
}

/// A beam that goes on: the beam before it, and its last token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grown {
    pub beam: usize,
    pub token: u32,
}

/// A search after one prompt.
pub(super) struct BeamSearch {
    prompt: usize,
    most: Option<usize>,
    beams: Vec<Beam>,
    /// The best texts that have ended, the best first.
    finished: Vec<Hypothesis>,
    can_improve: bool,
}

#[derive(Clone)]
struct Beam {
    /// The prompt, and the tokens after it.
    tokens: Vec<u32>,
    /// The sum of the log probabilities.
    sum: f32,
    /// What its text has to follow.
    constrained: Option<Constrained>,
}

impl Beam {
    /// The beam with another token. Says whether its text is JSON of the schema then.
    fn with(&self, token: u32, sum: f32, ends_text: bool) -> Result<(Beam, bool)> {
        let mut beam = Beam { sum, ..self.clone() };
        beam.tokens.push(token);
        let complete = match &mut beam.constrained {
            Some(constrained) => ends_text || constrained.take(token)?,
            None => false,
        };
        Ok((beam, complete))
    }
}

/// A beam and a token, before they are one.
struct Continued {
    beam: usize,
    token: u32,
    sum: f32,
    ends: bool,
}

impl BeamSearch {
    /// A search of one beam, the prompt.
    pub fn new(prompt: &[u32], most: Option<usize>) -> BeamSearch {
        let beam = Beam { tokens: prompt.to_vec(), sum: 0.0, constrained: None };
        BeamSearch { prompt: prompt.len(), most, beams: vec![beam], finished: Vec::new(), can_improve: true }
    }

    /// A search whose texts have to follow a schema.
    pub fn constrained(mut self, constrained: Option<Constrained>) -> BeamSearch {
        self.beams.iter_mut().for_each(|beam| beam.constrained.clone_from(&constrained));
        self
    }

    /// How many beams there are.
    pub fn beams(&self) -> usize {
        self.beams.len()
    }

    /// Continues the beams by the logits after each. Gives the beams that go on; none where the search has ended.
    pub fn advance(&mut self, options: &DecodeOptions, logits: &[&[f32]]) -> Result<Vec<Grown>> {
        let width = options.strategy.beams();
        let continued = self.continued(options, logits)?;
        let all_end = continued.iter().all(|it| it.ends);
        let length = self.length() + 1 - self.prompt;
        self.finish(options, &continued, length)?;
        let next: Vec<&Continued> = continued.iter().filter(|it| !it.ends).take(width).collect();
        let grown = next.iter().map(|it| Grown { beam: it.beam, token: it.token }).collect();
        let beams = next.iter().filter_map(|it| Some(self.beams.get(it.beam)?.with(it.token, it.sum, false)));
        self.beams = beams.map(|grown| Ok(grown?.0)).collect::<Result<_>>()?;
        self.can_improve &= self.could_improve(options, length);
        let full = self.finished.len() >= width && options.strategy.early_stopping == Some(EarlyStopping::When(true));
        match all_end || full || !self.can_improve {
            true => Ok(Vec::new()),
            false => Ok(grown),
        }
    }

    /// The best text of a search that has ended.
    pub fn best(self) -> Result<Hypothesis> {
        self.finished.into_iter().next().ok_or_else(|| Error::bug("a search ended without a text"))
    }

    fn length(&self) -> usize {
        self.beams.first().map_or(self.prompt, |beam| beam.tokens.len())
    }

    /// The best continuations, the best first: as many that beams are left, even if a text ends in every one.
    fn continued(&mut self, options: &DecodeOptions, logits: &[&[f32]]) -> Result<Vec<Continued>> {
        let width = options.strategy.beams();
        let kept = options.eos.len().saturating_add(1).max(2).saturating_mul(width);
        let full = self.most.is_some_and(|most| self.length() + 1 >= most);
        let mut all: Vec<Continued> = Vec::new();
        for (beam, (of, logits)) in self.beams.iter_mut().zip(logits).enumerate() {
            largest(logits)?;
            let mut scores = log_softmax(logits);
            let context = Context { tokens: &of.tokens, prompt: self.prompt, most: self.most, eos: &options.eos };
            process(&options.strategy, &context, &mut scores);
            if let Some(constrained) = &mut of.constrained {
                constrained.forbid(&mut scores)?;
            }
            let mut found: Vec<(usize, f32)> =
                scores.into_iter().enumerate().filter(|(_, score)| *score > f32::NEG_INFINITY).collect();
            if kept < found.len() {
                found.select_nth_unstable_by(kept, |a, b| b.1.total_cmp(&a.1));
                found.truncate(kept);
            }
            for (place, score) in found {
                let token = id(place)?;
                let ends = full || options.eos.contains(&token);
                all.push(Continued { beam, token, sum: of.sum + score, ends });
            }
        }
        if all.is_empty() {
            return Err(all_forbidden(self.beams.iter().any(|beam| beam.constrained.is_some())));
        }
        all.sort_by(|a, b| b.sum.total_cmp(&a.sum).then((a.beam, a.token).cmp(&(b.beam, b.token))));
        all.truncate(kept);
        Ok(all)
    }

    /// Keeps what has ended, of the first `num_beams` continuations, where it is among the best.
    fn finish(&mut self, options: &DecodeOptions, continued: &[Continued], length: usize) -> Result<()> {
        let (strategy, width) = (&options.strategy, options.strategy.beams());
        if !self.can_improve {
            return Ok(());
        }
        let penalty = (length as f32).powf(strategy.length_penalty.unwrap_or(1.0));
        for it in continued.iter().take(width).filter(|it| it.ends) {
            let Some(beam) = self.beams.get(it.beam) else { continue };
            let (ended, complete) = beam.with(it.token, it.sum, options.eos.contains(&it.token))?;
            let tokens = ended.tokens.get(self.prompt..).unwrap_or_default().to_vec();
            self.finished.push(Hypothesis { tokens, score: it.sum / penalty, complete });
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(width);
        Ok(())
    }

    /// Whether the best beam may become better than the worst text that has ended.
    fn could_improve(&self, options: &DecodeOptions, length: usize) -> bool {
        let (strategy, width) = (&options.strategy, options.strategy.beams());
        let power = strategy.length_penalty.unwrap_or(1.0);
        let never = strategy.early_stopping == Some(EarlyStopping::Never(Never::Never));
        let longest = self.most.filter(|_| never && power > 0.0).map_or(length, |most| most - self.prompt.min(most));
        let best = self.beams.first().map_or(LOWEST, |beam| beam.sum) / (longest as f32).powf(power);
        let worst = match self.finished.get(width - 1) {
            Some(worst) => worst.score,
            None => LOWEST,
        };
        best > worst
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    let of = highest + total.ln();
    logits.iter().map(|logit| logit - of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Strategy;

    const EOS: u32 = 0;

    /// Runs a search over a model whose logits depend on the last token alone.
    fn search(model: &[[f32; 4]; 4], strategy: Strategy, most: usize) -> Hypothesis {
        let options = DecodeOptions { strategy, eos: vec![EOS], ..DecodeOptions::default() };
        let mut search = BeamSearch::new(&[1], Some(most));
        loop {
            let last = search.beams.iter().map(|beam| *beam.tokens.last().unwrap() as usize);
            let logits: Vec<Vec<f32>> = last.map(|last| model[last].iter().map(|p: &f32| p.ln()).collect()).collect();
            let logits: Vec<&[f32]> = logits.iter().map(Vec::as_slice).collect();
            if search.advance(&options, &logits).unwrap().is_empty() {
                return search.best().unwrap();
            }
        }
    }

    /// The likeliest first token leads to a text that is less likely than another.
    const MODEL: [[f32; 4]; 4] = [[0.25; 4], [0.01, 0.09, 0.5, 0.4], [0.3, 0.3, 0.2, 0.2], [0.9, 0.02, 0.04, 0.04]];

    fn beams(n: usize) -> Strategy {
        Strategy { num_beams: Some(n), length_penalty: Some(0.0), ..Strategy::default() }
    }

    #[test]
    fn two_beams_find_a_likelier_text_than_one() {
        let found = search(&MODEL, beams(2), 8);
        assert_eq!(found.tokens, [3, EOS]);
        assert!((found.score - (0.4f32 * 0.9).ln()).abs() < 1e-5);
        assert_eq!(search(&MODEL, beams(1), 3).tokens, [2, EOS]);
    }

    #[test]
    fn texts_are_as_long_as_they_may_be_and_forbidden_tokens_do_not_come() {
        let no_end = Strategy { min_new_tokens: Some(3), ..beams(2) };
        assert_eq!(search(&MODEL, no_end, 9).tokens.len(), 4);
        let short = Strategy { suppress_tokens: Some(vec![EOS]), ..beams(2) };
        let found = search(&MODEL, short, 4);
        assert_eq!(found.tokens.len(), 3);
        assert!(!found.tokens.contains(&EOS));
    }
}
