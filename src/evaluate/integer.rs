//! Products of 8-bit integers, and the conversions to and from them.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Ix2, s};
use rayon::prelude::*;

use super::arithmetic::Int8Sums;
use super::array::{Array, Shared, elements, misfit, shared, standard};
use super::elementwise::{Binary, binary, larger};
use super::product::{as_matrix, by_matrix};
use crate::error::{Error, Result};

/// So many products of 8-bit numbers add up to less than 2²⁴, up to which `f32` holds every integer: 255 · 128 · 512.
const EXACT: usize = 512;

/// Rows of a product that one thread computes.
const ROWS: usize = 16;

/// `(y, scale, zero point)`, over the range of all elements and 0.
pub(super) fn dynamic_quantize(x: &Array) -> Result<[Array; 3]> {
    let Array::F32(values) = x else { return Err(Error::bug("no floats are quantized")) };
    let low = values.iter().copied().fold(0.0, |a, b| if b < a || b.is_nan() { b } else { a });
    let high = values.iter().copied().fold(0.0, larger);
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let point = Array::U8(shared(&[], vec![zero as u8])?);
    let scale = Array::f32s(&[], vec![scale])?;
    Ok([quantize(x, &scale, &point)?, scale, point])
}

/// `round(x / scale) + zero_point`, ties to even, within the range of the zero point's type.
pub(super) fn quantize(x: &Array, scale: &Array, zero_point: &Array) -> Result<Array> {
    let Array::F32(x) = x else { return Err(Error::bug("no floats are quantized")) };
    let (scale, zero) = (number(scale)?, integer(zero_point)?);
    let of = |low: f32, high: f32| move |x: &f32| ((x / scale).round_ties_even() + zero as f32).clamp(low, high);
    match zero_point {
        Array::U8(_) => Ok(Array::U8(x.mapv(|x| of(0.0, 255.0)(&x) as u8).into_shared())),
        _ => Ok(Array::I8(x.mapv(|x| of(-128.0, 127.0)(&x) as i8).into_shared())),
    }
}

/// `(x − zero_point) · scale`; scales of several elements belong to dimension `along`.
pub(super) fn dequantize(x: &Array, scale: Array, zero_point: Option<Array>, along: i64) -> Result<Array> {
    let rank = x.shape().len();
    let spread = |of: Array| match of.shape().len() {
        0 => Ok(of),
        _ => {
            let along = super::layout::axis(along, rank)?;
            let after: Vec<i64> = (1..rank as i64 - along as i64).collect();
            super::layout::unsqueeze(of, &after)
        }
    };
    let mut wide = floats(x)?;
    if let Some(zero_point) = zero_point {
        wide = binary(Binary::Sub, wide, spread(floats(&zero_point)?)?)?;
    }
    binary(Binary::Mul, wide, spread(scale)?)
}

fn floats(x: &Array) -> Result<Array> {
    match x {
        Array::U8(x) => Ok(Array::F32(x.mapv(f32::from).into_shared())),
        Array::I8(x) => Ok(Array::F32(x.mapv(f32::from).into_shared())),
        _ => Err(Error::bug("no 8-bit numbers are widened")),
    }
}

/// `(a − zero point) · b` for `a u8 or i8 […, k]`, `b i8 [k, n]`.
pub(super) fn mat_mul(a: &Array, b: &Array, zero_point: &Array, sums: Int8Sums) -> Result<Shared<i32>> {
    let Array::I8(b) = b else { return Err(Error::bug("weights of an integer product are i8")) };
    let fail = || misfit(a.shape(), b.shape());
    let b = b.view().into_dimensionality::<Ix2>().map_err(|_| fail())?;
    let (k, n) = b.dim();
    let (&last, leading) = a.shape().split_last().ok_or_else(fail)?;
    if last != k {
        return Err(fail());
    }
    let rows: usize = leading.iter().product();
    // Products of the processor are those of unsigned by signed numbers: signed ones are moved up, with their zero point.
    let (values, zero) = match a {
        Array::U8(a) => (as_matrix(a.clone(), rows, k)?, integer(zero_point)?),
        Array::I8(a) => {
            let moved = as_matrix(a.clone(), rows, k)?.mapv(|x| (i16::from(x) + 128) as u8);
            (moved.into_shared(), integer(zero_point)? + 128)
        }
        _ => return Err(Error::bug("activations of an integer product are of 8 bits")),
    };
    let mut out = Array2::zeros((rows, n));
    match sums {
        Int8Sums::Exact => exact(values.view(), b, zero, &mut out),
        Int8Sums::Saturating => saturating(values.view(), b, zero, &mut out)?,
    }
    let shape: Vec<usize> = leading.iter().copied().chain([n]).collect();
    shared(&shape, out.into_raw_vec_and_offset().0)
}

