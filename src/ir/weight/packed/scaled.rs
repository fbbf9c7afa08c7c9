//! Elements of 8 bits: `w[r, c] = value[r, c] · scale[r / height, c / width]`.
//!
//! FP8 as the Open Compute Project defines it (E4M3 without infinities, E5M2), and signed integers, which may have zero
//! points. Sources: `weight_scale_inv` of DeepSeek-V3, `weight_scale` of compressed-tensors, `SCB` of bitsandbytes (by 127).

use std::fmt;
use std::ops::Range;

use half::f16;

use super::super::{DType, Evaluated, Weight};
use super::parts::{FLOATS, Floats, at, expect, expect_type, numbers, sizes, wrong_number};
use super::source_blocks::{Row, SourceBlocks};
use crate::error::Result;

/// What a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// FP8: sign, 4 bits of exponent, 3 of mantissa; finite but for NaN.
    E4M3,
    /// FP8: sign, 5 bits of exponent, 2 of mantissa: the upper half of an F16.
    E5M2,
    /// A signed integer.
    I8,
    /// A signed integer that stands for its 127th: the scale is the largest magnitude.
    I8By127,
}

impl Element {
    const ALL: [Element; 4] = [Element::E4M3, Element::E5M2, Element::I8, Element::I8By127];

    fn name(self) -> &'static str {
        match self {
            Element::E4M3 => "e4m3",
            Element::E5M2 => "e5m2",
            Element::I8 => "i8",
            Element::I8By127 => "i8by127",
        }
    }

    /// The type of the part with the elements.
    fn dtype(self) -> DType {
        match self {
            Element::E4M3 | Element::E5M2 => DType::U8,
            Element::I8 | Element::I8By127 => DType::I8,
        }
    }

    /// The number that a byte stands for; of integers without what they are divided by.
    fn value(self, byte: u8) -> f32 {
        match self {
            Element::E4M3 => e4m3(byte),
            Element::E5M2 => f16::from_bits(u16::from(byte) << 8).to_f32(),
            Element::I8 | Element::I8By127 => f32::from(byte.cast_signed()),
        }
    }

    /// What a scale of the file is divided by.
    fn divisor(self) -> f32 {
        if self == Element::I8By127 { 127.0 } else { 1.0 }
    }
}

fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Elements with scales. Parts: the elements `[n, k]`, the scales `[⌈n / height⌉, ⌈k / width⌉]`, and for integers zero points of
/// the scales' shape. Without blocks, the elements alone, of any shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// What a byte is.
    pub element: Element,
    /// Rows and columns of a block.
    pub block: Option<[usize; 2]>,
}

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.element.name())?;
        self.block.map_or(Ok(()), |[height, width]| write!(f, "_{height}_{width}"))
    }
}

impl Scaled {
    /// The packing with that name.
    pub(super) fn from_name(name: &str) -> Option<Scaled> {
        let element = name.split('_').next()?;
        let element = Element::ALL.into_iter().find(|known| known.name() == element)?;
        if name == element.name() {
            return Some(Scaled { element, block: None });
        }
        let block = numbers(name).filter(|block: &[usize; 2]| !block.contains(&0))?;
        Some(Scaled { element, block: Some(block) })
    }

    /// The shape of the elements.
    pub(super) fn shape(self, parts: &[Weight]) -> Result<Vec<usize>> {
        match (self.block, parts) {
            (None, [elements]) => {
                expect_type(elements, &[self.element.dtype()])?;
                Ok(elements.shape().to_vec())
            }
            (Some([height, width]), [elements, scales, zeros @ ..]) if zeros.len() < 2 => {
                let [n, k] = sizes(elements, &[self.element.dtype()])?;
                let blocks = [n.div_ceil(height), k.div_ceil(width)];
                expect(scales, FLOATS, &blocks)?;
                zeros.iter().try_for_each(|zeros| expect(zeros, &[DType::I8], &blocks))?;
                Ok(vec![n, k])
            }
            _ => Err(wrong_number(self, parts)),
        }
    }

    /// Decodes some rows and columns of elements of which every row has `width`.
    pub(super) fn decode(
        self,
        parts: &[Weight],
        rows: Range<usize>,
        columns: Range<usize>,
        width: usize,
        floats: &mut [f32],
    ) -> Result<()> {
        let table: Vec<f32> = (0..=255).map(|byte| self.element.value(byte)).collect();
        let elements = parts.first().ok_or_else(|| wrong_number(self, parts))?.evaluate()?;
        let opened = self.open(parts)?;
        for (row, floats) in rows.zip(floats.chunks_exact_mut(columns.len().max(1))) {
            let bytes = elements.as_bytes().get(row * width + columns.start..).unwrap_or_default();
            let values = bytes.iter().map(|byte| at(&table, usize::from(*byte)));
            match &opened {
                None => floats.iter_mut().zip(values).for_each(|(float, value)| *float = value),
                Some(opened) => opened.scale(row, columns.start, floats.iter_mut().zip(values)),
            }
        }
        Ok(())
    }

