//! Attention biases by relative position.

use crate::error::{Error, Result};
use crate::ir::{Dim, Node, Op, Rewriter, ValueId, Weight};

/// `RelativeBias(table, ids [b, s])[0, h, i, j] = table[bucket(j − i), h]`
///
/// Which bucket a distance falls into is a constant; distances come from a slice of `0, 1, …`. All in 32 bits: tract
/// takes 64-bit integers for sizes.
pub(super) fn bias(rw: &mut Rewriter, node: &Node, buckets: i64, max_distance: i64, positions: i64) -> Result<ValueId> {
    let (name, table, ids) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let length: Dim = rw.ty(ids).shape.last().cloned().ok_or_else(|| Error::bug("ids without dimensions"))?;
    let at = |suffix: &str| format!("{name}.{suffix}");
    let count: Vec<i32> = (0..positions as i32).collect();
    let last = positions as i32 - 1;
    let bucket: Vec<i32> =
        (-last..=last).map(|distance| bucket_of(distance, buckets as i32, max_distance as i32)).collect();

    let count = rw.weight(&at("count"), Weight::i32s(vec![count.len()], &count)?);
    let start = rw.weight(&at("start"), Weight::i64s(vec![1], &[0])?);
    let end = rw.node(&at("length"), Op::Shape { start: 1, end: 2 }, &[ids])?;
    let places = rw.node(&at("places"), Op::Slice { axis: 0, length }, &[count, start, end])?;
    let query = rw.node(&at("query"), Op::Unsqueeze { axes: vec![1] }, &[places])?;
    let key = rw.node(&at("key"), Op::Unsqueeze { axes: vec![0] }, &[places])?;
    let distance = rw.node(&at("distance"), Op::Sub, &[key, query])?;
    let offset = rw.weight(&at("offset"), Weight::i32s(vec![], &[last])?);
    let index = rw.node(&at("index"), Op::Add, &[distance, offset])?;
    let bucket = rw.weight(&at("bucket.of"), Weight::i32s(vec![bucket.len()], &bucket)?);
    let bucket = rw.node(&at("bucket"), Op::Gather { axis: 0 }, &[bucket, index])?;
    let rows = rw.node(&at("rows"), Op::Gather { axis: 0 }, &[table, bucket])?;
    let turned = rw.node(&at("turned"), Op::Transpose { perm: vec![2, 0, 1] }, &[rows])?;
    rw.node(name, Op::Unsqueeze { axes: vec![0] }, &[turned])
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
