//! Scores by distance, through tables that have a row for each of the distances `s, s − 1 … 1 − s`.
//!
//! The product of token `i` with row `c` is the score of a pair at distance `s − c`. To move it to the position of the
//! other token, row `i` of the products has to move by `i` (arXiv 1901.02860): read in rows that are one shorter, it
//! does.

use std::collections::HashMap;

use super::attention::split_heads;
use crate::error::{Error, Result};
use crate::ir::{Dim, Node, Op, Rewriter, ValueId, Weight};

/// The shapes in which products are read to shift them, for one length.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    /// `i64 [1]`: the length `s`.
    length: ValueId,
    /// The sizes `[b, heads, 2 · s, s]`.
    columns: ValueId,
    /// The sizes `[b, heads, s, 2 · s − 1]`.
    shorter: ValueId,
}

/// `DistanceRows(ids [b, s])[c] = row(s − c)`; which row a distance has is a constant
pub(super) fn rows(
    rw: &mut Rewriter,
    node: &Node,
    [buckets, max_distance, positions]: [i64; 3],
    opposite: bool,
) -> Result<ValueId> {
    let (name, ids) = (rw.name(node), rw.required(node, 0)?);
    let sign = if opposite { -1 } else { 1 };
    let of: Vec<i64> = distances(positions).map(|distance| row_of(sign * distance, buckets, max_distance)).collect();
    let of = rw.weight(&format!("{name}.of"), Weight::i64s(vec![of.len()], &of)?);
    around_zero(rw, name, of, ids, positions)
}

