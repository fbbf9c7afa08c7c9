//! Products of matrices, in `f32` from the operands to the sum.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayView3, ArrayViewD, ArrayViewMut2, Axis, Ix2, Ix3, s};
use rayon::prelude::*;

use super::array::{Array, Shared, broadcast, misfit, shared, standard, stretched};
use crate::error::{Error, Result};

/// Fewest rows for which a product is shared among threads.
const ROWS: usize = 32;

/// `a […, m, k] · b […, k, n]`, the leading dimensions stretched.
pub(super) fn mat_mul(a: Array, b: &Array) -> Result<Array> {
    let (Array::F32(a), Array::F32(b)) = (a, b) else {
        return Err(Error::unsupported("the evaluator multiplies matrices of floats alone"));
    };
    match b.view().into_dimensionality::<Ix2>() {
        Ok(b) => by_matrix(a, b).map(Array::F32),
        Err(_) => batches(&a, b).map(Array::F32),
    }
}

/// `a […, k] · b [k, n]`
pub(super) fn by_matrix(a: Shared<f32>, b: ArrayView2<f32>) -> Result<Shared<f32>> {
    let (mut shape, n) = (a.shape().to_vec(), b.ncols());
    match shape.last_mut() {
        Some(k) if *k == b.nrows() => *k = n,
        _ => return Err(misfit(a.shape(), b.shape())),
    }
    let rows = shape.split_last().map_or(1, |(_, leading)| leading.iter().product());
    let a = as_matrix(a, rows, b.nrows())?;
    let mut out = Array2::zeros((rows, n));
    multiply(a.view(), b, out.view_mut());
    shared(&shape, out.into_raw_vec_and_offset().0)
}

/// An array as a matrix of that size.
pub(super) fn as_matrix<T: Clone>(x: Shared<T>, rows: usize, columns: usize) -> Result<ndarray::ArcArray2<T>> {
    let shape = x.shape().to_vec();
    standard(x).into_shape_with_order((rows, columns)).map_err(|_| misfit(&shape, &[rows, columns]))
}

/// `out = a · b`, the rows shared among threads.
fn multiply(a: ArrayView2<f32>, b: ArrayView2<f32>, mut out: ArrayViewMut2<f32>) {
    let rows = a.nrows().div_ceil(rayon::current_num_threads()).max(ROWS);
    let parts: Vec<_> = a.axis_chunks_iter(Axis(0), rows).zip(out.axis_chunks_iter_mut(Axis(0), rows)).collect();
    parts.into_par_iter().for_each(|(a, mut out)| general_mat_mul(1.0, &a, &b, 0.0, &mut out));
}

fn batches(a: &Shared<f32>, b: &Shared<f32>) -> Result<Shared<f32>> {
    let (&[ref a_batch @ .., m, k], &[ref b_batch @ .., bk, n]) = (a.shape(), b.shape()) else {
        return Err(misfit(a.shape(), b.shape()));
    };
    if k != bk {
        return Err(misfit(a.shape(), b.shape()));
    }
    let batch = broadcast(a_batch, b_batch)?;
    let with = |rows: usize, columns: usize| batch.iter().copied().chain([rows, columns]).collect::<Vec<_>>();
    let (a, b) = (stretched(a, &with(m, k))?, stretched(b, &with(k, n))?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    matrices(a, &mut left)?;
    matrices(b, &mut right)?;
    let mut out = vec![0.0; batch.iter().product::<usize>() * m * n];
    let outs = out.par_chunks_mut((m * n).max(1));
    outs.zip(left.par_iter().zip(&right)).try_for_each(|(out, (a, b))| {
        let mut out = ArrayViewMut2::from_shape((m, n), out).map_err(|_| misfit(&[m, n], &[m * n]))?;
        general_mat_mul(1.0, a, b, 0.0, &mut out);
        Ok::<_, Error>(())
    })?;
    shared(&with(m, n), out)
}

/// The matrices of the last two dimensions, in order.
fn matrices<'a>(x: ArrayViewD<'a, f32>, into: &mut Vec<ArrayView2<'a, f32>>) -> Result<()> {
    if x.ndim() > 2 {
        return (0..x.shape()[0]).try_for_each(|i| matrices(x.clone().index_axis_move(Axis(0), i), into));
    }
    into.push(x.into_dimensionality::<Ix2>().map_err(|_| Error::bug("a matrix has two dimensions"))?);
    Ok(())
}