/// Sums in 32 bits, by products of floats that hold them exactly.
fn exact(a: ArrayView2<u8>, b: ArrayView2<i8>, zero: i32, out: &mut Array2<i32>) {
    let a = a.mapv(|x| (i32::from(x) - zero) as f32);
    let b = b.mapv(f32::from);
    let parts: Vec<_> = a.axis_chunks_iter(Axis(0), ROWS).zip(out.axis_chunks_iter_mut(Axis(0), ROWS)).collect();
    parts.into_par_iter().for_each(|(a, mut out)| {
        let mut product = Array2::zeros(out.raw_dim());
        for from in (0..b.nrows()).step_by(EXACT) {
            let to = (from + EXACT).min(b.nrows());
            general_mat_mul(1.0, &a.slice(s![.., from..to]), &b.slice(s![from..to, ..]), 0.0, &mut product);
            out.zip_mut_with(&product, |sum, x: &f32| *sum += *x as i32);
        }
    });
}

/// Products of neighbours along `k` added in 16 bits, where they saturate; these sums and the share of the zero point
/// in 32.
fn saturating(a: ArrayView2<u8>, b: ArrayView2<i8>, zero: i32, out: &mut Array2<i32>) -> Result<()> {
    let mut wide = b.mapv(i16::from);
    if !b.nrows().is_multiple_of(2) {
        // A product with nothing beside it meets a 0.
        wide.append(Axis(0), Array2::zeros((1, b.ncols())).view()).map_err(|_| misfit(&[b.nrows()], &[1]))?;
    }
    let columns: Vec<i32> = b.map_axis(Axis(0), |column| column.iter().map(|x| i32::from(*x)).sum()).to_vec();
    let wide = wide.as_standard_layout();
    let pairs = wide.as_slice().ok_or_else(|| Error::bug("an array is not in the order of its elements"))?;
    let parts: Vec<_> = a.axis_chunks_iter(Axis(0), ROWS).zip(out.axis_chunks_iter_mut(Axis(0), ROWS)).collect();
    parts.into_par_iter().for_each(|(a, out)| add_pairs(a, pairs, &columns, zero, out));
    Ok(())
}

