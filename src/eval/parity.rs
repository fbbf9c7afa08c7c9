//! How far two sets of outputs differ.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::runtime::ProblemType;

/// Outputs of a candidate compared with those of a reference, row by row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// How many rows were compared.
    pub rows: usize,
    /// Share of rows with the same prediction, 0 to 1; none for regression, whose predictions are the same or near.
    pub agreement: Option<f64>,
    /// Largest difference of any element.
    pub max_abs: f64,
    /// Smallest cosine of any two rows.
    pub min_cosine: f64,
    /// Elements of the candidate that are NaN or infinite.
    pub non_finite: usize,
}

impl Parity {
    /// Compares rows in pairs; those with the same largest element agree.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a [f32], &'a [f32])>) -> Result<Parity> {
        Parity::of_predictions(pairs, ProblemType::SingleLabel)
    }

    /// Compares rows of logits in pairs. Fails where there are none, or a row of another length.
    pub fn of_predictions<'a>(
        pairs: impl IntoIterator<Item = (&'a [f32], &'a [f32])>,
        problem_type: ProblemType,
    ) -> Result<Parity> {
        let mut tally = Tally::new(Some(problem_type));
        for (reference, candidate) in pairs {
            tally.add(reference, candidate)?;
        }
        tally.parity()
    }
}

/// A [`Parity`] that grows row by row and holds none of them.
#[derive(Clone, Debug)]
pub struct Tally {
    problem_type: Option<ProblemType>,
    agreed: Option<usize>,
    parity: Parity,
    /// Of the differences that are finite, and of the reference.
    squares: [f64; 2],
    elements: usize,
}

impl Tally {
    /// With no rows yet. Without a problem type no row has a prediction, so there is no agreement.
    pub fn new(problem_type: Option<ProblemType>) -> Tally {
        let parity = Parity { min_cosine: 1.0, ..Parity::default() };
        Tally { problem_type, agreed: problem_type.map(|_| 0), parity, squares: [0.0; 2], elements: 0 }
    }

    /// Compares two rows. Fails where their lengths differ or are 0.
    pub fn add(&mut self, reference: &[f32], candidate: &[f32]) -> Result<()> {
        if reference.len() != candidate.len() || reference.is_empty() {
            return Err(Error::bad_input(format!(
                "rows of {} and {} elements cannot be compared",
                reference.len(),
                candidate.len()
            )));
        }
        let parity = &mut self.parity;
        parity.rows += 1;
        let chosen = |row: &[f32]| self.problem_type.and_then(|problem_type| problem_type.chosen(row));
        let same = chosen(reference).zip(chosen(candidate)).map(|(a, b)| a == b);
        self.agreed = self.agreed.zip(same).map(|(agreed, same)| agreed + usize::from(same));
        parity.non_finite += candidate.iter().filter(|x| !x.is_finite()).count();
        let differences = reference.iter().zip(candidate).map(|(a, b)| f64::from((a - b).abs()));
        // A NaN must not pass for a small difference.
        parity.max_abs = differences.fold(parity.max_abs, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
        let square = |x: f32| if x.is_finite() { f64::from(x).powi(2) } else { 0.0 };
        for (a, b) in reference.iter().zip(candidate) {
            self.squares = [self.squares[0] + square(a - b), self.squares[1] + square(*a)];
        }
        self.elements += reference.len();
        let cosine = cosine(reference, candidate);
        parity.min_cosine = if cosine.is_nan() { -1.0 } else { parity.min_cosine.min(cosine) };
        Ok(())
    }

    /// The root mean squares of all differences and of the reference's elements. Those that are not finite are left out;
    /// [`Parity::non_finite`] counts them.
    pub fn root_mean_squares(&self) -> [f64; 2] {
        self.squares.map(|sum| (sum / self.elements.max(1) as f64).sqrt())
    }

    /// The result. Fails where there were no rows.
    pub fn parity(self) -> Result<Parity> {
        if self.parity.rows == 0 {
            return Err(Error::bad_input("there is nothing to compare"));
        }
        let agreement = self.agreed.map(|agreed| agreed as f64 / self.parity.rows as f64);
        Ok(Parity { agreement, ..self.parity })
    }
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
        assert_eq!((parity.rows, parity.agreement, parity.max_abs, parity.non_finite), (2, Some(1.0), 0.0, 0));
        assert!(parity.min_cosine > 0.999_999);
    }

    #[test]
    fn differences_are_measured_and_nan_never_passes() {
        let parity = Parity::of([(&[1.0f32, 2.0][..], &[2.5f32, 2.0][..])]).unwrap();
        assert_eq!((parity.agreement, parity.max_abs), (Some(0.0), 1.5));
        let parity = Parity::of([(&[1.0f32, 2.0][..], &[f32::NAN, 2.0][..])]).unwrap();
        assert_eq!((parity.max_abs, parity.min_cosine, parity.non_finite), (f64::INFINITY, -1.0, 1));
    }

    #[test]
    fn differences_have_a_root_mean_square() {
        let mut tally = Tally::new(None);
        tally.add(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        tally.add(&[3.0, -2.0], &[1.0, -2.0]).unwrap();
        assert_eq!(tally.root_mean_squares(), [1.0, (18.0_f64 / 4.0).sqrt()]);
    }

    #[test]
    fn sets_of_labels_agree_as_sets_and_numbers_do_not() {
        let rows: [(&[f32], &[f32]); 2] = [(&[3.0, 1.0], &[1.0, 3.0]), (&[3.0, -1.0], &[3.0, 0.0])];
        assert_eq!(Parity::of_predictions(rows, ProblemType::MultiLabel).unwrap().agreement, Some(0.5));
        assert_eq!(Parity::of_predictions(rows, ProblemType::Regression).unwrap().agreement, None);
    }

    #[test]
    fn nothing_to_compare_is_an_error() {
        assert!(Parity::of([]).is_err());
        assert!(Parity::of([(&[1.0f32][..], &[1.0f32, 2.0][..])]).is_err());
    }
}