    /// Some rows of integers in blocks that divide those of the file.
    pub(super) fn source_blocks(
        self,
        parts: &[Weight],
        rows: &Range<usize>,
        bits: usize,
        size: usize,
    ) -> Result<Option<SourceBlocks>> {
        let (Some(opened), Some(elements)) = (self.open(parts)?, parts.first()) else { return Ok(None) };
        let divides = opened.width.is_multiple_of(size) || opened.width >= opened.k;
        if bits != 8 || self.element.dtype() != DType::I8 || !divides {
            return Ok(None);
        }
        let elements = elements.evaluate()?;
        let mut source_blocks = SourceBlocks::empty();
        for row in rows.clone() {
            let row = Row {
                code: |column| at(elements.as_bytes(), row * opened.k + column) ^ 0x80,
                group: |column| {
                    let (zero, scale) = opened.block(row, column / opened.width);
                    (zero + 128, scale)
                },
            };
            source_blocks.push(&row, opened.k, bits, size);
        }
        Ok(Some(source_blocks))
    }

    fn open(self, parts: &[Weight]) -> Result<Option<Opened<'_>>> {
        let shape = self.shape(parts)?;
        let (Some([height, width]), [_, scales, zeros @ ..], [_, k]) = (self.block, parts, &shape[..]) else {
            return Ok(None);
        };
        Ok(Some(Opened {
            k: *k,
            height,
            width,
            divisor: self.element.divisor(),
            scales: Floats::of(scales)?,
            zeros: zeros.first().map(Weight::evaluate).transpose()?,
        }))
    }
}

/// The scales and zero points.
struct Opened<'a> {
    k: usize,
    height: usize,
    width: usize,
    divisor: f32,
    scales: Floats<'a>,
    zeros: Option<Evaluated<'a>>,
}

impl Opened<'_> {
    /// `scale · (value − zero)` for the values of a row from a column on.
    fn scale<'f>(&self, row: usize, first: usize, values: impl Iterator<Item = (&'f mut f32, f32)>) {
        let (mut last, mut zero, mut scale) = (usize::MAX, 0.0, 0.0);
        for (i, (float, value)) in values.enumerate() {
            let block = (first + i) / self.width;
            if block != last {
                let (of_block, by) = self.block(row, block);
                (last, zero, scale) = (block, of_block as f32, by);
            }
            *float = scale * (value - zero);
        }
    }

    /// Zero point and scale of a row's block.
    fn block(&self, row: usize, block: usize) -> (i32, f32) {
        let index = row / self.height * self.k.div_ceil(self.width) + block;
        let zero = self.zeros.as_ref().map_or(0, |zeros| i32::from(at(zeros.as_bytes(), index).cast_signed()));
        (zero, self.scales.at(index) / self.divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::weight::Packing;

    fn bytes(dtype: DType, shape: &[usize], values: &[u8]) -> Weight {
        Weight::literal(dtype, shape.to_vec(), values.to_vec()).unwrap()
    }

    fn decoded(name: &str, parts: Vec<Weight>) -> Vec<f32> {
        let weight = Weight::packed(Packing::from_name(name).unwrap(), parts).unwrap();
        weight.to_f32s().unwrap().into_owned()
    }

    #[test]
    fn bytes_are_the_numbers_that_the_formats_define() {
        let all = bytes(DType::U8, &[6], &[0x00, 0x01, 0x08, 0x38, 0x7e, 0xfe]);
        assert_eq!(decoded("e4m3", vec![all]), [0.0, 2f32.powi(-9), 2f32.powi(-6), 1.0, 448.0, -448.0]);
        let all = bytes(DType::U8, &[6], &[0x80, 0x01, 0x3c, 0x7b, 0xfb, 0x7c]);
        assert_eq!(decoded("e5m2", vec![all]), [-0.0, 2f32.powi(-16), 1.0, 57344.0, -57344.0, f32::INFINITY]);
        let nan = decoded("e4m3", vec![bytes(DType::U8, &[2, 1, 1], &[0x7f, 0xff])]);
        assert!(nan.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn every_block_has_its_scale_and_the_last_may_be_smaller() {
        let elements = bytes(DType::U8, &[3, 3], &[0x38; 9]);
        let scales = Weight::f32s(vec![2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        let found = decoded("e4m3_2_2", vec![elements, scales]);
        assert_eq!(found, [1.0, 1.0, 2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0]);
        let elements = bytes(DType::I8, &[2, 2], &[127, 129, 10, 0]);
        let scales = Weight::f32s(vec![2, 1], &[127.0, 12.7]).unwrap();
        assert_eq!(decoded("i8by127_1_2", vec![elements.clone(), scales.clone()]), [127.0, -127.0, 1.0, 0.0]);
        let zeros = bytes(DType::I8, &[2, 1], &[0, 0xf6]);
        assert_eq!(decoded("i8_1_2", vec![elements, scales, zeros]), [16129.0, -16129.0, 254.0, 127.0]);
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let refused = |name: &str, parts: Vec<Weight>| {
            let packing = Packing::from_name(name).unwrap();
            Weight::packed(packing, parts).err().unwrap().message().to_owned()
        };
        let (elements, scales) = (bytes(DType::U8, &[3, 3], &[0; 9]), Weight::f32s(vec![2, 2], &[1.0; 4]).unwrap());
        assert_eq!(
            refused("e4m3_1_3", vec![elements.clone(), scales.clone()]),
            "a computed tensor has shape [2, 2], expected [3, 1]"
        );
        assert_eq!(refused("i8_2_2", vec![elements.clone(), scales]), "a computed tensor holds u8, expected i8");
        assert_eq!(refused("e4m3_2_2", vec![elements]), "1 parts are not those of e4m3_2_2");
        for name in ["e4m3_0_2", "e4m3_2", "e4m3_", "f8"] {
            assert!(Packing::from_name(name).is_none(), "{name}");
        }
    }
}
