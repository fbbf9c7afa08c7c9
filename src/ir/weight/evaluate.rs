//! Computes the elements of a weight.

use std::borrow::Cow;

use half::{bf16, f16};
use ndarray::{ArrayView2, ArrayViewMut2, linalg::general_mat_mul};

use super::{DType, Expr, Weight};
use crate::error::{Error, Result, printable};

/// The elements of a weight, borrowed from a mapped file where nothing had to be computed.
pub enum Evaluated<'a> {
    /// As they stand in the file, little-endian.
    Mapped(&'a [u8]),
    /// Computed as floats.
    Floats(Vec<f32>),
    /// Computed in another element type, little-endian.
    Bytes(Vec<u8>),
}

impl Evaluated<'_> {
    /// The elements, little-endian.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Evaluated::Mapped(bytes) => bytes,
            Evaluated::Floats(values) => bytemuck::cast_slice(values),
            Evaluated::Bytes(bytes) => bytes,
        }
    }
}

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
            Expr::Transpose(inner) => {
                let [rows, columns] = inner.matrix("transpose")?;
                let bytes = inner.evaluate()?;
                transpose(bytes.as_bytes(), rows, columns, self.dtype())
            }
            Expr::Cast(inner) => self.cast_from(inner)?,
            Expr::Concat { axis, parts } => Evaluated::Bytes(concat(*axis, parts)?),
            Expr::Lora { base, a, b, scale } => Evaluated::Floats(lora(base, a, b, *scale)?),
            Expr::QuantizedValues { of, axis } => quantized_values(of, *axis)?,
            Expr::QuantizedScales { of, axis } => Evaluated::Floats(scales(of, *axis)?),
        })
    }

    /// The elements as 32-bit floats, whatever floating-point type they have.
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

/// Borrows aligned bytes as floats and copies the others.
fn floats(bytes: &[u8]) -> Cow<'_, [f32]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => widen(bytes, f32::from_le_bytes),
    }
}

fn widen<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> f32) -> Cow<'static, [f32]> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| one(*chunk)).collect()
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

fn describe(weight: &Weight) -> String {
    match weight.source_name() {
        Some(name) => format!("tensor `{}`", printable(name)),
        None => "a computed tensor".to_owned(),
    }
}

fn transpose(bytes: &[u8], rows: usize, columns: usize, dtype: DType) -> Evaluated<'static> {
    match dtype {
        DType::F32 => Evaluated::Floats(transposed(&floats(bytes), rows, columns)),
        _ => Evaluated::Bytes(match dtype.size() {
            1 => transposed(bytes, rows, columns),
            2 => transposed(bytes.as_chunks::<2>().0, rows, columns).into_flattened(),
            4 => transposed(bytes.as_chunks::<4>().0, rows, columns).into_flattened(),
            _ => transposed(bytes.as_chunks::<8>().0, rows, columns).into_flattened(),
        }),
    }
}

/// Works through square tiles, so that both sides stay in the cache.
fn transposed<T: Copy + Default>(from: &[T], rows: usize, columns: usize) -> Vec<T> {
    const TILE: usize = 32;
    let mut to = vec![T::default(); rows * columns];
    for row in (0..rows).step_by(TILE) {
        for column in (0..columns).step_by(TILE) {
            for c in column..(column + TILE).min(columns) {
                for r in row..(row + TILE).min(rows) {
                    to[c * rows + r] = from[r * columns + c];
                }
            }
        }
    }
    to
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

fn lora(base: &Weight, a: &Weight, b: &Weight, scale: f32) -> Result<Vec<f32>> {
    let mut merged = base.to_f32s()?.into_owned();
    let (a_values, b_values) = (a.to_f32s()?, b.to_f32s()?);
    let shaped = |w: &Weight| w.matrix("lora").map(|[rows, columns]| (rows, columns));
    let mismatch = |_| Error::bug("LoRA factors have another length than their shape");
    let mut into = ArrayViewMut2::from_shape(shaped(base)?, &mut merged).map_err(mismatch)?;
    let a_matrix = ArrayView2::from_shape(shaped(a)?, &a_values).map_err(mismatch)?;
    let b_matrix = ArrayView2::from_shape(shaped(b)?, &b_values).map_err(mismatch)?;
    general_mat_mul(scale, &b_matrix, &a_matrix, 1.0, &mut into);
    Ok(merged)
}

/// `quantize(transpose(w), axis) = transpose(quantize(w, 1 - axis))`, so that channels are read along memory.
fn quantized_values(of: &Weight, axis: usize) -> Result<Evaluated<'static>> {
    if let Expr::Transpose(inner) = of.expr() {
        let [rows, columns] = inner.matrix("quantize")?;
        let values = quantized_values(inner, 1 - axis)?;
        return Ok(transpose(values.as_bytes(), rows, columns, DType::I8));
    }
    let [_, columns] = of.matrix("quantize")?;
    let steps = scales(of, axis)?;
    let values = of.to_f32s()?;
    let mut quantized = Vec::with_capacity(values.len());
    for (r, row) in values.chunks(columns.max(1)).enumerate() {
        if axis == 0 {
            let step = steps[r];
            quantized.extend(row.iter().map(|value| nearest_i8(value / step)));
        } else {
            quantized.extend(row.iter().zip(&steps).map(|(value, step)| nearest_i8(value / step)));
        }
    }
    Ok(Evaluated::Bytes(quantized))
}

