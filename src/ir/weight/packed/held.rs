//! Blocks of integers with a scale and a zero point each, as a file has them.

/// `(code − zero) · scale` for the rows of a matrix that is cut into blocks along its columns. The last block of a row is
/// filled up with its zero point.
pub(crate) struct Held {
    /// One for each element: `[n, blocks · size]`.
    pub(crate) codes: Vec<u8>,
    /// `[n, blocks]`
    pub(crate) scales: Vec<f32>,
    /// `[n, blocks]`
    pub(crate) zeros: Vec<u8>,
}

impl Held {
    /// No rows yet.
    pub(crate) fn empty() -> Held {
        Held { codes: Vec::new(), scales: Vec::new(), zeros: Vec::new() }
    }

    /// The rows of this and of another, in that order.
    pub(crate) fn joined(mut self, other: Held) -> Held {
        self.codes.extend(other.codes);
        self.scales.extend(other.scales);
        self.zeros.extend(other.zeros);
        self
    }
}
