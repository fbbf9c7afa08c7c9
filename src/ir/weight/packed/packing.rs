//! The packings and their names. What they do to the parts of a weight is beside: this file knows no weight.

use super::ggml::GgmlType;

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
}
