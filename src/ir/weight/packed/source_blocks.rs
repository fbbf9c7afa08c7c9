//! Blocks of integers with a scale and a zero point each, as a file has them.

/// `(code − zero) · scale` for the rows of a matrix that is cut into blocks along its columns. The last block of a row is
/// filled up with its zero point.
pub(crate) struct SourceBlocks {
    /// One for each element: `[n, blocks · size]`.
    pub(crate) codes: Vec<u8>,
    /// `[n, blocks]`
    pub(crate) scales: Vec<f32>,
    /// `[n, blocks]`
    pub(crate) zeros: Vec<u8>,
}

/// One row of a matrix, by functions of columns.
pub(super) struct Row<C, G> {
    /// The code of a column.
    pub(super) code: C,
    /// The zero point and the scale of a column's group.
    pub(super) group: G,
}

impl SourceBlocks {
    /// No rows yet.
    pub(crate) fn empty() -> SourceBlocks {
        SourceBlocks { codes: Vec::new(), scales: Vec::new(), zeros: Vec::new() }
    }

    /// Adds a row of `k` columns in blocks of `size`, of codes of `bits` bits. A zero point that is no code is one that no such
    /// block has: the scale of its block is NaN.
    pub(super) fn push<C, G>(&mut self, row: &Row<C, G>, k: usize, bits: usize, size: usize)
    where
        C: Fn(usize) -> u8,
        G: Fn(usize) -> (i32, f32),
    {
        for start in (0..k).step_by(size) {
            let (zero, scale) = (row.group)(start);
            let code = u8::try_from(zero).ok().filter(|zero| u32::from(*zero) >> bits == 0);
            let zero = code.unwrap_or_default();
            self.scales.push(if code.is_some() { scale } else { f32::NAN });
            self.zeros.push(zero);
            let columns = start..(start + size).min(k);
            let missing = size - columns.len();
            self.codes.extend(columns.map(&row.code));
            self.codes.extend(std::iter::repeat_n(zero, missing));
        }
    }

    /// The rows of this and of another, in that order.
    pub(crate) fn joined(mut self, other: SourceBlocks) -> SourceBlocks {
        self.codes.extend(other.codes);
        self.scales.extend(other.scales);
        self.zeros.extend(other.zeros);
        self
    }
}
