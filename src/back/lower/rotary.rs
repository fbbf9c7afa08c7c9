//! Rotations by tables of cosines and sines.

use std::collections::HashMap;

use super::relative::first_rows;
use crate::error::{Error, Result};
use crate::ir::{DType, Dim, Node, Op, Rewriter, ValueId, Weight};

/// Rows of the tables in the shape in which heads are multiplied by them, made once for all layers: by the table, the
/// positions, the number of tokens, and whether pairs are interleaved.
pub(super) type Angles = HashMap<(ValueId, Option<ValueId>, Dim, bool), ValueId>;

/// `Rotary(x)`: with pairs `[x₁|x₂]` in each head, `[x₁ cos − x₂ sin | x₂ cos + x₁ sin]`
pub(super) fn rotary(
    rw: &mut Rewriter,
    node: &Node,
    heads: i64,
    interleaved: bool,
    angles: &mut Angles,
) -> Result<ValueId> {
    let (name, x) = (rw.name(node), rw.required(node, 0)?);
    let at = |suffix: &str| format!("{name}.{suffix}");
    let table = rw.required(node, 1)?;
    let [width, half] = [x, table].map(|id| rw.ty(id).shape.last().and_then(Dim::fixed).map(|n| n as i64));
    let (Some(width), Some(half)) = (width, half) else { return Err(Error::bug("the width of a rotation is known")) };
    let size = width / heads;
    let cos = rows(rw, &at("cos"), node, 1, interleaved, angles)?;
    let sin = rows(rw, &at("sin"), node, 2, interleaved, angles)?;

    let mut turned = rw.node(&at("heads"), Op::Reshape { shape: vec![0, 0, heads, size] }, &[x])?;
    let mut rest = None;
    if 2 * half < size {
        let pieces = Op::Split { axis: -1, sizes: vec![2 * half, size - 2 * half] };
        let &[part, left] = rw.nodes(&at("part"), pieces, &[Some(turned)])?.as_slice() else { return Err(two()) };
        (turned, rest) = (part, Some(left));
    }
    let one = if interleaved { 1 } else { half };
    if interleaved {
        turned = rw.node(&at("pairs"), Op::Reshape { shape: vec![0, 0, heads, half, 2] }, &[turned])?;
    }
    let pieces = Op::Split { axis: -1, sizes: vec![one, one] };
    let &[first, second] = rw.nodes(&at("halves"), pieces, &[Some(turned)])?.as_slice() else { return Err(two()) };
    let mut product = |suffix: &str, a, b| rw.node(&at(suffix), Op::Mul, &[a, b]);
    let (a, b) = (product("first.cos", first, cos)?, product("second.sin", second, sin)?);
    let (c, d) = (product("second.cos", second, cos)?, product("first.sin", first, sin)?);
    let first = rw.node(&at("first"), Op::Sub, &[a, b])?;
    let second = rw.node(&at("second"), Op::Add, &[c, d])?;
    let mut turned = rw.node(&at("turned"), Op::Concat { axis: -1 }, &[first, second])?;
    if interleaved && rest.is_some() {
        turned = rw.node(&at("unpaired"), Op::Reshape { shape: vec![0, 0, heads, 2 * half] }, &[turned])?;
    }
    if let Some(rest) = rest {
        turned = rw.node(&at("whole"), Op::Concat { axis: -1 }, &[turned, rest])?;
    }
    rw.node(name, Op::Reshape { shape: vec![0, 0, width] }, &[turned])
}

fn two() -> Error {
    Error::bug("a split in two has two pieces")
}

