//! Computes the elements of a weight.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};

use super::elements::{Evaluated, describe, floats, transpose, widen};
use super::{DType, Expr, Weight, blocks, combine, linear, packed, quantized};
use crate::error::{Error, Result, printable};

impl Weight {
    /// Computes the elements. Working memory is a small multiple of this one tensor.
    ///
    /// Fails where a number that must be finite is not, or a source has a type but no data.
    pub fn evaluate(&self) -> Result<Evaluated<'_>> {
        Ok(match self.expr() {
            Expr::Source { name, data } => {
                let blob = data
                    .as_ref()
                    .ok_or_else(|| Error::bad_input(format!("tensor `{}` has a type but no data", printable(name))))?;
                Evaluated::Mapped(blob.bytes())
            }
            Expr::Literal(bytes) => Evaluated::Mapped(bytes),
            Expr::Packed { packing, parts } => {
                let rows = self.shape().first().copied().unwrap_or(1);
                let columns = self.shape().iter().skip(1).product();
                Evaluated::Floats(packed::decoded(*packing, parts, 0..rows, columns)?)
            }
            Expr::Transpose(inner) => {
                let [rows, columns] = inner.matrix("transpose")?;
                let bytes = inner.evaluate()?;
                transpose(bytes.as_bytes(), rows, columns, self.dtype())
            }
            Expr::Cast(inner) => self.cast_from(inner)?,
            Expr::Concat { axis, parts } => Evaluated::Bytes(concat(*axis, parts)?),
            Expr::Lora { .. } => Evaluated::Floats(linear::lora(self)?),
            Expr::Product(left, right) => Evaluated::Floats(linear::product(left, right)?),
            Expr::Sum(terms) => Evaluated::Floats(linear::sum(terms)?),
            Expr::Times(left, right) => Evaluated::Floats(linear::times(left, right)?),
            Expr::Kron(left, right) => Evaluated::Floats(linear::kron(left, right)?),
            Expr::Scale { of, by, axis } => Evaluated::Floats(linear::scale(of, by, *axis)?),
            Expr::Renorm { of, like, norms, axis } => Evaluated::Floats(linear::renorm(of, like, norms, *axis)?),
            Expr::Rows { of, at, rows } => Evaluated::Bytes(rows_replaced(of, at, rows)?),
            Expr::Take { of, axis, at } => Evaluated::Bytes(take(of, *axis, at)?),
            Expr::Slice { of, axis, range } => Evaluated::Bytes(slice(of, *axis, range)?),
            Expr::Prune { of, density, seed } => Evaluated::Floats(combine::pruned(of, *density, *seed)?),
            Expr::Elect { by, terms } => Evaluated::Floats(combine::elected(*by, terms)?),
            Expr::LowRank { of, rank, found } => Evaluated::Floats(linear::low_rank(of, *rank, found)?),
            Expr::QuantizedValues { of, axis, range } => quantized::values(of, *axis, *range)?,
            Expr::QuantizedScales { of, axis, range } => Evaluated::Floats(quantized::scales(of, *axis, *range)?),
            Expr::Blocks { of, how, part } => blocks::evaluated(of, *how, *part)?,
        })
    }

    /// The elements as 32-bit floats, of any floating-point type.
    pub fn to_f32s(&self) -> Result<Cow<'_, [f32]>> {
        let evaluated = self.evaluate()?;
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

    fn cast_from(&self, inner: &Weight) -> Result<Evaluated<'_>> {
        let values = inner.to_f32s()?;
        Ok(match self.dtype() {
            DType::F32 => Evaluated::Floats(values.into_owned()),
            DType::F16 => {
                Evaluated::Bytes(narrow(self, &values, |v| f16::from_f32(v).to_le_bytes(), f16::MAX.to_f32())?)
            }
            DType::BF16 => {
                Evaluated::Bytes(narrow(self, &values, |v| bf16::from_f32(v).to_le_bytes(), bf16::MAX.to_f32())?)
            }
            other => return Err(Error::bug(format!("a weight cannot be cast to {other}"))),
        })
    }
}

fn narrow(weight: &Weight, values: &[f32], one: impl Fn(f32) -> [u8; 2], largest: f32) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() * 2);
    let mut overflow = None;
    for value in values {
        if value.is_finite() && value.abs() > largest {
            overflow = Some(*value);
        }
        bytes.extend_from_slice(&one(*value));
    }
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

fn concat(axis: usize, parts: &[Weight]) -> Result<Vec<u8>> {
    let evaluated = parts.iter().map(Weight::evaluate).collect::<Result<Vec<_>>>()?;
    let total = parts.iter().map(Weight::byte_len).sum();
    let outer: usize = parts.first().map_or(1, |part| part.shape().iter().take(axis).product());
    let mut joined = Vec::with_capacity(total);
    for i in 0..outer {
        for part in &evaluated {
            let bytes = part.as_bytes();
            let stride = bytes.len() / outer.max(1);
            joined.extend_from_slice(bytes.get(i * stride..(i + 1) * stride).unwrap_or_default());
        }
    }
    Ok(joined)
}

/// `of` with the rows `at` replaced by those of `rows`, in any element type.
fn rows_replaced(of: &Weight, at: &[usize], rows: &Weight) -> Result<Vec<u8>> {
    let mut bytes = of.evaluate()?.as_bytes().to_vec();
    let new = rows.evaluate()?;
    let stride = bytes.len() / of.shape().first().copied().unwrap_or(1).max(1);
    for (row, from) in at.iter().zip(new.as_bytes().chunks_exact(stride.max(1))) {
        let place = bytes.get_mut(row * stride..(row + 1) * stride);
        place.ok_or_else(|| Error::bug(format!("row {row} is outside {}", of.ty())))?.copy_from_slice(from);
    }
    Ok(bytes)
}

fn take(of: &Weight, axis: usize, at: &[usize]) -> Result<Vec<u8>> {
    let evaluated = of.evaluate()?;
    let bytes = evaluated.as_bytes();
    let inner: usize = of.shape().iter().skip(axis + 1).product::<usize>() * of.dtype().size();
    let whole = of.shape().get(axis).copied().unwrap_or(1) * inner;
    let mut taken = Vec::new();
    for outer in bytes.chunks_exact(whole.max(1)) {
        at.iter().for_each(|i| taken.extend_from_slice(outer.get(i * inner..(i + 1) * inner).unwrap_or_default()));
    }
    Ok(taken)
}

fn slice(of: &Weight, axis: usize, range: &Range<usize>) -> Result<Vec<u8>> {
    let evaluated = of.evaluate()?;
    let bytes = evaluated.as_bytes();
    let inner: usize = of.shape().iter().skip(axis + 1).product::<usize>() * of.dtype().size();
    let whole = of.shape().get(axis).copied().unwrap_or(1) * inner;
    let mut cut = Vec::with_capacity(bytes.len());
    for outer in bytes.chunks_exact(whole.max(1)) {
        cut.extend_from_slice(outer.get(range.start * inner..range.end * inner).unwrap_or_default());
    }
    Ok(cut)
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
