//! The types of attention and of its positions, distances and token types.

use super::{DType, Dim, Inferred, Op, Operands, TensorType};

/// The most positions of attention by position: lowered, they are a table of integers.
const MOST_POSITIONS: i64 = 1 << 24;

pub(super) fn relative_bias(o: &Operands, buckets: i64) -> Inferred {
    o.count(2, 2)?;
    let (table, ids) = (o.get(0, "table")?, o.get(1, "ids")?);
    match (table.shape.as_slice(), ids.shape.as_slice()) {
        ([Dim::Fixed(rows), heads], [_, length]) if *rows as i64 >= buckets && buckets > 0 => {
            let shape = [Dim::Fixed(1), heads.clone(), length.clone(), length.clone()];
            Ok(vec![TensorType::new(table.dtype, shape)])
        }
        _ => o.fail(format!("{table} has no {buckets} buckets, or {ids} is no matrix")),
    }
}

/// The sizes of queries and keys.
struct Sizes<'a> {
    dtype: DType,
    batch: &'a Dim,
    queries: &'a Dim,
    /// Past ones included.
    keys: Dim,
}

pub(super) fn attention(o: &Operands, heads: i64, kv_heads: i64) -> Inferred {
    o.count(3, 8)?;
    let Op::Attention { causal, window, positions, soft_cap, .. } = o.op else { return o.fail("is no attention") };
    let (sizes, out) = attention_of(o, [heads, kv_heads], 5)?;
    masked(o, &sizes, 3, DType::I64)?;
    biased_scores(o, &sizes, heads, 4)?;
    o.expect_optional(7, "sinks", &TensorType::new(sizes.dtype, [heads.max(0) as usize]))?;
    if window.is_some_and(|window| window < 1) || soft_cap.is_some_and(|cap| !(cap > 0.0 && cap.is_finite())) {
        return o.fail("a window and a soft cap are more than 0");
    }
    match positions {
        None if *causal || window.is_some() => o.fail("where positions matter, the most `positions` must be given"),
        Some(n) if !(1..=MOST_POSITIONS).contains(n) => o.fail(format!("{n} is no number of positions")),
        _ => Ok(out),
    }
}

pub(super) fn multi_head(o: &Operands, heads: i64) -> Inferred {
    o.count(3, 6)?;
    let (sizes, out) = attention_of(o, [heads, heads], usize::MAX)?;
    masked(o, &sizes, 4, DType::I32)?;
    biased_scores(o, &sizes, heads, 5)?;
    Ok(out)
}

pub(super) fn biased(o: &Operands, heads: i64, kv_heads: i64) -> Inferred {
    o.count(3, 6)?;
    let (sizes, out) = attention_of(o, [heads, kv_heads], 4)?;
    if o.get(1, "k")?.rank() != 3 {
        return o.fail("`k` must have rank 3");
    }
    biased_scores(o, &sizes, heads, 3)?;
    Ok(out)
}

/// A mask by key, or by query and key.
fn masked(o: &Operands, sizes: &Sizes, mask: usize, dtype: DType) -> Result<(), String> {
    let (batch, queries, keys) = (sizes.batch.clone(), sizes.queries.clone(), sizes.keys.clone());
    let by_pair = TensorType::new(dtype, [batch.clone(), queries, keys.clone()]);
    match o.optional(mask) {
        Some(found) if *found == by_pair => Ok(()),
        _ => o.expect_optional(mask, "mask", &TensorType::new(dtype, [batch, keys])),
    }
}

/// The bias of scores.
fn biased_scores(o: &Operands, sizes: &Sizes, heads: i64, bias: usize) -> Result<(), String> {
    let Some(bias) = o.optional(bias) else { return Ok(()) };
    let (batch, queries, keys) = (sizes.batch.clone(), sizes.queries.clone(), sizes.keys.clone());
    let full = TensorType::new(sizes.dtype, [batch, Dim::Fixed(heads as usize), queries, keys]);
    let stretched = bias.shape.iter().zip(&full.shape).take(2).all(|(d, to)| d == to || *d == Dim::Fixed(1));
    match bias.dtype == full.dtype && bias.shape.get(2..) == full.shape.get(2..) && stretched {
        true => Ok(()),
        false => o.fail(format!("`bias` must be {full}, or 1 in its first two dimensions; found {bias}")),
    }
}

