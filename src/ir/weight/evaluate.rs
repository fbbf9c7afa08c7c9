//! Computes the elements of a weight, all of them or some rows.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::elements::{Evaluated, describe, floats, widen};
use super::region::{self, Region};
use super::{DType, Expr, Weight, blocks, combine, linear, packed, quantized};
use crate::error::{Error, Result, printable};

impl Weight {
    /// Computes the elements. Working memory is a small multiple of this one tensor.
    ///
    /// Fails where a number that must be finite is not, or a source has a type but no data.
    pub fn evaluate(&self) -> Result<Evaluated<'_>> {
        self.region(&Region::whole(self))
    }

    /// Computes the elements of some rows, the indices of the first dimension. Working memory is a small multiple of those
    /// where [`Weight::has_cheap_rows`] says so. Fails as [`Weight::evaluate`] does.
    pub fn evaluate_rows(&self, rows: Range<usize>) -> Result<Evaluated<'_>> {
        self.region(&Region { rows, columns: 0..self.grid()[1] })
    }

    /// The elements as 32-bit floats, of any floating-point type.
    pub fn to_f32s(&self) -> Result<Cow<'_, [f32]>> {
        self.f32s_of(&Region::whole(self))
    }

    /// Computes a region.
    pub(super) fn region(&self, at: &Region) -> Result<Evaluated<'_>> {
        Ok(match self.expr() {
            Expr::Source { name, data } => {
                let blob = data
                    .as_ref()
                    .ok_or_else(|| Error::bad_input(format!("tensor `{}` has a type but no data", printable(name))))?;
                region::stored(blob.bytes(), self, at)
            }
            Expr::Literal(bytes) => region::stored(bytes, self, at),
            Expr::Packed { packing, parts } => {
                let [_, width] = self.grid();
                let rows = packed::decoded(*packing, parts, at.rows.clone(), at.columns.clone(), width)?;
                match packing.has_cheap_columns() || at.has_all_columns(self) {
                    true => Evaluated::Floats(rows),
                    false => region::columns(Evaluated::Floats(rows), width, &at.columns, DType::F32),
                }
            }
            Expr::Transpose(inner) => region::transposed(&at.transposed(), self.dtype(), |piece| inner.region(piece))?,
            Expr::Cast(inner) => self.cast_from(inner, at)?,
            Expr::Concat { axis, parts } => joined(self, *axis, parts, at)?,
            Expr::Lora { .. } => Evaluated::Floats(linear::lora(self, at)?),
            Expr::Product(left, right) => Evaluated::Floats(linear::product(left, right, at)?),
            Expr::Sum(terms) => Evaluated::Floats(linear::sum(terms, at)?),
            Expr::Times(left, right) => Evaluated::Floats(linear::times(left, right, at)?),
            Expr::Kron(left, right) => Evaluated::Floats(linear::kron(left, right, at)?),
            Expr::Scale { of, by, axis } => Evaluated::Floats(linear::scale(of, by, *axis, at)?),
            Expr::Renorm { .. } => Evaluated::Floats(linear::renorm(self, at)?),
            Expr::Rows { of, at: replaced, rows } => rows_replaced(of, replaced, rows, at)?,
            Expr::Take { of, axis, at: indices } => taken(self, of, *axis, indices, at)?,
            Expr::Slice { of, axis, range } => sliced(self, of, *axis, range, at)?,
            Expr::Prune { of, density, seed } => combine::pruned(of, *density, *seed, at)?,
            Expr::Elect { by, terms } => Evaluated::Floats(combine::elected(*by, terms, at)?),
            Expr::LowRank { of, rank, found } => Evaluated::Floats(linear::low_rank(of, *rank, found, at)?),
            Expr::QuantizedValues { of, axis, range, steps } => {
                let steps = steps.get(|| quantized::scales(of, *axis, *range))?;
                quantized::values(of, *axis, steps, at)?
            }
            Expr::QuantizedScales { of, axis, range } => {
                let steps = quantized::scales(of, *axis, *range)?;
                Evaluated::Floats(steps.get(at.rows.clone()).unwrap_or_default().to_vec())
            }
            Expr::Blocks { of, how, part } => blocks::evaluated(of, *how, *part, at.rows.clone())?,
        })
    }

    /// A region as 32-bit floats.
    pub(super) fn f32s_of(&self, at: &Region) -> Result<Cow<'_, [f32]>> {
        let evaluated = self.region(at)?;
        Ok(match (self.dtype(), evaluated) {
            (DType::F32, Evaluated::Mapped(bytes)) => floats(bytes),
            (DType::F32, Evaluated::Floats(values)) => Cow::Owned(values),
            (DType::F32, Evaluated::Bytes(bytes)) => Cow::Owned(floats(&bytes).into_owned()),
            (DType::F16, e) => widen(e.as_bytes(), |b| f16::from_le_bytes(b).to_f32()),
            (DType::BF16, e) => widen(e.as_bytes(), |b| bf16::from_le_bytes(b).to_f32()),
            (DType::F64, e) => widen(e.as_bytes(), |b| f64::from_le_bytes(b) as f32),
            (other, _) => return Err(Error::bug(format!("{other} elements read as floats"))),
        })
    }

    fn cast_from(&self, inner: &Weight, at: &Region) -> Result<Evaluated<'_>> {
        let values = inner.f32s_of(at)?;
        Ok(match self.dtype() {
            DType::F32 => Evaluated::Floats(values.into_owned()),
            DType::F16 => Evaluated::Bytes(narrow::<f16>(self, &values, f16::MAX.to_f32())?),
            DType::BF16 => Evaluated::Bytes(narrow::<bf16>(self, &values, bf16::MAX.to_f32())?),
            other => return Err(Error::bug(format!("a weight cannot be cast to {other}"))),
        })
    }
}

