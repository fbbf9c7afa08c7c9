//! The types of an operation's results, from those of its operands.
//!
//! The only module that knows them: the builder calls it when a node is made, the verifier calls it again.

mod attention;
mod operands;
mod quant;

use super::op::Op;
use super::types::{DType, Dim, TensorType};
use operands::{Inferred, Operands, project};

/// The types of the outputs of `op` on operands of the given types.
pub fn infer(op: &Op, inputs: &[Option<&TensorType>]) -> Inferred {
    let operands = Operands { op, inputs };
    match op {
        Op::Embed => embed(&operands),
        Op::PositionEmbed { .. } => position_embed(&operands),
        Op::RelativeBias { buckets, .. } => attention::relative_bias(&operands, *buckets),
        Op::TokenPositions { .. } => token_positions(&operands),
        Op::Linear => linear(&operands),
        Op::DynamicQuantLinear | Op::DynamicQuantizeMatMul => quant::dynamic_linear(&operands),
        Op::WeightQuantLinear => quant::weight_linear(&operands),
        Op::BlockQuantLinear { bits, size } => quant::block_linear(&operands, *bits, *size, 4),
        Op::MatMulNBits { bits, size, .. } => quant::block_linear(&operands, *bits, *size, 5),
        Op::QuantEmbed => quant::embed(&operands),
        Op::StaticQuantLinear { to, scale, zero_point } => quant::static_linear(&operands, *to, *scale, *zero_point),
        Op::LayerNorm { .. } => layer_norm(&operands),
        Op::RmsNorm { .. } => rms_norm(&operands),
        Op::Attention { heads, kv_heads, .. } => attention::attention(&operands, *heads, kv_heads.unwrap_or(*heads)),
        Op::MultiHeadAttention { heads, .. } => attention::multi_head(&operands, *heads),
        Op::CausalConv => causal_conv(&operands),
        Op::RowsByLength { trained, .. } => rows_by_length(&operands, *trained),
        Op::GrowingAngles { trained } => attention::growing_angles(&operands, *trained),
        Op::Rotary { heads, .. } => attention::rotary(&operands, *heads),
        Op::ThetaRotary { heads, positions, .. } => attention::theta_rotary(&operands, *heads, *positions),
        Op::LocalBias { window, positions } => attention::local_bias(&operands, *window, *positions),
        Op::DistanceRows { positions, .. } => attention::distance_rows(&operands, *positions),
        Op::Sinusoids { width, positions, .. } => attention::sinusoids(&operands, *width, *positions),
        Op::DistanceScores { heads, .. } => attention::distance_scores(&operands, *heads),
        Op::SegmentScores { heads, .. } => attention::segment_scores(&operands, *heads),
        Op::SelfMask { positions } => attention::self_mask(&operands, *positions),
        Op::ZeroPadding => zero_padding(&operands),
        Op::TokenConv { groups } => conv(&operands, *groups, 2, None),
        Op::Conv { groups, pads } => conv(&operands, *groups, 1, pads.as_deref()),
        Op::Concat { axis } => concat(&operands, *axis),
        Op::MeanPool | Op::MeanSqrtLenPool | Op::WeightedMeanPool | Op::MaxPool | Op::LastToken => pool(&operands),
        Op::ReduceSum { axes, keep } | Op::ReduceMean { axes, keep } | Op::ReduceMax { axes, keep } => {
            reduce(&operands, axes, *keep)
        }
        Op::Select { axis, .. } => select(&operands, *axis),
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Max => elementwise(&operands, 2),
        Op::Sum => elementwise(&operands, inputs.len()),
        Op::Gelu { .. }
        | Op::FusedGelu
        | Op::Tanh
        | Op::Sin
        | Op::Cos
        | Op::Sigmoid
        | Op::LeakyRelu { .. }
        | Op::Erf
        | Op::Sqrt
        | Op::Normalize => unary_float(&operands),
        Op::CumSum { axis } => cum_sum(&operands, *axis),
        Op::Relu => operands.only().map(|x| vec![x.clone()]),
        Op::Softmax { axis } => softmax(&operands, *axis),
        Op::MatMul => mat_mul(&operands),
        Op::Where => choose(&operands),
        Op::Cast { to } => operands.only().map(|x| vec![x.with_dtype(*to)]),
        Op::Gather { axis } => gather(&operands, *axis),
        Op::Reshape { shape } => reshape(&operands, shape),
        Op::ReshapeTo { shape } => reshape_to(&operands, shape),
        Op::ExpandTo { shape } => expand_to(&operands, shape),
        Op::BiasedAttention { heads, kv_heads, .. } => attention::biased(&operands, *heads, kv_heads.unwrap_or(*heads)),
        Op::Transpose { perm } => transpose(&operands, perm),
        Op::Unsqueeze { axes } => unsqueeze(&operands, axes),
        Op::Split { axis, sizes } => split(&operands, *axis, sizes),
        Op::Join { length } => join(&operands, length),
        Op::SplitTo { axis, lengths } => split_to(&operands, *axis, lengths),
        Op::NonZero { length } => match operands.only()?.rank() {
            1 => Ok(vec![TensorType::new(DType::I64, [Dim::Fixed(1), length.clone()])]),
            _ => operands.fail("needs a vector"),
        },
        Op::Scatter { axis } => scatter(&operands, *axis),
        Op::TopK { length, .. } => top_k(&operands, length),
        Op::Dispatch { experts } => dispatch(&operands, *experts),
        Op::Shape { start, end } => shape_of(&operands, *start, *end),
        Op::Slice { axis, length } => slice(&operands, *axis, length),
        Op::DynamicQuantizeLinear => quant::dynamic_quantize(&operands),
        Op::MatMulInteger => quant::mat_mul_integer(&operands),
        Op::QuantizeLinear => quant::quantize(&operands),
        Op::DequantizeLinear { axis } => quant::dequantize(&operands, *axis),
        Op::MatMulIntegerToFloat => quant::mat_mul_integer_to_float(&operands),
    }
}

