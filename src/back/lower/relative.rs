//! Positions in attention: biases by distance, and rotations.

use crate::error::{Error, Result};
use crate::ir::{DType, Dim, Node, Op, Rewriter, ValueId, Weight};

/// `RelativeBias(table, ids [b, s])[0, h, i, j] = table[bucket(j − i), h]`; which bucket a distance falls into is a
/// constant
pub(super) fn bias(rw: &mut Rewriter, node: &Node, buckets: i64, max_distance: i64, positions: i64) -> Result<ValueId> {
    let (name, table, ids) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let index = distance_index(rw, name, ids, positions)?;
    let bucket: Vec<i32> =
        distances(positions).map(|distance| bucket_of(distance, buckets as i32, max_distance as i32)).collect();
    let bucket = rw.weight(&at("bucket.of"), Weight::i32s(vec![bucket.len()], &bucket)?);
    let bucket = rw.node(&at("bucket"), Op::Gather { axis: 0 }, &[bucket, index])?;
    let rows = rw.node(&at("rows"), Op::Gather { axis: 0 }, &[table, bucket])?;
    let turned = rw.node(&at("turned"), Op::Transpose { perm: vec![2, 0, 1] }, &[rows])?;
    rw.node(name, Op::Unsqueeze { axes: vec![0] }, &[turned])
}

/// `LocalBias(ids [b, s])[0, 0, i, j] = 0` where `|j − i| ≤ window`, else the lowest number
pub(super) fn local(rw: &mut Rewriter, node: &Node, window: i64, positions: i64) -> Result<ValueId> {
    let (name, ids) = (rw.name(node), rw.required(node, 0)?);
    let index = distance_index(rw, name, ids, positions)?;
    let value = |distance: i32| if i64::from(distance.abs()) <= window { 0.0 } else { f32::MIN };
    let values: Vec<f32> = distances(positions).map(value).collect();
    let values = rw.weight(&format!("{name}.of"), Weight::f32s(vec![values.len()], &values)?);
    let bias = rw.node(&format!("{name}.square"), Op::Gather { axis: 0 }, &[values, index])?;
    rw.node(name, Op::Unsqueeze { axes: vec![0, 1] }, &[bias])
}

/// `ThetaRotary(x)`: with `x = [x₁|x₂]` in each head, `[x₁ cos − x₂ sin | x₂ cos + x₁ sin]`
pub(super) fn theta_rotary(rw: &mut Rewriter, node: &Node, heads: i64, theta: f32, positions: i64) -> Result<ValueId> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let ty = rw.ty(x);
    let width =
        ty.shape.last().and_then(Dim::fixed).ok_or_else(|| Error::bug("the width of a rotation is known"))? as i64;
    let at = |suffix: &str| format!("{name}.{suffix}");
    let half = width / heads / 2;
    let cos = angles(rw, &at("cos"), x, half, theta, positions, f32::cos)?;
    let sin = angles(rw, &at("sin"), x, half, theta, positions, f32::sin)?;
    let split = rw.node(&at("heads"), Op::Reshape { shape: vec![0, 0, heads, 2 * half] }, &[x])?;
    let halves = rw.nodes(&at("halves"), Op::Split { axis: -1, sizes: vec![half, half] }, &[Some(split)])?;
    let &[first, second] = halves.as_slice() else { return Err(Error::bug("a split in two has two pieces")) };
    let mut product = |suffix: &str, a, b| rw.node(&at(suffix), Op::Mul, &[a, b]);
    let (a, b) = (product("first.cos", first, cos)?, product("second.sin", second, sin)?);
    let (c, d) = (product("second.cos", second, cos)?, product("first.sin", first, sin)?);
    let first = rw.node(&at("first"), Op::Sub, &[a, b])?;
    let second = rw.node(&at("second"), Op::Add, &[c, d])?;
    let turned = rw.node(&at("turned"), Op::Concat { axis: -1 }, &[first, second])?;
    rw.node(name, Op::Reshape { shape: vec![0, 0, width] }, &[turned])
}

/// A function of the angles of all positions, `[s, 1, half]`, in the type of `x`.
fn angles(
    rw: &mut Rewriter,
    name: &str,
    x: ValueId,
    half: i64,
    theta: f32,
    positions: i64,
    of: impl Fn(f32) -> f32,
) -> Result<ValueId> {
    let ty = rw.ty(x);
    let frequency: Vec<f32> = (0..half).map(|i| 1.0 / theta.powf((2 * i) as f32 / (2 * half) as f32)).collect();
    let table: Vec<f32> =
        (0..positions).flat_map(|place| frequency.iter().map(move |f| place as f32 * f)).map(of).collect();
    let table = Weight::f32s(vec![positions as usize, 1, half as usize], &table)?.cast(ty.dtype);
    let table = rw.weight(&format!("{name}.of"), table);
    let length = ty.shape.get(1).cloned().ok_or_else(|| Error::bug("a rotation has positions"))?;
    first_rows(rw, name, table, x, length)
}

