//! Values of 8 or 4 bits with one scale for each block of a row, laid out as `MatMulNBits` of ONNX Runtime wants them.
//!
//! A row of `k` elements is cut into blocks, the last one filled up with zeros. Elements of 4 bits are packed two in a
//! byte, the first in the lower half; so do zero points.
//!
//! A weight whose file has such blocks, or groups that they divide, keeps its codes, scales and zero points: nothing is rounded
//! again.

use std::ops::Range;

use super::elements::{describe, largest_bits, nearest};
use super::packed::Held;
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
    if let Some(held) = exact(of, how, &rows)? {
        return Ok(how.part_of(held, k, part));
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

/// The blocks that the file has for some rows of a weight, if it has them in this form.
fn exact(of: &Weight, how: Blocks, rows: &Range<usize>) -> Result<Option<Held>> {
    let middle = 1u8 << (how.bits - 1);
    let fits = |held: &Held| {
        let finite = held.scales.iter().all(|scale| scale.is_finite());
        finite && (how.zero_points || held.zeros.iter().all(|zero| *zero == middle))
    };
    Ok(held(of, how, rows)?.filter(fits))
}

/// The same with any zero points. Rows of several weights, and some rows of one, are as they are alone.
fn held(of: &Weight, how: Blocks, rows: &Range<usize>) -> Result<Option<Held>> {
    match of.expr() {
        Expr::Packed { packing, parts } => packing.held(parts, rows, how.bits, how.size),
        Expr::Concat { axis: 0, parts } => {
            let (mut joined, mut start) = (Held::empty(), 0);
            for part in parts {
                let [n, _] = part.matrix("quantize")?;
                let within = |row: usize| row.clamp(start, start + n) - start;
                let Some(next) = held(part, how, &(within(rows.start)..within(rows.end)))? else { return Ok(None) };
                joined = joined.joined(next);
                start += n;
            }
            Ok(Some(joined))
        }
        Expr::Slice { of, axis: 0, range } => held(of, how, &(range.start + rows.start..range.start + rows.end)),
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

    /// A part of blocks that are there.
    fn part_of(self, held: Held, k: usize, part: BlockPart) -> Evaluated<'static> {
        let mut bytes = Vec::new();
        match part {
            BlockPart::Scales => return Evaluated::Floats(held.scales),
            BlockPart::Values => self.pack(&held.codes, &mut bytes),
            BlockPart::ZeroPoints => {
                held.zeros.chunks(k.div_ceil(self.size).max(1)).for_each(|row| self.pack(row, &mut bytes));
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
            assert!(exact(&packed, how, &(0..1)).unwrap().is_none());
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
