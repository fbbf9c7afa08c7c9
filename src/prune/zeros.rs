//! Chooses the zeros of one layer's weights, and fits those that stay.

use faer::Mat;
use faer::linalg::solvers::Solve;
use rayon::prelude::*;

use super::normal::{Problem, factored, rows};
use super::{Importance, Sparsity};
use crate::error::{Error, Result};

/// How much the covariance of the inputs is smoothed, against the mean square of one.
const RIDGE: f64 = 1e-2;

/// Steps in which the weights that are left are fitted, all together, once the zeros are chosen.
const STEPS: usize = 30;

/// Weights of which every pair is tried.
const SMALL: usize = 8;

/// Inputs among which the share of zeros is the same.
const WINDOW: usize = 128;

/// How the inputs behind one take over its share.
pub struct Factor {
    k: usize,
    /// `[k, k]`, upper: `Uᵀ U` is the inverse of the covariance.
    upper: Vec<f64>,
    /// The standard deviation of every input.
    sizes: Vec<f64>,
    /// `[k, k]`: the covariance.
    gram: Mat<f64>,
}

impl Factor {
    /// From the statistics of the inputs.
    pub fn of(problem: &Problem) -> Result<Factor> {
        let [k, _] = problem.dims();
        let all: Vec<usize> = (0..k).collect();
        let gram = problem.gram(&all, RIDGE);
        let inverse = factored(&gram)?.solve(Mat::<f64>::identity(k, k));
        let lower = factored(&inverse)?;
        let lower = lower.L();
        let upper = (0..k).flat_map(|i| (0..k).map(move |j| if j >= i { lower[(j, i)] } else { 0.0 })).collect();
        Ok(Factor { k, upper, sizes: (0..k).map(|i| problem.variance(i).sqrt()).collect(), gram })
    }

    /// `[k, n]` weights with their zeros, row after row.
    pub fn sparse(
        &self,
        weight: &[f32],
        n: usize,
        sparsity: Sparsity,
        importance: Importance,
        refit: bool,
    ) -> Result<Vec<f32>> {
        let columns: Vec<Vec<f64>> = (0..n)
            .into_par_iter()
            .map(|j| {
                let column = weight.iter().skip(j).step_by(n.max(1)).map(|w| f64::from(*w)).collect();
                self.column(column, sparsity, importance, refit)
            })
            .collect();
        if columns.iter().any(|column| column.len() != self.k) {
            return Err(Error::bug("a layer has as many inputs as it reads channels"));
        }
        let mut made = Mat::from_fn(self.k, n, |i, j| columns[j][i]);
        if refit {
            let start = Mat::from_fn(self.k, n, |i, j| f64::from(weight[i * n + j]));
            self.settle(&mut made, &start);
        }
        Ok(rows(&made))
    }

