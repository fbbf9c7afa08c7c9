//! Weights in the packed forms of quantized files, decoded to FP32 by ranges of rows.
//!
//! A packed weight consists of tensors of its file (values, and for some formats scales, zero points or an order of
//! columns) and the [`Packing`] that says how they are read. There is a file for each family of formats.

mod affine;
mod codebook;
mod ggml;
mod k_quants;
mod microscaled;
mod packing;
mod parts;
mod scaled;
mod source_blocks;

use std::ops::Range;

use super::{DType, Expr, Weight};
use crate::error::{Error, Result};

pub use affine::{Affine, Layout};
pub use codebook::Codebook;
pub use ggml::GgmlType;
pub use microscaled::Microscaled;
pub use packing::Packing;
pub use scaled::{Element, Scaled};
pub(super) use source_blocks::SourceBlocks;

impl Packing {
    /// The shape of the floats that those parts hold, `[n, …]`. Fails where the parts do not belong together.
    fn shape(self, parts: &[Weight]) -> Result<Vec<usize>> {
        match self {
            Packing::Ggml(ty) => ty.shape(parts),
            Packing::Affine(affine) => affine.shape(parts),
            Packing::Scaled(scaled) => scaled.shape(parts),
            Packing::Codebook(codebook) => codebook.shape(parts),
            Packing::Microscaled(microscaled) => microscaled.shape(parts),
        }
    }

    /// Whether some columns of rows are decoded without the others.
    pub(super) fn has_cheap_columns(self) -> bool {
        !matches!(self, Packing::Ggml(_))
    }

    /// The codes, scales and zero points of some rows of a matrix in blocks of `size` elements of `bits` bits, where the file
    /// holds it in that form or in groups that such blocks divide: nothing is rounded then. A block that is not of that form
    /// has NaN as its scale.
    pub(super) fn source_blocks(
        self,
        parts: &[Weight],
        rows: &Range<usize>,
        bits: usize,
        size: usize,
    ) -> Result<Option<SourceBlocks>> {
        match self {
            Packing::Affine(affine) => affine.source_blocks(parts, rows, bits, size),
            Packing::Scaled(scaled) => scaled.source_blocks(parts, rows, bits, size),
            Packing::Ggml(ty) => ty.source_blocks(parts, rows, bits, size),
            Packing::Codebook(_) | Packing::Microscaled(_) => Ok(None),
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

    /// How the floats are packed in their file, where they are, and the tensors that hold them.
    pub fn packing(&self) -> Option<(Packing, &[Weight])> {
        match self.expr() {
            Expr::Packed { packing, parts } => Some((*packing, parts)),
            _ => None,
        }
    }

    /// Whether a quantizer has packed the floats: 8-bit floats without scales are only a type of elements.
    pub fn is_quantized(&self) -> bool {
        self.packing().is_some_and(|(packing, _)| !matches!(packing, Packing::Scaled(Scaled { block: None, .. })))
    }

    /// Bytes that the file has for the elements: fewer than [`Weight::byte_len`] where they are packed.
    pub fn stored_len(&self) -> usize {
        match self.packing() {
            Some((_, parts)) => parts.iter().map(Weight::byte_len).sum(),
            None => self.byte_len(),
        }
    }
}

/// Some rows of which each has `width` elements, decoded; of those packings that have cheap columns, some columns alone.
pub(super) fn decoded(
    packing: Packing,
    parts: &[Weight],
    rows: Range<usize>,
    columns: Range<usize>,
    width: usize,
) -> Result<Vec<f32>> {
    let columns = if packing.has_cheap_columns() { columns } else { 0..width };
    let mut floats = vec![0.0; rows.len() * columns.len()];
    match packing {
        Packing::Ggml(ty) => ty.decode(parts, rows, &mut floats)?,
        Packing::Affine(affine) => affine.decode(parts, rows, columns, &mut floats)?,
        Packing::Scaled(scaled) => scaled.decode(parts, rows, columns, width, &mut floats)?,
        Packing::Codebook(codebook) => codebook.decode(parts, rows, columns, &mut floats)?,
        Packing::Microscaled(microscaled) => microscaled.decode(parts, rows, columns, &mut floats)?,
    }
    Ok(floats)
}
