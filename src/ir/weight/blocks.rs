//! Values of 8 or 4 bits with one scale for each block of a row, laid out as `MatMulNBits` of ONNX Runtime wants them.
//!
//! A row of `k` elements is cut into blocks, the last one filled up with zeros. Elements of 4 bits are packed two in a
//! byte, the first in the lower half; so do zero points.
//!
//! A row whose file has such blocks, or groups that they divide, keeps its codes, scales and zero points: nothing is rounded
//! again.

use std::ops::Range;

use super::elements::{describe, largest_bits, nearest};
use super::packed::SourceBlocks;
use super::region::Region;
use super::{BlockPart, Blocks, DType, Evaluated, Expr, Weight};
use crate::error::{Error, Result};

impl Weight {
    /// A part of the rows of a matrix in blocks.
    pub fn in_blocks(&self, how: Blocks, part: BlockPart) -> Result<Weight> {
        let [n, k] = self.matrix("quantize")?;
        if !matches!(how.bits, 4 | 8) || how.size < 16 || !how.size.is_power_of_two() || how.size > 1 << 20 {
            return Err(Error::bad_input(format!(
                "blocks of {} elements of {} bits are not known",
                how.size, how.bits
            )));
        }
        let blocks = k.div_ceil(how.size);
        let (dtype, shape) = match part {
            BlockPart::Values => (DType::U8, vec![n, blocks, how.size * how.bits / 8]),
            BlockPart::Scales => (DType::F32, vec![n, blocks]),
            BlockPart::ZeroPoints => (DType::U8, vec![n, (blocks * how.bits).div_ceil(8)]),
        };
        Ok(Weight::new(dtype, shape, Expr::Blocks { of: self.cast(DType::F32), how, part }))
    }
}

/// Computes some rows of a part.
pub(super) fn evaluated(of: &Weight, how: Blocks, part: BlockPart, rows: Range<usize>) -> Result<Evaluated<'static>> {
    let [_, k] = of.matrix("quantize")?;
    if let Some(source_blocks) = source_blocks(of, how, &rows)? {
        let fits = how.rows_that_fit(&source_blocks, k);
        match fits.iter().filter(|fits| **fits).count() {
            0 => {}
            count if count == rows.len() => return Ok(how.part_of(source_blocks, k, part)),
            // Every row is decided by itself, so that the parts of a weight agree whatever ranges they are computed in.
            _ => return row_by_row(of, how, part, rows),
        }
    }
    let values = of.f32s_of(&Region { rows, columns: 0..k })?;
    if largest_bits(&values) >= f32::INFINITY.to_bits() {
        return Err(Error::bad_input(format!("{} holds NaN or infinity and cannot be quantized", describe(of))));
    }
    let rows = values.chunks(k.max(1));
    Ok(match part {
        BlockPart::Scales => {
            Evaluated::Floats(rows.flat_map(|row| row.chunks(how.size)).map(|block| how.grid(block).scale).collect())
        }
        BlockPart::ZeroPoints => {
            let zeros = |row: &[f32]| row.chunks(how.size).map(|block| how.grid(block).zero as u8).collect::<Vec<_>>();
            let mut bytes = Vec::new();
            rows.for_each(|row| how.pack(&zeros(row), &mut bytes));
            Evaluated::Bytes(bytes)
        }
        BlockPart::Values => {
            let mut bytes = Vec::with_capacity(values.len().div_ceil(8 / how.bits));
            let mut codes = vec![0; how.size];
            for block in rows.flat_map(|row| row.chunks(how.size)) {
                how.encode(block, &mut codes);
                how.pack(&codes, &mut bytes);
            }
            Evaluated::Bytes(bytes)
        }
    })
}

/// The same, one row after another.
fn row_by_row(of: &Weight, how: Blocks, part: BlockPart, rows: Range<usize>) -> Result<Evaluated<'static>> {
    let (mut floats, mut bytes) = (Vec::new(), Vec::new());
    for row in rows {
        match evaluated(of, how, part, row..row + 1)? {
            Evaluated::Floats(values) => floats.extend(values),
            other => bytes.extend_from_slice(other.as_bytes()),
        }
    }
    Ok(if part == BlockPart::Scales { Evaluated::Floats(floats) } else { Evaluated::Bytes(bytes) })
}