fn embed(o: &Operands) -> Inferred {
    o.count(2, 2)?;
    let (table, ids) = (o.get(0, "table")?, o.get(1, "ids")?);
    let [_, width] = table.shape.as_slice() else {
        return o.fail(format!("`table` must be a matrix, found {table}"));
    };
    if ids.dtype != DType::I64 {
        return o.fail(format!("`ids` must be i64, found {ids}"));
    }
    let shape = ids.shape.iter().chain([width]).cloned();
    Ok(vec![TensorType::new(table.dtype, shape)])
}

fn position_embed(o: &Operands) -> Inferred {
    o.count(2, 2)?;
    let (table, ids) = (o.get(0, "table")?, o.get(1, "ids")?);
    match (table.shape.as_slice(), ids.shape.as_slice()) {
        ([_, width], [_, length]) => Ok(vec![TensorType::new(table.dtype, [length.clone(), width.clone()])]),
        _ => o.fail(format!("`table` and `ids` must be matrices, found {table} and {ids}")),
    }
}

fn token_positions(o: &Operands) -> Inferred {
    let ids = o.only()?;
    match (ids.dtype, ids.rank()) {
        (DType::I64, 2) => Ok(vec![ids.clone()]),
        _ => o.fail(format!("`ids` must be i64 of rank 2, found {ids}")),
    }
}

fn rows_by_length(o: &Operands, trained: i64) -> Inferred {
    match trained > 0 {
        true => token_positions(o),
        false => o.fail(format!("texts of {trained} tokens are none")),
    }
}

fn cum_sum(o: &Operands, axis: i64) -> Inferred {
    let x = o.only()?;
    o.axis(axis, x.rank())?;
    Ok(vec![x.clone()])
}

fn linear(o: &Operands) -> Inferred {
    o.count(2, 3)?;
    let (x, w) = (o.get(0, "x")?, o.get(1, "w")?);
    let out = project(o, x, w)?;
    if x.dtype != w.dtype || !x.dtype.is_float() {
        return o.fail(format!("`x` and `w` must be floats of one type, found {x} and {w}"));
    }
    o.expect_optional(2, "bias", &TensorType::new(x.dtype, out.shape.last().cloned()))?;
    Ok(vec![out])
}

fn layer_norm(o: &Operands) -> Inferred {
    o.count(2, 3)?;
    let x = o.get(0, "x")?;
    if !x.dtype.is_float() || x.rank() == 0 {
        return o.fail(format!("`x` must be floats of rank 1 or more, found {x}"));
    }
    let per_channel = TensorType::new(x.dtype, x.shape.last().cloned());
    o.expect(1, "scale", &per_channel)?;
    o.expect_optional(2, "bias", &per_channel)?;
    Ok(vec![x.clone()])
}

fn rms_norm(o: &Operands) -> Inferred {
    o.count(2, 2)?;
    layer_norm(o)
}

fn concat(o: &Operands, axis: i64) -> Inferred {
    o.count(1, usize::MAX)?;
    let mut out = o.get(0, "x")?.clone();
    let axis = o.axis(axis, out.rank())?;
    let mut total = Dim::Fixed(0);
    for i in 0..o.inputs.len() {
        let part = o.get(i, "x")?;
        let fits = part.dtype == out.dtype
            && part.rank() == out.rank()
            && part.shape.iter().zip(&out.shape).enumerate().all(|(place, (a, b))| place == axis || a == b);
        match part.shape.get(axis) {
            Some(size) if fits => total = total.plus(size)?,
            _ => return o.fail(format!("{part} cannot follow {out}")),
        }
    }
    if let Some(dim) = out.shape.get_mut(axis) {
        *dim = total;
    }
    Ok(vec![out])
}

