//! What a comparison has found: every output, and what an engine loses.

use serde::{Deserialize, Serialize};

use super::compare::OutputParity;

/// The result of a comparison.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// Of every output, that which a task reads first before the others.
    pub outputs: Vec<OutputParity>,
    /// How many rows of the prediction were compared.
    pub rows: usize,
    /// The accuracies, where this is a classifier and all texts have labels.
    pub accuracy: Option<Accuracy>,
}

/// Accuracies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The reference's.
    pub reference: f64,
    /// The engine's.
    pub found: f64,
}

impl Accuracy {
    /// What is lost of the reference's.
    pub fn drop(self) -> f64 {
        self.reference - self.found
    }
}

/// What an engine loses: accuracy, or predictions where texts have no labels: of the output of which most have changed. None,
/// where nothing is predicted.
pub fn lost(accuracy: Option<Accuracy>, agreements: impl IntoIterator<Item = f64>) -> Option<f64> {
    let changed = || agreements.into_iter().map(|agreement| 1.0 - agreement).reduce(f64::max);
    accuracy.map(Accuracy::drop).or_else(changed)
}

impl Compared {
    /// The smallest share of the same predictions of any output; none where no output is a prediction.
    pub fn agreement(&self) -> Option<f64> {
        self.agreements().reduce(f64::min)
    }

    fn agreements(&self) -> impl Iterator<Item = f64> {
        self.outputs.iter().filter_map(|of| of.parity.agreement)
    }

    /// What the engine loses, by [`lost`].
    pub fn lost(&self) -> Option<f64> {
        lost(self.accuracy, self.agreements())
    }

    /// How many numbers of any output are NaN or infinite.
    pub fn non_finite(&self) -> usize {
        self.outputs.iter().map(|of| of.parity.non_finite).sum()
    }

    /// By how much outputs change: the largest root mean square of the change of any output, each on the scale of the first.
    ///
    /// `max_i rms(yᵢ' − yᵢ) · rms(y₀) / rms(yᵢ)`. Logits, hidden states and caches differ in size by orders of magnitude, so
    /// the change of each is taken relative to its size; the first output's size gives it the unit that a model with this
    /// output alone has. Infinite where an output is not finite.
    pub fn change(&self) -> f64 {
        if self.non_finite() > 0 {
            return f64::INFINITY;
        }
        let first = self.outputs.first().map_or(0.0, |of| of.reference_rms);
        let scaled = |of: &OutputParity| match of.reference_rms > 0.0 && first > 0.0 {
            true => of.rms * (first / of.reference_rms),
            false => of.rms,
        };
        self.outputs.iter().map(scaled).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Parity;

    fn of(output: &str, agreement: Option<f64>, rms: f64, reference_rms: f64) -> OutputParity {
        OutputParity {
            output: output.to_owned(),
            parity: Parity { agreement, ..Parity::default() },
            rms,
            reference_rms,
        }
    }

    #[test]
    fn outputs_change_on_the_scale_of_the_first_and_the_largest_counts() {
        let compared = |outputs| Compared { outputs, rows: 1, accuracy: None };
        assert_eq!(compared(vec![of("logits", Some(0.9), 0.5, 4.0)]).change(), 0.5);
        let two = compared(vec![of("start_logits", Some(0.9), 0.5, 4.0), of("end_logits", Some(0.7), 3.0, 8.0)]);
        assert_eq!(two.change(), 1.5);
        assert_eq!((two.agreement(), two.lost()), (Some(0.7), Some(1.0 - 0.7)));
        let of_zeros = compared(vec![of("logits", None, 0.5, 4.0), of("pooler_output", None, 0.75, 0.0)]);
        assert_eq!((of_zeros.change(), of_zeros.lost()), (0.75, None));
        let mut infinite = of("present.*", None, 0.0, 1.0);
        infinite.parity.non_finite = 1;
        assert_eq!(compared(vec![of("logits", None, 0.5, 4.0), infinite]).change(), f64::INFINITY);
    }

    #[test]
    fn accuracy_counts_where_there_is_one() {
        let accuracy = Accuracy { reference: 0.75, found: 0.5 };
        assert_eq!(lost(Some(accuracy), [0.1]), Some(0.25));
        assert_eq!(lost(None, []), None);
    }
}