/// The blocks that the file has for some rows of a weight, if it has any. Rows of several weights, and some rows of one, are as
/// they are alone.
fn source_blocks(of: &Weight, how: Blocks, rows: &Range<usize>) -> Result<Option<SourceBlocks>> {
    match of.expr() {
        Expr::Packed { packing, parts } => packing.source_blocks(parts, rows, how.bits, how.size),
        Expr::Concat { axis: 0, parts } => {
            let (mut joined, mut start) = (SourceBlocks::empty(), 0);
            for part in parts {
                let [n, _] = part.matrix("quantize")?;
                let within = |row: usize| row.clamp(start, start + n) - start;
                let Some(next) = source_blocks(part, how, &(within(rows.start)..within(rows.end)))? else {
                    return Ok(None);
                };
                joined = joined.joined(next);
                start += n;
            }
            Ok(Some(joined))
        }
        Expr::Slice { of, axis: 0, range } => {
            source_blocks(of, how, &(range.start + rows.start..range.start + rows.end))
        }
        _ => Ok(None),
    }
}

/// The numbers that a block's elements can be: `(code − zero) · scale`.
struct Grid {
    scale: f32,
    zero: f32,
}

impl Blocks {
    fn largest_code(self) -> f32 {
        ((1usize << self.bits) - 1) as f32
    }

    fn grid(self, block: &[f32]) -> Grid {
        let middle = (1usize << (self.bits - 1)) as f32;
        if self.zero_points {
            let low = block.iter().copied().fold(0.0, f32::min);
            let high = block.iter().copied().fold(0.0, f32::max);
            let scale = positive(high / self.largest_code() - low / self.largest_code());
            return Grid { scale, zero: nearest(-low / scale) };
        }
        // The element of the largest magnitude takes the code 0, which has no opposite: one more step for the others.
        let largest = block.iter().copied().fold(0.0f32, |m, x| if x.abs() > m.abs() { x } else { m });
        Grid { scale: if largest == 0.0 { 1.0 } else { -largest / middle }, zero: middle }
    }

    /// The codes of a block, filled up with those of 0.
    fn encode(self, block: &[f32], codes: &mut [u8]) {
        let (grid, largest) = (self.grid(block), self.largest_code());
        let (filled, rest) = codes.split_at_mut(block.len().min(codes.len()));
        for (code, x) in filled.iter_mut().zip(block) {
            *code = (nearest(x / grid.scale) + grid.zero).clamp(0.0, largest) as u8;
        }
        rest.fill(grid.zero as u8);
    }

    /// Which rows of blocks that are there are of this form.
    fn rows_that_fit(self, source_blocks: &SourceBlocks, k: usize) -> Vec<bool> {
        let (blocks, middle) = (k.div_ceil(self.size).max(1), 1u8 << (self.bits - 1));
        let scales = source_blocks.scales.chunks(blocks).map(|scales| scales.iter().all(|scale| scale.is_finite()));
        let zeros = source_blocks.zeros.chunks(blocks);
        let zeros = zeros.map(|zeros| self.zero_points || zeros.iter().all(|zero| *zero == middle));
        scales.zip(zeros).map(|(finite, known)| finite && known).collect()
    }

    /// A part of blocks that are there.
    fn part_of(self, source_blocks: SourceBlocks, k: usize, part: BlockPart) -> Evaluated<'static> {
        let mut bytes = Vec::new();
        match part {
            BlockPart::Scales => return Evaluated::Floats(source_blocks.scales),
            BlockPart::Values => self.pack(&source_blocks.codes, &mut bytes),
            BlockPart::ZeroPoints => {
                source_blocks.zeros.chunks(k.div_ceil(self.size).max(1)).for_each(|row| self.pack(row, &mut bytes));
            }
        }
        Evaluated::Bytes(bytes)
    }

    /// Appends codes: two in a byte where they have 4 bits.
    fn pack(self, codes: &[u8], bytes: &mut Vec<u8>) {
        match self.bits {
            8 => bytes.extend_from_slice(codes),
            _ => {
                let (pairs, last) = codes.as_chunks::<2>();
                bytes.extend(pairs.iter().map(|[low, high]| low | high << 4));
                bytes.extend_from_slice(last);
            }
        }
    }
}

