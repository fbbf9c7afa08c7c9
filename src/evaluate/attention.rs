//! Attention in one operation: the scores of a head stay in `f32` from the product to the softmax.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView4, ArrayViewMut2, Axis, Ix4};
use rayon::prelude::*;

use super::array::{Array, Shared, misfit, shared, standard, stretched};
use super::layout;
use super::reduce::softmax_row;
use crate::error::{Error, Result};

/// The default that the operator of `com.microsoft` adds to the scores of masked keys.
const MASKED: f32 = -10_000.0;

/// `softmax(scale · q kᵀ + bias) v` for each head, `q [b, t, heads · d]`, `k, v [b, s, heads · d]`; the bias stretches
/// to `[b, heads, t, s]`.
pub(super) fn attention(operands: [Array; 3], bias: Option<&Array>, heads: i64, scale: f32) -> Result<Array> {
    let outputs = with_past(operands, bias, None, [heads, heads], scale)?;
    outputs.into_iter().next().ok_or_else(|| Error::bug("attention has an output"))
}

/// The same where queries share the heads of `k, v [b, s, kv · d]`, which come after those of a past `[b, kv, p, d]`; with
/// the keys and values of both.
pub(super) fn with_past(
    [q, k, v]: [Array; 3],
    bias: Option<&Array>,
    past: Option<(Array, Array)>,
    heads: [i64; 2],
    scale: f32,
) -> Result<Vec<Array>> {
    let [heads, kv_heads] = heads.map(|heads| usize::try_from(heads).unwrap_or_default());
    if kv_heads == 0 || heads == 0 || heads % kv_heads != 0 {
        return Err(Error::bug("heads cannot share keys"));
    }
    let [batch, length, width] = sizes(&q)?;
    let has_past = past.is_some();
    let (past_key, past_value) = past.unzip();
    let by_head = |x: Array, heads: usize| layout::transpose(Array::F32(split(x, heads)?), &[0, 2, 1, 3]);
    let all = |x: Array, past: Option<Array>| match (by_head(x, kv_heads)?, past) {
        (new, None) => Ok::<_, Error>(new),
        (new, Some(past)) => layout::concat(&[past, new], 2),
    };
    let (q, k, v) = (by_head(q, heads)?, all(k, past_key)?, all(v, past_value)?);
    let keys = k.shape().get(2).copied().unwrap_or_default();
    let depth = width / heads;
    let bias = match bias {
        None => None,
        Some(Array::F32(bias)) => Some(stretched(bias, &[batch, heads, length, keys])?),
        Some(_) => return Err(Error::bug("a bias of attention is floats")),
    };
    let bias: Option<ArrayView4<f32>> = bias.and_then(|bias| bias.into_dimensionality::<Ix4>().ok());
    let head = |x: &Array, b: usize, h: usize| {
        let Array::F32(x) = x else { return Err(Error::bug("attention of no floats")) };
        let x = x.view().into_dimensionality::<Ix4>().map_err(|_| Error::bug("heads have four dimensions"))?;
        Ok::<_, Error>(x.index_axis_move(Axis(0), b).index_axis_move(Axis(0), h).to_owned())
    };
    let contexts: Vec<Array2<f32>> = (0..batch * heads)
        .into_par_iter()
        .map(|i| {
            let (b, h) = (i / heads, i % heads);
            let shared = h / (heads / kv_heads);
            let (q, k, v) = (head(&q, b, h)?, head(&k, b, shared)?, head(&v, b, shared)?);
            let mut scores = Array2::zeros((length, keys));
            general_mat_mul(scale, &q, &k.t(), 0.0, &mut scores);
            if let Some(bias) = &bias {
                scores += &bias.slice(ndarray::s![b, h, .., ..]);
            }
            scores.as_slice_mut().unwrap_or_default().chunks_mut(keys.max(1)).for_each(softmax_row);
            let mut context = Array2::zeros((length, depth));
            general_mat_mul(1.0, &scores, &v, 0.0, &mut context);
            Ok(context)
        })
        .collect::<Result<_>>()?;
    let mut out = vec![0.0; batch * length * width];
    for (i, context) in contexts.iter().enumerate() {
        let (b, h) = (i / heads, i % heads);
        let rows = out.get_mut(b * length * width..(b + 1) * length * width).unwrap_or_default();
        let mut rows = ArrayViewMut2::from_shape((length, width), rows).map_err(|_| misfit(&[length], &[width]))?;
        rows.slice_mut(ndarray::s![.., h * depth..(h + 1) * depth]).assign(context);
    }
    let out = Array::F32(shared(&[batch, length, width], out)?);
    Ok(if has_past { vec![out, k, v] } else { vec![out] })
}

