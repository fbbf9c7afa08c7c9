//! The elements of a weight, borrowed or computed, and what every computation of them needs.

use std::borrow::Cow;
use std::sync::OnceLock;

use super::{DType, Weight};
use crate::error::{Result, printable};

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

/// What all parts of a weight need, computed once: the threads that write a weight share it.
pub struct Computed<T>(OnceLock<T>);

impl<T> Default for Computed<T> {
    fn default() -> Computed<T> {
        Computed(OnceLock::new())
    }
}

impl<T> Computed<T> {
    /// It, computed if it was not yet.
    pub(super) fn get(&self, compute: impl FnOnce() -> Result<T>) -> Result<&T> {
        match self.0.get() {
            Some(computed) => Ok(computed),
            None => {
                let computed = compute()?;
                Ok(self.0.get_or_init(|| computed))
            }
        }
    }
}

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

pub(super) fn transpose(bytes: &[u8], rows: usize, columns: usize, dtype: DType) -> Evaluated<'static> {
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
