//! Rotations by tables of cosines and sines.

use std::collections::HashMap;

use super::relative::first_rows;
use crate::error::{Error, Result};
use crate::ir::{Dim, Node, Op, Rewriter, ValueId};

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

/// The rows of a table for the tokens of `x`, `[b, s, 1, r / 2]` by positions, else `[s, 1, r / 2]`; where pairs are
/// interleaved, with one more dimension.
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