/// The nearest integer of a number in −127…127, ties to even, as a byte.
///
/// Adding 1.5 · 2²³ leaves the integer in the lowest bits of the sum; unlike `round_ties_even`, this needs no
/// instruction that the oldest x86-64 lacks, so it is vectorized everywhere.
fn nearest_i8(x: f32) -> u8 {
    (x + 12_582_912.0).to_bits() as u8
}

fn scales(of: &Weight, axis: usize) -> Result<Vec<f32>> {
    if let Expr::Transpose(inner) = of.expr() {
        return scales(inner, 1 - axis);
    }
    let [rows, columns] = of.matrix("quantize")?;
    let values = of.to_f32s()?;
    // The bits of positive floats are ordered as the floats are, and those of NaN and infinity come last.
    let magnitude = |value: &f32| value.to_bits() & 0x7fff_ffff;
    let mut largest = vec![0u32; if axis == 0 { rows } else { columns }];
    for (r, row) in values.chunks(columns.max(1)).enumerate() {
        if axis == 0 {
            largest[r] = row.iter().map(magnitude).fold(0, u32::max);
        } else {
            largest.iter_mut().zip(row).for_each(|(m, value)| *m = (*m).max(magnitude(value)));
        }
    }
    let largest: Vec<f32> = largest.into_iter().map(f32::from_bits).collect();
    if largest.iter().any(|m| !m.is_finite()) {
        return Err(Error::bad_input(format!("{} holds NaN or infinity and cannot be quantized", describe(of))));
    }
    // A channel of zeros has no range; any positive step represents it.
    Ok(largest.into_iter().map(|m| if m > f32::MIN_POSITIVE * 127.0 { m / 127.0 } else { 1.0 }).collect())
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
    fn lora_adds_the_scaled_product() {
        let merged = weight([2, 3], &[1., 2., 3., 4., 5., 6.])
            .lora(&weight([1, 3], &[1., 0., 2.]), &weight([2, 1], &[10., 20.]), 0.5)
            .unwrap();
        assert_eq!(floats_of(&merged), [6., 2., 13., 14., 5., 26.]);
    }

    #[test]
    fn concatenation_along_both_axes() {
        let (a, b) = (weight([2, 1], &[1., 2.]), weight([2, 2], &[3., 4., 5., 6.]));
        assert_eq!(floats_of(&Weight::concat(1, vec![a.clone(), b]).unwrap()), [1., 3., 4., 2., 5., 6.]);
        assert_eq!(floats_of(&Weight::concat(0, vec![a.clone(), a]).unwrap()), [1., 2., 1., 2.]);
    }

    #[test]
    fn quantization_is_the_same_through_a_transposition() {
        let w = weight([2, 3], &[1., -2., 4., 0.5, 0.25, -0.125]);
        let (values, steps) = w.quantize(0).unwrap();
        assert_eq!(floats_of(&steps), [4.0 / 127.0, 0.5 / 127.0]);
        assert_eq!(values.evaluate().unwrap().as_bytes(), [32, -64i8 as u8, 127, 127, 64, -32i8 as u8]);
        let (turned, turned_steps) = w.transpose().unwrap().quantize(1).unwrap();
        assert_eq!(floats_of(&turned_steps), floats_of(&steps));
        assert_eq!(turned.evaluate().unwrap().as_bytes(), [32, 127, -64i8 as u8, 64, 127, -32i8 as u8]);
    }

    #[test]
    fn a_channel_of_zeros_quantizes_to_zeros() {
        let (values, steps) = weight([1, 2], &[0., 0.]).quantize(0).unwrap();
        assert_eq!(values.evaluate().unwrap().as_bytes(), [0, 0]);
        assert_eq!(floats_of(&steps), [1.0]);
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
        let error = weight([1, 2], &[1.0, f32::NAN]).quantize(0).unwrap().0.evaluate().err().unwrap();
        assert_eq!(error.message(), "a computed tensor holds NaN or infinity and cannot be quantized");
    }
}
