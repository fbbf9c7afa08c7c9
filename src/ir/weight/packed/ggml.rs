//! The blocks of llama.cpp, as `ggml-common.h` and `ggml-quants.c` define them.

use std::ops::Range;

use super::super::{DType, Weight};
use super::k_quants::{half, q2_k, q3_k, q4_k, q5_k, q6_k};
use super::source_blocks::SourceBlocks;
use crate::error::{Error, Result};

/// A type of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum GgmlType {
    /// 32 elements: a scale of 16 bits, 32 values of 4 bits around 8.
    Q4_0,
    /// 32 elements: a scale and an offset of 16 bits, 32 values of 4 bits.
    Q4_1,
    /// 32 elements: a scale of 16 bits, 32 values of 5 bits around 16.
    Q5_0,
    /// 32 elements: a scale and an offset of 16 bits, 32 values of 5 bits.
    Q5_1,
    /// 32 elements: a scale of 16 bits, 32 signed values of 8 bits.
    Q8_0,
    /// 256 elements in 16 parts of 2 bits, each with a scale and an offset of 4 bits.
    Q2_K,
    /// 256 elements in 16 parts of 3 bits, each with a scale of 6 bits.
    Q3_K,
    /// 256 elements in 8 parts of 4 bits, each with a scale and an offset of 6 bits.
    Q4_K,
    /// 256 elements in 8 parts of 5 bits, each with a scale and an offset of 6 bits.
    Q5_K,
    /// 256 elements in 16 parts of 6 bits, each with a scale of 8 bits.
    Q6_K,
}

/// What a type is.
struct Facts {
    ty: GgmlType,
    name: &'static str,
    elements: usize,
    bytes: usize,
    /// Decodes one block.
    decode: fn(&[u8], &mut [f32]),
}

const FACTS: [Facts; 10] = [
    Facts { ty: GgmlType::Q4_0, name: "Q4_0", elements: 32, bytes: 18, decode: q4_0 },
    Facts { ty: GgmlType::Q4_1, name: "Q4_1", elements: 32, bytes: 20, decode: q4_1 },
    Facts { ty: GgmlType::Q5_0, name: "Q5_0", elements: 32, bytes: 22, decode: q5_0 },
    Facts { ty: GgmlType::Q5_1, name: "Q5_1", elements: 32, bytes: 24, decode: q5_1 },
    Facts { ty: GgmlType::Q8_0, name: "Q8_0", elements: 32, bytes: 34, decode: q8_0 },
    Facts { ty: GgmlType::Q2_K, name: "Q2_K", elements: 256, bytes: 84, decode: q2_k },
    Facts { ty: GgmlType::Q3_K, name: "Q3_K", elements: 256, bytes: 110, decode: q3_k },
    Facts { ty: GgmlType::Q4_K, name: "Q4_K", elements: 256, bytes: 144, decode: q4_k },
    Facts { ty: GgmlType::Q5_K, name: "Q5_K", elements: 256, bytes: 176, decode: q5_k },
    Facts { ty: GgmlType::Q6_K, name: "Q6_K", elements: 256, bytes: 210, decode: q6_k },
];

impl GgmlType {
    /// Every type.
    pub const ALL: [GgmlType; 10] = [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2_K,
        GgmlType::Q3_K,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ];

