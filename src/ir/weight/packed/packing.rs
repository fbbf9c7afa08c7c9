//! The packings and their names. What they do to the parts of a weight is beside: this file knows no weight.

use std::fmt;

use super::affine::Affine;
use super::codebook::Codebook;
use super::ggml::GgmlType;
use super::microscaled::Microscaled;
use super::scaled::Scaled;

/// How the parts of a packed weight become floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Blocks of llama.cpp. One part: `u8 [n, bytes of a row]`.
    Ggml(GgmlType),
    /// Integers of a few bits with a scale and a zero point for each group of columns: GPTQ, AWQ, compressed-tensors.
    Affine(Affine),
    /// Elements of 8 bits with a scale for each block, or without scales.
    Scaled(Scaled),
    /// Numbers of a table of 16 with a largest magnitude for each block: NF4 and FP4 of bitsandbytes.
    Codebook(Codebook),
    /// FP4 with a power of two for each 32 inputs: MXFP4 of gpt-oss.
    Microscaled(Microscaled),
}

impl Packing {
    /// The name in the text form of graphs, in small letters: `q8_0`, `gptq_4_128`.
    pub fn name(self) -> String {
        match self {
            Packing::Ggml(ty) => ty.name().to_ascii_lowercase(),
            Packing::Affine(affine) => affine.to_string(),
            Packing::Scaled(scaled) => scaled.to_string(),
            Packing::Codebook(codebook) => codebook.to_string(),
            Packing::Microscaled(microscaled) => microscaled.to_string(),
        }
    }

    /// The packing with that name.
    pub fn from_name(name: &str) -> Option<Packing> {
        let ggml = || GgmlType::ALL.into_iter().map(Packing::Ggml).find(|packing| packing.name() == name);
        let affine = || Affine::from_name(name).map(Packing::Affine);
        let scaled = || Scaled::from_name(name).map(Packing::Scaled);
        let codebook = || Codebook::from_name(name).map(Packing::Codebook);
        let microscaled =
            || Microscaled::ALL.into_iter().find(|known| known.to_string() == name).map(Packing::Microscaled);
        ggml().or_else(affine).or_else(scaled).or_else(codebook).or_else(microscaled)
    }
}

impl Packing {
    /// The packing of the same parts whose floats have another shape, where there is one.
    pub(in crate::ir::weight) fn reshaped(self, from: &[usize], to: &[usize]) -> Option<Packing> {
        match (self, from, to) {
            (Packing::Microscaled(_), from, to) if from == to => Some(self),
            (Packing::Microscaled(Microscaled { flat: false }), [_, _, outputs], [_, columns])
                if outputs == columns =>
            {
                Some(Packing::Microscaled(Microscaled { flat: true }))
            }
            (Packing::Microscaled(Microscaled { flat: true }), [_, outputs], [_, _, columns]) if outputs == columns => {
                Some(Packing::Microscaled(Microscaled { flat: false }))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