fn pool(o: &Operands) -> Inferred {
    o.count(2, 2)?;
    let x = o.get(0, "x")?;
    let [batch, length, width] = x.shape.as_slice() else {
        return o.fail(format!("`x` must have rank 3, found {x}"));
    };
    o.expect(1, "mask", &TensorType::new(DType::I64, [batch.clone(), length.clone()]))?;
    Ok(vec![TensorType::new(x.dtype, [batch.clone(), width.clone()])])
}

fn reduce(o: &Operands, axes: &[i64], keep: bool) -> Inferred {
    let mut out = o.only()?.clone();
    let mut places = axes.iter().map(|axis| o.axis(*axis, out.rank())).collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable();
    places.dedup();
    for place in places.into_iter().rev() {
        if keep {
            out.shape.splice(place..=place, [Dim::Fixed(1)]);
        } else {
            out.shape.remove(place);
        }
    }
    Ok(vec![out])
}

fn select(o: &Operands, axis: i64) -> Inferred {
    let x = o.only()?;
    let mut out = x.clone();
    out.shape.remove(o.axis(axis, x.rank())?);
    Ok(vec![out])
}

fn elementwise(o: &Operands, count: usize) -> Inferred {
    o.count(count.max(1), count.max(1))?;
    let mut out = o.get(0, "a")?.clone();
    for i in 1..count {
        let next = o.get(i, "b")?;
        if next.dtype != out.dtype {
            return o.fail(format!("operands must have one element type, found {out} and {next}"));
        }
        out.shape = broadcast(o, &out.shape, &next.shape)?;
    }
    Ok(vec![out])
}

fn unary_float(o: &Operands) -> Inferred {
    let x = o.only()?;
    if !x.dtype.is_float() {
        return o.fail(format!("needs floats, found {x}"));
    }
    Ok(vec![x.clone()])
}

fn softmax(o: &Operands, axis: i64) -> Inferred {
    let out = unary_float(o)?;
    o.axis(axis, o.only()?.rank())?;
    Ok(out)
}

fn mat_mul(o: &Operands) -> Inferred {
    o.count(2, 2)?;
    let (a, b) = (o.get(0, "a")?, o.get(1, "b")?);
    match (a.shape.as_slice(), b.shape.as_slice()) {
        ([a_batch @ .., m, k], [b_batch @ .., bk, n]) if k == bk && a.dtype == b.dtype => {
            let mut shape = broadcast(o, a_batch, b_batch)?;
            shape.extend([m.clone(), n.clone()]);
            Ok(vec![TensorType { dtype: a.dtype, shape }])
        }
        _ => o.fail(format!("{a} cannot be multiplied by {b}")),
    }
}

fn choose(o: &Operands) -> Inferred {
    o.count(3, 3)?;
    let (condition, a, b) = (o.get(0, "condition")?, o.get(1, "a")?, o.get(2, "b")?);
    if condition.dtype != DType::Bool || a.dtype != b.dtype {
        return o.fail(format!("cannot choose by {condition} between {a} and {b}"));
    }
    let shape = broadcast(o, &a.shape, &b.shape)?;
    Ok(vec![TensorType { dtype: a.dtype, shape: broadcast(o, &condition.shape, &shape)? }])
}

fn gather(o: &Operands, axis: i64) -> Inferred {
    o.count(2, 2)?;
    let (data, indices) = (o.get(0, "data")?, o.get(1, "indices")?);
    let axis = o.axis(axis, data.rank())?;
    let shape = data.shape.iter().take(axis).chain(&indices.shape).chain(data.shape.iter().skip(axis + 1));
    Ok(vec![TensorType::new(data.dtype, shape.cloned())])
}

fn reshape(o: &Operands, sizes: &[i64]) -> Inferred {
    let x = o.only()?;
    let mut shape = Vec::with_capacity(sizes.len());
    for (i, size) in sizes.iter().enumerate() {
        shape.push(match (usize::try_from(*size), x.shape.get(i)) {
            (Ok(0), Some(kept)) => kept.clone(),
            (Ok(size), _) if size > 0 => Dim::Fixed(size),
            (Err(_), _) if *size == -1 => Dim::Fixed(1),
            _ => return o.fail(format!("{sizes:?} is not a shape for {x}")),
        });
    }
    let other = || format!("{}: {x} has other elements than the shape {sizes:?}", o.op.name());
    let (all, known) = (Dim::product(&x.shape)?, Dim::product(&shape)?);
    let mut rest = sizes.iter().zip(&mut shape).filter(|(size, _)| **size == -1).map(|(_, dim)| dim);
    match (rest.next(), rest.next()) {
        (None, _) if all == known => {}
        (Some(dim), None) => *dim = all.quotient(&known).ok_or_else(other)?,
        _ => return Err(other()),
    }
    Ok(vec![TensorType { dtype: x.dtype, shape }])
}

