//! What every packing needs of its parts: their types and shapes, checked, and their elements.

use std::str::FromStr;

use half::{bf16, f16};

use super::super::elements::describe;
use super::super::{DType, Evaluated, Weight};
use crate::error::{Error, Result};

/// The floating-point types in which files have scales.
pub(super) const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Fails where a part is of another type or shape.
pub(super) fn expect(part: &Weight, dtypes: &[DType], shape: &[usize]) -> Result<()> {
    expect_type(part, dtypes)?;
    match part.shape() == shape {
        true => Ok(()),
        false => Err(Error::bad_input(format!("{} has shape {:?}, expected {shape:?}", describe(part), part.shape()))),
    }
}

/// Fails where a part is of another type.
pub(super) fn expect_type(part: &Weight, dtypes: &[DType]) -> Result<()> {
    match dtypes.contains(&part.dtype()) {
        true => Ok(()),
        false => {
            let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
            Err(Error::bad_input(format!("{} holds {}, expected {}", describe(part), part.dtype(), names.join(" or "))))
        }
    }
}

/// The sizes of a part of that type and rank, none of which is 0.
pub(super) fn sizes<const N: usize>(part: &Weight, dtypes: &[DType]) -> Result<[usize; N]> {
    expect_type(part, dtypes)?;
    let sizes = <[usize; N]>::try_from(part.shape()).ok().filter(|sizes| !sizes.contains(&0));
    sizes.ok_or_else(|| {
        Error::bad_input(format!(
            "{} has shape {:?}, expected {N} dimensions, none of them empty",
            describe(part),
            part.shape()
        ))
    })
}

/// A product of sizes of a part.
pub(super) fn product(part: &Weight, factors: &[usize]) -> Result<usize> {
    let product = factors.iter().try_fold(1usize, |product, factor| product.checked_mul(*factor));
    product.ok_or_else(|| Error::bad_input(format!("{} is too large", describe(part))))
}

/// The error of parts whose number is not that of the packing, which no file can cause.
pub(super) fn wrong_number(packing: impl std::fmt::Display, parts: &[Weight]) -> Error {
    Error::bad_input(format!("{} parts are not those of {packing}", parts.len()))
}

/// The elements of a part in one of [`FLOATS`], each widened when it is asked for: ranges of rows need few of them.
pub(super) struct Floats<'a> {
    dtype: DType,
    elements: Evaluated<'a>,
}

impl Floats<'_> {
    pub(super) fn of(part: &Weight) -> Result<Floats<'_>> {
        Ok(Floats { dtype: part.dtype(), elements: part.evaluate()? })
    }

    pub(super) fn at(&self, index: usize) -> f32 {
        let bytes = self.elements.as_bytes();
        match self.dtype {
            DType::F16 => f16::from_le_bytes(at(bytes.as_chunks().0, index)).to_f32(),
            DType::BF16 => bf16::from_le_bytes(at(bytes.as_chunks().0, index)).to_f32(),
            _ => f32::from_le_bytes(at(bytes.as_chunks().0, index)),
        }
    }
}

/// The value of a table at an index that [`super::Packing::shape`] has checked.
pub(super) fn at<T: Copy + Default>(values: &[T], index: usize) -> T {
    values.get(index).copied().unwrap_or_default()
}

/// The numbers after the first word of a name such as `gptq_4_128`, whose words are joined by `_`; none where there are not
/// as many.
pub(super) fn numbers<T: FromStr, const N: usize>(name: &str) -> Option<[T; N]> {
    let words: Vec<T> = name.split('_').skip(1).map(|word| word.parse().ok()).collect::<Option<_>>()?;
    words.try_into().ok()
}