fn add_pairs(a: ArrayView2<u8>, b: &[i16], columns: &[i32], zero: i32, mut out: ArrayViewMut2<i32>) {
    let n = columns.len();
    for (a, mut out) in a.outer_iter().zip(out.outer_iter_mut()) {
        let a: Vec<i16> = a.iter().map(|x| i16::from(*x)).collect();
        let mut sums: Vec<i32> = columns.iter().map(|column| -zero * column).collect();
        for (a, b) in a.chunks(2).zip(b.chunks(2 * n.max(1))) {
            let (first, second) = (a.first().copied().unwrap_or(0), a.get(1).copied().unwrap_or(0));
            let (upper, lower) = b.split_at(n.min(b.len()));
            for ((sum, x), y) in sums.iter_mut().zip(upper).zip(lower) {
                *sum += i32::from((first * x).saturating_add(second * y));
            }
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
    }
}

/// `(a − zero point) · b · a_scale · scales + bias`
pub(super) fn to_float(
    a: &Array,
    b: &Array,
    (a_scale, scales): (&Array, Array),
    zero_point: &Array,
    bias: Option<Array>,
    sums: Int8Sums,
) -> Result<Array> {
    let product = Array::F32(mat_mul(a, b, zero_point, sums)?.mapv(|x| x as f32).into_shared());
    let steps = binary(Binary::Mul, scales, Array::f32s(&[], vec![number(a_scale)?])?)?;
    let scaled = binary(Binary::Mul, product, steps)?;
    match bias {
        None => Ok(scaled),
        Some(bias) => binary(Binary::Add, scaled, bias),
    }
}

/// `x […, k] · w`, where the weights `[n, k]` are `(code − zero point) · scale` in blocks along `k`, and a bias.
pub(super) fn blocks(
    x: Array,
    [values, scales]: [&Array; 2],
    zero_points: Option<&Array>,
    bias: Option<Array>,
    bits: i64,
) -> Result<Array> {
    let (Array::F32(x), Array::U8(values), Array::F32(scales)) = (x, values, scales) else {
        return Err(Error::bug("a product with weights in blocks has other operands"));
    };
    let k = x.shape().last().copied().unwrap_or(0);
    let (values, scales) = (standard(values.clone()), standard(scales.clone()));
    let &[n, blocks] = scales.shape() else { return Err(misfit(values.shape(), scales.shape())) };
    let in_byte = if bits == 4 { 2 } else { 1 };
    let size = values.shape().last().copied().unwrap_or(0) * in_byte;
    let codes = unpacked(elements(&values)?, bits);
    let points: Vec<f32> = match zero_points {
        None => vec![(1 << (bits - 1)) as f32; n * blocks],
        Some(Array::U8(points)) => {
            let points = standard(points.clone());
            let row = points.shape().last().copied().unwrap_or(1).max(1);
            elements(&points)?
                .chunks(row)
                .flat_map(|row| unpacked(row, bits).take(blocks).collect::<Vec<_>>())
                .collect()
        }
        Some(_) => return Err(Error::bug("zero points of blocks are bytes")),
    };
    let codes: Vec<f32> = codes.collect();
    let scales = elements(&scales)?;
    let mut w = Array2::<f32>::zeros((n, k));
    for (row, mut w) in w.outer_iter_mut().enumerate() {
        for (i, w) in w.iter_mut().enumerate() {
            let block = row * blocks + i / size.max(1);
            let at = |of: &[f32], i: usize| of.get(i).copied().unwrap_or(f32::NAN);
            *w = (at(&codes, block * size + i % size.max(1)) - at(&points, block)) * at(scales, block);
        }
    }
    let product = Array::F32(by_matrix(x, w.t())?);
    match bias {
        None => Ok(product),
        Some(bias) => binary(Binary::Add, product, bias),
    }
}

/// The codes in bytes; those of 4 bits are two in a byte, the first in the lower half.
fn unpacked(bytes: &[u8], bits: i64) -> impl Iterator<Item = f32> {
    let halves = move |byte: &u8| match bits {
        4 => [Some(byte & 15), Some(byte >> 4)],
        _ => [Some(*byte), None],
    };
    bytes.iter().flat_map(halves).flatten().map(f32::from)
}

/// The one number of an array.
fn number(x: &Array) -> Result<f32> {
    match x {
        Array::F32(x) if x.len() == 1 => x.first().copied().ok_or_else(|| Error::bug("a scalar is empty")),
        _ => Err(Error::bug("a scale is one float")),
    }
}

fn integer(x: &Array) -> Result<i32> {
    let one = match x {
        Array::U8(x) if x.len() == 1 => x.first().map(|x| i32::from(*x)),
        Array::I8(x) if x.len() == 1 => x.first().map(|x| i32::from(*x)),
        _ => None,
    };
    one.ok_or_else(|| Error::bug("a zero point is one number of 8 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize], values: &[f32]) -> Array {
        Array::f32s(shape, values.to_vec()).unwrap()
    }

    fn u8s(shape: &[usize], values: &[u8]) -> Array {
        Array::U8(shared(shape, values.to_vec()).unwrap())
    }

    fn i8s(shape: &[usize], values: &[i8]) -> Array {
        Array::I8(shared(shape, values.to_vec()).unwrap())
    }

    #[test]
    fn ranges_hold_0_and_ties_go_to_the_even() {
        let [y, scale, zero] = dynamic_quantize(&floats(&[3], &[-1.0, 0.0, 1.55])).unwrap();
        assert!((scale.to_f32s().unwrap()[0] - 0.01).abs() < 1e-8);
        assert_eq!((y, zero), (u8s(&[3], &[0, 100, 255]), u8s(&[], &[100])));
        let [y, scale, zero] = dynamic_quantize(&floats(&[2], &[0.0, 0.0])).unwrap();
        assert_eq!((y, scale, zero), (u8s(&[2], &[0, 0]), floats(&[], &[1.0]), u8s(&[], &[0])));
        let x = floats(&[6], &[0.5, 1.5, 2.5, -0.5, 300.0, -300.0]);
        let of = |zero: Array| quantize(&x, &floats(&[], &[1.0]), &zero).unwrap();
        assert_eq!(of(u8s(&[], &[10])), u8s(&[6], &[10, 12, 12, 10, 255, 0]));
        assert_eq!(of(i8s(&[], &[0])), i8s(&[6], &[0, 2, 2, 0, 127, -128]));
    }

    #[test]
    fn widened_numbers_have_their_channel_s_step() {
        let x = i8s(&[2, 2], &[1, 2, -3, 4]);
        let by_column = dequantize(&x, floats(&[2], &[0.5, 10.0]), None, 1).unwrap();
        assert_eq!(by_column, floats(&[2, 2], &[0.5, 20.0, -1.5, 40.0]));
        let by_row = dequantize(&x, floats(&[2], &[0.5, 10.0]), Some(i8s(&[2], &[1, 0])), 0).unwrap();
        assert_eq!(by_row, floats(&[2, 2], &[0.0, 0.5, -30.0, 40.0]));
        let all = dequantize(&u8s(&[1, 2], &[130, 0]), floats(&[], &[2.0]), Some(u8s(&[], &[128])), 1).unwrap();
        assert_eq!(all, floats(&[1, 2], &[4.0, -256.0]));
    }

    /// `Σ (a − zero) · b` in 64 bits.
    fn by_hand(a: &[i64], b: &[i8], zero: i64, n: usize) -> Vec<i32> {
        let k = b.len() / n;
        let one = |row: &[i64], j: usize| (0..k).map(|i| (row[i] - zero) * i64::from(b[i * n + j])).sum::<i64>() as i32;
        a.chunks(k).flat_map(|row| (0..n).map(move |j| one(row, j))).collect()
    }

    #[test]
    fn exact_sums_are_exact_however_long() {
        let (k, n) = (1501, 3);
        let a: Vec<u8> = (0..2 * k).map(|i| if i < k { 255 } else { (i * 7 % 256) as u8 }).collect();
        let b: Vec<i8> = (0..k * n).map(|i| if i % n == 0 { -128 } else { (i * 11 % 255) as u8 as i8 }).collect();
        let wide: Vec<i64> = a.iter().map(|x| i64::from(*x)).collect();
        for zero in [0u8, 3, 255] {
            let out = mat_mul(&u8s(&[2, k], &a), &i8s(&[k, n], &b), &u8s(&[], &[zero]), Int8Sums::Exact).unwrap();
            assert_eq!(out.iter().copied().collect::<Vec<_>>(), by_hand(&wide, &b, i64::from(zero), n));
        }
        let signed: Vec<i8> = a.iter().map(|x| *x as i8).collect();
        let wide: Vec<i64> = signed.iter().map(|x| i64::from(*x)).collect();
        let out = mat_mul(&i8s(&[2, k], &signed), &i8s(&[k, n], &b), &i8s(&[], &[-5]), Int8Sums::Exact).unwrap();
        assert_eq!(out.iter().copied().collect::<Vec<_>>(), by_hand(&wide, &b, -5, n));
    }

    #[test]
    fn only_pairs_saturate_in_16_bits() {
        let of = |a: &[u8], b: &[i8], zero: u8| {
            let (a, b, zero) = (u8s(&[1, a.len()], a), i8s(&[b.len(), 1], b), u8s(&[], &[zero]));
            mat_mul(&a, &b, &zero, Int8Sums::Saturating).unwrap()[[0, 0]]
        };
        // 2 · 255 · 127 = 64,770 is 32,767 in 16 bits; the pair after it is added in 32.
        assert_eq!(of(&[255, 255], &[127, 127], 0), 32_767);
        assert_eq!(of(&[255, 255, 255, 255], &[127, 127, 127, 127], 0), 65_534);
        assert_eq!(of(&[255, 255], &[-128, -128], 0), -32_768);
        assert_eq!(of(&[255, 255], &[127, -128], 0), -255);
        // Neighbours are pairs, and the last of an odd number is alone.
        assert_eq!(of(&[255, 0, 255], &[127, 0, 127], 0), 2 * 32_385);
        // The zero point is taken off afterwards.
        assert_eq!(of(&[255, 255], &[127, 127], 1), 32_767 - 254);
    }

    #[test]
    fn signed_activations_saturate_as_those_that_are_moved_up() {
        let (b, zero) = (i8s(&[2, 1], &[127, 127]), i8s(&[], &[0]));
        let of = |a: &[i8], sums| mat_mul(&i8s(&[1, 2], a), &b, &zero, sums).unwrap()[[0, 0]];
        assert_eq!(of(&[1, 1], Int8Sums::Exact), 254);
        // 129 · 127 twice is 32,766; 128 · 127 twice is taken off.
        assert_eq!(of(&[1, 1], Int8Sums::Saturating), 254);
        assert_eq!(of(&[127, 127], Int8Sums::Saturating), 32_767 - 2 * 128 * 127);
    }

    #[test]
    fn weights_of_the_reduced_range_give_the_same_both_ways() {
        let (k, n) = (77, 5);
        let a: Vec<u8> = (0..3 * k).map(|i| if i % 3 == 0 { 255 } else { (i * 37 % 256) as u8 }).collect();
        let b: Vec<i8> = (0..k * n).map(|i| if i % 2 == 0 { 64 } else { ((i * 29 % 129) as i32 - 64) as i8 }).collect();
        let of = |sums| mat_mul(&u8s(&[3, k], &a), &i8s(&[k, n], &b), &u8s(&[], &[9]), sums).unwrap();
        assert_eq!(of(Int8Sums::Exact), of(Int8Sums::Saturating));
        let full: Vec<i8> = b.iter().map(|x| x.saturating_mul(2)).collect();
        let of = |sums| mat_mul(&u8s(&[3, k], &a), &i8s(&[k, n], &full), &u8s(&[], &[9]), sums).unwrap();
        assert_ne!(of(Int8Sums::Exact), of(Int8Sums::Saturating));
    }

    #[test]
    fn integers_become_floats_by_both_steps_and_a_bias() {
        let (a, b) = (u8s(&[1, 2], &[3, 5]), i8s(&[2, 2], &[1, -1, 2, 4]));
        let (step, scales) = (floats(&[], &[0.5]), floats(&[2], &[2.0, 4.0]));
        let bias = Some(floats(&[2], &[0.25, 0.0]));
        let out = to_float(&a, &b, (&step, scales), &u8s(&[], &[1]), bias, Int8Sums::Exact).unwrap();
        assert_eq!(out, floats(&[1, 2], &[10.25, 28.0]));
    }

    #[test]
    fn blocks_are_widened_with_their_zero_points() {
        // Two rows of two blocks of 16; the second block is one element long.
        let mut values = vec![0u8; 2 * 2 * 8];
        values[0] = 15 << 4 | 8;
        values[8] = 3;
        values[16] = 9;
        let scales = floats(&[2, 2], &[0.5, 2.0, 1.0, 1.0]);
        let mut x = vec![0.0; 17];
        (x[0], x[1], x[16]) = (1.0, 10.0, 100.0);
        let product = |points: Option<Array>| {
            let (x, values) = (floats(&[1, 17], &x), u8s(&[2, 2, 8], &values));
            blocks(x, [&values, &scales], points.as_ref(), None, 4).unwrap()
        };
        assert_eq!(product(None), floats(&[1, 2], &[35.0 - 1000.0, 1.0 - 80.0 - 800.0]));
        let points = u8s(&[2, 1], &[1 << 4 | 8, 0]);
        assert_eq!(product(Some(points)), floats(&[1, 2], &[35.0 + 400.0, 9.0]));
    }
}