fn reshape_to(o: &Operands, shape: &[Dim]) -> Inferred {
    o.count(2, 2)?;
    let x = o.get(0, "x")?;
    o.expect(1, "sizes", &TensorType::new(DType::I64, [shape.len()]))?;
    let out = TensorType::new(x.dtype, shape.iter().cloned());
    match Dim::product(&x.shape)? == Dim::product(shape)? {
        true => Ok(vec![out]),
        false => o.fail(format!("{x} has other elements than {out}")),
    }
}

fn expand_to(o: &Operands, shape: &[Dim]) -> Inferred {
    o.count(2, 2)?;
    let x = o.get(0, "x")?;
    o.expect(1, "sizes", &TensorType::new(DType::I64, [shape.len()]))?;
    let fits = |(from, to): (&Dim, &Dim)| from == to || *from == Dim::Fixed(1);
    match x.rank() == shape.len() && x.shape.iter().zip(shape).all(fits) {
        true => Ok(vec![TensorType::new(x.dtype, shape.iter().cloned())]),
        false => o.fail(format!("{x} does not stretch to {}", TensorType::new(x.dtype, shape.iter().cloned()))),
    }
}

fn zero_padding(o: &Operands) -> Inferred {
    o.count(2, 2)?;
    let x = o.get(0, "x")?;
    match x.shape.as_slice() {
        [batch, length, _] => {
            o.expect(1, "mask", &TensorType::new(DType::I64, [batch.clone(), length.clone()]))?;
            Ok(vec![x.clone()])
        }
        _ => o.fail(format!("`x` must have rank 3, found {x}")),
    }
}

/// A convolution along the tokens of `x`, whose channels are dimension `axis`; with so many zeros before and after, or
/// as many outputs as tokens.
fn conv(o: &Operands, groups: i64, axis: usize, pads: Option<&[i64]>) -> Inferred {
    o.count(2, 3)?;
    let (x, w) = (o.get(0, "x")?, o.get(1, "w")?);
    let channels = x.shape.get(axis).and_then(Dim::fixed).unwrap_or_default();
    let (groups, mut out) = (groups.max(0) as usize, x.clone());
    match (w.fixed_shape().as_deref(), out.shape.get_mut(axis)) {
        (Some(&[n, per_group, width]), Some(dim))
            if x.rank() == 3
                && x.dtype == w.dtype
                && (width % 2 == 1 || pads.is_some())
                && groups > 0
                && n % groups == 0
                && per_group.checked_mul(groups) == Some(channels) =>
        {
            *dim = Dim::Fixed(n);
            o.expect_optional(2, "bias", &TensorType::new(x.dtype, [n]))?;
            if let (Some(pads), Some(length)) = (pads, out.shape.get_mut(3 - axis)) {
                *length = padded(length, pads, width).map_err(|e| format!("{}: {pads:?}: {e}", o.op.name()))?;
            }
            Ok(vec![out])
        }
        _ => o.fail(format!("{x} and {w} in {groups} groups do not fit, or the kernel is not odd")),
    }
}

/// How many outputs a kernel has over so many elements with zeros before and after.
fn padded(length: &Dim, pads: &[i64], width: usize) -> Result<Dim, String> {
    let counts: Option<Vec<usize>> = pads.iter().map(|n| usize::try_from(*n).ok()).collect();
    let Some(&[before, after]) = counts.as_deref() else { return Err("zeros are before and after".to_owned()) };
    Ok(length.plus(before)?.plus(after)?.plus(1)?.minus(width)?)
}

/// Each token with those before it.
fn causal_conv(o: &Operands) -> Inferred {
    o.count(2, 4)?;
    let (x, w) = (o.get(0, "x")?, o.get(1, "w")?);
    match (x.shape.as_slice(), w.fixed_shape().as_deref()) {
        ([batch, _, Dim::Fixed(channels)], Some(&[n, 1, width]))
            if n == *channels && width > 1 && x.dtype == w.dtype && x.dtype.is_float() =>
        {
            let state = TensorType::new(x.dtype, [batch.clone(), n.into(), (width - 1).into()]);
            o.expect_optional(2, "past", &state)?;
            o.expect_optional(3, "bias", &TensorType::new(x.dtype, [n]))?;
            Ok(std::iter::once(x.clone()).chain(o.optional(2).map(|_| state)).collect())
        }
        _ => o.fail(format!("{x} and {w} do not fit, or the kernel is of one token")),
    }
}

