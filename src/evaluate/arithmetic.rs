//! The arithmetic of an evaluation.

/// The rounding of a floating-point result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Floats {
    /// All 32 bits, in every declared type.
    #[default]
    Exact,
    /// Rounded to the declared type of each value.
    RoundEachNode,
}

/// How products of 8-bit integers are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Int8Sums {
    /// In 32 bits.
    #[default]
    Exact,
    /// Two by two in 16 bits, with saturation, and then in 32.
    Saturating,
}

/// The arithmetic of an evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    /// Of floats.
    pub float: Floats,
    /// Of 8-bit integers.
    pub int8: Int8Sums,
}
