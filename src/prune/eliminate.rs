//! Backward elimination: units of channels go one after another, each time those that are missed least once the others
//! have been refitted.
//!
//! With `P = (covariance)⁻¹` and the fitted weights `W`, leaving out the channels S costs
//! `tr(W[S]ᵀ · P[S, S]⁻¹ · W[S])`, and the others become `W − P[:, S] · P[S, S]⁻¹ · W[S]`: the optimal brain surgeon
//! (Hassibi and Stork, 1993), for groups of weights as in ZipLM (arXiv 2302.04089).

use faer::linalg::solvers::Solve;
use faer::prelude::*;
use rayon::prelude::*;

use super::normal::{Problem, RIDGE, factored};
use crate::error::Result;

/// The rest is refitted at least so many times on the way; where there are many channels, they are removed in handfuls.
const STEPS: usize = 256;

/// The order in which units are removed, and the loss.
#[derive(Clone, Debug)]
pub struct Order {
    /// The units, those that are missed least first.
    pub units: Vec<usize>,
    /// Mean square error of an output once so many units are removed; the first is for none.
    pub losses: Vec<f64>,
}

impl Order {
    /// The units that stay when `count` are removed, in ascending order.
    pub fn kept(&self, count: usize) -> Vec<usize> {
        let mut kept: Vec<usize> = self.units.iter().skip(count).copied().collect();
        kept.sort_unstable();
        kept
    }
}

/// Eliminates until `most` units are gone. Channels belong to units of `unit` neighbours.
pub fn order(problem: &Problem, unit: usize, most: usize) -> Result<Order> {
    if most == 0 {
        return Ok(Order { units: (0..problem.dims()[0] / unit.max(1)).collect(), losses: vec![0.0] });
    }
    let mut state = State::of(problem, unit)?;
    let units = state.alive.len();
    let step = if unit == 1 { units.div_ceil(STEPS) } else { 1 };
    let mut order = Order { units: Vec::with_capacity(units), losses: vec![0.0] };
    while order.units.len() < most.min(units) {
        let mut losses = state.losses()?;
        losses.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        losses.truncate(step.min(most.min(units) - order.units.len()));
        let mut total = order.losses.last().copied().unwrap_or_default();
        for (loss, unit) in &losses {
            total += loss;
            order.units.push(*unit);
            order.losses.push(total);
        }
        state.remove(&losses.iter().map(|(_, unit)| *unit).collect::<Vec<_>>())?;
    }
    order.units.extend(&state.alive);
    Ok(order)
}

struct State {
    k: usize,
    n: usize,
    unit: usize,
    /// `[k, k]`, row after row.
    inverse: Vec<f64>,
    /// `[k, n]`, row after row.
    weights: Vec<f64>,
    alive: Vec<usize>,
}

impl State {
    fn of(problem: &Problem, unit: usize) -> Result<State> {
        let [k, n] = problem.dims();
        let all: Vec<usize> = (0..k).collect();
        let factor = factored(&problem.gram(&all, RIDGE))?;
        let inverse = factor.solve(Mat::<f64>::identity(k, k));
        let weights = factor.solve(problem.target(&all, RIDGE));
        let flat = |of: &Mat<f64>| (0..of.nrows()).flat_map(|i| (0..of.ncols()).map(move |j| of[(i, j)])).collect();
        Ok(State {
            k,
            n,
            unit: unit.max(1),
            inverse: flat(&inverse),
            weights: flat(&weights),
            alive: (0..k / unit.max(1)).collect(),
        })
    }

    fn channels(&self, units: &[usize]) -> Vec<usize> {
        units.iter().flat_map(|u| u * self.unit..(u + 1) * self.unit).collect()
    }

    /// `P[S, S]⁻¹ · [P[S, :] | W[S, :]]`
    fn solved(&self, at: &[usize], with_inverse: bool) -> Result<[Mat<f64>; 2]> {
        let block = Mat::from_fn(at.len(), at.len(), |i, j| self.inverse[at[i] * self.k + at[j]]);
        let factor = factored(&block)?;
        let weights = factor.solve(Mat::from_fn(at.len(), self.n, |i, j| self.weights[at[i] * self.n + j]));
        let columns = if with_inverse { self.k } else { 0 };
        let inverse = factor.solve(Mat::from_fn(at.len(), columns, |i, j| self.inverse[at[i] * self.k + j]));
        Ok([inverse, weights])
    }

