//! Symmetric 8-bit values with one scale for each channel.

use super::computed::Computed;
use super::elements::{ROUNDING, describe, largest_bits};
use super::region::{Region, transposed};
use super::{DType, Evaluated, Expr, Int8Range, Weight};
use crate::error::{Error, Result};

impl Weight {
    /// Symmetric 8-bit values and their scales, one scale for each index of `axis` of a matrix.
    pub fn quantize(&self, axis: usize, range: Int8Range) -> Result<(Weight, Weight)> {
        let shape = self.matrix("quantize")?;
        let channels = shape.get(axis).ok_or_else(|| Error::bug("a matrix has the channel axes 0 and 1"))?;
        let of = self.cast(DType::F32);
        let values = Expr::QuantizedValues { of: of.clone(), axis, range, steps: Computed::default() };
        Ok((
            Weight::new(DType::I8, shape.to_vec(), values),
            Weight::new(DType::F32, vec![*channels], Expr::QuantizedScales { of, axis, range }),
        ))
    }
}

/// `quantize(transpose(w), axis) = transpose(quantize(w, 1 - axis))`, so that channels are read along memory.
pub(super) fn values(of: &Weight, axis: usize, steps: &[f32], at: &Region) -> Result<Evaluated<'static>> {
    if let Expr::Transpose(inner) = of.expr() {
        return transposed(&at.transposed(), DType::I8, |piece| values(inner, 1 - axis, steps, piece));
    }
    let steps = steps.get(if axis == 0 { at.rows.clone() } else { at.columns.clone() }).unwrap_or_default();
    let values = of.f32s_of(at)?;
    let mut quantized = Vec::with_capacity(values.len());
    for (r, row) in values.chunks(at.columns.len().max(1)).enumerate() {
        if axis == 0 {
            let step = steps[r];
            quantized.extend(row.iter().map(|value| nearest_i8(value / step)));
        } else {
            quantized.extend(row.iter().zip(steps).map(|(value, step)| nearest_i8(value / step)));
        }
    }
    Ok(Evaluated::Bytes(quantized))
}

/// The nearest integer of a number in −127…127, as a byte: the lowest bits of the sum that rounds.
fn nearest_i8(x: f32) -> u8 {
    (x + ROUNDING).to_bits() as u8
}

pub(super) fn scales(of: &Weight, axis: usize, range: Int8Range) -> Result<Vec<f32>> {
    if let Expr::Transpose(inner) = of.expr() {
        return scales(inner, 1 - axis, range);
    }
    let [rows, columns] = of.matrix("quantize")?;
    let magnitude = |value: &f32| value.to_bits() & 0x7fff_ffff;
    let mut largest = vec![0u32; if axis == 0 { rows } else { columns }];
    for range in of.row_ranges() {
        let values = of.f32s_of(&Region { rows: range.clone(), columns: 0..columns })?;
        for (r, row) in range.zip(values.chunks(columns.max(1))) {
            if axis == 0 {
                largest[r] = largest_bits(row);
            } else {
                largest.iter_mut().zip(row).for_each(|(m, value)| *m = (*m).max(magnitude(value)));
            }
        }
    }
    let largest: Vec<f32> = largest.into_iter().map(f32::from_bits).collect();
    if largest.iter().any(|m| !m.is_finite()) {
        return Err(Error::bad_input(format!("{} holds NaN or infinity and cannot be quantized", describe(of))));
    }
    Ok(largest.into_iter().map(|most| range.step(most)).collect())
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
    fn quantization_is_the_same_through_a_transposition() {
        let w = weight([2, 3], &[1., -2., 4., 0.5, 0.25, -0.125]);
        let (values, steps) = w.quantize(0, Int8Range::Full).unwrap();
        assert_eq!(floats_of(&steps), [4.0 / 127.0, 0.5 / 127.0]);
        assert_eq!(values.evaluate().unwrap().as_bytes(), [32, -64i8 as u8, 127, 127, 64, -32i8 as u8]);
        let (turned, turned_steps) = w.transpose().unwrap().quantize(1, Int8Range::Full).unwrap();
        assert_eq!(floats_of(&turned_steps), floats_of(&steps));
        assert_eq!(turned.evaluate().unwrap().as_bytes(), [32, 127, -64i8 as u8, 64, 127, -32i8 as u8]);
    }

    /// The largest sum of two products that a processor adds in 16 bits.
    #[test]
    fn values_of_the_reduced_range_saturate_in_no_sum_of_two_products() {
        let (values, steps) = weight([2, 2], &[1., -2., 4., 0.5]).quantize(0, Int8Range::Reduced).unwrap();
        assert_eq!(floats_of(&steps), [2.0 / 64.0, 4.0 / 64.0]);
        assert_eq!(values.evaluate().unwrap().as_bytes(), [32, -64i8 as u8, 64, 8]);
        assert!(2 * 255 * Int8Range::Reduced.largest() as i32 <= i32::from(i16::MAX));
        assert!(2 * 255 * (Int8Range::Reduced.largest() as i32 + 1) > i32::from(i16::MAX));
    }

    #[test]
    fn a_channel_of_zeros_quantizes_to_zeros() {
        let (values, steps) = weight([1, 2], &[0., 0.]).quantize(0, Int8Range::Full).unwrap();
        assert_eq!(values.evaluate().unwrap().as_bytes(), [0, 0]);
        assert_eq!(floats_of(&steps), [1.0]);
    }

    #[test]
    fn numbers_without_a_range_are_refused() {
        let error = weight([1, 2], &[1.0, f32::NAN]).quantize(0, Int8Range::Full).unwrap().0.evaluate().err().unwrap();
        assert_eq!(error.message(), "a computed tensor holds NaN or infinity and cannot be quantized");
    }
}