fn transpose(o: &Operands, perm: &[i64]) -> Inferred {
    let x = o.only()?;
    let mut sorted: Vec<i64> = perm.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..x.rank() as i64) {
        return o.fail(format!("{perm:?} does not order the dimensions of {x}"));
    }
    let shape = perm.iter().filter_map(|axis| x.shape.get(*axis as usize)).cloned();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn unsqueeze(o: &Operands, axes: &[i64]) -> Inferred {
    let x = o.only()?;
    let rank = x.rank() + axes.len();
    let mut new = vec![false; rank];
    for axis in axes {
        let i = o.axis(*axis, rank)?;
        if let Some(slot) = new.get_mut(i) {
            *slot = true;
        }
    }
    if new.iter().filter(|new| **new).count() != axes.len() {
        return o.fail(format!("axes {axes:?} repeat"));
    }
    let mut old = x.shape.iter();
    let shape = new.iter().filter_map(|new| if *new { Some(Dim::Fixed(1)) } else { old.next().cloned() });
    Ok(vec![TensorType { dtype: x.dtype, shape: shape.collect() }])
}

fn split(o: &Operands, axis: i64, sizes: &[i64]) -> Inferred {
    let x = o.only()?;
    let axis = o.axis(axis, x.rank())?;
    let pieces: Option<Vec<usize>> = sizes.iter().map(|size| usize::try_from(*size).ok()).collect();
    let sum = |pieces: &[usize]| pieces.iter().try_fold(0usize, |sum, piece| sum.checked_add(*piece));
    match (pieces, x.shape.get(axis).and_then(Dim::fixed)) {
        (Some(pieces), Some(total)) if sum(&pieces) == Some(total) => Ok(pieces
            .into_iter()
            .map(|piece| {
                let mut out = x.clone();
                if let Some(dim) = out.shape.get_mut(axis) {
                    *dim = Dim::Fixed(piece);
                }
                out
            })
            .collect()),
        _ => o.fail(format!("pieces of {sizes:?} do not make up dimension {axis} of {x}")),
    }
}

fn split_to(o: &Operands, axis: i64, lengths: &[Dim]) -> Inferred {
    o.count(2, 2)?;
    let x = o.get(0, "x")?;
    o.expect(1, "sizes", &TensorType::new(DType::I64, [lengths.len()]))?;
    let axis = o.axis(axis, x.rank())?;
    let piece = |length: &Dim| {
        let mut out = x.clone();
        if let Some(dim) = out.shape.get_mut(axis) {
            *dim = length.clone();
        }
        out
    };
    Ok(lengths.iter().map(piece).collect())
}

fn join(o: &Operands, length: &Dim) -> Inferred {
    o.count(1, usize::MAX)?;
    let mut out = o.get(0, "x")?.clone();
    for i in 1..o.inputs.len() {
        let part = o.get(i, "x")?;
        if part.dtype != out.dtype || part.shape.get(1..) != out.shape.get(1..) {
            return o.fail(format!("{part} cannot follow {out}"));
        }
    }
    match out.shape.first_mut() {
        Some(rows) => *rows = length.clone(),
        None => return o.fail("numbers do not follow each other"),
    }
    Ok(vec![out])
}

fn top_k(o: &Operands, length: &Dim) -> Inferred {
    o.count(2, 2)?;
    let mut values = o.get(0, "x")?.clone();
    o.expect(1, "count", &TensorType::new(DType::I64, [1]))?;
    match values.shape.last_mut() {
        Some(last) => *last = length.clone(),
        None => return o.fail("a number has no largest ones"),
    }
    let indices = values.with_dtype(DType::I64);
    Ok(vec![values, indices])
}

fn scatter(o: &Operands, axis: i64) -> Inferred {
    o.count(3, 3)?;
    let data = o.get(0, "data")?;
    o.axis(axis, data.rank())?;
    o.expect(1, "indices", &data.with_dtype(DType::I64))?;
    o.expect(2, "updates", data)?;
    Ok(vec![data.clone()])
}

fn dispatch(o: &Operands, experts: i64) -> Inferred {
    o.count(2, 2)?;
    let (x, chosen) = (o.get(0, "x")?, o.get(1, "chosen")?);
    match (x.shape.as_slice(), chosen.shape.as_slice()) {
        ([batch, length, width], [of, tokens, Dim::Fixed(_)])
            if (of, tokens) == (batch, length) && chosen.dtype == DType::I64 && experts > 0 =>
        {
            let rows = TensorType::new(x.dtype, [Dim::product(&chosen.shape)?, width.clone()]);
            Ok(vec![rows, TensorType::new(DType::I64, [experts as usize]), chosen.clone()])
        }
        _ => o.fail(format!("{chosen} chooses no experts for {x}")),
    }
}