/// The values in an element type of 16 bits, many at a time.
fn narrow<T: Copy + Default>(weight: &Weight, values: &[f32], largest: f32) -> Result<Vec<u8>>
where
    [T]: HalfFloatSliceExt,
{
    let mut bytes = Vec::with_capacity(values.len() * 2);
    let mut narrowed = [T::default(); 1024];
    let mut beyond = false;
    for values in values.chunks(narrowed.len()) {
        let narrowed = narrowed.get_mut(..values.len()).unwrap_or_default();
        narrowed.convert_from_f32_slice(values);
        bytes.extend_from_slice(bytemuck::cast_slice(narrowed.reinterpret_cast()));
        // Infinity is none of them: it stays what it is.
        beyond |= values.iter().fold(false, |any, value| any | (value.abs() > largest) & (value.abs() < f32::INFINITY));
    }
    let overflow = values.iter().rev().find(|value| beyond && value.is_finite() && value.abs() > largest);
    match overflow {
        None => Ok(bytes),
        Some(value) => Err(Error::bad_input(format!(
            "{} holds {value}, which {} cannot represent",
            describe(weight),
            weight.dtype()
        ))
        .hint("keep this precision at fp32, or use bf16")),
    }
}

/// The part of `range` that lies in the `len` indices from `start` on, counted from there.
fn overlap(range: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    range.start.max(start).min(start + len) - start..range.end.min(start + len).max(start) - start
}

/// A region of the parts side by side.
fn joined(weight: &Weight, axis: usize, parts: &[Weight], at: &Region) -> Result<Evaluated<'static>> {
    if axis > 0 && weight.shape().len() > 2 {
        let inner = weight.shape().iter().skip(axis + 1).product::<usize>() * weight.dtype().size();
        return cut_columns(weight, at, |rows| {
            let evaluated = parts.iter().map(|part| part.evaluate_rows(rows.clone())).collect::<Result<Vec<_>>>()?;
            let widths = parts.iter().map(|part| part.shape().get(axis).copied().unwrap_or(1) * inner);
            Ok(interleaved(&evaluated, &widths.collect::<Vec<_>>()))
        });
    }
    let (mut pieces, mut widths, mut start) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        let len = part.grid()[axis.min(1)];
        let of_part = match axis {
            0 => Region { rows: overlap(&at.rows, start, len), columns: at.columns.clone() },
            _ => Region { rows: at.rows.clone(), columns: overlap(&at.columns, start, len) },
        };
        start += len;
        if of_part.len() > 0 {
            widths.push(if axis == 0 { of_part.len() } else { of_part.columns.len() } * weight.dtype().size());
            pieces.push(part.region(&of_part)?);
        }
    }
    Ok(Evaluated::Bytes(interleaved(&pieces, &widths)))
}

/// One slice of each part after the other, of as many bytes as `widths` says, to the end of the parts.
fn interleaved(parts: &[Evaluated<'_>], widths: &[usize]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(parts.iter().map(|part| part.as_bytes().len()).sum());
    let mut slices: Vec<_> =
        parts.iter().zip(widths).map(|(part, width)| part.as_bytes().chunks_exact((*width).max(1))).collect();
    loop {
        let before = joined.len();
        slices.iter_mut().for_each(|slices| joined.extend_from_slice(slices.next().unwrap_or_default()));
        if joined.len() == before {
            return joined;
        }
    }
}

/// A region by way of whole rows.
fn cut_columns(
    weight: &Weight,
    at: &Region,
    rows: impl FnOnce(Range<usize>) -> Result<Vec<u8>>,
) -> Result<Evaluated<'static>> {
    let all = Evaluated::Bytes(rows(at.rows.clone())?);
    Ok(match at.has_all_columns(weight) {
        true => all,
        false => region::columns(all, weight.grid()[1], &at.columns, weight.dtype()),
    })
}

/// `of` with the rows `replaced` replaced by those of `rows`, in any element type.
fn rows_replaced(of: &Weight, replaced: &[usize], rows: &Weight, at: &Region) -> Result<Evaluated<'static>> {
    let mut bytes = of.region(at)?.as_bytes().to_vec();
    let new = rows.region(&at.along(rows))?;
    let stride = at.columns.len() * of.dtype().size();
    for (row, from) in replaced.iter().zip(new.as_bytes().chunks_exact(stride.max(1))) {
        if let Some(row) = row.checked_sub(at.rows.start).filter(|row| *row < at.rows.len()) {
            let place = bytes.get_mut(row * stride..(row + 1) * stride);
            place.ok_or_else(|| Error::bug(format!("row {row} is outside {}", of.ty())))?.copy_from_slice(from);
        }
    }
    Ok(Evaluated::Bytes(bytes))
}