    /// The cost of removing each remaining unit next.
    fn losses(&self) -> Result<Vec<(f64, usize)>> {
        let row = |c: usize| self.weights.get(c * self.n..(c + 1) * self.n).unwrap_or_default();
        if self.unit == 1 {
            let square = |c: usize| row(c).iter().map(|w| w * w).sum::<f64>();
            let loss = |c: &usize| (square(*c) / self.inverse[c * self.k + c] / self.n as f64, *c);
            return Ok(self.alive.par_iter().map(loss).collect());
        }
        let loss = |unit: &usize| {
            let at = self.channels(&[*unit]);
            let [_, solved] = self.solved(&at, false)?;
            let product = |(i, c): (usize, &usize)| (0..self.n).map(|j| row(*c)[j] * solved[(i, j)]).sum::<f64>();
            Ok((at.iter().enumerate().map(product).sum::<f64>() / self.n as f64, *unit))
        };
        self.alive.par_iter().map(loss).collect()
    }

    fn remove(&mut self, units: &[usize]) -> Result<()> {
        let at = self.channels(units);
        let [inverse, weights] = self.solved(&at, true)?;
        let flat = |of: &Mat<f64>| (0..of.nrows()).map(|i| (0..of.ncols()).map(|j| of[(i, j)]).collect()).collect();
        let (inverse, weights): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (flat(&inverse), flat(&weights));
        let gone = |row: usize| at.contains(&row);
        let (k, n) = (self.k, self.n);
        let rows = self.inverse.par_chunks_mut(k.max(1)).zip(self.weights.par_chunks_mut(n.max(1)));
        rows.enumerate().for_each(|(row, (of_inverse, of_weights))| {
            let factors: Vec<f64> = at.iter().map(|c| of_inverse[*c]).collect();
            let clear = gone(row);
            // A channel that is gone has been dealt with: its row is 0 ever after.
            if factors.iter().all(|factor| *factor == 0.0) && !clear {
                return;
            }
            for ((factor, inverse), weights) in factors.iter().zip(&inverse).zip(&weights) {
                of_inverse.iter_mut().zip(inverse).for_each(|(x, y)| *x -= factor * y);
                of_weights.iter_mut().zip(weights).for_each(|(x, y)| *x -= factor * y);
            }
            at.iter().for_each(|c| of_inverse[*c] = 0.0);
            if clear {
                of_inverse.fill(0.0);
                of_weights.fill(0.0);
            }
        });
        self.alive.retain(|unit| !units.contains(unit));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::normal::Sums;
    use super::*;

    /// Channels of a fixed pseudo-random sequence; the last repeats the first. `y` reads the first and, less, the third.
    fn problem() -> Problem {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut sums = Sums::new(4, 1);
        for _ in 0..2000 {
            let (a, b, c) = (next(), next(), next());
            sums.add(&[a, b, c, a + 0.01 * next()], &[a + 0.3 * c]).unwrap();
        }
        sums.problem(&[0.0; 4]).unwrap()
    }

    #[test]
    fn the_least_important_unit_is_removed_first() {
        let order = order(&problem(), 1, 3).unwrap();
        // The useless channel and one of the twins cost nothing, then the one that is read less.
        let mut first = order.units[..2].to_vec();
        first.sort_unstable();
        assert!(first == [0, 1] || first == [1, 3], "{order:?}");
        assert_eq!(order.units[2], 2);
        // A ridge keeps the twin that stays from taking over all of the other.
        assert!(order.losses[2] < 0.02 && (order.losses[3] - order.losses[2] - 0.03).abs() < 0.005, "{order:?}");
        assert_eq!(order.kept(3).len(), 1);
    }

    #[test]
    fn the_loss_is_that_of_the_fit_without_the_channels() {
        let problem = problem();
        let order = order(&problem, 2, 1).unwrap();
        let kept: Vec<usize> = order.kept(1).iter().flat_map(|u| [2 * u, 2 * u + 1]).collect();
        let (weights, _) = problem.solve(&kept, RIDGE).unwrap();
        // ‖y‖² − wᵀ · target is the rest of y; the best fit of all leaves next to nothing.
        let explained = |at: &[usize], w: &[f32]| -> f64 {
            at.iter().zip(w).map(|(c, w)| problem.target(&[*c], RIDGE)[(0, 0)] * f64::from(*w)).sum()
        };
        let (all, _) = problem.solve(&[0, 1, 2, 3], RIDGE).unwrap();
        let loss = explained(&[0, 1, 2, 3], &all) - explained(&kept, &weights);
        assert!((loss - order.losses[1]).abs() < 1e-4, "{loss} {order:?}");
    }
}
