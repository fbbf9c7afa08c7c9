//! Second moments of channels, in blocks of tokens so that a matrix product does the work.

use ndarray::{Array2, ArrayView2, linalg::general_mat_mul};

/// Tokens that are multiplied at once.
const BLOCK: usize = 256;

/// The running sum of `xᵀ x`.
pub(super) struct Moments {
    sum: Array2<f32>,
    rows: usize,
    waiting: Vec<f32>,
}

impl Moments {
    pub fn new(channels: usize) -> Moments {
        Moments { sum: Array2::zeros((channels, channels)), rows: 0, waiting: Vec::new() }
    }

    /// Adds a token.
    pub fn add(&mut self, row: &[f32]) {
        self.waiting.extend_from_slice(row);
        self.rows += 1;
        if self.waiting.len() >= BLOCK * row.len() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let channels = self.sum.ncols();
        if let Ok(x) = ArrayView2::from_shape((self.waiting.len() / channels.max(1), channels), &self.waiting) {
            general_mat_mul(1.0, &x.t(), &x, 1.0, &mut self.sum);
        }
        self.waiting.clear();
    }

    /// The mean of the added products. It is symmetric to the bit, whatever order a product has summed in.
    pub fn mean(mut self) -> Array2<f32> {
        self.flush();
        for i in 0..self.sum.nrows() {
            for j in 0..i {
                self.sum[[j, i]] = self.sum[[i, j]];
            }
        }
        self.sum / self.rows.max(1) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::Moments;

    #[test]
    fn the_mean_of_the_outer_products() {
        let mut moments = Moments::new(2);
        for _ in 0..300 {
            moments.add(&[1.0, 2.0]);
            moments.add(&[3.0, 0.0]);
        }
        assert_eq!(moments.mean().into_raw_vec_and_offset().0, [5.0, 1.0, 1.0, 2.0]);
    }
}
