//! Patterns of zeros in weights, and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which weights of a layer are zeros.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Sparsity {
    /// This share, wherever it matters least.
    Share(f64),
    /// At least `zeros` of every `of` weights that follow each other along the inputs, for each output.
    Pattern {
        /// How many are 0.
        zeros: usize,
        /// Of how many.
        of: usize,
    },
}

/// The values of a recipe's `sparsity`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Text(String),
}

impl TryFrom<Written> for Sparsity {
    type Error = Error;

    fn try_from(written: Written) -> Result<Sparsity> {
        match written {
            Written::Number(share) => Sparsity::share(share),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Sparsity> for String {
    fn from(sparsity: Sparsity) -> String {
        sparsity.to_string()
    }
}

impl fmt::Display for Sparsity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sparsity::Share(share) => write!(f, "{share}"),
            Sparsity::Pattern { zeros, of } => write!(f, "{zeros}:{of}"),
        }
    }
}

impl FromStr for Sparsity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Sparsity> {
        if text == "2:4" {
            return Ok(Sparsity::Pattern { zeros: 2, of: 4 });
        }
        let share = text.parse().map_err(|_| {
            Error::bad_input(format!("`{}` is no sparsity", crate::error::printable(text)))
                .hint("write a share such as 0.5, or the pattern 2:4")
        })?;
        Sparsity::share(share)
    }
}

impl Sparsity {
    fn share(share: f64) -> Result<Sparsity> {
        match share {
            0.0..1.0 if share > 0.0 => Ok(Sparsity::Share(share)),
            _ => Err(Error::bad_input(format!("sparsity {share}: the share of zeros is above 0 and below 1"))),
        }
    }

    /// Whether `[k, n]` weights, row after row, have the zeros of the pattern; for a share, whether so many are 0.
    pub fn holds<T: PartialEq + Default>(self, values: &[T], n: usize) -> bool {
        let n = n.max(1);
        let zero = T::default();
        match self {
            Sparsity::Share(share) => {
                let zeros = values.iter().filter(|value| **value == zero).count();
                zeros as f64 >= (share * values.len() as f64).floor()
            }
            Sparsity::Pattern { zeros, of } => values.chunks_exact(of * n).all(|rows| {
                (0..n).all(|j| rows.iter().skip(j).step_by(n).filter(|value| **value == zero).count() >= zeros)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_OF_FOUR: Sparsity = Sparsity::Pattern { zeros: 2, of: 4 };

    #[test]
    fn the_pattern_is_more_than_a_count_of_zeros() {
        assert!(TWO_OF_FOUR.holds(&[0i8, 3, 0, 4], 1));
        assert!(TWO_OF_FOUR.holds(&[0i8, 1, 2, 0, 0, 3, 4, 0], 2));
        assert!(!TWO_OF_FOUR.holds(&[0i8, 0, 0, 1, 2, 3, 4, 0], 1));
        assert!(
            Sparsity::Share(0.5).holds(&[0.0, 0.0, 1.0, 2.0], 1)
                && !Sparsity::Share(0.6).holds(&[0.0, 0.0, 1.0, 2.0, 3.0], 1)
        );
    }

    #[test]
    fn sparsity_is_a_share_or_a_pattern() {
        assert_eq!("2:4".parse::<Sparsity>().unwrap(), TWO_OF_FOUR);
        assert_eq!("0.5".parse::<Sparsity>().unwrap(), Sparsity::Share(0.5));
        for wrong in ["1", "-0.1", "NaN", "3:4", "half"] {
            assert!(wrong.parse::<Sparsity>().is_err(), "{wrong}");
        }
    }
}