/// The outputs of attention over `q`, `k` and `v`, and of a past whose first operand is `past`.
fn attention_of<'a>(
    o: &Operands<'a>,
    [heads, kv_heads]: [i64; 2],
    past: usize,
) -> Result<(Sizes<'a>, Vec<TensorType>), String> {
    let q = o.get(0, "q")?;
    let [batch, queries, width] = q.shape.as_slice() else {
        return o.fail(format!("`q` must have rank 3, found {q}"));
    };
    let width = width.fixed().unwrap_or_default();
    if heads < 1 || width == 0 || width % heads as usize != 0 || !q.dtype.is_float() {
        return o.fail(format!("{heads} heads do not divide {q}"));
    }
    if kv_heads < 1 || heads % kv_heads != 0 {
        return o.fail(format!("{heads} heads cannot share {kv_heads} of keys and values"));
    }
    let (kv_heads, size) = (Dim::Fixed(kv_heads as usize), Dim::Fixed(width / heads as usize));
    let k = o.get(1, "k")?;
    let new = match k.shape.as_slice() {
        [of, new, width] if of == batch && *width == kv_heads.times(&size)? => new,
        [of, of_heads, new, of_size] if of == batch && *of_heads == kv_heads && *of_size == size => new,
        _ => {
            let found = format!("the batch of {q} and {kv_heads} heads of {size}, found {k}");
            return o.fail(format!("`k` must have rank 3 or 4, {found}"));
        }
    };
    if k.dtype != q.dtype {
        return o.fail(format!("`k` must be {}, found {k}", q.dtype));
    }
    o.expect(2, "v", k)?;
    let mut sizes = Sizes { dtype: q.dtype, batch, queries, keys: new.clone() };
    let mut out = vec![q.clone()];
    if let Some(key) = o.optional(past) {
        let [_, _, length, _] = key.shape.as_slice() else {
            return o.fail(format!("`past_key` must have rank 4, found {key}"));
        };
        let all =
            |length: &Dim| TensorType::new(q.dtype, [batch.clone(), kv_heads.clone(), length.clone(), size.clone()]);
        o.expect(past, "past_key", &all(length))?;
        o.expect(past + 1, "past_value", &all(length))?;
        sizes.keys = length.plus(new)?;
        out.extend([all(&sizes.keys), all(&sizes.keys)]);
    } else if o.optional(past.saturating_add(1)).is_some() {
        return o.fail("`past_value` needs a `past_key`");
    }
    Ok((sizes, out))
}

pub(super) fn rotary(o: &Operands, heads: i64) -> Inferred {
    o.count(3, 4)?;
    let (x, cos) = (o.get(0, "x")?, o.get(1, "cos")?);
    let (batch, length, width, pairs) = match (x.shape.as_slice(), cos.shape.as_slice()) {
        ([batch, length, Dim::Fixed(width)], [_, Dim::Fixed(pairs)]) => (batch, length, width, pairs),
        ([batch, length, Dim::Fixed(width)], [of, tokens, Dim::Fixed(pairs)])
            if (of, tokens) == (batch, length) && o.optional(3).is_none() =>
        {
            (batch, length, width, pairs)
        }
        _ => return o.fail(format!("{cos} does not turn {x}")),
    };
    let heads = usize::try_from(heads).unwrap_or_default();
    let size = width.checked_rem(heads).filter(|rest| *rest == 0).and_then(|_| width.checked_div(heads));
    let fits = size.is_some_and(|size| *pairs > 0 && *pairs <= size / 2);
    if !fits || !x.dtype.is_float() || cos.dtype != x.dtype {
        return o.fail(format!("{cos} does not turn {heads} heads of {x}"));
    }
    o.expect(2, "sin", cos)?;
    o.expect_optional(3, "positions", &TensorType::new(DType::I64, [batch.clone(), length.clone()]))?;
    Ok(vec![x.clone()])
}

