//! Rectangles of weights: what is evaluated at a time.
//!
//! The first dimension of a weight is its rows; all others together are its columns. A large weight is written by ranges of
//! rows, so memory does not grow with it. A row of a transposed weight is a column of its operand, so regions have both.

use std::ops::Range;

use super::elements::{Evaluated, Transposed, floats};
use super::{DType, Expr, Weight};
use crate::error::Result;

/// Elements of a range of rows. What is computed on the way has room in a cache of a few megabytes.
const ELEMENTS: usize = 1 << 20;

/// Rows of a range that are columns of what is stored: as many as share a few lines of a cache.
const STRIDED: usize = 64;

/// Elements of a piece that is transposed at a time.
const PIECE: usize = 1 << 17;

/// The fewest rows of such a piece: what a merge computes for each piece anew is small beside them.
const PIECE_ROWS: usize = 512;

/// Rows and columns of a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Region {
    /// All of a weight.
    pub fn whole(of: &Weight) -> Region {
        let [rows, columns] = of.grid();
        Region { rows: 0..rows, columns: 0..columns }
    }

    /// The same rows, and all columns of a weight.
    pub fn across(&self, of: &Weight) -> Region {
        Region { rows: self.rows.clone(), columns: 0..of.grid()[1] }
    }

    /// The same columns, and all rows of a weight.
    pub fn along(&self, of: &Weight) -> Region {
        Region { rows: 0..of.grid()[0], columns: self.columns.clone() }
    }

    /// Rows for columns.
    pub fn transposed(&self) -> Region {
        Region { rows: self.columns.clone(), columns: self.rows.clone() }
    }

    /// Whether it has every column of that weight.
    pub fn has_all_columns(&self, of: &Weight) -> bool {
        self.columns == (0..of.grid()[1])
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

impl Weight {
    /// Rows and columns.
    pub(super) fn grid(&self) -> [usize; 2] {
        let rows = self.shape().first().copied().unwrap_or(1);
        [rows, self.shape().iter().skip(1).product()]
    }

    /// The rows in ranges that are evaluated one after another: each of about a million elements, or all in one where a range would
    /// cost as much as the whole.
    pub fn row_ranges(&self) -> Vec<Range<usize>> {
        let [rows, columns] = self.grid();
        let height = match self.has_cheap_rows() {
            true => (ELEMENTS / columns.max(1)).max(if self.is_strided() { STRIDED } else { 1 }),
            false => rows.max(1),
        };
        (0..rows).step_by(height).map(|start| start..(start + height).min(rows)).collect()
    }

    /// Whether a row is a column of what is stored.
    fn is_strided(&self) -> bool {
        match self.expr() {
            Expr::Transpose(_) => true,
            Expr::QuantizedValues { of, .. } => of.is_strided(),
            _ => false,
        }
    }

    /// Whether a range of rows costs its share of the whole, and memory for that share alone.
    pub fn has_cheap_rows(&self) -> bool {
        let of_itself = match self.expr() {
            // Which elements are the largest follows from all of them.
            Expr::Prune { seed, .. } => seed.is_some(),
            Expr::Transpose(inner) => inner.has_cheap_columns(),
            _ => true,
        };
        of_itself && self.operands().into_iter().all(Weight::has_cheap_rows)
    }

    /// Whether some columns of rows are computed without the others.
    fn has_cheap_columns(&self) -> bool {
        match self.expr() {
            Expr::Packed { packing, .. } => packing.has_cheap_columns(),
            _ => self.operands().into_iter().all(Weight::has_cheap_columns),
        }
    }
}

/// The columns of elements of which every row has `width`, in rows of whole columns.
pub(super) fn columns(all: Evaluated<'_>, width: usize, columns: &Range<usize>, dtype: DType) -> Evaluated<'static> {
    let bytes = all.as_bytes();
    let rows = bytes.len() / (width * dtype.size()).max(1);
    cut(bytes, width, &Region { rows: 0..rows, columns: columns.clone() }, dtype)
}

/// A region of elements of which every row has `width`.
pub(super) fn cut(bytes: &[u8], width: usize, region: &Region, dtype: DType) -> Evaluated<'static> {
    let size = dtype.size();
    let row = |r: usize| {
        let at = r * width;
        bytes.get((at + region.columns.start) * size..(at + region.columns.end) * size).unwrap_or_default()
    };
    if dtype == DType::F32 {
        let mut values = Vec::with_capacity(region.len());
        region.rows.clone().for_each(|r| values.extend_from_slice(&floats(row(r))));
        return Evaluated::Floats(values);
    }
    let mut values = Vec::with_capacity(region.len() * size);
    region.rows.clone().for_each(|r| values.extend_from_slice(row(r)));
    Evaluated::Bytes(values)
}

/// A region of elements that are there: borrowed where it is whole rows.
pub(super) fn stored<'a>(bytes: &'a [u8], weight: &Weight, region: &Region) -> Evaluated<'a> {
    let [_, width] = weight.grid();
    if region.has_all_columns(weight) {
        let stride = width * weight.dtype().size();
        let rows = bytes.get(region.rows.start * stride..region.rows.end * stride);
        return Evaluated::Mapped(rows.unwrap_or_default());
    }
    cut(bytes, width, region, weight.dtype())
}