/// `Sinusoids(ids [b, s])[c] = [sin((s − c) f) | cos((s − c) f)]`
pub(super) fn sinusoids(rw: &mut Rewriter, node: &Node, width: i64, clamp: i64, positions: i64) -> Result<ValueId> {
    let (name, ids) = (rw.name(node), rw.required(node, 0)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let clamped = |distance: i64| if clamp > 0 { distance.clamp(-clamp, clamp) } else { distance };
    let distances: Vec<f32> = distances(positions).map(|distance| clamped(distance) as f32).collect();
    let distances = rw.weight(&at("distances"), Weight::f32s(vec![distances.len(), 1], &distances)?);
    let distances = around_zero(rw, &at("places"), distances, ids, positions)?;
    let frequency = |t: i64| 1.0 / 10000f64.powf(f64::from((2 * t) as f32 / width as f32)) as f32;
    let frequencies: Vec<f32> = (0..width / 2).map(frequency).collect();
    let frequencies = rw.weight(&at("frequencies"), Weight::f32s(vec![1, frequencies.len()], &frequencies)?);
    let angles = rw.node(&at("angles"), Op::Mul, &[distances, frequencies])?;
    let (sin, cos) = (rw.node(&at("sin"), Op::Sin, &[angles])?, rw.node(&at("cos"), Op::Cos, &[angles])?);
    rw.node(name, Op::Concat { axis: -1 }, &[sin, cos])
}

/// `DistanceScores(x, r) = shift(x · (scale · r)ᵀ)`, head by head; of keys, with queries and keys exchanged
pub(super) fn scores(
    rw: &mut Rewriter,
    node: &Node,
    heads: i64,
    scale: f32,
    keys: bool,
    shifts: &mut HashMap<Dim, Shift>,
) -> Result<ValueId> {
    let name = rw.name(node);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let tokens = split_heads(rw, &at("tokens"), node, 0, heads)?;
    let rows = head_columns(rw, &at("rows"), node, heads, scale)?;
    let product = rw.node(&at("product"), Op::MatMul, &[tokens, rows])?;
    let [batch, heads, length, both] = <[Dim; 4]>::try_from(rw.ty(product).shape).map_err(|_| rank())?;
    let shift = shift(rw, node, &length, shifts)?;
    let (one, zero) = (index(rw, &at("one"), 1)?, index(rw, &at("zero"), 0)?);

    let shape = vec![batch.clone(), heads.clone(), both, length.clone()];
    let columns = rw.node(&at("columns"), Op::ReshapeTo { shape }, &[product, shift.columns])?;
    let (non_finite, all) = (length.times(2)?.minus(1)?, index(rw, &at("all"), i64::MAX)?);
    let moved = rw.node(&at("moved"), Op::Slice { axis: 2, length: non_finite.clone() }, &[columns, one, all])?;
    let shape = vec![batch, heads, length.clone(), non_finite];
    let shorter = rw.node(&at("shorter"), Op::ReshapeTo { shape }, &[moved, shift.shorter])?;
    let cut = Op::Slice { axis: 3, length };
    if !keys {
        return rw.node(name, cut, &[shorter, zero, shift.length]);
    }
    let of_keys = rw.node(&at("of_keys"), cut, &[shorter, zero, shift.length])?;
    rw.node(name, Op::Transpose { perm: vec![0, 1, 3, 2] }, &[of_keys])
}

/// Operand 1 of a node, `[r, heads · d]`, times `scale` as `[heads, d, r]`: the factor of each head's queries.
pub(super) fn head_columns(rw: &mut Rewriter, name: &str, node: &Node, heads: i64, scale: f32) -> Result<ValueId> {
    let rows = rw.required(node, 1)?;
    let ty = rw.ty(rows);
    let width = ty.shape.last().and_then(Dim::fixed).ok_or_else(|| Error::bug("the width of a table is known"))?;
    let factor = rw.weight(&format!("{name}.scale"), Weight::scalar(ty.dtype, scale)?);
    let scaled = rw.node(&format!("{name}.scaled"), Op::Mul, &[rows, factor])?;
    let shape = vec![0, heads, width as i64 / heads];
    let split = rw.node(&format!("{name}.heads"), Op::Reshape { shape }, &[scaled])?;
    rw.node(&format!("{name}.turned"), Op::Transpose { perm: vec![1, 2, 0] }, &[split])
}

/// The shapes for a length, made once and read by every layer.
fn shift(rw: &mut Rewriter, node: &Node, length: &Dim, shifts: &mut HashMap<Dim, Shift>) -> Result<Shift> {
    if let Some(made) = shifts.get(length) {
        return Ok(*made);
    }
    let x = rw.required(node, 0)?;
    let s = rw.node("distances.length", Op::Shape { start: 1, end: 2 }, &[x])?;
    let kept = rw.weight("distances.kept", Weight::i64s(vec![2], &[0, 0])?);
    let rest = rw.weight("distances.rest", Weight::i64s(vec![1], &[-1])?);
    let columns = rw.node("distances.columns", Op::Concat { axis: 0 }, &[kept, rest, s])?;
    let shorter = rw.node("distances.shorter", Op::Concat { axis: 0 }, &[kept, s, rest])?;
    let made = Shift { length: s, columns, shorter };
    shifts.insert(length.clone(), made);
    Ok(made)
}

/// The `2 · s` rows around the middle of a table with a row for each of [`distances`]. The first is counted from the end:
/// tract takes a length for unbounded when it looks up the sign of a position.
fn around_zero(rw: &mut Rewriter, name: &str, table: ValueId, ids: ValueId, positions: i64) -> Result<ValueId> {
    let at = |suffix: &str| format!("{name}.{suffix}");
    let length = rw.ty(ids).shape.last().cloned().ok_or_else(|| Error::bug("ids without dimensions"))?;
    let s = rw.node(&at("length"), Op::Shape { start: 1, end: 2 }, &[ids])?;
    let (middle, from_end) = (index(rw, &at("middle"), positions)?, index(rw, &at("from_end"), -positions)?);
    let start = rw.node(&at("start"), Op::Sub, &[from_end, s])?;
    let end = rw.node(&at("end"), Op::Add, &[middle, s])?;
    rw.node(name, Op::Slice { axis: 0, length: length.times(2)? }, &[table, start, end])
}

fn index(rw: &mut Rewriter, name: &str, value: i64) -> Result<ValueId> {
    Ok(rw.weight(name, Weight::i64s(vec![1], &[value])?))
}

fn rank() -> Error {
    Error::bug("scores have rank 4")
}

/// The distances that sequences of up to that many positions have, largest first, and one more.
fn distances(positions: i64) -> impl Iterator<Item = i64> {
    (1 - positions..=positions).rev()
}

/// The row of a distance in DeBERTa's table (arXiv 2006.03654).
fn row_of(distance: i64, buckets: i64, max_distance: i64) -> i64 {
    let (span, place) = match buckets {
        0 => (max_distance, distance),
        _ => (buckets, bucket_of(distance, buckets, max_distance)),
    };
    span.saturating_add(place).clamp(0, 2 * span - 1)
}

/// Near distances have a bucket each, far ones share them by logarithm. In the floating-point steps of `transformers`.
fn bucket_of(distance: i64, buckets: i64, max_distance: i64) -> i64 {
    let (middle, far) = (buckets / 2, distance.abs());
    if far <= middle {
        return distance;
    }
    let scale = (((max_distance - 1) as f64 / middle as f64) as f32).ln();
    let steps = (far as f32 / middle as f32).ln() / scale * (middle - 1) as f32;
    distance.signum() * (steps.ceil() as i64).saturating_add(middle)
}

#[cfg(test)]
mod tests {
    use super::row_of;

    #[test]
    fn near_distances_have_a_row_each_and_far_ones_share() {
        let row = |distance| row_of(distance, 256, 512);
        assert_eq!([0, 1, -1, 128, -128].map(row), [256, 257, 255, 384, 128]);
        assert_eq!([129, 200, 300, 511, 512, 5000].map(row), [385, 425, 463, 511, 511, 511]);
        assert_eq!([-129, -200, -511, -512, -5000].map(row), [127, 87, 1, 0, 0]);
    }

    #[test]
    fn without_buckets_distances_end_at_the_largest() {
        let row = |distance| row_of(distance, 0, 6);
        assert_eq!([0, 5, 6, 40, -6, -7].map(row), [6, 11, 11, 11, 0, 0]);
    }
}