/// A block of zeros has no range; any positive step represents it.
fn positive(scale: f32) -> f32 {
    if scale > f32::MIN_POSITIVE { scale } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::weight::{GgmlType, Packing};

    fn parts(how: Blocks, shape: [usize; 2], values: &[f32]) -> (Vec<u8>, Vec<f32>, Vec<u8>) {
        let w = Weight::f32s(shape.to_vec(), values).unwrap();
        let part = |part| w.in_blocks(how, part).unwrap();
        let bytes = |weight: Weight| {
            let bytes = weight.evaluate().unwrap().as_bytes().to_vec();
            assert_eq!(bytes.len(), weight.byte_len());
            bytes
        };
        let scales = part(BlockPart::Scales).to_f32s().unwrap().into_owned();
        (bytes(part(BlockPart::Values)), scales, bytes(part(BlockPart::ZeroPoints)))
    }

    #[test]
    fn symmetric_blocks_use_every_code_around_the_middle() {
        let mut row = vec![0.0; 20];
        row[..4].copy_from_slice(&[-8.0, 7.0, 3.4, -3.6]);
        row[16..18].copy_from_slice(&[4.0, -3.5]);
        let (values, scales, _) = parts(Blocks { bits: 4, size: 16, zero_points: false }, [1, 20], &row);
        assert_eq!(scales, [1.0, -0.5]);
        assert_eq!(values[..3], [15 << 4, 4 << 4 | 11, 8 << 4 | 8]);
        assert_eq!(values[8..10], [15 << 4, 8 << 4 | 8]);
        let (values, scales, _) = parts(Blocks { bits: 8, size: 16, zero_points: false }, [1, 2], &[-1.0, 0.5]);
        assert_eq!((values[0], values[1], values[15], scales[0]), (0, 192, 128, 1.0 / 128.0));
    }

    #[test]
    fn blocks_with_zero_points_use_the_whole_range() {
        let mut rows = vec![0.0; 3 * 48];
        rows[..3].copy_from_slice(&[-1.0, 14.0, 6.6]);
        rows[16..18].copy_from_slice(&[30.0, 2.0]);
        rows[48] = -15.0;
        let (values, scales, zeros) = parts(Blocks { bits: 4, size: 16, zero_points: true }, [3, 48], &rows);
        assert_eq!(scales, [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(values[..3], [15 << 4, 1 << 4 | 8, 1 << 4 | 1]);
        assert_eq!(values[8], 1 << 4 | 15);
        assert_eq!(values[24], 15 << 4);
        assert_eq!(zeros, [1, 0, 15, 0, 0, 0]);
    }

    /// Two rows of 64 columns in groups of 32: row r has the codes (r + c) % 7, zero points 5 and 7 + r, and scales of 1 and 2.
    fn grouped() -> Weight {
        let words = |shape: [usize; 2], values: Vec<u32>| {
            Weight::literal(DType::I32, shape.to_vec(), bytemuck::cast_slice(&values).to_vec()).unwrap()
        };
        let word = |r: u32, first: u32| (0..8).fold(0, |word, c| word | (((r + first + c) % 7) << (4 * c)));
        let codes = words([2, 8], (0..16).map(|i| word(i / 8, i % 8 * 8)).collect());
        let scales = Weight::f32s(vec![2, 2], &[1.0, 2.0, 1.0, 2.0]).unwrap();
        let zeros = words([1, 2], vec![0x55, 0x87]);
        Weight::packed(Packing::from_name("pack_4_32").unwrap(), vec![codes, scales, zeros]).unwrap()
    }

    fn bytes_of(weight: &Weight, how: Blocks, part: BlockPart) -> Vec<u8> {
        weight.in_blocks(how, part).unwrap().evaluate().unwrap().as_bytes().to_vec()
    }

    fn floats_of(weight: &Weight, how: Blocks) -> Vec<f32> {
        weight.in_blocks(how, BlockPart::Scales).unwrap().to_f32s().unwrap().into_owned()
    }

    #[test]
    fn blocks_of_the_file_are_kept() {
        let how = Blocks { bits: 4, size: 32, zero_points: true };
        let weight = grouped();
        assert_eq!(floats_of(&weight, how), [1.0, 2.0, 1.0, 2.0]);
        assert_eq!(bytes_of(&weight, how, BlockPart::ZeroPoints), [0x75, 0x85]);
        let values = bytes_of(&weight, how, BlockPart::Values);
        assert_eq!((values.len(), &values[..2], &values[32..34]), (64, &[0x10, 0x32][..], &[0x21, 0x43][..]));
        // A block that divides a group has its scale and zero point.
        let half = Blocks { size: 16, ..how };
        assert_eq!(bytes_of(&weight, half, BlockPart::Values), values);
        assert_eq!(floats_of(&weight, half)[..4], [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(bytes_of(&weight, half, BlockPart::ZeroPoints), [0x55, 0x77, 0x55, 0x88]);
        // Rows of several weights, and some rows of one.
        let both = Weight::concat(0, vec![weight.clone(), weight.slice(0, 1..2).unwrap()]).unwrap();
        assert_eq!(bytes_of(&both, how, BlockPart::ZeroPoints), [0x75, 0x85, 0x85]);
        assert_eq!(bytes_of(&both, how, BlockPart::Values), [&values[..], &values[32..]].concat());
    }

    #[test]
    fn other_forms_than_the_files_are_rounded() {
        let weight = grouped();
        let rounded = |how: Blocks| {
            let loose = Weight::f32s(weight.shape().to_vec(), &weight.to_f32s().unwrap()).unwrap();
            let parts = [BlockPart::Values, BlockPart::Scales, BlockPart::ZeroPoints];
            parts.iter().all(|part| bytes_of(&weight, how, *part) == bytes_of(&loose, how, *part))
        };
        assert!(!rounded(Blocks { bits: 4, size: 32, zero_points: true }));
        assert!(rounded(Blocks { bits: 4, size: 64, zero_points: true }));
        assert!(rounded(Blocks { bits: 4, size: 32, zero_points: false }));
        assert!(rounded(Blocks { bits: 8, size: 32, zero_points: true }));
    }

    /// A zero point of GPTQ that is one beyond the codes is in the second row alone.
    #[test]
    fn rows_are_kept_or_rounded_one_by_one() {
        let words = |shape: [usize; 2], values: Vec<u32>| {
            Weight::literal(DType::I32, shape.to_vec(), bytemuck::cast_slice(&values).to_vec()).unwrap()
        };
        let codes = words([4, 8], (0..32).map(|i| 0x7654_3210u32.rotate_left(i % 5 * 4)).collect());
        let scales = Weight::f32s(vec![1, 8], &[0.5; 8]).unwrap();
        let zeros = words([1, 1], vec![0x7777_77f7]);
        let weight = Weight::packed(Packing::from_name("gptq_4_32").unwrap(), vec![codes, scales, zeros]).unwrap();
        let how = Blocks { bits: 4, size: 32, zero_points: true };
        let zeros = bytes_of(&weight, how, BlockPart::ZeroPoints);
        assert_eq!((zeros.len(), zeros[0], &zeros[2..]), (8, 8, &[8; 6][..]));
        let (values, scales) = (bytes_of(&weight, how, BlockPart::Values), floats_of(&weight, how));
        assert!(scales.iter().enumerate().all(|(row, scale)| (*scale == 0.5) == (row != 1)), "{scales:?}");
        for (i, expected) in weight.to_f32s().unwrap().iter().enumerate() {
            let (row, code) = (i / 32, values[i / 2] >> (i % 2 * 4) & 15);
            let found = scales[row] * (f32::from(code) - f32::from(zeros[row]));
            let bound = if row == 1 { scales[1] / 2.0 } else { 0.0 };
            assert!((found - expected).abs() <= bound, "{i}: {found} for {expected}");
        }
        // And so in any range of rows.
        let part = |part: BlockPart, rows: Range<usize>| {
            weight.in_blocks(how, part).unwrap().evaluate_rows(rows).unwrap().as_bytes().to_vec()
        };
        for part_of in [BlockPart::Values, BlockPart::Scales, BlockPart::ZeroPoints] {
            let pieces = [part(part_of, 0..1), part(part_of, 1..3), part(part_of, 3..8)].concat();
            assert_eq!(pieces, bytes_of(&weight, how, part_of));
        }
    }

    #[test]
    fn blocks_of_a_file_keep_their_numbers() {
        // Two blocks in each of two rows: a scale of 0.5 or −0.25 and any bytes.
        let block = |scale: u16, bytes: usize, seed: u8| {
            let values = (0..bytes).map(move |i| (i as u8).wrapping_mul(37).wrapping_add(seed));
            scale.to_le_bytes().into_iter().chain(values)
        };
        for (ty, bytes, bits) in
            [(GgmlType::Q8_0, 32, 8), (GgmlType::Q4_0, 16, 4), (GgmlType::Q5_0, 20, 8), (GgmlType::Q4_0, 16, 8)]
        {
            for zero_points in [false, true] {
                let rows: Vec<u8> = (0..4).flat_map(|i| block([0x3800, 0xB400][i % 2], bytes, i as u8)).collect();
                let part = Weight::literal(DType::U8, vec![2, 2 * (bytes + 2)], rows).unwrap();
                let packed = Weight::packed(Packing::Ggml(ty), vec![part]).unwrap();
                let how = Blocks { bits, size: 32, zero_points };
                let of = |part| packed.in_blocks(how, part).unwrap();
                let [values, zeros] = [BlockPart::Values, BlockPart::ZeroPoints].map(|part| {
                    let weight = of(part);
                    assert!(weight.evaluate().unwrap().as_bytes().len() == weight.byte_len());
                    weight.evaluate().unwrap().as_bytes().to_vec()
                });
                let scales = of(BlockPart::Scales).to_f32s().unwrap().into_owned();
                assert_eq!(scales, [0.5, -0.25, 0.5, -0.25]);
                let code = |bytes: &[u8], i: usize| match bits {
                    8 => bytes[i],
                    _ => bytes[i / 2] >> (i % 2 * 4) & 15,
                };
                let floats: Vec<f32> = (0..128)
                    .map(|i| scales[i / 32] * (f32::from(code(&values, i)) - f32::from(code(&zeros, 0))))
                    .collect();
                assert_eq!(floats, *packed.to_f32s().unwrap(), "{ty:?} in {bits} bits");
            }
        }
        // Fewer bits than the values have, or other blocks: rounded anew.
        let part = Weight::literal(DType::U8, vec![1, 34], block(0x3800, 32, 1).collect()).unwrap();
        let packed = Weight::packed(Packing::Ggml(GgmlType::Q8_0), vec![part]).unwrap();
        for how in [Blocks { bits: 4, size: 32, zero_points: false }, Blocks { bits: 8, size: 64, zero_points: false }]
        {
            assert!(source_blocks(&packed, how, &(0..1)).unwrap().is_none());
        }
    }

    #[test]
    fn weights_that_cannot_be_quantized_are_refused() {
        let w = Weight::f32s(vec![1, 2], &[1.0, f32::INFINITY]).unwrap();
        let how = Blocks { bits: 4, size: 32, zero_points: false };
        let said = w.in_blocks(how, BlockPart::Values).unwrap().evaluate().err().unwrap();
        assert_eq!(said.message(), "a computed tensor holds NaN or infinity and cannot be quantized");
        let said = w.in_blocks(Blocks { size: 24, ..how }, BlockPart::Values).err().unwrap();
        assert_eq!(said.message(), "blocks of 24 elements of 4 bits are not known");
    }
}
