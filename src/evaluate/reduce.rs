//! Operations along one dimension: sums, norms, softmax. They add up in `f32`.

use ndarray::{ArrayViewMutD, Axis};
use rayon::prelude::*;

use super::array::{Array, Shared, elements, misfit, standard};
use super::elementwise::larger;
use super::layout::axis;
use crate::error::{Error, Result};

/// The reduction of a dimension's elements.
#[derive(Clone, Copy)]
pub(super) enum Reduction {
    Sum,
    Mean,
    Max,
}

/// One number for all elements of the dimensions `axes`, which stay with size 1 or go.
pub(super) fn reduce(x: Array, how: Reduction, axes: &[i64], keep: bool) -> Result<Array> {
    let rank = x.shape().len();
    let mut axes: Vec<usize> = axes.iter().map(|place| axis(*place, rank)).collect::<Result<_>>()?;
    axes.sort_unstable();
    axes.dedup();
    match x {
        Array::F32(x) => Ok(Array::F32(match how {
            Reduction::Sum => along(x, &axes, keep, |x, axis| x.sum_axis(axis).into_shared()),
            Reduction::Mean => {
                let count: usize = axes.iter().filter_map(|place| x.shape().get(*place)).product();
                let mut sum = along(x, &axes, keep, |x, axis| x.sum_axis(axis).into_shared());
                sum.map_inplace(|x| *x /= count as f32);
                sum
            }
            Reduction::Max => along(x, &axes, keep, |x, axis| {
                x.fold_axis(axis, f32::NEG_INFINITY, |a, b| larger(*a, *b)).into_shared()
            }),
        })),
        Array::I64(x) => Ok(Array::I64(integers(x, how, &axes, keep, (0, i64::MIN), i64::wrapping_add)?)),
        Array::I32(x) => Ok(Array::I32(integers(x, how, &axes, keep, (0, i32::MIN), i32::wrapping_add)?)),
        _ => Err(Error::unsupported("the evaluator computes with floats, i64 and i32 alone")),
    }
}

fn integers<T: Copy + Ord>(
    x: Shared<T>,
    how: Reduction,
    axes: &[usize],
    keep: bool,
    (zero, lowest): (T, T),
    add: fn(T, T) -> T,
) -> Result<Shared<T>> {
    match how {
        Reduction::Sum => Ok(along(x, axes, keep, |x, axis| x.fold_axis(axis, zero, |a, b| add(*a, *b)).into_shared())),
        Reduction::Max => Ok(along(x, axes, keep, |x, axis| x.fold_axis(axis, lowest, |a, b| *a.max(b)).into_shared())),
        Reduction::Mean => Err(Error::unsupported("the evaluator takes no means of integers")),
    }
}

fn along<T: Clone>(x: Shared<T>, axes: &[usize], keep: bool, one: impl Fn(Shared<T>, Axis) -> Shared<T>) -> Shared<T> {
    axes.iter().rev().fold(x, |x, place| {
        let reduced = one(x, Axis(*place));
        if keep { reduced.insert_axis(Axis(*place)) } else { reduced }
    })
}

/// Normalized exponentials along a dimension.
pub(super) fn softmax(x: Array, along: i64) -> Result<Array> {
    let Array::F32(mut x) = x else { return Err(Error::bug("a softmax of no floats")) };
    let last = x.ndim().saturating_sub(1);
    let along = axis(along, x.ndim())?;
    x.swap_axes(along, last);
    let mut x = standard(x);
    let count = x.shape().last().copied().unwrap_or(1).max(1);
    let values = x.as_slice_mut().ok_or_else(|| Error::bug("an array is not in the order of its elements"))?;
    values.par_chunks_mut(count).for_each(softmax_row);
    x.swap_axes(along, last);
    Ok(Array::F32(x))
}

/// Normalized exponentials of one row. Where all are the lowest, or one is no number, that shows.
pub(super) fn softmax_row(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, larger);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - most).exp();
        sum += *x;
    }
    row.iter_mut().for_each(|x| *x /= sum);
}

/// `(x − mean) / √(variance + ε) · scale + bias` over the last dimension.
pub(super) fn layer_norm(x: Array, scale: &Array, bias: Option<&Array>, epsilon: f32) -> Result<Array> {
    let (Array::F32(x), Array::F32(scale)) = (x, scale) else { return Err(Error::bug("a norm of no floats")) };
    let mut x = standard(x);
    let scale = standard(scale.clone());
    let bias = match bias {
        Some(Array::F32(bias)) => standard(bias.clone()),
        Some(_) => return Err(Error::bug("a norm of no floats")),
        None => Shared::zeros(scale.raw_dim()),
    };
    let width = x.shape().last().copied().unwrap_or(1);
    if scale.shape() != [width] || bias.shape() != [width] {
        return Err(misfit(x.shape(), scale.shape()));
    }
    let (scale, bias) = (elements(&scale)?, elements(&bias)?);
    let values = x.as_slice_mut().ok_or_else(|| Error::bug("an array is not in the order of its elements"))?;
    values.par_chunks_mut(width.max(1)).for_each(|row| {
        let mean = sum(row) / width as f32;
        row.iter_mut().for_each(|x| *x -= mean);
        let variance = row.iter().map(|x| x * x).sum::<f32>() / width as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        row.iter_mut().zip(scale).zip(bias).for_each(|((x, scale), bias)| *x = *x * factor * scale + bias);
    });
    Ok(Array::F32(x))
}

