//! The types of attention and of what it knows of positions, distances and segments.

use super::{DType, Dim, Inferred, Operands, TensorType};

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

pub(super) fn attention(o: &Operands, heads: i64, mask: usize, mask_dtype: DType) -> Inferred {
    o.count(3, mask + 2)?;
    let out = attention_of(o, heads)?;
    let (q, k) = (o.get(0, "q")?, o.get(1, "k")?);
    let ([batch, length, _], [_, keys, _]) = (q.shape.as_slice(), k.shape.as_slice()) else {
        return o.fail(format!("`q` and `k` must have rank 3, found {q} and {k}"));
    };
    let by_pair = TensorType::new(mask_dtype, [batch.clone(), length.clone(), keys.clone()]);
    if o.optional(mask) != Some(&by_pair) {
        o.expect_optional(mask, "mask", &TensorType::new(mask_dtype, [batch.clone(), keys.clone()]))?;
    }
    if let Some(bias) = o.optional(mask + 1) {
        let full = [batch.clone(), Dim::Fixed(heads as usize), length.clone(), keys.clone()];
        let full = TensorType::new(q.dtype, full);
        let stretched = bias.shape.iter().zip(&full.shape).take(2).all(|(d, to)| d == to || *d == Dim::Fixed(1));
        if bias.dtype != full.dtype || bias.shape.get(2..) != full.shape.get(2..) || !stretched {
            return o.fail(format!("`bias` must be {full}, or 1 in its first two places; found {bias}"));
        }
    }
    Ok(out)
}

/// What attention makes of `q`, `k` and `v`.
fn attention_of(o: &Operands, heads: i64) -> Inferred {
    let q = o.get(0, "q")?;
    let [batch, _, width] = q.shape.as_slice() else {
        return o.fail(format!("`q` must have rank 3, found {q}"));
    };
    let width = width.fixed().unwrap_or_default();
    if heads < 1 || width == 0 || width % heads as usize != 0 {
        return o.fail(format!("{heads} heads do not divide {q}"));
    }
    let k = o.get(1, "k")?;
    let [keys_batch, _, keys_width] = k.shape.as_slice() else {
        return o.fail(format!("`k` must have rank 3, found {k}"));
    };
    if k.dtype != q.dtype || keys_batch != batch || keys_width.fixed() != Some(width) {
        return o.fail(format!("`k` must be like `q`, {q}, but for its length; found {k}"));
    }
    o.expect(2, "v", k)?;
    Ok(vec![q.clone()])
}

pub(super) fn biased(o: &Operands, heads: i64) -> Inferred {
    o.count(4, 4)?;
    let out = attention_of(o, heads)?;
    let (q, k) = (o.get(0, "q")?, o.get(1, "k")?);
    if let ([batch, length, _], [_, keys, _]) = (q.shape.as_slice(), k.shape.as_slice()) {
        o.expect(3, "bias", &TensorType::new(q.dtype, [batch.clone(), Dim::Fixed(1), length.clone(), keys.clone()]))?;
    }
    Ok(out)
}

pub(super) fn rotary(o: &Operands, heads: i64, positions: i64) -> Inferred {
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
