//! MXFP4 (Open Compute Project, Microscaling Formats 1.0) as gpt-oss has it: 32 inputs of one output share a power of two.
//!
//! Parts: `u8 [experts, outputs, groups, 16]`, two elements in a byte with the first in the lower half, and the exponents
//! `u8 [experts, outputs, groups]`, biased by 127. The floats are `[experts, inputs, outputs]`, the layout of the same model in
//! BF16, as `convert_moe_packed_tensors` of `transformers` makes them.

use std::fmt;
use std::ops::Range;

use super::super::{DType, Weight};
use super::parts::{at, expect, product, sizes, wrong_number};
use crate::error::{Error, Result};

/// The floats of all experts. Written `mxfp4` and `mxfp4_flat` in the text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Microscaled {
    /// Whether the experts are one behind the other, `[experts · inputs, outputs]`.
    pub flat: bool,
}

impl fmt::Display for Microscaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.flat { "mxfp4_flat" } else { "mxfp4" })
    }
}

/// E2M1: what 4 bits stand for.
const VALUES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Bytes of a group.
const GROUP: usize = 16;

impl Microscaled {
    pub(super) const ALL: [Microscaled; 2] = [Microscaled { flat: false }, Microscaled { flat: true }];

    /// `[experts, inputs, outputs]`, or flat.
    pub(super) fn shape(self, parts: &[Weight]) -> Result<Vec<usize>> {
        let [experts, inputs, outputs] = self.sizes(parts)?;
        match (self.flat, parts.first()) {
            (true, Some(blocks)) => Ok(vec![product(blocks, &[experts, inputs])?, outputs]),
            _ => Ok(vec![experts, inputs, outputs]),
        }
    }

    fn sizes(self, parts: &[Weight]) -> Result<[usize; 3]> {
        let [blocks, scales] = parts else { return Err(wrong_number(self, parts)) };
        let [experts, outputs, groups, bytes] = sizes(blocks, &[DType::U8])?;
        if bytes != GROUP {
            return Err(Error::bad_input(format!(
                "{} has groups of {bytes} bytes, expected {GROUP}",
                super::super::elements::describe(blocks)
            )));
        }
        expect(scales, &[DType::U8], &[experts, outputs, groups])?;
        Ok([experts, product(blocks, &[groups, 2 * GROUP])?, outputs])
    }

    /// Decodes some rows and columns.
    pub(super) fn decode(
        self,
        parts: &[Weight],
        rows: Range<usize>,
        columns: Range<usize>,
        floats: &mut [f32],
    ) -> Result<()> {
        let [_, inputs, outputs] = self.sizes(parts)?;
        let [blocks, scales] = parts else { return Err(wrong_number(self, parts)) };
        let (blocks, scales) = (blocks.evaluate()?, scales.evaluate()?);
        let powers: Vec<f32> = (0..=255).map(power).collect();
        let groups = inputs / (2 * GROUP);
        for (row, floats) in rows.zip(floats.chunks_exact_mut(columns.len().max(1))) {
            for (column, float) in columns.clone().zip(floats) {
                let (expert, input, output) = match self.flat {
                    true => (row / inputs, row % inputs, column),
                    false => (row, column / outputs, column % outputs),
                };
                let group = (expert * outputs + output) * groups + input / (2 * GROUP);
                let byte = at(blocks.as_bytes(), group * GROUP + input % (2 * GROUP) / 2);
                let code = if input % 2 == 0 { byte & 15 } else { byte >> 4 };
                let scale = at(&powers, usize::from(at(scales.as_bytes(), group)));
                *float = scale * at(&VALUES, usize::from(code));
            }
        }
        Ok(())
    }
}

/// E8M0: a power of two, or NaN.
fn power(exponent: u8) -> f32 {
    match exponent {
        255 => f32::NAN,
        exponent => 2f32.powi(i32::from(exponent) - 127),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Packing;
    use super::*;

    #[test]
    fn groups_of_inputs_share_a_power_of_two() {
        // Two experts of two outputs and 64 inputs: every element of a group has the group's number as its code.
        let blocks: Vec<u8> = (0..8u8).flat_map(|group| [group << 4 | group; 16]).collect();
        let blocks = Weight::literal(DType::U8, vec![2, 2, 2, 16], blocks).unwrap();
        let scales = vec![127, 128, 126, 127, 127, 0, 254, 255];
        let scales = Weight::literal(DType::U8, vec![2, 2, 2], scales).unwrap();
        let weight = Weight::packed(Packing::from_name("mxfp4").unwrap(), vec![blocks, scales]).unwrap();
        assert_eq!(weight.shape(), [2, 64, 2]);
        let floats = weight.to_f32s().unwrap().into_owned();
        assert_eq!([floats[0], floats[1], floats[64], floats[65]], [0.0, 0.5, 1.0, 1.5]);
        assert_eq!([floats[128], floats[129]], [2.0, 4.0 * 2f32.powi(127)]);
        assert!(floats[128 + 64] == 3.0 * 2f32.powi(-127) && floats[128 + 65].is_nan());
        let second = weight.slice(0, 1..2).unwrap();
        assert_eq!(second.to_f32s().unwrap()[..2], floats[128..130]);
        // The experts one behind the other, as a matrix.
        let flat = weight.reshape(vec![128, 2]).unwrap();
        assert_eq!(flat.packing().unwrap().0.name(), "mxfp4_flat");
        assert_eq!(flat.to_f32s().unwrap()[..193], floats[..193]);
        assert_eq!(flat.slice(0, 32..34).unwrap().to_f32s().unwrap()[..], floats[64..68]);
        assert_eq!(flat.reshape(vec![2, 64, 2]).unwrap().to_f32s().unwrap()[..193], floats[..193]);
        let said = weight.reshape(vec![64, 4]).err().unwrap();
        assert_eq!(said.message(), "a computed tensor is packed as mxfp4 and cannot take the shape [64, 4]");
    }

    #[test]
    fn groups_of_another_size_are_refused() {
        let blocks = |bytes: usize| Weight::source("x_blocks", DType::U8, vec![1, 2, 3, bytes], None).unwrap();
        let scales = |groups: usize| Weight::source("x_scales", DType::U8, vec![1, 2, groups], None).unwrap();
        let refused = |parts: Vec<Weight>| {
            Weight::packed(Packing::from_name("mxfp4").unwrap(), parts).err().unwrap().message().to_owned()
        };
        assert_eq!(refused(vec![blocks(8), scales(3)]), "tensor `x_blocks` has groups of 8 bytes, expected 16");
        assert_eq!(refused(vec![blocks(16), scales(4)]), "tensor `x_scales` has shape [1, 2, 4], expected [1, 2, 3]");
        assert_eq!(refused(vec![blocks(16)]), "1 parts are not those of mxfp4");
    }
}