/// Divided by the root of the mean square of the last dimension.
pub(super) fn rms_norm(x: Array, scale: &Array, epsilon: f32) -> Result<Array> {
    let (Array::F32(x), Array::F32(scale)) = (x, scale) else { return Err(Error::bug("a norm of no floats")) };
    let (mut x, scale) = (standard(x), standard(scale.clone()));
    let width = x.shape().last().copied().unwrap_or(1);
    if scale.shape() != [width] {
        return Err(misfit(x.shape(), scale.shape()));
    }
    let scale = elements(&scale)?;
    let values = x.as_slice_mut().ok_or_else(|| Error::bug("an array is not in the order of its elements"))?;
    values.par_chunks_mut(width.max(1)).for_each(|row| {
        let square = row.iter().map(|x| x * x).sum::<f32>() / width as f32;
        let factor = 1.0 / (square + epsilon).sqrt();
        row.iter_mut().zip(scale).for_each(|(x, scale)| *x = *x * factor * scale);
    });
    Ok(Array::F32(x))
}

fn sum(row: &[f32]) -> f32 {
    row.iter().sum()
}

/// Running sums along a dimension.
pub(super) fn cum_sum(x: Array, along: i64) -> Result<Array> {
    let along = Axis(axis(along, x.shape().len())?);
    match x {
        Array::F32(mut x) => {
            running(x.view_mut(), along, |sum, x| *x += sum);
            Ok(Array::F32(x))
        }
        Array::I64(mut x) => {
            running(x.view_mut(), along, |sum, x| *x = x.wrapping_add(*sum));
            Ok(Array::I64(x))
        }
        Array::I32(mut x) => {
            running(x.view_mut(), along, |sum, x| *x = x.wrapping_add(*sum));
            Ok(Array::I32(x))
        }
        _ => Err(Error::unsupported("the evaluator computes with floats, i64 and i32 alone")),
    }
}

fn running<T>(mut x: ArrayViewMutD<T>, along: Axis, add: impl Fn(&T, &mut T)) {
    x.accumulate_axis_inplace(along, |sum, x| add(sum, x));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize], values: &[f32]) -> Array {
        Array::f32s(shape, values.to_vec()).unwrap()
    }

    fn close(a: &Array, b: &[f32]) {
        let a = a.to_f32s().unwrap();
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
    }

    #[test]
    fn dimensions_are_reduced_and_stay_or_go() {
        let x = floats(&[2, 3], &[1., 2., 3., 4., 5., 9.]);
        let of = |how, axes: &[i64], keep| reduce(x.clone(), how, axes, keep).unwrap();
        assert_eq!(of(Reduction::Sum, &[1], false), floats(&[2], &[6., 18.]));
        assert_eq!(of(Reduction::Mean, &[-1], true), floats(&[2, 1], &[2., 6.]));
        assert_eq!(of(Reduction::Max, &[0], false), floats(&[3], &[4., 5., 9.]));
        assert_eq!(of(Reduction::Mean, &[0, 1], false), floats(&[], &[4.]));
        let integers = Array::i64s(&[2, 2], vec![1, 2, 3, -4]).unwrap();
        assert_eq!(reduce(integers, Reduction::Sum, &[1], true).unwrap(), Array::i64s(&[2, 1], vec![3, -1]).unwrap());
    }

    #[test]
    fn a_softmax_adds_up_to_1_and_propagates_nan() {
        let e = std::f32::consts::E;
        let x = floats(&[2, 2], &[0., 1., 1000., 1000.]);
        close(&softmax(x.clone(), -1).unwrap(), &[1. / (1. + e), e / (1. + e), 0.5, 0.5]);
        close(&softmax(x, 0).unwrap(), &[0., 0., 1., 1.]);
        let masked = softmax(floats(&[2], &[f32::NEG_INFINITY, 3.]), 0).unwrap();
        close(&masked, &[0., 1.]);
        for row in [[f32::INFINITY, 0.], [f32::NAN, 0.], [f32::NEG_INFINITY; 2]] {
            assert!(softmax(floats(&[2], &row), 0).unwrap().to_f32s().unwrap()[0].is_nan());
        }
    }

    #[test]
    fn norms_have_mean_0_and_variance_1_before_they_are_scaled() {
        let x = floats(&[1, 4], &[1., 3., 5., 7.]);
        let scale = floats(&[4], &[1., 1., 1., 2.]);
        let by = 5f32.sqrt();
        close(&layer_norm(x.clone(), &scale, None, 0.0).unwrap(), &[-3. / by, -1. / by, 1. / by, 6. / by]);
        let bias = floats(&[4], &[1., 0., 0., 0.]);
        let by = 6f32.sqrt();
        close(&layer_norm(x, &scale, Some(&bias), 1.0).unwrap(), &[1. - 3. / by, -1. / by, 1. / by, 6. / by]);
    }

    #[test]
    fn sums_run_along_a_dimension() {
        let x = floats(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
        assert_eq!(cum_sum(x.clone(), 1).unwrap(), floats(&[2, 3], &[1., 3., 6., 4., 9., 15.]));
        assert_eq!(cum_sum(x, 0).unwrap(), floats(&[2, 3], &[1., 2., 3., 5., 7., 9.]));
    }
}
