//! The elements of a weight, borrowed or computed, and what every computation of them needs.

use std::borrow::Cow;

use super::{DType, Weight};
use crate::error::printable;

/// The elements of a weight, borrowed from a mapped file where nothing had to be computed.
pub enum Evaluated<'a> {
    /// As in the file, little-endian.
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

/// The bits of the largest magnitude. Bits of positive floats are ordered as the floats are; those of infinity and NaN come
/// last.
pub(super) fn largest_bits(values: &[f32]) -> u32 {
    values.iter().map(|value| value.to_bits() & 0x7fff_ffff).fold(0, u32::max)
}

/// The nearest integer of a number under 2²² in magnitude, ties to even.
///
/// Adding 1.5 · 2²³ leaves no room for a fraction; unlike `round_ties_even`, this needs no instruction that the oldest x86-64
/// lacks, so it is vectorized everywhere.
pub(super) fn nearest(x: f32) -> f32 {
    (x + ROUNDING) - ROUNDING
}

/// What [`nearest`] adds: the integer is in the lowest bits of the sum.
pub(super) const ROUNDING: f32 = 12_582_912.0;

/// A weight, as messages call it.
pub(super) fn describe(weight: &Weight) -> String {
    match weight.source_name() {
        Some(name) => format!("tensor `{}`", printable(name)),
        None => "a computed tensor".to_owned(),
    }
}

/// Borrows aligned bytes as floats and copies the others.
pub(super) fn floats(bytes: &[u8]) -> Cow<'_, [f32]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => Cow::Borrowed(values),
        Err(_) => widen(bytes, f32::from_le_bytes),
    }
}

pub(super) fn widen<const N: usize>(bytes: &[u8], one: impl Fn([u8; N]) -> f32) -> Cow<'static, [f32]> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| one(*chunk)).collect()
}

/// A matrix that is filled with transposed pieces, one range of its columns after another.
pub(super) struct Transposed {
    bytes: Vec<u8>,
    /// Elements of a row.
    width: usize,
    size: usize,
}

impl Transposed {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, width: usize, dtype: DType) -> Transposed {
        Transposed { bytes: vec![0; rows * width * dtype.size()], width, size: dtype.size() }
    }

    /// Fills the columns from `at` on with the rows of a piece of which each has `columns` elements.
    pub fn fill(&mut self, at: usize, piece: &[u8], columns: usize) {
        match self.size {
            1 => fill::<1>(&mut self.bytes, self.width, at, piece, columns),
            2 => fill::<2>(&mut self.bytes, self.width, at, piece, columns),
            4 => fill::<4>(&mut self.bytes, self.width, at, piece, columns),
            _ => fill::<8>(&mut self.bytes, self.width, at, piece, columns),
        }
    }

    pub fn into_elements(self) -> Evaluated<'static> {
        Evaluated::Bytes(self.bytes)
    }
}

/// Works through square tiles, so that both sides stay in the cache.
fn fill<const N: usize>(to: &mut [u8], width: usize, at: usize, piece: &[u8], columns: usize) {
    const TILE: usize = 32;
    let (to, from) = (to.as_chunks_mut::<N>().0, piece.as_chunks::<N>().0);
    let rows = from.len() / columns.max(1);
    for row in (0..rows).step_by(TILE) {
        for column in (0..columns).step_by(TILE) {
            for c in column..(column + TILE).min(columns) {
                for r in row..(row + TILE).min(rows) {
                    to[c * width + at + r] = from[r * columns + c];
                }
            }
        }
    }
}