    /// `min (w − start)ᵀ · covariance · (w − start)` over the weights that are not 0, for every output: conjugate
    /// gradients, scaled by the variance of the inputs.
    fn settle(&self, w: &mut Mat<f64>, start: &Mat<f64>) {
        let (k, n) = (w.nrows(), w.ncols());
        let free = Mat::from_fn(k, n, |i, j| if w[(i, j)] == 0.0 { 0.0 } else { 1.0 });
        let masked = |of: Mat<f64>| Mat::from_fn(k, n, |i, j| of[(i, j)] * free[(i, j)]);
        let scaled = |of: &Mat<f64>| Mat::from_fn(k, n, |i, j| of[(i, j)] / self.gram[(i, i)]);
        let dots = |a: &Mat<f64>, b: &Mat<f64>| -> Vec<f64> {
            (0..n).map(|j| (0..k).map(|i| a[(i, j)] * b[(i, j)]).sum()).collect()
        };
        let share = |a: &[f64], b: &[f64]| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| if *b > 0.0 { a / b } else { 0.0 }).collect()
        };
        let mut rest = masked(&self.gram * (start - &*w));
        let mut step = scaled(&rest);
        let mut size = dots(&rest, &step);
        for _ in 0..STEPS {
            let moved = masked(&self.gram * &step);
            let length = share(&size, &dots(&step, &moved));
            *w = Mat::from_fn(k, n, |i, j| w[(i, j)] + length[j] * step[(i, j)]);
            rest = Mat::from_fn(k, n, |i, j| rest[(i, j)] - length[j] * moved[(i, j)]);
            let next = scaled(&rest);
            let next_size = dots(&rest, &next);
            let turn = share(&next_size, &size);
            step = Mat::from_fn(k, n, |i, j| next[(i, j)] + turn[j] * step[(i, j)]);
            size = next_size;
        }
    }

    /// The weights of one output.
    fn column(&self, mut w: Vec<f64>, sparsity: Sparsity, importance: Importance, refit: bool) -> Vec<f64> {
        let (window, zeros) = match sparsity {
            Sparsity::Share(share) => (WINDOW, share),
            Sparsity::Pattern { zeros, of } => (of, zeros as f64 / of as f64),
        };
        for start in (0..w.len()).step_by(window) {
            let end = (start + window).min(w.len());
            let count = (zeros * (end - start) as f64).round() as usize;
            let together = refit && importance == Importance::Reconstruction && count == 2 && end - start <= SMALL;
            let chosen = if together {
                self.pair(&w, start, end)
            } else {
                let mut order: Vec<usize> = (start..end).collect();
                let missed: Vec<f64> = order.iter().map(|i| self.missed(w[*i], *i, importance)).collect();
                order.sort_by(|a, b| missed[a - start].total_cmp(&missed[b - start]).then(a.cmp(b)));
                order.truncate(count);
                order.sort_unstable();
                order
            };
            for i in chosen {
                if refit {
                    let row = &self.upper[i * self.k..(i + 1) * self.k];
                    let error = w[i] / row[i];
                    w.iter_mut().zip(row).skip(i + 1).for_each(|(w, u)| *w -= error * u);
                }
                w[i] = 0.0;
            }
        }
        w
    }

    /// The two weights of a few that are missed least together: the second as it is once it has taken over its share of the
    /// first.
    fn pair(&self, w: &[f64], start: usize, end: usize) -> Vec<usize> {
        let at = |i: usize, j: usize| self.upper[i * self.k + j];
        let mut best = (f64::INFINITY, vec![start, start + 1]);
        for (i, weight) in w.iter().enumerate().take(end).skip(start) {
            let first = weight / at(i, i);
            for (j, weight) in w.iter().enumerate().take(end).skip(i + 1) {
                let second = (weight - first * at(i, j)) / at(j, j);
                let missed = first * first + second * second;
                if missed < best.0 {
                    best = (missed, vec![i, j]);
                }
            }
        }
        best.1
    }

    fn missed(&self, w: f64, i: usize, importance: Importance) -> f64 {
        match importance {
            Importance::Reconstruction => (w / self.upper[i * self.k + i]).abs(),
            Importance::Activation => w.abs() * self.sizes[i],
            Importance::Magnitude => w.abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::normal::Sums;
    use super::*;

    /// Channels 0 and 1 are nearly the same, 2 and 3 are independent.
    fn factor() -> Factor {
        let mut sums = Sums::new(4, 0);
        for i in 0..997 {
            let x = |m: usize| (i * m % 13) as f32 - 6.0;
            sums.add(&[x(3), x(3) + 0.01 * x(7), x(5), x(11)], &[]).unwrap();
        }
        Factor::of(&sums.problem(&[]).unwrap()).unwrap()
    }

    const TWO_OF_FOUR: Sparsity = Sparsity::Pattern { zeros: 2, of: 4 };

    #[test]
    fn the_share_of_a_removed_weight_is_taken_over() {
        let made = factor().sparse(&[1.0, 1.0, 0.1, 2.0], 1, TWO_OF_FOUR, Importance::Reconstruction, true).unwrap();
        assert!(made[0] == 0.0 && made[2] == 0.0 && (made[1] - 2.0).abs() < 0.05, "{made:?}");
        let plain = factor().sparse(&[1.0, 1.0, 0.1, 2.0], 1, TWO_OF_FOUR, Importance::Magnitude, false).unwrap();
        assert_eq!(plain, [0.0, 1.0, 0.0, 2.0]);
    }
}