/// `SelfMask(m)[b, i, j] = m[b, j]` where `i ≠ j`, else 1
pub(super) fn self_mask(rw: &mut Rewriter, node: &Node, positions: i64) -> Result<ValueId> {
    let (name, mask) = (rw.name(node), rw.required(node, 0)?);
    let others = distance(rw, name, mask, positions)?;
    let others = rw.node(&format!("{name}.others"), Op::Cast { to: DType::Bool }, &[others])?;
    let keys = rw.node(&format!("{name}.keys"), Op::Unsqueeze { axes: vec![1] }, &[mask])?;
    let one = rw.weight(&format!("{name}.one"), Weight::i64s(vec![], &[1])?);
    rw.node(name, Op::Where, &[others, keys, one])
}

/// `j − i` for all queries and keys, counted from 0, as `[s, s]`.
fn distance_index(rw: &mut Rewriter, name: &str, ids: ValueId, positions: i64) -> Result<ValueId> {
    let distance = distance(rw, name, ids, positions)?;
    let offset = rw.weight(&format!("{name}.offset"), Weight::i32s(vec![], &[positions as i32 - 1])?);
    rw.node(&format!("{name}.index"), Op::Add, &[distance, offset])
}

/// `j − i` for all queries and keys as `[s, s]`. In 32 bits: tract takes 64-bit integers for sizes.
fn distance(rw: &mut Rewriter, name: &str, ids: ValueId, positions: i64) -> Result<ValueId> {
    let at = |suffix: &str| format!("{name}.{suffix}");
    let length = rw.ty(ids).shape.last().cloned().ok_or_else(|| Error::bug("ids without dimensions"))?;
    let count: Vec<i32> = (0..positions as i32).collect();
    let count = rw.weight(&at("count"), Weight::i32s(vec![count.len()], &count)?);
    let places = first_rows(rw, &at("places"), count, ids, length)?;
    let query = rw.node(&at("query"), Op::Unsqueeze { axes: vec![1] }, &[places])?;
    let key = rw.node(&at("key"), Op::Unsqueeze { axes: vec![0] }, &[places])?;
    rw.node(&at("distance"), Op::Sub, &[key, query])
}

/// As many rows of a table as `like [b, s, …]` has positions.
pub(super) fn first_rows(rw: &mut Rewriter, name: &str, table: ValueId, like: ValueId, length: Dim) -> Result<ValueId> {
    let start = rw.weight(&format!("{name}.start"), Weight::i64s(vec![1], &[0])?);
    let end = rw.node(&format!("{name}.length"), Op::Shape { start: 1, end: 2 }, &[like])?;
    rw.node(name, Op::Slice { axis: 0, length }, &[table, start, end])
}

/// All distances between two of that many positions, smallest first.
fn distances(positions: i64) -> impl Iterator<Item = i32> {
    let last = positions as i32 - 1;
    -last..=last
}

/// T5's buckets for both directions (arXiv 1910.10683): half for keys before the query, half for those after it; near
/// distances have one each, far ones share them by logarithm. In the floating-point steps of `transformers`.
fn bucket_of(distance: i32, buckets: i32, max_distance: i32) -> i32 {
    let half = buckets / 2;
    let side = if distance > 0 { half } else { 0 };
    let (far, exact) = (distance.abs(), half / 2);
    if far < exact {
        return side + far;
    }
    let scale = (f64::from(max_distance) / f64::from(exact)).ln() as f32;
    let steps = (far as f32 / exact as f32).ln() / scale * (half - exact) as f32;
    side + (exact + steps as i32).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::bucket_of;

    #[test]
    fn near_distances_have_a_bucket_each_and_far_ones_share() {
        let bucket = |distance| bucket_of(distance, 32, 128);
        assert_eq!([0, -1, -7, 1, 7].map(bucket), [0, 1, 7, 17, 23]);
        assert_eq!([-8, -15, -16, -32, -64, -127, -128, -511].map(bucket), [8, 9, 10, 12, 14, 15, 15, 15]);
        assert_eq!([16, 511].map(bucket), [26, 31]);
    }
}