/// `(x [b, c, s], w [n, c / groups, k], bias [n]?) → [b, n, s + before + after + 1 − k]`, with so many zeros before and
/// after `x`, or half of the kernel each.
pub(super) fn conv(x: Array, w: &Array, bias: Option<Array>, (groups, pads): (i64, Option<&[i64]>)) -> Result<Array> {
    let (Array::F32(x), Array::F32(w)) = (x, w) else { return Err(Error::bug("a convolution of no floats")) };
    let fail = || misfit(x.shape(), w.shape());
    let view = |x: &Shared<f32>| x.view().into_dimensionality::<Ix3>().map(|x| x.to_owned());
    let (x3, w3) = (view(&x).map_err(|_| fail())?, view(w).map_err(|_| fail())?);
    let (batch, channels, length) = x3.dim();
    let (n, per_group, width) = w3.dim();
    let groups = usize::try_from(groups).ok().filter(|groups| *groups > 0).ok_or_else(fail)?;
    if per_group * groups != channels || n % groups != 0 {
        return Err(fail());
    }
    let [before, after] = match pads {
        None => [width / 2; 2],
        Some(pads) => {
            let counts: Option<Vec<usize>> = pads.iter().map(|n| usize::try_from(*n).ok()).collect();
            counts.and_then(|counts| counts.try_into().ok()).ok_or_else(fail)?
        }
    };
    let all = before + length + after;
    let outputs = (all + 1).checked_sub(width).ok_or_else(fail)?;
    let mut padded = ndarray::Array3::zeros((batch, channels, all));
    padded.slice_mut(s![.., .., before..before + length]).assign(&x3);
    let mut out = ndarray::Array3::zeros((batch, n, outputs));
    for (text, mut out) in padded.outer_iter().zip(out.outer_iter_mut()) {
        for group in 0..groups {
            let rows = group * n / groups..(group + 1) * n / groups;
            let of = text.slice(s![group * per_group..(group + 1) * per_group, ..]);
            let mut out = out.slice_mut(s![rows.clone(), ..]);
            slide(of, w3.slice(s![rows, .., ..]), &mut out);
        }
    }
    let out = Array::F32(out.into_dyn().into_shared());
    match bias {
        None => Ok(out),
        Some(bias) => {
            let bias = super::layout::unsqueeze(bias, &[1])?;
            super::elementwise::binary(super::elementwise::Binary::Add, out, bias)
        }
    }
}

/// `out [n, s] += Σₜ w[.., .., t] · x[.., t … t + s]`
fn slide(x: ArrayView2<f32>, w: ArrayView3<f32>, out: &mut ArrayViewMut2<f32>) {
    let length = out.ncols();
    for t in 0..w.dim().2 {
        general_mat_mul(1.0, &w.slice(s![.., .., t]), &x.slice(s![.., t..t + length]), 1.0, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::layout::transpose;

    fn floats(shape: &[usize], values: &[f32]) -> Array {
        Array::f32s(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn every_row_meets_a_matrix() {
        let a = floats(&[2, 1, 2], &[1., 2., 3., 4.]);
        let b = floats(&[2, 3], &[1., 0., 2., 0., 1., 3.]);
        assert_eq!(mat_mul(a.clone(), &b).unwrap(), floats(&[2, 1, 3], &[1., 2., 8., 3., 4., 18.]));
        assert!(mat_mul(b, &a).is_err());
        let none = mat_mul(floats(&[2, 0], &[]), &floats(&[0, 2], &[])).unwrap();
        assert_eq!(none, floats(&[2, 2], &[0.; 4]));
    }

    #[test]
    fn batches_are_broadcast_and_may_be_transposed() {
        let a = floats(&[2, 1, 1, 2], &[1., 2., 3., 4.]);
        let b = transpose(floats(&[2, 2, 2], &[1., 0., 0., 1., 1., 1., 2., 2.]), &[0, 2, 1]).unwrap();
        let out = mat_mul(a, &b).unwrap();
        assert_eq!(out, floats(&[2, 2, 1, 2], &[1., 2., 3., 6., 3., 4., 7., 14.]));
    }

    #[test]
    fn a_convolution_has_zero_padding_and_separate_groups() {
        let x = floats(&[1, 2, 3], &[1., 2., 3., 10., 20., 30.]);
        let w = floats(&[1, 2, 3], &[1., 10., 100., 0., 1., 0.]);
        let whole = conv(x.clone(), &w, Some(floats(&[1], &[0.5])), (1, None)).unwrap();
        assert_eq!(whole, floats(&[1, 1, 3], &[220.5, 341.5, 62.5]));
        let kernel = floats(&[2, 1, 2], &[1., 0., 0., 1.]);
        let before = conv(x.clone(), &kernel, None, (2, Some(&[1, 0]))).unwrap();
        assert_eq!(before, floats(&[1, 2, 3], &[0., 1., 2., 10., 20., 30.]));
        let inside = conv(x.clone(), &kernel, None, (2, Some(&[0, 0]))).unwrap();
        assert_eq!(inside, floats(&[1, 2, 2], &[1., 2., 20., 30.]));
        let separate = conv(x, &floats(&[2, 1, 1], &[2., 3.]), None, (2, None)).unwrap();
        assert_eq!(separate, floats(&[1, 2, 3], &[2., 4., 6., 30., 60., 90.]));
    }
}
