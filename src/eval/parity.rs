//! How far two sets of outputs are apart.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Outputs of a candidate held against those of a reference, row by row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// How many rows were compared.
    pub rows: usize,
    /// Share of rows whose largest element is the same one, 0 to 1.
    pub agreement: f64,
    /// Largest difference of any element.
    pub max_abs: f64,
    /// Smallest cosine of any two rows.
    pub min_cosine: f64,
    /// Elements of the candidate that are NaN or infinite.
    pub non_finite: usize,
}

impl Parity {
    /// Compares rows in pairs. Fails where there are none, or a row of another length.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a [f32], &'a [f32])>) -> Result<Parity> {
        let mut parity = Parity { min_cosine: 1.0, ..Parity::default() };
        let mut agreed = 0;
        for (reference, candidate) in pairs {
            if reference.len() != candidate.len() || reference.is_empty() {
                return Err(Error::bad_input(format!(
                    "rows of {} and {} elements cannot be compared",
                    reference.len(),
                    candidate.len()
                )));
            }
            parity.rows += 1;
            agreed += usize::from(largest(reference) == largest(candidate));
            parity.non_finite += candidate.iter().filter(|x| !x.is_finite()).count();
            let apart = reference.iter().zip(candidate).map(|(a, b)| f64::from((a - b).abs()));
            // A NaN must not pass for a small difference.
            parity.max_abs = apart.fold(parity.max_abs, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
            let cosine = cosine(reference, candidate);
            parity.min_cosine = if cosine.is_nan() { -1.0 } else { parity.min_cosine.min(cosine) };
        }
        if parity.rows == 0 {
            return Err(Error::bad_input("there is nothing to compare"));
        }
        parity.agreement = agreed as f64 / parity.rows as f64;
        Ok(parity)
    }
}

fn largest(row: &[f32]) -> Option<usize> {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms == 0.0 { f64::from(u8::from(a == b)) } else { dot(a, b) / norms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_agree_in_everything() {
        let rows: [&[f32]; 2] = [&[1.0, 2.0], &[3.0, -1.0]];
        let parity = Parity::of(rows.into_iter().zip(rows)).unwrap();
        assert_eq!((parity.rows, parity.agreement, parity.max_abs, parity.non_finite), (2, 1.0, 0.0, 0));
        assert!(parity.min_cosine > 0.999_999);
    }

    #[test]
    fn differences_are_measured_and_nan_never_passes() {
        let parity = Parity::of([(&[1.0f32, 2.0][..], &[2.5f32, 2.0][..])]).unwrap();
        assert_eq!((parity.agreement, parity.max_abs), (0.0, 1.5));
        let parity = Parity::of([(&[1.0f32, 2.0][..], &[f32::NAN, 2.0][..])]).unwrap();
        assert_eq!((parity.max_abs, parity.min_cosine, parity.non_finite), (f64::INFINITY, -1.0, 1));
    }

    #[test]
    fn nothing_to_compare_is_an_error() {
        assert!(Parity::of([]).is_err());
        assert!(Parity::of([(&[1.0f32][..], &[1.0f32, 2.0][..])]).is_err());
    }
}
