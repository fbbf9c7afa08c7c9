//! Mixtures of experts: rows in the order of experts, and each expert's own.

use crate::error::{Error, Result};
use crate::ir::{DType, Dim, Node, Op, Rewriter, ValueId, Weight};
use crate::target::SplitForm;

/// `Dispatch(x, e) = x[order / k], counts, places`, where a choice's place is how many choices are of experts before
/// its own, and how many of its own come before
///
/// Sums are in 32 bits: tract takes 64-bit integers for sizes.
pub(super) fn dispatch(rw: &mut Rewriter, node: &Node, experts: i64) -> Result<Vec<ValueId>> {
    let (name, x, chosen) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let at = |part: &str| format!("{name}.{part}");
    let (shape, width) = (rw.ty(chosen).shape, rw.ty(x).shape.last().and_then(Dim::fixed));
    let (Some(each), Some(width)) = (shape.last().and_then(Dim::fixed), width) else {
        return Err(Error::bug(format!("`{name}` chooses a number of experts")));
    };
    let flat = rw.node(&at("chosen"), Op::Reshape { shape: vec![-1] }, &[chosen])?;
    let own = own_columns(rw, &at("experts"), experts)?;
    let own = rw.node(&at("own"), Op::Gather { axis: 0 }, &[own, flat])?;
    let counts = rw.node(&at("counts.i32"), Op::ReduceSum { axes: vec![0], keep: false }, &[own])?;
    let ends = rw.node(&at("ends"), Op::CumSum { axis: 0 }, &[counts])?;
    let starts = rw.node(&at("starts"), Op::Sub, &[ends, counts])?;
    let upto = rw.node(&at("upto"), Op::CumSum { axis: 0 }, &[own])?;
    let before = rw.node(&at("before"), Op::Sub, &[upto, own])?;
    let place = rw.node(&at("place.all"), Op::Add, &[before, starts])?;
    let place = rw.node(&at("place.own"), Op::Mul, &[place, own])?;
    let place = rw.node(&at("place"), Op::ReduceSum { axes: vec![1], keep: false }, &[place])?;

    let wide = rw.node(&at("place.i64"), Op::Cast { to: DType::I64 }, &[place])?;
    let order = inverse(rw, &at("order"), place, wide)?;
    let each = i32::try_from(each).map_err(|_| Error::bug("experts are counted"))?;
    let each = rw.weight(&at("each"), Weight::i32s(vec![], &[each])?);
    let token = rw.node(&at("token.i32"), Op::Div, &[order, each])?;
    let token = rw.node(&at("token"), Op::Cast { to: DType::I64 }, &[token])?;
    let tokens = rw.node(&at("tokens"), Op::Reshape { shape: vec![-1, width as i64] }, &[x])?;
    let rows = rw.node(&at("rows"), Op::Gather { axis: 0 }, &[tokens, token])?;

    let counts = rw.node(&at("counts"), Op::Cast { to: DType::I64 }, &[counts])?;
    let sizes = rw.node(&at("sizes"), Op::Shape { start: 0, end: 3 }, &[chosen])?;
    Ok(vec![rows, counts, rw.node(&at("places"), Op::ReshapeTo { shape }, &[wide, sizes])?])
}

/// The permutation that undoes one, `i32 [n]`, which is given in 64 bits too.
fn inverse(rw: &mut Rewriter, name: &str, place: ValueId, wide: ValueId) -> Result<ValueId> {
    let at = |part: &str| format!("{name}.{part}");
    let one = rw.weight(&at("one"), Weight::i32s(vec![], &[1])?);
    let zeros = rw.node(&at("zeros"), Op::Sub, &[place, place])?;
    let ones = rw.node(&at("ones"), Op::Add, &[zeros, one])?;
    let count = rw.node(&at("count"), Op::CumSum { axis: 0 }, &[ones])?;
    let index = rw.node(&at("index"), Op::Sub, &[count, one])?;
    rw.node(name, Op::Scatter { axis: 0 }, &[zeros, wide, index])
}

/// `i32 [experts, experts]`: 1 in an expert's own column.
fn own_columns(rw: &mut Rewriter, name: &str, experts: i64) -> Result<ValueId> {
    let n = usize::try_from(experts).map_err(|_| Error::bug("experts are counted"))?;
    let values: Vec<i32> = (0..n * n).map(|i| i32::from(i / n == i % n)).collect();
    Ok(rw.weight(name, Weight::i32s(vec![n, n], &values)?))
}