/// A region of some indices of one dimension.
fn taken(weight: &Weight, of: &Weight, axis: usize, indices: &[usize], at: &Region) -> Result<Evaluated<'static>> {
    if axis > 0 && of.shape().len() > 2 {
        return cut_columns(weight, at, |rows| {
            let evaluated = of.evaluate_rows(rows)?;
            let inner = of.shape().iter().skip(axis + 1).product::<usize>() * of.dtype().size();
            Ok(selected(
                evaluated.as_bytes(),
                of.shape().get(axis).copied().unwrap_or(1),
                inner,
                indices.iter().copied(),
            ))
        });
    }
    let wanted = indices.get(if axis == 0 { at.rows.clone() } else { at.columns.clone() }).unwrap_or_default();
    let hull = hull(wanted);
    let (count, first) = (hull.len(), hull.start);
    let (read, inner) = match axis {
        0 => (Region { rows: hull, columns: at.columns.clone() }, at.columns.len()),
        _ => (Region { rows: at.rows.clone(), columns: hull }, 1),
    };
    let evaluated = of.region(&read)?;
    let wanted = wanted.iter().map(|i| i - first);
    Ok(Evaluated::Bytes(selected(evaluated.as_bytes(), count, inner * of.dtype().size(), wanted)))
}

/// The smallest range with all those indices.
fn hull(indices: &[usize]) -> Range<usize> {
    let first = indices.iter().min().copied().unwrap_or(0);
    first..indices.iter().max().map_or(first, |last| last + 1)
}

/// Of every `count` slices of `inner` bytes, those with the indices.
fn selected(bytes: &[u8], count: usize, inner: usize, indices: impl Iterator<Item = usize> + Clone) -> Vec<u8> {
    let mut selected = Vec::new();
    for outer in bytes.chunks_exact((count * inner).max(1)) {
        for i in indices.clone() {
            selected.extend_from_slice(outer.get(i * inner..(i + 1) * inner).unwrap_or_default());
        }
    }
    selected
}

/// A region of the indices `range` of one dimension.
fn sliced<'a>(
    weight: &Weight,
    of: &'a Weight,
    axis: usize,
    range: &Range<usize>,
    at: &Region,
) -> Result<Evaluated<'a>> {
    let shifted = |part: &Range<usize>, by: usize| part.start + by..part.end + by;
    let inner: usize = of.shape().iter().skip(axis + 1).product();
    match axis {
        0 => of.region(&Region { rows: shifted(&at.rows, range.start), columns: at.columns.clone() }),
        1 => of.region(&Region { rows: at.rows.clone(), columns: shifted(&at.columns, range.start * inner) }),
        _ => cut_columns(weight, at, |rows| {
            let count = of.shape().get(axis).copied().unwrap_or(1);
            let evaluated = of.evaluate_rows(rows)?;
            Ok(selected(evaluated.as_bytes(), count, inner * of.dtype().size(), range.clone()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(shape: [usize; 2], values: &[f32]) -> Weight {
        Weight::f32s(shape.to_vec(), values).unwrap()
    }

    fn floats_of(weight: &Weight) -> Vec<f32> {
        weight.to_f32s().unwrap().into_owned()
    }

    #[test]
    fn transposition_of_every_width_agrees() {
        let values: Vec<f32> = (0..70 * 33).map(|i| i as f32).collect();
        let w = weight([70, 33], &values);
        let wide = floats_of(&w.transpose().unwrap());
        assert_eq!(wide[5 * 70 + 64], values[64 * 33 + 5]);
        let narrow = w.cast(DType::BF16);
        assert_eq!(floats_of(&narrow.transpose().unwrap())[69], floats_of(&narrow)[69 * 33]);
    }

    #[test]
    fn concatenation_along_both_axes() {
        let (a, b) = (weight([2, 1], &[1., 2.]), weight([2, 2], &[3., 4., 5., 6.]));
        assert_eq!(floats_of(&Weight::concat(1, vec![a.clone(), b]).unwrap()), [1., 3., 4., 2., 5., 6.]);
        assert_eq!(floats_of(&Weight::concat(0, vec![a.clone(), a]).unwrap()), [1., 2., 1., 2.]);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let error = weight([1, 1], &[1e6]).cast(DType::F16).evaluate().err().unwrap();
        assert_eq!(error.message(), "a computed tensor holds 1000000, which f16 cannot represent");
        let error = weight([1, 1], &[f32::MIN]).cast(DType::BF16).evaluate().err().unwrap();
        assert_eq!(
            error.message(),
            "a computed tensor holds -340282350000000000000000000000000000000, which bf16 cannot represent"
        );
    }
}
