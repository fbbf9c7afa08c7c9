//! Pruning and election: the combination of several changes to one weight.

use super::region::{self, Region};
use super::{DType, Evaluated, Expr, Majority, Weight};
use crate::error::{Error, Result};
use crate::random;

impl Weight {
    /// The share `density` of the elements, in FP32: the largest, or those that `seed` selects at random. The others
    /// are zero.
    pub fn prune(&self, density: f64, seed: Option<u64>) -> Result<Weight> {
        if !(0.0..=1.0).contains(&density) {
            return Err(Error::bad_input(format!("a density is a share in 0…1, found {density}")));
        }
        let of = self.cast(DType::F32);
        Ok(Weight::new(DType::F32, self.shape().to_vec(), Expr::Prune { of, density, seed }))
    }

    /// The election of TIES over terms of one shape, in FP32.
    pub fn elect(by: Majority, terms: Vec<(f32, Weight)>) -> Result<Weight> {
        let (shape, terms) = super::linear::of_one_shape(terms)?;
        Ok(Weight::new(DType::F32, shape, Expr::Elect { by, terms }))
    }
}

pub(super) fn pruned(of: &Weight, density: f64, seed: Option<u64>, at: &Region) -> Result<Evaluated<'static>> {
    let [_, width] = of.grid();
    let Some(seed) = seed else {
        let mut values = of.to_f32s()?.into_owned();
        keep_largest(&mut values, (density * of.shape().iter().product::<usize>() as f64) as usize);
        let whole = *at == Region::whole(of);
        return Ok(if whole {
            Evaluated::Floats(values)
        } else {
            region::cut(bytemuck::cast_slice(&values), width, at, DType::F32)
        });
    };
    let mut values = of.f32s_of(at)?.into_owned();
    for (r, row) in at.rows.clone().zip(values.chunks_mut(at.columns.len().max(1))) {
        for (c, value) in at.columns.clone().zip(row) {
            if uniform(seed, (r * width + c) as u64) >= density {
                *value = 0.0;
            }
        }
    }
    Ok(Evaluated::Floats(values))
}

/// Sets all to zero but the `kept` elements of the largest magnitude; of equal ones, the first stay.
fn keep_largest(values: &mut [f32], kept: usize) {
    if kept == 0 {
        return values.fill(0.0);
    }
    let mut magnitudes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    if kept >= magnitudes.len() {
        return;
    }
    let (_, least, _) = magnitudes.select_nth_unstable_by(kept - 1, |a, b| b.total_cmp(a));
    let least = *least;
    let mut equal = kept - values.iter().filter(|value| value.abs() > least).count();
    for value in values {
        let keep = value.abs() > least || value.abs() == least && equal > 0;
        if keep && value.abs() == least {
            equal -= 1;
        }
        if !keep {
            *value = 0.0;
        }
    }
}

/// A number in 0…1 for every seed and index.
fn uniform(seed: u64, i: u64) -> f64 {
    random::share(random::at(seed, i))
}

/// Zero has no sign: it votes for neither, is no part of the sum, and the positive wins a tie.
pub(super) fn elected(by: Majority, terms: &[(f32, Weight)], at: &Region) -> Result<Vec<f32>> {
    let vote: fn(f32) -> f32 = match by {
        Majority::Total => |x| x,
        Majority::Frequency => |x| if x == 0.0 { 0.0 } else { x.signum() },
    };
    let values = terms.iter().map(|(_, weight)| weight.f32s_of(at)).collect::<Result<Vec<_>>>()?;
    let mut votes = vec![0.0; values.first().map_or(0, |v| v.len())];
    for term in &values {
        votes.iter_mut().zip(term.iter()).for_each(|(sum, x)| *sum += vote(*x));
    }
    let mut sums = vec![0.0; votes.len()];
    let mut counts = vec![0.0f32; votes.len()];
    for ((c, _), term) in terms.iter().zip(&values) {
        for (((sum, count), vote), x) in sums.iter_mut().zip(&mut counts).zip(&votes).zip(term.iter()) {
            if *x != 0.0 && (*x > 0.0) == (*vote >= 0.0) {
                *sum += c * x;
                *count += 1.0;
            }
        }
    }
    Ok(sums.into_iter().zip(counts).map(|(sum, count): (f32, f32)| sum / count.max(1.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(values: &[f32]) -> Weight {
        Weight::f32s(vec![values.len()], values).unwrap()
    }

    fn floats(weight: &Weight) -> Vec<f32> {
        weight.to_f32s().unwrap().into_owned()
    }

    #[test]
    fn the_largest_are_kept_and_of_equals_the_first() {
        let w = weight(&[1., -3., 2., -2., 0.5]);
        assert_eq!(floats(&w.prune(0.4, None).unwrap()), [0., -3., 2., 0., 0.]);
        assert_eq!(floats(&w.prune(0.6, None).unwrap()), [0., -3., 2., -2., 0.]);
        assert_eq!(floats(&w.prune(0.1, None).unwrap()), [0.; 5]);
        assert_eq!(floats(&w.prune(1.0, None).unwrap()), floats(&w));
        assert_eq!(w.prune(1.5, None).unwrap_err().message(), "a density is a share in 0…1, found 1.5");
    }

    #[test]
    fn a_seed_selects_the_requested_share_and_selects_it_again() {
        let w = weight(&[1.0; 20_000]);
        let drawn = |seed| floats(&w.prune(0.3, Some(seed)).unwrap());
        let kept = drawn(7).iter().filter(|value| **value == 1.0).count() as f64 / 20_000.0;
        // Four standard deviations of the share.
        assert!((kept - 0.3).abs() < 4.0 * (0.3 * 0.7 / 20_000.0f64).sqrt(), "{kept}");
        assert_eq!(drawn(7), drawn(7));
        let both = drawn(7).iter().zip(drawn(8)).filter(|(a, b)| **a == 1.0 && *b == 1.0).count() as f64 / 20_000.0;
        assert!((both - 0.09).abs() < 4.0 * (0.09 * 0.91 / 20_000.0f64).sqrt(), "{both}");
    }

    #[test]
    fn the_majority_is_elected_and_the_others_are_left_out() {
        let terms = || {
            vec![
                (2.0, weight(&[1., -1., 3., 0.])),
                (4.0, weight(&[2., -3., -1., 0.])),
                (1.0, weight(&[-9., 5., -1., 0.])),
            ]
        };
        // Sums −6, 1, 1, 0; two of three are positive, negative, negative, none.
        assert_eq!(floats(&Weight::elect(Majority::Total, terms()).unwrap()), [-9., 5., 6., 0.]);
        assert_eq!(floats(&Weight::elect(Majority::Frequency, terms()).unwrap()), [5., -7., -2.5, 0.]);
    }
}