pub(super) fn growing_angles(o: &Operands, trained: i64) -> Inferred {
    o.count(2, 2)?;
    let (frequencies, positions) = (o.get(0, "frequencies")?, o.get(1, "positions")?);
    match (frequencies.shape.as_slice(), positions.shape.as_slice()) {
        ([Dim::Fixed(rows), pairs], [batch, length])
            if *rows > 0 && trained > 0 && frequencies.dtype == DType::F32 && positions.dtype == DType::I64 =>
        {
            let each = TensorType::new(DType::F32, [batch.clone(), length.clone(), pairs.clone()]);
            Ok(vec![each.clone(), each])
        }
        _ => o.fail(format!("{frequencies} are no frequencies for {positions} beyond {trained}")),
    }
}

pub(super) fn theta_rotary(o: &Operands, heads: i64, positions: i64) -> Inferred {
    let x = o.only()?;
    let width = x.shape.last().and_then(Dim::fixed).unwrap_or_default() as i64;
    match x.rank() == 3 && x.dtype.is_float() && heads > 0 && positions > 0 && width > 0 && width % (2 * heads) == 0 {
        true => Ok(vec![x.clone()]),
        false => o.fail(format!("{heads} heads with pairs do not divide {x}")),
    }
}

pub(super) fn local_bias(o: &Operands, window: i64, positions: i64) -> Inferred {
    let ids = o.only()?;
    match ids.shape.as_slice() {
        [_, length] if window >= 0 && positions > 0 => {
            let shape = [Dim::Fixed(1), Dim::Fixed(1), length.clone(), length.clone()];
            Ok(vec![TensorType::new(DType::F32, shape)])
        }
        _ => o.fail(format!("a window of {window} in {positions} positions does not fit {ids}")),
    }
}

pub(super) fn distance_rows(o: &Operands, positions: i64) -> Inferred {
    Ok(vec![TensorType::new(DType::I64, [distances(o, positions)?])])
}

pub(super) fn sinusoids(o: &Operands, width: i64, positions: i64) -> Inferred {
    match usize::try_from(width) {
        Ok(n) if n > 0 && n % 2 == 0 => {
            Ok(vec![TensorType::new(DType::F32, [distances(o, positions)?, Dim::Fixed(n)])])
        }
        _ => o.fail(format!("{width} is no number of sines and cosines")),
    }
}

/// The number of distances `s, s − 1 … 1 − s` of `ids [b, s]`.
fn distances(o: &Operands, positions: i64) -> Result<Dim, String> {
    let ids = o.only()?;
    match ids.shape.as_slice() {
        [_, length] if positions > 0 => Ok(length.times(2)?),
        _ => o.fail(format!("{ids} has no {positions} positions")),
    }
}

pub(super) fn distance_scores(o: &Operands, heads: i64) -> Inferred {
    o.count(2, 2)?;
    let (x, [length, width], scores) = scores(o, heads)?;
    o.expect(1, "rows", &TensorType::new(x.dtype, [length.times(2)?, width.clone()]))?;
    Ok(vec![scores])
}

pub(super) fn segment_scores(o: &Operands, heads: i64) -> Inferred {
    o.count(3, 3)?;
    let (x, [_, width], scores) = scores(o, heads)?;
    o.expect(1, "table", &TensorType::new(x.dtype, [Dim::Fixed(2), width.clone()]))?;
    o.expect(2, "types", &TensorType::new(DType::I64, x.shape.iter().take(2).cloned()))?;
    Ok(vec![scores])
}

/// The operand `x [b, s, heads · d]`, its length and width, and the type of scores for each head and pair of tokens.
fn scores<'a>(o: &Operands<'a>, heads: i64) -> Result<(&'a TensorType, [&'a Dim; 2], TensorType), String> {
    let x = o.get(0, "x")?;
    match x.shape.as_slice() {
        [batch, length, width @ Dim::Fixed(n)] if x.dtype.is_float() && heads > 0 && n % heads as usize == 0 => {
            let shape = [batch.clone(), Dim::Fixed(heads as usize), length.clone(), length.clone()];
            Ok((x, [length, width], TensorType::new(x.dtype, shape)))
        }
        _ => o.fail(format!("{heads} heads do not divide {x}")),
    }
}

pub(super) fn self_mask(o: &Operands, positions: i64) -> Inferred {
    let mask = o.only()?;
    match mask.shape.as_slice() {
        [batch, length] if mask.dtype == DType::I64 && positions > 0 => {
            Ok(vec![TensorType::new(DType::I64, [batch.clone(), length.clone(), length.clone()])])
        }
        _ => o.fail(format!("{mask} masks no {positions} positions")),
    }
}
