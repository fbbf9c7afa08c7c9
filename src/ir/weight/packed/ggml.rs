//! The blocks of llama.cpp, as `ggml-common.h` and `ggml-quants.c` define them.

use std::ops::Range;

use half::f16;

use super::super::{DType, Weight};
use crate::error::{Error, Result};

/// A type of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum GgmlType {
    /// 32 elements: a scale of 16 bits, 32 signed values of 8 bits.
    Q8_0,
}

impl GgmlType {
    /// Every type.
    pub const ALL: [GgmlType; 1] = [GgmlType::Q8_0];

    /// The name that llama.cpp has for it.
    pub fn name(self) -> &'static str {
        match self {
            GgmlType::Q8_0 => "Q8_0",
        }
    }

    /// Elements of a block.
    pub fn elements(self) -> usize {
        match self {
            GgmlType::Q8_0 => 32,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            GgmlType::Q8_0 => 34,
        }
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
        let [_, row] = parts.first().ok_or_else(|| Error::bug("blocks without a part"))?.matrix(self.name())?;
        let evaluated = parts.iter().map(Weight::evaluate).collect::<Result<Vec<_>>>()?;
        let bytes = evaluated.first().map(|part| part.as_bytes()).unwrap_or_default();
        let bytes = bytes.get(rows.start * row..rows.end * row).unwrap_or_default();
        for (block, floats) in bytes.chunks_exact(self.bytes()).zip(floats.chunks_exact_mut(self.elements())) {
            match self {
                GgmlType::Q8_0 => q8_0(block, floats),
            }
        }
        Ok(())
    }
}

/// `d · q`
fn q8_0(block: &[u8], floats: &mut [f32]) {
    let Some((scale, values)) = block.split_first_chunk::<2>() else { return };
    let scale = f16::from_le_bytes(*scale).to_f32();
    for (float, value) in floats.iter_mut().zip(values) {
        *float = scale * f32::from(value.cast_signed());
    }
}