fn shape_of(o: &Operands, start: i64, end: i64) -> Inferred {
    let x = o.only()?;
    if start < 0 || start > end || end > x.rank() as i64 {
        return o.fail(format!("{start}…{end} is outside the dimensions of {x}"));
    }
    Ok(vec![TensorType::new(DType::I64, [(end - start) as usize])])
}

fn slice(o: &Operands, axis: i64, length: &Dim) -> Inferred {
    o.count(3, 3)?;
    let mut out = o.get(0, "data")?.clone();
    for (i, name) in [(1, "starts"), (2, "ends")] {
        o.expect(i, name, &TensorType::new(DType::I64, [1]))?;
    }
    let axis = o.axis(axis, out.rank())?;
    if let Some(dim) = out.shape.get_mut(axis) {
        *dim = length.clone();
    }
    Ok(vec![out])
}

/// The rule of NumPy: sizes are aligned at the end, and a size of 1 stretches.
fn broadcast(o: &Operands, a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, String> {
    let rank = a.len().max(b.len());
    let one = Dim::Fixed(1);
    let at =
        |dims: &[Dim], i: usize| (i + dims.len()).checked_sub(rank).and_then(|i| dims.get(i)).unwrap_or(&one).clone();
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (a, b) if a == b => Ok(a),
            (Dim::Fixed(1), dim) | (dim, Dim::Fixed(1)) => Ok(dim),
            (a, b) => o.fail(format!("{a} and {b} do not broadcast")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(texts: &[&str]) -> Vec<TensorType> {
        texts.iter().map(|text| crate::ir::text::parse_type(text).unwrap()).collect()
    }

    fn check(op: Op, operands: &[&str]) -> Result<Vec<String>, String> {
        let operands = types(operands);
        let operands: Vec<_> = operands.iter().map(Some).collect();
        infer(&op, &operands).map(|out| out.iter().map(ToString::to_string).collect())
    }

    fn attention(heads: i64, kv_heads: Option<i64>, positions: Option<i64>) -> Op {
        Op::Attention { heads, scale: 1.0, kv_heads, causal: true, window: None, positions, soft_cap: None }
    }

    #[test]
    fn shapes_follow_the_operands() {
        let grouped = attention(4, Some(2), Some(9));
        let non_finite = Dim::from("s").times(2).unwrap().minus(1).unwrap();
        let cases: Vec<(Op, &[&str], &[&str])> = vec![
            (Op::Embed, &["f32[10, 4]", "i64[b, s]"], &["f32[b, s, 4]"]),
            (Op::PositionEmbed { offset: 0 }, &["f32[10, 4]", "i64[b, s]"], &["f32[s, 4]"]),
            (Op::Linear, &["f32[b, s, 4]", "f32[4, 6]", "f32[6]"], &["f32[b, s, 6]"]),
            (Op::Add, &["f32[b, s, 4]", "f32[s, 4]"], &["f32[b, s, 4]"]),
            (Op::MatMul, &["f16[b, 2, s, 4]", "f16[b, 2, 4, s]"], &["f16[b, 2, s, s]"]),
            (Op::Reshape { shape: vec![0, 0, 2, 2] }, &["f32[b, s, 4]"], &["f32[b, s, 2, 2]"]),
            (Op::Reshape { shape: vec![-1, 2] }, &["f32[b, s, 4]"], &["f32[2*b*s, 2]"]),
            (Op::Reshape { shape: vec![0, -1] }, &["f32[b, p + s, 4]"], &["f32[b, 4*p + 4*s]"]),
            (Op::Concat { axis: 2 }, &["f32[b, 2, p, 4]", "f32[b, 2, s, 4]"], &["f32[b, 2, p + s, 4]"]),
            (Op::Concat { axis: 0 }, &["f32[s]", "f32[2*s - 1]", "f32[3]"], &["f32[3*s + 2]"]),
            (Op::Unsqueeze { axes: vec![1, 2] }, &["i64[b, s]"], &["i64[b, 1, 1, s]"]),
            (Op::Split { axis: -1, sizes: vec![1, 3] }, &["f32[b, 4]"], &["f32[b, 1]", "f32[b, 3]"]),
            (Op::Select { axis: 1, index: 0 }, &["f32[b, s, 4]"], &["f32[b, 4]"]),
            (Op::LastToken, &["f32[b, s, 4]", "i64[b, s]"], &["f32[b, 4]"]),
            (Op::ReduceMax { axes: vec![1], keep: false }, &["f32[b, s, 4]"], &["f32[b, 4]"]),
            (Op::DynamicQuantizeLinear, &["f32[b, 4]"], &["u8[b, 4]", "f32[]", "u8[]"]),
            (
                Op::ReshapeTo { shape: vec!["b".into(), non_finite, Dim::from(3), "s".into()] },
                &["f32[b, 3, s, 2*s - 1]", "i64[4]"],
                &["f32[b, 2*s - 1, 3, s]"],
            ),
            (Op::Sinusoids { width: 4, clamp: 0, positions: 9 }, &["i64[b, s]"], &["f32[2*s, 4]"]),
            (
                Op::DistanceScores { heads: 2, scale: 1.0, keys: true },
                &["f32[b, s, 4]", "f32[2*s, 4]"],
                &["f32[b, 2, s, s]"],
            ),
            (
                Op::SegmentScores { heads: 2, scale: 1.0 },
                &["f32[b, s, 4]", "f32[2, 4]", "i64[b, s]"],
                &["f32[b, 2, s, s]"],
            ),
            (Op::SelfMask { positions: 9 }, &["i64[b, s]"], &["i64[b, s, s]"]),
            (Op::RmsNorm { epsilon: 1e-6 }, &["f32[b, s, 4]", "f32[4]"], &["f32[b, s, 4]"]),
            (
                Op::Rotary { heads: 2, interleaved: false },
                &["f32[b, s, 12]", "f32[9, 2]", "f32[9, 2]", "i64[b, s]"],
                &["f32[b, s, 12]"],
            ),
            (
                grouped.clone(),
                &[
                    "f32[b, s, 8]",
                    "f32[b, s, 4]",
                    "f32[b, s, 4]",
                    "i64[b, p + s]",
                    "f32[1, 4, s, p + s]",
                    "f32[b, 2, p, 2]",
                    "f32[b, 2, p, 2]",
                ],
                &["f32[b, s, 8]", "f32[b, 2, p + s, 2]", "f32[b, 2, p + s, 2]"],
            ),
            (grouped, &["f32[b, t, 8]", "f32[b, 2, s, 2]", "f32[b, 2, s, 2]", "i64[b, t, s]"], &["f32[b, t, 8]"]),
            (Op::TokenConv { groups: 2 }, &["f32[b, s, 4]", "f32[6, 2, 3]", "f32[6]"], &["f32[b, s, 6]"]),
            (Op::Conv { groups: 2, pads: None }, &["f32[b, 4, s]", "f32[6, 2, 3]"], &["f32[b, 6, s]"]),
            (Op::Conv { groups: 4, pads: Some(vec![0, 0]) }, &["f32[b, 4, s + 3]", "f32[4, 1, 4]"], &["f32[b, 4, s]"]),
            (Op::CausalConv, &["f32[b, s, 4]", "f32[4, 1, 3]"], &["f32[b, s, 4]"]),
            (
                Op::CausalConv,
                &["f32[b, s, 4]", "f32[4, 1, 3]", "f32[b, 4, 2]", "f32[4]"],
                &["f32[b, s, 4]", "f32[b, 4, 2]"],
            ),
            (Op::NonZero { length: Dim::from("m") }, &["i32[n]"], &["i64[1, m]"]),
            (Op::Scatter { axis: 0 }, &["i32[n]", "i64[n]", "i32[n]"], &["i32[n]"]),
            (
                Op::TopK { length: Dim::Fixed(2), largest: true },
                &["f32[b, s, 4]", "i64[1]"],
                &["f32[b, s, 2]", "i64[b, s, 2]"],
            ),
            (
                Op::SplitTo { axis: 0, lengths: vec![Dim::from("m"), Dim::from("l")] },
                &["f32[n, 4]", "i64[2]"],
                &["f32[m, 4]", "f32[l, 4]"],
            ),
            (Op::Join { length: Dim::from("n") }, &["f32[m, 4]", "f32[l, 4]"], &["f32[n, 4]"]),
            (
                Op::Dispatch { experts: 4 },
                &["f32[b, s, 8]", "i64[b, s, 2]"],
                &["f32[2*b*s, 8]", "i64[4]", "i64[b, s, 2]"],
            ),
            (Op::RowsByLength { trained: 8, restarts: true }, &["i64[b, s]"], &["i64[b, s]"]),
            (Op::GrowingAngles { trained: 8 }, &["f32[9, 2]", "i64[b, s]"], &["f32[b, s, 2]", "f32[b, s, 2]"]),
            (
                Op::Rotary { heads: 2, interleaved: false },
                &["f32[b, s, 8]", "f32[b, s, 2]", "f32[b, s, 2]"],
                &["f32[b, s, 8]"],
            ),
        ];
        for (op, operands, expected) in cases {
            assert_eq!(check(op.clone(), operands).unwrap(), expected, "{}", op.name());
        }
    }

    #[test]
    fn misfits_are_named() {
        let cases: Vec<(Op, &[&str], &str)> = vec![
            (Op::Linear, &["f32[b, 4]", "f32[5, 6]"], "Linear: f32[b, 4] cannot be multiplied by f32[5, 6]"),
            (Op::Linear, &["f32[b, 4]", "f32[4, 6]", "f32[4]"], "Linear: `bias` must be f32[6], found f32[4]"),
            (Op::Linear, &["f32[b, 4]"], "Linear takes 2 to 3 operands, found 1"),
            (Op::Add, &["f32[b]", "f32[s]"], "Add: b and s do not broadcast"),
            (Op::Tanh, &["i64[b]"], "Tanh: needs floats, found i64[b]"),
            (Op::Softmax { axis: 2 }, &["f32[b, s]"], "Softmax: axis 2 is outside rank 2"),
            (
                Op::attention(3, 1.0),
                &["f32[b, s, 4]", "f32[b, s, 4]", "f32[b, s, 4]"],
                "Attention: 3 heads do not divide f32[b, s, 4]",
            ),
            (
                Op::attention(2, 1.0),
                &["f32[b, s, 4]", "f32[b, s, 4]", "f32[b, s, 4]", "i64[b, s, s]", "f32[b, 3, s, s]"],
                "Attention: `bias` must be f32[b, 2, s, s], or 1 in its first two dimensions; found f32[b, 3, s, s]",
            ),
            (
                Op::attention(2, 1.0),
                &["f32[b, s, 4]", "f32[b, s, 4]", "f32[b, s, 4]", "i64[s, s]"],
                "Attention: `mask` must be i64[b, s], found i64[s, s]",
            ),
            (
                attention(4, Some(3), Some(9)),
                &["f32[b, s, 8]", "f32[b, s, 4]", "f32[b, s, 4]"],
                "Attention: 4 heads cannot share 3 of keys and values",
            ),
            (
                attention(4, Some(2), None),
                &["f32[b, s, 8]", "f32[b, s, 4]", "f32[b, s, 4]"],
                "Attention: where positions matter, the most `positions` must be given",
            ),
            (
                attention(4, None, Some(9)),
                &["f32[b, s, 8]", "f32[b, s, 4]", "f32[b, s, 4]"],
                "Attention: `k` must have rank 3 or 4, the batch of f32[b, s, 8] and 4 heads of 2, found f32[b, s, 4]",
            ),
            (
                attention(4, None, Some(9)),
                &["f32[b, s, 8]", "f32[b, s, 8]", "f32[b, s, 8]", "i64[b, p + s]"],
                "Attention: `mask` must be i64[b, s], found i64[b, p + s]",
            ),
            (
                Op::Rotary { heads: 2, interleaved: true },
                &["f32[b, s, 12]", "f32[9, 4]", "f32[9, 4]"],
                "Rotary: f32[9, 4] does not turn 2 heads of f32[b, s, 12]",
            ),
            (Op::RmsNorm { epsilon: 1e-6 }, &["f32[b, s, 4]", "f32[4]", "f32[4]"], "RmsNorm takes 2 operands, found 3"),
            (
                Op::DistanceScores { heads: 2, scale: 1.0, keys: false },
                &["f32[b, s, 4]", "f32[s, 4]"],
                "DistanceScores: `rows` must be f32[2*s, 4], found f32[s, 4]",
            ),
            (
                Op::TokenConv { groups: 1 },
                &["f32[b, s, 4]", "f32[4, 4, 2]"],
                "TokenConv: f32[b, s, 4] and f32[4, 4, 2] in 1 groups do not fit, or the kernel is not odd",
            ),
            (
                Op::ReshapeTo { shape: vec!["s".into(), "s".into()] },
                &["f32[b, s]", "i64[2]"],
                "ReshapeTo: f32[b, s] has other elements than f32[s, s]",
            ),
            (
                Op::ExpandTo { shape: vec!["b".into(), "s".into()] },
                &["f32[b, t]", "i64[2]"],
                "ExpandTo: f32[b, t] does not stretch to f32[b, s]",
            ),
            (
                Op::Reshape { shape: vec![0, 3] },
                &["f32[b, 4]"],
                "Reshape: f32[b, 4] has other elements than the shape [0, 3]",
            ),
            (
                Op::Reshape { shape: vec![-1, 3] },
                &["f32[b, 4]"],
                "Reshape: f32[b, 4] has other elements than the shape [-1, 3]",
            ),
            (
                Op::Concat { axis: 1 },
                &["f32[b, 9223372036854775807]", "f32[b, s]", "f32[b, 1]"],
                "a size is beyond 64 bits",
            ),
        ];
        for (op, operands, expected) in cases {
            assert_eq!(check(op, operands).unwrap_err(), expected);
        }
    }
}
