//! Weights in the packed forms of quantized files, decoded to FP32 by ranges of rows.
//!
//! A packed weight consists of tensors of its file (values, and for some formats scales, zero points or an order of
//! columns) and the [`Packing`] that says how they are read. There is a file for each family of formats.

mod ggml;
mod held;
mod k_quants;
mod packing;

use std::ops::Range;

use super::{DType, Expr, Weight};
use crate::error::{Error, Result};

pub use ggml::GgmlType;
pub(super) use held::Held;
pub use packing::Packing;

impl Packing {
    /// The shape of the floats that those parts hold, `[n, …]`.
    fn shape(self, parts: &[Weight]) -> Result<Vec<usize>> {
        match self {
            Packing::Ggml(ty) => ty.shape(parts),
        }
    }

    /// Decodes some rows into `floats`, which has their length.
    fn decode(self, parts: &[Weight], rows: Range<usize>, floats: &mut [f32]) -> Result<()> {
        match self {
            Packing::Ggml(ty) => ty.decode(parts, rows, floats),
        }
    }

    /// The codes, scales and zero points of some rows of a matrix in blocks of `size` elements of `bits` bits, where the file holds it in
    /// that form or in groups that such blocks divide: nothing is rounded then.
    pub(super) fn held(self, parts: &[Weight], rows: &Range<usize>, bits: usize, size: usize) -> Result<Option<Held>> {
        match self {
            Packing::Ggml(ty) => ty.held(parts, rows, bits, size),
        }
    }
}

impl Weight {
    /// The floats of parts that are packed so. Fails where the shapes of the parts do not belong together.
    pub fn packed(packing: Packing, parts: Vec<Weight>) -> Result<Weight> {
        let shape = packing.shape(&parts)?;
        super::byte_len(DType::F32, &shape)
            .ok_or_else(|| Error::bad_input(format!("a packed tensor of shape {shape:?} is too large")))?;
        Ok(Weight::new(DType::F32, shape, Expr::Packed { packing, parts }))
    }
}

/// Some rows, each of `columns` elements, decoded.
pub(super) fn decoded(packing: Packing, parts: &[Weight], rows: Range<usize>, columns: usize) -> Result<Vec<f32>> {
    let mut floats = vec![0.0; rows.len() * columns];
    packing.decode(parts, rows, &mut floats)?;
    Ok(floats)
}
