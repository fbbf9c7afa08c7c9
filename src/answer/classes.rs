//! Text classification: the labels of a text.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::batches::{self, Asked, Row, mean};
use super::{Answer, Model, Options};
use crate::error::{Error, Result, printable};
use crate::runtime::{self, Choice, Classes};

/// How the scores of several windows become those of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Join {
    /// Their mean, each window counting as often as it has tokens.
    #[default]
    Mean,
    /// The largest of each label.
    Max,
}

impl Join {
    const ALL: [(Join, &str); 2] = [(Join::Mean, "mean"), (Join::Max, "max")];
}

impl FromStr for Join {
    type Err = Error;

    fn from_str(text: &str) -> Result<Join> {
        let found = Join::ALL.into_iter().find(|(_, name)| *name == text).map(|(join, _)| join);
        found.ok_or_else(|| Error::bad_input(format!("`{}` is neither mean nor max", printable(text))))
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Join::ALL.into_iter().find(|(join, _)| join == self).map_or("", |(_, name)| name))
    }
}

/// The labels of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Labels {
    /// What the model chooses.
    #[serde(flatten)]
    pub answer: runtime::Answer,
    /// The surest labels, as many as were asked for, chosen or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<Vec<Choice>>,
}

pub(super) struct Head<'a> {
    classes: &'a Classes,
    join: Join,
    top_k: Option<usize>,
}

impl<'a> Head<'a> {
    pub fn new(model: &'a Model, options: &Options) -> Head<'a> {
        Head { classes: &model.classes, join: options.join, top_k: options.top_k }
    }
}

impl batches::Head for Head<'_> {
    /// The logits, and how many tokens they are of.
    type Part = (Vec<f32>, usize);

    type Answer = Answer;

    fn read(&self, _: &Asked, _: usize, row: &Row) -> Result<Self::Part> {
        Ok((row.numbers("logits")?.to_vec(), row.tokens()))
    }

    fn join(&self, _: &Asked, parts: Vec<Self::Part>) -> Result<Answer> {
        let scored = parts.iter().map(|(logits, tokens)| Ok((self.classes.scores(logits)?, *tokens)));
        let scored = scored.collect::<Result<Vec<_>>>()?;
        let (answer, scores) = match (parts.as_slice(), self.join) {
            ([(logits, _)], _) => (self.classes.read(logits)?, self.classes.scores(logits)?),
            (_, Join::Mean) => {
                let scores = mean(&scored);
                (self.classes.choose(&scores)?, scores)
            }
            (_, Join::Max) => {
                let scores = largest(&scored);
                (self.classes.choose(&scores)?, scores)
            }
        };
        let top = self.top_k.map(|k| self.classes.top(&scores, k));
        Ok(Answer::Labels(Labels { answer, top }))
    }
}

/// The largest score of each label.
fn largest(scored: &[(Vec<f32>, usize)]) -> Vec<f32> {
    let width = scored.iter().map(|(scores, _)| scores.len()).min().unwrap_or(0);
    let of = |label: usize| scored.iter().filter_map(move |(scores, _)| scores.get(label).copied());
    (0..width).map(|label| of(label).fold(f32::NEG_INFINITY, f32::max)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_are_known_by_name() {
        for (join, name) in Join::ALL {
            assert_eq!((name.parse::<Join>().unwrap(), join.to_string()), (join, name.to_owned()));
        }
        assert_eq!("min".parse::<Join>().unwrap_err().message(), "`min` is neither mean nor max");
        assert_eq!(largest(&[(vec![0.1, 0.9], 4), (vec![0.5, 0.5], 1)]), [0.5, 0.9]);
    }
}