/// Pieces whose sizes are known when a graph runs. Fails where a target has none.
pub(super) fn computed_split(
    rw: &mut Rewriter,
    node: &Node,
    form: SplitForm,
    (axis, lengths): (i64, &[Dim]),
) -> Result<Vec<ValueId>> {
    match form {
        SplitForm::Operator => {
            let operands = [rw.operand(node, 0)?, rw.operand(node, 1)?];
            rw.nodes(rw.name(node), node.op.clone(), &operands)
        }
        SplitForm::Indices => by_indices(rw, node, axis, lengths),
        SplitForm::None => Err(Error::unsupported(
            "experts are not built for this target: it takes no sizes that follow from values, and all experts would \
             be computed",
        )
        .at(rw.name(node))),
    }
}

/// `SplitTo(x, n)ᵢ = x[j where n₀ + … + nᵢ₋₁ ≤ j < n₀ + … + nᵢ]`
///
/// tract 0.23.9 confuses the sizes of slices whose ends follow from values with those of inputs, and those of indices
/// not.
fn by_indices(rw: &mut Rewriter, node: &Node, axis: i64, lengths: &[Dim]) -> Result<Vec<ValueId>> {
    let (name, x, sizes) = (rw.name(node), rw.required(node, 0)?, rw.required(node, 1)?);
    let at = |part: &str| format!("{name}.{part}");
    let pieces = lengths.len() as i64;
    let numbers = [("one", 1), ("none", 0)].map(|(part, n)| (at(part), Weight::i32s(vec![], &[n])));
    let [one, none] = numbers.map(|(name, weight)| weight.map(|weight| rw.weight(&name, weight)));
    let (one, none) = (one?, none?);
    let sizes = rw.node(&at("sizes"), Op::Cast { to: DType::I32 }, &[sizes])?;
    let ends = rw.node(&at("ends"), Op::CumSum { axis: 0 }, &[sizes])?;
    let starts = rw.node(&at("starts"), Op::Sub, &[ends, sizes])?;

    let column = Op::Split { axis: -1, sizes: widths(rw, x)? };
    let first = rw.nodes(&at("columns"), column, &[Some(x)])?.into_iter().next();
    let first = first.ok_or_else(|| Error::bug("rows have a column"))?;
    let zeros = rw.node(&at("zeros.f"), Op::Sub, &[first, first])?;
    let zeros = rw.node(&at("zeros"), Op::Cast { to: DType::I32 }, &[zeros])?;
    let ones = rw.node(&at("ones"), Op::Add, &[zeros, one])?;
    let counted = rw.node(&at("counted"), Op::CumSum { axis: 0 }, &[ones])?;
    // 1 where a row, counted from 1 on, is beyond a bound.
    let mut beyond = |part: &str, bounds: ValueId| {
        let over = rw.node(&at(&format!("{part}.over")), Op::Sub, &[counted, bounds])?;
        let over = rw.node(&at(&format!("{part}.positive")), Op::Max, &[over, none])?;
        let over = rw.node(&at(&format!("{part}.is")), Op::Cast { to: DType::Bool }, &[over])?;
        rw.node(&at(part), Op::Cast { to: DType::I32 }, &[over])
    };
    let (started, ended) = (beyond("started", starts)?, beyond("ended", ends)?);
    let own = rw.node(&at("own"), Op::Sub, &[started, ended])?;
    let each = Op::Split { axis: 1, sizes: vec![1; usize::try_from(pieces).unwrap_or_default()] };
    let own = rw.nodes(&at("each"), each, &[Some(own)])?;
    own.into_iter()
        .zip(lengths)
        .enumerate()
        .map(|(i, (own, length))| {
            let at = |part: &str| format!("{name}.{i}.{part}");
            let flat = rw.node(&at("flat"), Op::Reshape { shape: vec![-1] }, &[own])?;
            let places = rw.node(&at("places"), Op::NonZero { length: length.clone() }, &[flat])?;
            let places = rw.node(&at("indices"), Op::Reshape { shape: vec![-1] }, &[places])?;
            rw.node(&at("rows"), Op::Gather { axis }, &[x, places])
        })
        .collect()
}

/// One column, and the rest, where there is a rest.
fn widths(rw: &Rewriter, x: ValueId) -> Result<Vec<i64>> {
    match rw.ty(x).shape.last().and_then(Dim::fixed) {
        Some(1) => Ok(vec![1]),
        Some(n) if n > 1 => Ok(vec![1, n as i64 - 1]),
        _ => Err(Error::bug("the width of rows is known")),
    }
}
