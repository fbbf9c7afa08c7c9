//! The number formats an engine can be built in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};

/// The number format of an engine's heavy work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    Fp32,
    /// Half-precision floats with norms in 32 bits where the target computes in them; elsewhere half-precision weights,
    /// widened to be used.
    Fp16,
    /// Products in BF16, the range of 32-bit floats in 16 bits.
    Bf16,
    /// 8-bit linear layers, channels smoothed and cut into groups, weights per output channel, activations with ranges
    /// that the engine finds when it runs, or that were observed on texts where the target wants it so: the one to ship.
    Int8,
    /// The same with fewer nodes that cost time.
    Int8Fast,
    /// 8-bit linear layers, weights per output channel, activations with ranges that were observed on texts.
    Int8Static,
    /// 8-bit weights; activations stay floats, or are quantized in small groups while the engine runs.
    Int8Weights,
    /// 4-bit weights in small blocks; activations as with [`Precision::Int8Weights`].
    Int4,
}

impl Precision {
    /// Every precision there is.
    pub const ALL: [Precision; 8] = [
        Precision::Fp32,
        Precision::Fp16,
        Precision::Bf16,
        Precision::Int8,
        Precision::Int8Fast,
        Precision::Int8Static,
        Precision::Int8Weights,
        Precision::Int4,
    ];

    /// Whether weights are rounded for layers' inputs on texts.
    pub fn is_calibrated(self) -> bool {
        matches!(self, Precision::Int8 | Precision::Int8Fast | Precision::Int8Static)
    }

    /// The name on the command line, in recipes and in file names.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
            Precision::Int8Fast => "int8-fast",
            Precision::Int8Static => "int8-static",
            Precision::Int8Weights => "int8-weights",
            Precision::Int4 => "int4",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Precision> {
        let names = Precision::ALL.map(Precision::name);
        Precision::ALL.into_iter().find(|precision| precision.name() == text).ok_or_else(|| {
            let error =
                Error::bad_input(format!("unknown precision `{}`; known: {}", printable(text), names.join(", ")));
            error.hint_nearest(text, names)
        })
    }
}
