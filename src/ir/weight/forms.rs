//! The forms in which weights are quantized, and how they are combined: what expressions say of themselves.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, printable};

/// The integers of 8 bits that weights are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Int8Range {
    /// −127…127
    #[default]
    Full,
    /// −64…64: two products with values of 0…255 fit in 16 bits, where x86 processors without VNNI add them. ONNX Runtime
    /// calls it `reduce_range`.
    Reduced,
}

impl Int8Range {
    /// The reduced one, if so.
    pub fn reduced(reduce: bool) -> Int8Range {
        if reduce { Int8Range::Reduced } else { Int8Range::Full }
    }

    /// The largest value; the smallest is its negative.
    pub fn largest(self) -> f32 {
        match self {
            Int8Range::Full => 127.0,
            Int8Range::Reduced => 64.0,
        }
    }

    /// The step of a channel whose largest weight has that magnitude. A channel of zeros has no range; any positive step
    /// represents it.
    pub fn step(self, most: f32) -> f32 {
        if most > f32::MIN_POSITIVE * self.largest() { most / self.largest() } else { 1.0 }
    }
}

/// How rows are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Bits of an element, 8 or 4.
    pub bits: usize,
    /// Elements of a block, a power of two from 16 on.
    pub size: usize,
    /// Whether each block has a zero point; else 2^(bits − 1) is the zero point.
    pub zero_points: bool,
}

/// The parts of a row of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockPart {
    /// `u8 [n, blocks, size · bits / 8]`
    Values,
    /// `f32 [n, blocks]`
    Scales,
    /// `u8 [n, ⌈blocks · bits / 8⌉]`
    ZeroPoints,
}

impl BlockPart {
    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            BlockPart::Values => "values",
            BlockPart::Scales => "scales",
            BlockPart::ZeroPoints => "zeros",
        }
    }

    /// The part with that name.
    pub fn from_name(name: &str) -> Option<BlockPart> {
        [BlockPart::Values, BlockPart::Scales, BlockPart::ZeroPoints].into_iter().find(|part| part.name() == name)
    }
}

/// How the sign of the majority is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Majority {
    /// The sign of the sum.
    Total,
    /// The sign that more terms have.
    Frequency,
}

impl Majority {
    /// Its name on the command line and in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Majority::Total => "total",
            Majority::Frequency => "frequency",
        }
    }
}

impl fmt::Display for Majority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Majority {
    type Err = Error;

    fn from_str(text: &str) -> Result<Majority> {
        [Majority::Total, Majority::Frequency]
            .into_iter()
            .find(|known| known.name() == text)
            .ok_or_else(|| Error::bad_input(format!("unknown majority `{}`; known: total, frequency", printable(text))))
    }
}