/// The rows of a table for the tokens of `x`, `[b, s, 1, r / 2]` by positions, else `[s, 1, r / 2]`, or what already
/// has a row for each token; where pairs are interleaved, with one more dimension.
fn rows(
    rw: &mut Rewriter,
    name: &str,
    node: &Node,
    table: usize,
    interleaved: bool,
    angles: &mut Angles,
) -> Result<ValueId> {
    let (x, table, positions) = (rw.required(node, 0)?, rw.required(node, table)?, rw.operand(node, 3)?);
    let length = rw.ty(x).shape.get(1).cloned().ok_or_else(|| Error::bug("a rotation has positions"))?;
    let key = (table, positions, length.clone(), interleaved);
    if let Some(made) = angles.get(&key) {
        return Ok(*made);
    }
    let (rows, mut axes) = match positions {
        None if rw.ty(table).rank() == 3 => (table, vec![2]),
        Some(positions) => (rw.node(&format!("{name}.rows"), Op::Gather { axis: 0 }, &[table, positions])?, vec![2]),
        None => (first_rows(rw, &format!("{name}.rows"), table, x, length)?, vec![1]),
    };
    if interleaved {
        axes.extend(axes.first().map(|axis| axis + 2));
    }
    let made = rw.node(name, Op::Unsqueeze { axes }, &[rows])?;
    angles.insert(key, made);
    Ok(made)
}

/// `RowsByLength(p) = p + trained · [max(p) ≥ trained]`, text by text
pub(super) fn rows_by_length(rw: &mut Rewriter, node: &Node, trained: i64) -> Result<ValueId> {
    let name = rw.name(node);
    let at = |part: &str| format!("{name}.{part}");
    let (places, beyond) = beyond(rw, node, 0, trained)?;
    let long = rw.node(&at("is_long"), Op::Cast { to: DType::Bool }, &[beyond])?;
    let long = rw.node(&at("long"), Op::Cast { to: DType::I32 }, &[long])?;
    let more = rw.weight(&at("more"), Weight::i32s(vec![], &[i32::try_from(trained).unwrap_or(i32::MAX)])?);
    let more = rw.node(&at("after"), Op::Mul, &[long, more])?;
    let rows = rw.node(&at("i32"), Op::Add, &[places, more])?;
    rw.node(name, Op::Cast { to: DType::I64 }, &[rows])
}

/// `GrowingAngles(f, p) = cos, sin of p · f[max(0, max(p) + 1 − trained)]`, text by text
pub(super) fn growing_angles(rw: &mut Rewriter, node: &Node, trained: i64) -> Result<[ValueId; 2]> {
    let (name, frequencies, positions) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let at = |part: &str| format!("{name}.{part}");
    let (_, row) = beyond(rw, node, 1, trained)?;
    let row = rw.node(&at("row"), Op::Cast { to: DType::I64 }, &[row])?;
    let row = rw.node(&at("frequencies"), Op::Gather { axis: 0 }, &[frequencies, row])?;
    let places = rw.node(&at("places.f32"), Op::Cast { to: DType::F32 }, &[positions])?;
    let places = rw.node(&at("places.column"), Op::Unsqueeze { axes: vec![2] }, &[places])?;
    let angles = rw.node(&at("angles"), Op::Mul, &[places, row])?;
    Ok([rw.node(&at("cos"), Op::Cos, &[angles])?, rw.node(&at("sin"), Op::Sin, &[angles])?])
}

/// Operand `i`, the positions `[b, s]`, and by how many tokens each text is longer than trained, `[b, 1]`: both in 32
/// bits, since tract takes 64-bit integers for sizes.
fn beyond(rw: &mut Rewriter, node: &Node, i: usize, trained: i64) -> Result<(ValueId, ValueId)> {
    let (name, positions) = (rw.name(node), rw.required(node, i)?);
    let at = |part: &str| format!("{name}.{part}");
    let most =
        i32::try_from(trained).map_err(|_| Error::bad_input(format!("{trained} positions are beyond 32 bits")))?;
    let most = rw.weight(&at("last_short"), Weight::i32s(vec![], &[most - 1])?);
    let none = rw.weight(&at("none"), Weight::i32s(vec![], &[0])?);
    let places = rw.node(&at("places"), Op::Cast { to: DType::I32 }, &[positions])?;
    let last = rw.node(&at("last"), Op::ReduceMax { axes: vec![1], keep: true }, &[places])?;
    let beyond = rw.node(&at("beyond"), Op::Sub, &[last, most])?;
    Ok((places, rw.node(&at("positive"), Op::Max, &[beyond, none])?))
}
