//! Least squares from sums: the normal equations of a linear layer, over tokens that are read once.

use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use ndarray::{Array2, ArrayView2, Axis, linalg::general_mat_mul, s};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Tokens that are multiplied at once.
const BLOCK: usize = 512;

/// The default ridge towards the trained weights.
pub const RIDGE: f64 = 0.1;

/// Sums over tokens, from which the best weights of `y ≈ x · w + b` follow.
pub struct Sums {
    /// `[k, k]`: Σ `xᵀ x`
    xx: Array2<f32>,
    /// `[k, n]`: Σ `xᵀ y`
    xy: Array2<f32>,
    x: Vec<f64>,
    y: Vec<f64>,
    tokens: usize,
    waiting: [Vec<f32>; 2],
}

impl Sums {
    /// For `k` channels and `n` outputs.
    pub fn new(k: usize, n: usize) -> Sums {
        Sums {
            xx: Array2::zeros((k, k)),
            xy: Array2::zeros((k, n)),
            x: vec![0.0; k],
            y: vec![0.0; n],
            tokens: 0,
            waiting: [Vec::new(), Vec::new()],
        }
    }

    /// Adds rows of channels and as many rows of outputs.
    pub fn add(&mut self, x: &[f32], y: &[f32]) -> Result<()> {
        let (k, n) = self.xy.dim();
        if k == 0 || !x.len().is_multiple_of(k) || x.len() / k * n != y.len() {
            return Err(Error::bug(format!("{} channels and {} outputs are not as many rows", x.len(), y.len())));
        }
        self.tokens += x.len() / k;
        add_rows(&mut self.x, x);
        add_rows(&mut self.y, y);
        let [waiting_x, waiting_y] = &mut self.waiting;
        waiting_x.extend_from_slice(x);
        waiting_y.extend_from_slice(y);
        if waiting_x.len() >= BLOCK * k {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let (k, n) = self.xy.dim();
        let [waiting_x, waiting_y] = &mut self.waiting;
        let rows = waiting_x.len() / k.max(1);
        let sound = |e: ndarray::ShapeError| Error::bug(format!("rows of tokens: {e}"));
        let x = ArrayView2::from_shape((rows, k), waiting_x.as_slice()).map_err(sound)?;
        let y = ArrayView2::from_shape((rows, n), waiting_y.as_slice()).map_err(sound)?;
        let slab = k.div_ceil(rayon::current_num_threads().max(1)).max(1);
        let sums = |of: &mut Array2<f32>, by: ArrayView2<f32>| {
            let slabs: Vec<_> = of.axis_chunks_iter_mut(Axis(0), slab).collect();
            slabs.into_par_iter().enumerate().for_each(|(i, mut sum)| {
                let columns = x.slice(s![.., i * slab..i * slab + sum.nrows()]);
                general_mat_mul(1.0, &columns.t(), &by, 1.0, &mut sum);
            });
        };
        sums(&mut self.xx, x);
        sums(&mut self.xy, y);
        waiting_x.clear();
        waiting_y.clear();
        Ok(())
    }

    /// The difference of two sums of one shape.
    pub fn merged(mut self, mut other: Sums) -> Result<Sums> {
        self.flush()?;
        other.flush()?;
        self.xx += &other.xx;
        self.xy += &other.xy;
        self.x.iter_mut().zip(&other.x).for_each(|(a, b)| *a += b);
        self.y.iter_mut().zip(&other.y).for_each(|(a, b)| *a += b);
        self.tokens += other.tokens;
        Ok(self)
    }

    /// The problem around the means, which the bias takes care of. `prior`, `[k, n]`, is what the weights are pulled to
    /// where the tokens determine little.
    pub fn problem(&mut self, prior: &[f32]) -> Result<Problem> {
        self.flush()?;
        let (k, n) = self.xy.dim();
        if self.tokens == 0 || prior.len() != k * n {
            return Err(Error::bug("least squares need tokens, and a prior of the shape of the weights"));
        }
        let tokens = self.tokens as f64;
        let mean = |sum: &[f64]| sum.iter().map(|s| s / tokens).collect::<Vec<f64>>();
        let (x, y) = (mean(&self.x), mean(&self.y));
        let at = |of: &Array2<f32>, i: usize, j: usize| of.get((i, j)).copied().map_or(0.0, f64::from) / tokens;
        let moved = |a: &[f64], i: usize| a.get(i).copied().unwrap_or_default();
        let gram = Mat::from_fn(k, k, |i, j| {
            // A product may have summed the two halves in another order.
            (at(&self.xx, i, j) + at(&self.xx, j, i)) / 2.0 - moved(&x, i) * moved(&x, j)
        });
        let target = Mat::from_fn(k, n, |i, j| at(&self.xy, i, j) - moved(&x, i) * moved(&y, j));
        let size = (0..k).map(|i| gram[(i, i)]).sum::<f64>() / k.max(1) as f64;
        Ok(Problem { gram, target, prior: prior.to_vec(), size: size.max(f64::MIN_POSITIVE), x, y })
    }
}

fn add_rows(sums: &mut [f64], rows: &[f32]) {
    for row in rows.chunks_exact(sums.len().max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
}

/// `min ‖x · w + b − y‖²` by the statistics of `x` and `y`.
///
/// A ridge is the weight of the prior, relative to the mean square of a channel.
pub struct Problem {
    /// `[k, k]`: the covariance of the channels.
    gram: Mat<f64>,
    /// `[k, n]`: that of channels and outputs.
    target: Mat<f64>,
    /// `[k, n]`, row after row.
    prior: Vec<f32>,
    /// The mean square of a channel.
    size: f64,
    /// Mean of each channel.
    x: Vec<f64>,
    /// Mean of each output.
    y: Vec<f64>,
}

impl Problem {
    /// Channels and outputs.
    pub fn dims(&self) -> [usize; 2] {
        [self.target.nrows(), self.target.ncols()]
    }

    /// The mean square of a channel, around its mean.
    pub fn variance(&self, channel: usize) -> f64 {
        self.gram[(channel, channel)]
    }

    /// The covariance of the channels `at`, with the ridge.
    pub fn gram(&self, at: &[usize], ridge: f64) -> Mat<f64> {
        let ridge = ridge * self.size;
        Mat::from_fn(at.len(), at.len(), |i, j| self.gram[(at[i], at[j])] + if i == j { ridge } else { 0.0 })
    }

    /// The covariance of the channels `at` and the outputs, with the ridge's share of the prior.
    pub fn target(&self, at: &[usize], ridge: f64) -> Mat<f64> {
        let (n, ridge) = (self.target.ncols(), ridge * self.size);
        let prior = |i: usize, j: usize| self.prior.get(i * n + j).copied().map_or(0.0, f64::from);
        Mat::from_fn(at.len(), n, |i, j| self.target[(at[i], j)] + ridge * prior(at[i], j))
    }

    /// The best weights `[at.len(), n]` and bias `[n]`, row after row, where only the channels `at` are read.
    pub fn solve(&self, at: &[usize], ridge: f64) -> Result<(Vec<f32>, Vec<f32>)> {
        let weights = factored(&self.gram(at, ridge))?.solve(self.target(at, ridge));
        let read = |j: usize| at.iter().enumerate().map(|(i, c)| self.x[*c] * weights[(i, j)]).sum::<f64>();
        let bias = self.y.iter().enumerate().map(|(j, y)| (y - read(j)) as f32).collect();
        Ok((rows(&weights), bias))
    }

    /// The mean square error of weights `[at.len(), n]` and a bias on this problem's tokens, except for a term that is
    /// the same for all weights.
    pub fn error(&self, at: &[usize], weights: &[f32], bias: &[f32]) -> f64 {
        let n = self.target.ncols();
        let w = Mat::from_fn(at.len(), n, |i, j| weights.get(i * n + j).copied().map_or(0.0, f64::from));
        let product = self.gram(at, 0.0) * &w;
        let mut error = 0.0;
        for j in 0..n {
            let read: f64 = (0..at.len()).map(|i| self.x[at[i]] * w[(i, j)]).sum();
            let off = read + bias.get(j).copied().map_or(0.0, f64::from) - self.y[j];
            error += off * off;
            error += (0..at.len()).map(|i| w[(i, j)] * (product[(i, j)] - 2.0 * self.target[(at[i], j)])).sum::<f64>();
        }
        error / n.max(1) as f64
    }

    /// The bias for changed weights `[k, n]`, row after row, with which the means give the same output as before.
    pub fn moved_bias(&self, bias: &[f32], before: &[f32], after: &[f32]) -> Vec<f32> {
        let n = bias.len().max(1);
        let mut moved: Vec<f64> = bias.iter().map(|b| f64::from(*b)).collect();
        for ((before, after), mean) in before.chunks(n).zip(after.chunks(n)).zip(&self.x) {
            let change = before.iter().zip(after).map(|(a, b)| f64::from(a - b));
            moved.iter_mut().zip(change).for_each(|(bias, change)| *bias += mean * change);
        }
        moved.into_iter().map(|b| b as f32).collect()
    }
}

/// The elements, row after row.
pub fn rows(of: &Mat<f64>) -> Vec<f32> {
    (0..of.nrows()).flat_map(|i| (0..of.ncols()).map(move |j| of[(i, j)] as f32)).collect()
}

/// The factor of a covariance.
pub fn factored(gram: &Mat<f64>) -> Result<faer::linalg::solvers::Llt<f64>> {
    gram.llt(Side::Lower).map_err(|_| {
        Error::bad_input("the activations are not finite, or all the same: nothing can be fitted to them")
            .hint("calibrate with more texts, like those that the engine will read")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `y = 2 x₀ − x₂ + 3`; channel 1 is noise that `y` does not need.
    fn problem(prior: &[f32]) -> Problem {
        let mut sums = Sums::new(3, 1);
        for i in 0..900 {
            let x = [(i % 7) as f32, (i % 5) as f32, (i % 11) as f32];
            sums.add(&x, &[2.0 * x[0] - x[2] + 3.0]).unwrap();
        }
        sums.problem(prior).unwrap()
    }

    #[test]
    fn the_weights_that_made_the_outputs_are_found_again() {
        let (weights, bias) = problem(&[0.0; 3]).solve(&[0, 1, 2], 1e-9).unwrap();
        for (found, made) in weights.iter().chain(&bias).zip([2.0, 0.0, -1.0, 3.0]) {
            assert!((found - made).abs() < 1e-3, "{weights:?} {bias:?}");
        }
    }

    #[test]
    fn without_a_channel_the_bias_takes_its_mean() {
        let (weights, bias) = problem(&[0.0; 3]).solve(&[0], 1e-9).unwrap();
        assert!((weights[0] - 2.0).abs() < 0.05 && (bias[0] + 2.0).abs() < 0.2, "{weights:?} {bias:?}");
    }

    #[test]
    fn a_heavy_ridge_keeps_the_old_weights() {
        let (weights, _) = problem(&[5.0, 6.0, 7.0]).solve(&[0, 1, 2], 1e6).unwrap();
        for (found, prior) in weights.iter().zip([5.0, 6.0, 7.0]) {
            assert!((found - prior).abs() < 1e-3, "{weights:?}");
        }
    }

    #[test]
    fn the_error_is_that_of_the_tokens() {
        let problem = problem(&[0.0; 3]);
        // Off by 1 everywhere, against exact.
        let [off, exact] = [4.0, 3.0].map(|bias| problem.error(&[0, 2], &[2.0, -1.0], &[bias]));
        assert!((off - exact - 1.0).abs() < 1e-3, "{off} {exact}");
    }

    #[test]
    fn non_finite_values_are_errors() {
        let mut sums = Sums::new(1, 1);
        sums.add(&[f32::NAN], &[1.0]).unwrap();
        let error = sums.problem(&[1.0]).unwrap().solve(&[0], 0.01).unwrap_err();
        assert!(error.message().starts_with("the activations are not finite"), "{error}");
    }
}
