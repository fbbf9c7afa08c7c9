//! Masks by position: a query attends to no key after it, or to none far from it.

use super::masks::{Masks, Places, spread_mask};
use crate::error::{Error, Result};
use crate::ir::{DType, Dim, Node, Op, Rewriter, ValueId, Weight};

impl Places {
    /// Those of an attention; none where every query attends to all keys.
    pub fn of(rw: &mut Rewriter, node: &Node) -> Result<Option<Places>> {
        let Op::Attention { causal, window, positions, .. } = node.op else { return Ok(None) };
        let Some(positions) = positions.filter(|_| causal || window.is_some()) else { return Ok(None) };
        let size = |rw: &mut Rewriter, i: usize, from_end: usize| -> Result<Dim> {
            let id = rw.required(node, i)?;
            let shape = rw.ty(id).shape;
            let place = shape.len().checked_sub(from_end);
            place.and_then(|i| shape.get(i).cloned()).ok_or_else(|| Error::bug("attention has tokens"))
        };
        let (queries, mut keys) = (size(rw, 0, 2)?, new_keys(rw, node)?.0);
        if node.operand(5).is_some() {
            keys = size(rw, 5, 2)?.plus(keys)?;
        }
        Ok(Some(Places { causal, window, positions, queries, keys }))
    }
}

/// How many keys come after the past, and the dimension of the operand that gives it.
fn new_keys(rw: &mut Rewriter, node: &Node) -> Result<(Dim, i64)> {
    let keys = rw.required(node, 1)?;
    let shape = rw.ty(keys).shape;
    let axis = if shape.len() == 4 { 2 } else { 1 };
    let length = shape.get(axis).cloned().ok_or_else(|| Error::bug("keys have a length"))?;
    Ok((length, axis as i64))
}

/// Which keys are attended to, as bool `[b, 1, t, n]`, or `[1, 1, t, n]` without a mask; made once for all layers.
pub(super) fn kept(
    rw: &mut Rewriter,
    node: &Node,
    places: &Places,
    mask: Option<ValueId>,
    masks: &mut Masks,
) -> Result<ValueId> {
    let key = (mask, places.clone());
    if let Some(made) = masks.by_place.get(&key) {
        return Ok(*made);
    }
    let name = if places.window.is_some() { "attention_mask.window" } else { "attention_mask.causal" };
    let at = |part: &str| format!("{name}.{part}");
    let seen = seen(rw, name, node, places, mask)?;
    let kept = match mask {
        None => rw.node(&at("spread"), Op::Unsqueeze { axes: vec![0, 1] }, &[seen])?,
        Some(mask) => {
            let keys = match rw.ty(mask).rank() {
                2 => rw.node(&at("keys"), Op::Unsqueeze { axes: vec![1] }, &[mask])?,
                _ => mask,
            };
            let none = rw.weight(&at("none"), Weight::i64s(vec![], &[0])?);
            let pairs = rw.node(&at("pairs"), Op::Where, &[seen, keys, none])?;
            spread_mask(rw, pairs, masks)?
        }
    };
    masks.by_place.insert(key, kept);
    Ok(kept)
}

/// Whether a query attends to a key by their positions, bool `[t, n]`. In 32 bits: tract takes 64-bit integers for sizes.
fn seen(rw: &mut Rewriter, name: &str, node: &Node, places: &Places, mask: Option<ValueId>) -> Result<ValueId> {
    let at = |part: &str| format!("{name}.{part}");
    let constant = |rw: &mut Rewriter, part: &str, n: i64| -> Result<ValueId> {
        let n = i32::try_from(n).map_err(|_| Error::bad_input(format!("a window of {n} is beyond 32 bits")))?;
        Ok(rw.weight(&at(part), Weight::i32s(vec![], &[n])?))
    };
    let before = distance(rw, name, node, places, mask)?;
    let zero = constant(rw, "zero", 0)?;
    // Each is more than 0 where the query attends to the key.
    let mut margins = Vec::new();
    if places.causal {
        let one = constant(rw, "one", 1)?;
        margins.push(rw.node(&at("reach"), Op::Add, &[before, one])?);
    }
    if let Some(window) = places.window {
        // No position is further from another than there are positions.
        let window = window.min(places.positions);
        let window = constant(rw, "width", window)?;
        margins.push(rw.node(&at("back"), Op::Sub, &[window, before])?);
        if !places.causal {
            margins.push(rw.node(&at("ahead"), Op::Add, &[window, before])?);
        }
    }
    let mut seen = None;
    for margin in margins {
        let mut margin = rw.node(&at("margin"), Op::Max, &[margin, zero])?;
        if let Some(seen) = seen {
            margin = rw.node(&at("both"), Op::Where, &[seen, margin, zero])?;
        }
        seen = Some(rw.node(&at("seen"), Op::Cast { to: DType::Bool }, &[margin])?);
    }
    seen.ok_or_else(|| Error::bug("positions give no mask"))
}

/// How many positions a key is before a query, `i32 [t, n]`.
fn distance(rw: &mut Rewriter, name: &str, node: &Node, places: &Places, mask: Option<ValueId>) -> Result<ValueId> {
    let at = |part: &str| format!("{name}.{part}");
    let positions = i32::try_from(places.positions).map_err(|_| Error::bad_input("positions are beyond 32 bits"))?;
    let count: Vec<i32> = (0..positions).collect();
    let count = rw.weight(&at("count"), Weight::i32s(vec![count.len()], &count)?);
    let start = rw.weight(&at("start"), Weight::i64s(vec![1], &[0])?);
    let length = key_count(rw, name, node, mask)?;
    let first = |rw: &mut Rewriter, part: &str, of: &Dim, end: ValueId| {
        rw.node(&at(part), Op::Slice { axis: 0, length: of.clone() }, &[count, start, end])
    };
    let keys = first(rw, "key.places", &places.keys, length)?;
    let mut queries = keys;
    if places.queries != places.keys {
        let q = rw.required(node, 0)?;
        let own = rw.node(&at("queries"), Op::Shape { start: 1, end: 2 }, &[q])?;
        let from_zero = first(rw, "query.counted", &places.queries, own)?;
        let before = rw.node(&at("before"), Op::Sub, &[length, own])?;
        let before = rw.node(&at("before.i32"), Op::Cast { to: DType::I32 }, &[before])?;
        queries = rw.node(&at("query.places"), Op::Add, &[from_zero, before])?;
    }
    let queries = rw.node(&at("query.column"), Op::Unsqueeze { axes: vec![1] }, &[queries])?;
    let keys = rw.node(&at("key.row"), Op::Unsqueeze { axes: vec![0] }, &[keys])?;
    rw.node(&at("distance"), Op::Sub, &[queries, keys])
}

/// The number of keys, those of the past included, `i64 [1]`.
fn key_count(rw: &mut Rewriter, name: &str, node: &Node, mask: Option<ValueId>) -> Result<ValueId> {
    let at = |part: &str| format!("{name}.{part}");
    if let Some(mask) = mask {
        let rank = rw.ty(mask).rank() as i64;
        return rw.node(&at("length"), Op::Shape { start: rank - 1, end: rank }, &[mask]);
    }
    let (keys, axis) = (rw.required(node, 1)?, new_keys(rw, node)?.1);
    let new = rw.node(&at("length"), Op::Shape { start: axis, end: axis + 1 }, &[keys])?;
    match rw.operand(node, 5)? {
        None => Ok(new),
        Some(past) => {
            let past = rw.node(&at("past"), Op::Shape { start: 2, end: 3 }, &[past])?;
            rw.node(&at("all"), Op::Add, &[past, new])
        }
    }
}
