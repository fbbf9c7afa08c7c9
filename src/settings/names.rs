//! Values of settings that have names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};

/// How the scores of several windows become those of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// How tokens become entities. Tokens of one label side by side are one entity, but where a label begins with `B-`,
/// an entity begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    /// Not at all: each token by itself.
    None,
    /// Token by token, without regard to words.
    #[default]
    Simple,
    /// Word by word, each with the label of its first token.
    First,
    /// Word by word, each with the label that is likeliest on average over its tokens.
    Average,
    /// Word by word, each with the label of its token with the highest score.
    Max,
}

impl Aggregation {
    const ALL: [(Aggregation, &str); 5] = [
        (Aggregation::None, "none"),
        (Aggregation::Simple, "simple"),
        (Aggregation::First, "first"),
        (Aggregation::Average, "average"),
        (Aggregation::Max, "max"),
    ];
}

impl FromStr for Aggregation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Aggregation> {
        let names = Aggregation::ALL.map(|(_, name)| name);
        let found = Aggregation::ALL.into_iter().find(|(_, name)| *name == text).map(|(aggregation, _)| aggregation);
        found.ok_or_else(|| {
            let known = names.join(", ");
            let error = Error::bad_input(format!("unknown aggregation `{}`; known: {known}", printable(text)));
            error.hint_nearest(text, names)
        })
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Aggregation::ALL.into_iter().find(|(a, _)| a == self).map_or("", |(_, name)| name))
    }
}

/// The similarity of two texts by their vectors `a` and `b`; larger is more similar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Similarity {
    /// `a·b / (|a| |b|)`, from −1 to 1.
    #[default]
    Cosine,
    /// `a·b`
    Dot,
    /// `−√Σ (a − b)²`, at most 0.
    Euclidean,
    /// `−Σ |a − b|`, at most 0.
    Manhattan,
}

impl Similarity {
    const ALL: [(Similarity, &str); 4] = [
        (Similarity::Cosine, "cosine"),
        (Similarity::Dot, "dot"),
        (Similarity::Euclidean, "euclidean"),
        (Similarity::Manhattan, "manhattan"),
    ];

    /// The similarity of two vectors of one width. Vectors without length have a cosine of 0 to all others.
    pub fn of(self, a: &[f32], b: &[f32]) -> f32 {
        let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let found = match self {
            Similarity::Dot => pairs().map(|(a, b)| a * b).sum(),
            Similarity::Euclidean => -pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
            Similarity::Manhattan => -pairs().map(|(a, b)| (a - b).abs()).sum::<f64>(),
            Similarity::Cosine => {
                let dot: f64 = pairs().map(|(a, b)| a * b).sum();
                let squares = |of: fn((f64, f64)) -> f64| pairs().map(|pair| of(pair).powi(2)).sum::<f64>();
                let lengths = (squares(|(a, _)| a) * squares(|(_, b)| b)).sqrt();
                if lengths > 0.0 { dot / lengths } else { 0.0 }
            }
        };
        found as f32
    }
}

impl FromStr for Similarity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Similarity> {
        let names = Similarity::ALL.map(|(_, name)| name);
        let found = Similarity::ALL.into_iter().find(|(_, name)| *name == text).map(|(similarity, _)| similarity);
        found.ok_or_else(|| {
            Error::bad_input(format!("unknown similarity `{}`; known: {}", printable(text), names.join(", ")))
        })
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Similarity::ALL.into_iter().find(|(s, _)| s == self).map_or("", |(_, name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_are_known_by_name() {
        for (join, name) in Join::ALL {
            assert_eq!((name.parse::<Join>().unwrap(), join.to_string()), (join, name.to_owned()));
            assert_eq!(serde_json::to_value(join).unwrap(), name);
        }
        assert_eq!("min".parse::<Join>().unwrap_err().message(), "`min` is neither mean nor max");
    }

    #[test]
    fn aggregations_are_known_by_name() {
        for (aggregation, name) in Aggregation::ALL {
            assert_eq!((name.parse::<Aggregation>().unwrap(), aggregation.to_string()), (aggregation, name.to_owned()));
            assert_eq!(serde_json::to_value(aggregation).unwrap(), name);
        }
        let error = "averge".parse::<Aggregation>().unwrap_err();
        assert_eq!(error.message(), "unknown aggregation `averge`; known: none, simple, first, average, max");
        assert_eq!(error.hints(), ["did you mean average?"]);
    }

    #[test]
    fn vectors_are_compared_as_sentence_transformers_does() {
        let of = |similarity: Similarity, a: &[f32], b: &[f32]| similarity.of(a, b);
        let (a, b) = ([3.0, 0.0], [3.0, 4.0]);
        assert_eq!(of(Similarity::Cosine, &a, &b), 0.6);
        assert_eq!(of(Similarity::Dot, &a, &b), 9.0);
        assert_eq!(of(Similarity::Euclidean, &a, &b), -4.0);
        assert_eq!(of(Similarity::Manhattan, &a, &[1.0, 1.0]), -3.0);
        assert_eq!(of(Similarity::Cosine, &[0.0], &[1.0]), 0.0);
        for (similarity, name) in Similarity::ALL {
            assert_eq!((name.parse::<Similarity>().unwrap(), similarity.to_string().as_str()), (similarity, name));
        }
        let said = "dot_score".parse::<Similarity>().unwrap_err();
        assert_eq!(said.message(), "unknown similarity `dot_score`; known: cosine, dot, euclidean, manhattan");
    }
}