/// The same with the other inputs of `MultiHeadAttention` of `com.microsoft`: keys that are masked, by text or by text
/// and query.
pub(super) fn multi_head(
    operands: [Array; 3],
    mask: Option<&Array>,
    bias: Option<Array>,
    heads: i64,
    scale: f32,
) -> Result<Array> {
    let Some(mask) = mask else { return attention(operands, bias.as_ref(), heads, scale) };
    let Array::I32(mask) = mask else { return Err(Error::bug("a mask of attention is i32")) };
    let masked = Array::F32(mask.mapv(|kept| if kept > 0 { 0.0 } else { MASKED }).into_shared());
    let axes: &[i64] = if mask.ndim() == 2 { &[1, 2] } else { &[1] };
    let masked = layout::unsqueeze(masked, axes)?;
    let bias = match bias {
        None => masked,
        Some(bias) => super::elementwise::binary(super::elementwise::Binary::Add, masked, bias)?,
    };
    attention(operands, Some(&bias), heads, scale)
}

fn sizes(x: &Array) -> Result<[usize; 3]> {
    <[usize; 3]>::try_from(x.shape()).map_err(|_| Error::bug("attention reads three dimensions"))
}

/// `[b, s, heads · d] → [b, s, heads, d]`
fn split(x: Array, heads: usize) -> Result<Shared<f32>> {
    let [batch, length, width] = sizes(&x)?;
    let Array::F32(x) = x else { return Err(Error::bug("attention of no floats")) };
    let shape = [batch, length, heads, width / heads];
    standard(x).into_shape_with_order(ndarray::IxDyn(&shape)).map_err(|_| misfit(&[batch, length, width], &shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize], values: &[f32]) -> Array {
        Array::f32s(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn each_head_weighs_its_own_part_of_the_values() {
        // One query of two heads of one number each, and two keys.
        let q = floats(&[1, 1, 2], &[1.0, 0.0]);
        let k = floats(&[1, 2, 2], &[0.0, 5.0, 2.0, 7.0]);
        let v = floats(&[1, 2, 2], &[10.0, 1.0, 20.0, 3.0]);
        let weight = 1.0f32.exp() / (1.0 + 1.0f32.exp());
        let out = attention([q.clone(), k.clone(), v.clone()], None, 2, 0.5).unwrap().to_f32s().unwrap();
        assert!((out[0] - (10.0 + 10.0 * weight)).abs() < 1e-5 && (out[1] - 2.0).abs() < 1e-6, "{out:?}");
        let mask = Array::I32(shared(&[1, 2], vec![1, 0]).unwrap());
        let out = multi_head([q.clone(), k.clone(), v.clone()], Some(&mask), None, 2, 0.5).unwrap();
        assert_eq!(out, floats(&[1, 1, 2], &[10.0, 1.0]));
        // A bias of the one head lets it attend to the second key alone.
        let bias = floats(&[1, 2, 1, 2], &[-1e9, 0.0, 0.0, 0.0]);
        let out = attention([q, k, v], Some(&bias), 2, 0.5).unwrap();
        assert_eq!(out, floats(&[1, 1, 2], &[20.0, 2.0]));
    }
}