/// A region, transposed: pieces of its rows are computed one after another, so that each stays in the cache.
pub(super) fn transposed<'a>(
    at: &Region,
    dtype: DType,
    piece: impl Fn(&Region) -> Result<Evaluated<'a>>,
) -> Result<Evaluated<'static>> {
    let columns = at.columns.len();
    let mut turned = Transposed::zeros(columns, at.rows.len(), dtype);
    let height = (PIECE / columns.max(1)).max(PIECE_ROWS);
    for start in at.rows.clone().step_by(height) {
        let rows = start..(start + height).min(at.rows.end);
        let evaluated = piece(&Region { rows, columns: at.columns.clone() })?;
        turned.fill(start - at.rows.start, evaluated.as_bytes(), columns);
    }
    Ok(turned.into_elements())
}

#[cfg(test)]
mod tests {
    use super::super::{BlockPart, Blocks, Int8Range, Majority, Packing};
    use super::*;

    fn matrix(rows: usize, columns: usize, seed: usize) -> Weight {
        let value = |i: usize| ((i * 37 + seed * 11) % 101) as f32 / 8.0 - 6.0;
        Weight::f32s(vec![rows, columns], &(0..rows * columns).map(value).collect::<Vec<_>>()).unwrap()
    }

    fn vector(n: usize) -> Weight {
        matrix(1, n, 5).reshape(vec![n]).unwrap()
    }

    /// An expression of every kind over weights of 7 × 6.
    fn expressions() -> Vec<Weight> {
        let (w, other) = (matrix(7, 6, 0), matrix(7, 6, 3));
        let (left, right) = (matrix(7, 2, 1), matrix(2, 6, 2));
        let cube = w.reshape(vec![7, 2, 3]).unwrap();
        let how = Blocks { bits: 4, size: 16, zero_points: true };
        let (rows, columns) = (w.quantize(0, Int8Range::Full).unwrap(), w.quantize(1, Int8Range::Full).unwrap());
        let turned = w.transpose().unwrap().quantize(0, Int8Range::Full).unwrap();
        let made = [
            Ok(w.cast(DType::F16)),
            w.transpose(),
            Weight::concat(0, vec![w.clone(), other.clone(), w.clone()]),
            Weight::concat(1, vec![w.clone(), left.clone(), other.clone()]),
            Weight::concat(1, vec![cube.clone(), cube.clone()]),
            Weight::concat(2, vec![cube.clone(), cube.clone()]),
            w.lora(&right, &left, 0.5).and_then(|once| once.lora(&right, &left, 0.25)),
            left.product(&right),
            Weight::sum(vec![(2.0, w.clone()), (-1.0, other.clone())]),
            w.times(&other),
            left.kron(&matrix(3, 4, 4)),
            w.scale(&vector(7), 0),
            w.scale(&vector(6), 1),
            cube.scale(&vector(3), 2),
            w.renorm(&other, &vector(7), 0),
            w.renorm(&other, &vector(6), 1),
            w.renorm(&w, &vector(6), 1),
            w.replace_rows(vec![6, 2], &right),
            w.slice(0, 2..6),
            w.slice(1, 1..5),
            cube.slice(1, 1..2),
            cube.slice(2, 1..3),
            w.take(0, vec![5, 1, 5, 3]),
            w.take(1, vec![4, 2, 2]),
            cube.take(1, vec![1, 0, 1]),
            cube.take(2, vec![2, 0]).and_then(|taken| taken.slice(1, 1..2)),
            w.prune(0.4, None),
            w.prune(0.4, Some(7)),
            Weight::elect(
                Majority::Total,
                vec![(1.0, w.clone()), (0.5, other.clone()), (1.0, w.times(&other).unwrap())],
            ),
            w.low_rank(2),
            w.in_blocks(how, BlockPart::Values),
            w.in_blocks(how, BlockPart::ZeroPoints),
        ];
        let quantized = [rows, columns, turned].into_iter().flat_map(|(values, scales)| [values, scales]);
        made.into_iter().map(|weight| weight.unwrap()).chain(quantized).chain(packed()).collect()
    }

