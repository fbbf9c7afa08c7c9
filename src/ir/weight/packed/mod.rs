//! Weights in the packed forms of quantized files, decoded to FP32 by ranges of rows.
//!
//! A packed weight consists of tensors of its file (values, and for some formats scales, zero points or an order of
//! columns) and the [`Packing`] that says how they are read. There is a file for each family of formats.

mod ggml;

use std::ops::Range;

use super::{DType, Expr, Weight};
use crate::error::{Error, Result};

pub use ggml::GgmlType;

/// How the parts of a packed weight become floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Blocks of llama.cpp. One part: `u8 [n, bytes of a row]`.
    Ggml(GgmlType),
}

impl Packing {
    /// The name in the text form of graphs, in small letters: `q8_0`.
    pub fn name(self) -> String {
        match self {
            Packing::Ggml(ty) => ty.name().to_ascii_lowercase(),
        }
    }

    /// The packing with that name.
    pub fn from_name(name: &str) -> Option<Packing> {
        GgmlType::ALL.into_iter().map(Packing::Ggml).find(|packing| packing.name() == name)
    }

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