    fn facts(self) -> &'static Facts {
        const { assert!(FACTS.len() == GgmlType::ALL.len()) };
        FACTS.iter().find(|facts| facts.ty == self).unwrap_or(&FACTS[0])
    }

    /// The name that llama.cpp has for it.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Elements of a block.
    pub fn elements(self) -> usize {
        self.facts().elements
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        self.facts().bytes
    }

    /// Bits of its values, where a block is values times a scale and no more.
    fn symmetric_bits(self) -> Option<usize> {
        match self {
            GgmlType::Q4_0 => Some(4),
            GgmlType::Q5_0 => Some(5),
            GgmlType::Q8_0 => Some(8),
            _ => None,
        }
    }

    /// The blocks of such a type around the middle of the codes of `bits` bits.
    pub(super) fn source_blocks(
        self,
        parts: &[Weight],
        rows: &Range<usize>,
        bits: usize,
        size: usize,
    ) -> Result<Option<SourceBlocks>> {
        let fits = |own: usize| own <= bits && bits <= 8 && self.elements().is_multiple_of(size);
        let (Some(part), true) = (parts.first(), self.symmetric_bits().is_some_and(fits)) else { return Ok(None) };
        let evaluated = part.evaluate_rows(rows.clone())?;
        let middle = 1u8 << (bits - 1);
        let mut source_blocks = SourceBlocks::empty();
        for block in evaluated.as_bytes().chunks_exact(self.bytes()) {
            let (scale, values) = half(block);
            match self {
                GgmlType::Q4_0 => source_blocks.codes.extend(nibbles(values).map(|value| value + (middle - 8))),
                GgmlType::Q5_0 => source_blocks.codes.extend(fives(values).map(|value| value + (middle - 16))),
                _ => source_blocks.codes.extend(values.iter().map(|value| value.wrapping_add(middle))),
            }
            let blocks = self.elements() / size;
            source_blocks.scales.extend(std::iter::repeat_n(scale, blocks));
            source_blocks.zeros.extend(std::iter::repeat_n(middle, blocks));
        }
        Ok(Some(source_blocks))
    }

    /// `[n, k]` of the one part `u8 [n, bytes of a row]`.
    pub(super) fn shape(self, parts: &[Weight]) -> Result<Vec<usize>> {
        let [part] = parts else {
            return Err(Error::bug(format!("{} parts of {} blocks", parts.len(), self.name())));
        };
        let [n, bytes] = part.matrix(self.name())?;
        if part.dtype() != DType::U8 || bytes % self.bytes() != 0 {
            return Err(Error::bug(format!("{} blocks in {}", self.name(), part.ty())));
        }
        Ok(vec![n, bytes / self.bytes() * self.elements()])
    }

    /// Decodes some rows.
    pub(super) fn decode(self, parts: &[Weight], rows: Range<usize>, floats: &mut [f32]) -> Result<()> {
        let part = parts.first().ok_or_else(|| Error::bug("blocks without a part"))?;
        let evaluated = part.evaluate_rows(rows)?;
        let bytes = evaluated.as_bytes();
        let Facts { decode, .. } = self.facts();
        for (block, floats) in bytes.chunks_exact(self.bytes()).zip(floats.chunks_exact_mut(self.elements())) {
            decode(block, floats);
        }
        Ok(())
    }
}

/// The values of 4 bits of 16 bytes: the lower halves first, then the upper ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// The same with a fifth bit each, of the 4 bytes before.
fn fives(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let (high, values) = bytes.split_first_chunk::<4>().unwrap_or((&[0; 4], bytes));
    let high = u32::from_le_bytes(*high);
    nibbles(values).enumerate().map(move |(i, low)| low | ((high >> i & 1) as u8) << 4)
}

/// `d · (q − 8)`
fn q4_0(block: &[u8], floats: &mut [f32]) {
    let (scale, values) = half(block);
    for (float, value) in floats.iter_mut().zip(nibbles(values)) {
        *float = scale * (f32::from(value) - 8.0);
    }
}

/// `d · q + m`
fn q4_1(block: &[u8], floats: &mut [f32]) {
    let (scale, rest) = half(block);
    let (least, values) = half(rest);
    for (float, value) in floats.iter_mut().zip(nibbles(values)) {
        *float = scale * f32::from(value) + least;
    }
}

/// `d · (q − 16)`
fn q5_0(block: &[u8], floats: &mut [f32]) {
    let (scale, values) = half(block);
    for (float, value) in floats.iter_mut().zip(fives(values)) {
        *float = scale * (f32::from(value) - 16.0);
    }
}

/// `d · q + m`
fn q5_1(block: &[u8], floats: &mut [f32]) {
    let (scale, rest) = half(block);
    let (least, values) = half(rest);
    for (float, value) in floats.iter_mut().zip(fives(values)) {
        *float = scale * f32::from(value) + least;
    }
}

/// `d · q`
fn q8_0(block: &[u8], floats: &mut [f32]) {
    let (scale, values) = half(block);
    for (float, value) in floats.iter_mut().zip(values) {
        *float = scale * f32::from(value.cast_signed());
    }
}