    /// A weight of every packing.
    fn packed() -> Vec<Weight> {
        let bytes = |dtype: DType, shape: &[usize]| {
            let len = shape.iter().product::<usize>() * dtype.size();
            let bytes = (0..len).map(|i| (i * 31 % 119) as u8).collect();
            Weight::literal(dtype, shape.to_vec(), bytes).unwrap()
        };
        let (words, u8s) = (|shape: &[usize]| bytes(DType::I32, shape), |shape: &[usize]| bytes(DType::U8, shape));
        let floats = |shape: &[usize]| matrix(1, shape.iter().product(), 4).reshape(shape.to_vec()).unwrap();
        let order = Weight::i32s(vec![16], &[1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0]).unwrap();
        let gptq = vec![words(&[2, 8]), floats(&[2, 8]).cast(DType::F16), words(&[2, 1])];
        let nested = vec![u8s(&[3, 4]), floats(&[16]), u8s(&[5]), floats(&[256]), floats(&[3]), floats(&[])];
        let all = [
            ("gptq_4_8", gptq.clone()),
            ("gptqv2_4_8", [gptq, vec![order]].concat()),
            ("gptq_3_20", vec![words(&[3, 32]), floats(&[2, 32]).cast(DType::BF16), words(&[2, 3])]),
            ("awq_4_3", vec![words(&[6, 2]), floats(&[2, 16]), words(&[2, 2])]),
            ("awqgemv_4_8", vec![words(&[3, 2]), floats(&[3, 8]), words(&[3, 1])]),
            ("pack_8_3", vec![words(&[5, 2]), floats(&[5, 3]), words(&[2, 3])]),
            ("e4m3", vec![u8s(&[3, 2, 3])]),
            ("e5m2_2_4", vec![u8s(&[5, 7]), floats(&[3, 2])]),
            ("i8_1_3", vec![bytes(DType::I8, &[4, 6]), floats(&[4, 2]), bytes(DType::I8, &[4, 2])]),
            ("bnb_5", vec![u8s(&[4, 3]), floats(&[16]), floats(&[5])]),
            ("bnb_5_2", nested),
            ("mxfp4", vec![u8s(&[3, 2, 2, 16]), bytes(DType::U8, &[3, 2, 2])]),
            ("mxfp4_flat", vec![u8s(&[2, 3, 1, 16]), bytes(DType::U8, &[2, 3, 1])]),
            ("q8_0", vec![u8s(&[3, 68])]),
        ];
        all.into_iter().map(|(name, parts)| Weight::packed(Packing::from_name(name).unwrap(), parts).unwrap()).collect()
    }

    /// The bytes of some rows of a weight that was evaluated as a whole.
    fn rows_of(weight: &Weight, rows: Range<usize>) -> Vec<u8> {
        let stride = weight.byte_len() / weight.shape()[0];
        weight.evaluate().unwrap().as_bytes()[rows.start * stride..rows.end * stride].to_vec()
    }

    #[test]
    fn rows_are_those_of_the_whole_in_every_expression() {
        for weight in expressions() {
            for start in 0..weight.shape()[0] {
                for end in start + 1..=weight.shape()[0] {
                    let rows = weight.evaluate_rows(start..end).unwrap();
                    assert!(rows.as_bytes() == rows_of(&weight, start..end), "{start}…{end} of {:?}", weight.ty());
                }
            }
        }
    }

    #[test]
    fn rows_of_transposed_expressions_are_columns_of_them() {
        for weight in expressions().into_iter().filter(|weight| weight.shape().len() == 2) {
            let (Ok(turned), true) = (weight.transpose(), weight.dtype() != DType::U8) else { continue };
            for start in 0..turned.shape()[0] {
                let rows = turned.evaluate_rows(start..turned.shape()[0]).unwrap();
                assert!(rows.as_bytes() == rows_of(&turned, start..turned.shape()[0]), "{:?}", weight.ty());
            }
        }
    }

    #[test]
    fn ranges_cover_all_rows_and_are_one_where_rows_are_not_cheap() {
        let table = Weight::source("w", DType::BF16, vec![100_000, 896], None).unwrap();
        let ranges = table.cast(DType::F32).row_ranges();
        assert!(ranges.len() > 80 && ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!((ranges[0].start, ranges.last().unwrap().end), (0, 100_000));
        assert_eq!(table.transpose().unwrap().row_ranges()[0], 0..STRIDED);
        assert_eq!(table.prune(0.5, None).unwrap().row_ranges(), vec![Range { start: 0, end: 100_000 }]);
        let parts = vec![
            Weight::source("qweight", DType::I32, vec![512, 4096], None).unwrap(),
            Weight::source("scales", DType::F16, vec![32, 4096], None).unwrap(),
            Weight::source("qzeros", DType::I32, vec![32, 512], None).unwrap(),
        ];
        let gptq = Weight::packed(Packing::from_name("gptq_4_128").unwrap(), parts).unwrap();
        assert_eq!([gptq.row_ranges().len(), gptq.transpose().unwrap().row_ranges().len()], [16, 16]);
        let ggml = Weight::source("w", DType::U8, vec![4096, 4352], None).unwrap();
        let ggml = Weight::packed(Packing::from_name("q8_0").unwrap(), vec![ggml]).unwrap();
        assert_eq!([ggml.row_ranges().len(), ggml.transpose().unwrap().row_ranges().len()], [16, 1]);
        assert_eq!(Weight::f32s(vec![], &[1.0]).unwrap().row_ranges(), vec![Range { start: 0, end: 1 }]);
        assert!(Weight::f32s(vec![0, 4], &[]).unwrap().row_ranges().is_empty());
    }
}
