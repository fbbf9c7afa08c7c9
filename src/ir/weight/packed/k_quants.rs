//! The blocks of 256 elements of llama.cpp, whose parts have scales of a few bits under one of 16 (`ggml-quants.c`).

use half::f16;

/// Bytes of packed scales and offsets of 6 bits.
const SCALES: usize = 12;

/// The 16-bit float at the beginning, and the rest.
pub(super) fn half(bytes: &[u8]) -> (f32, &[u8]) {
    match bytes.split_first_chunk::<2>() {
        Some((scale, rest)) => (f16::from_le_bytes(*scale).to_f32(), rest),
        None => (0.0, bytes),
    }
}

/// The scale and the offset of part `i` of 8, each of 6 bits: the first four are whole, the others have their upper bits
/// above those.
fn scale_and_offset(packed: &[u8; SCALES], i: usize) -> (f32, f32) {
    let at = |i: usize| packed.get(i).copied().unwrap_or_default();
    let (scale, offset) = match i.checked_sub(4) {
        None => (at(i) & 63, at(i + 4) & 63),
        Some(first) => (at(i + 4) & 15 | at(first) >> 6 << 4, at(i + 4) >> 4 | at(i) >> 6 << 4),
    };
    (f32::from(scale), f32::from(offset))
}

/// What blocks of 4 and 5 bits begin with.
struct Head<'a> {
    scale: f32,
    least: f32,
    packed: &'a [u8; SCALES],
}

impl<'a> Head<'a> {
    fn read(block: &'a [u8]) -> (Head<'a>, &'a [u8]) {
        let (scale, rest) = half(block);
        let (least, rest) = half(rest);
        let (packed, rest) = rest.split_first_chunk::<SCALES>().unwrap_or((&[0; SCALES], rest));
        (Head { scale, least, packed }, rest)
    }

    /// Writes part `i`: `d · s · q − m · o`.
    fn write(&self, i: usize, values: impl Iterator<Item = u8>, floats: &mut [f32]) {
        let (scale, offset) = scale_and_offset(self.packed, i);
        let (scale, offset) = (self.scale * scale, self.least * offset);
        for (float, value) in floats.iter_mut().zip(values) {
            *float = scale * f32::from(value) - offset;
        }
    }
}

/// Two parts of 32 from 32 bytes: the lower halves, then the upper ones.
pub(super) fn q4_k(block: &[u8], floats: &mut [f32]) {
    let (head, values) = Head::read(block);
    for (i, part) in floats.chunks_exact_mut(32).enumerate() {
        let bytes = values.iter().skip(i / 2 * 32).take(32);
        head.write(i, bytes.map(|byte| byte >> (i % 2 * 4) & 15), part);
    }
}

/// The same with a fifth bit each: bit `i` of 32 bytes for part `i`.
pub(super) fn q5_k(block: &[u8], floats: &mut [f32]) {
    let (head, rest) = Head::read(block);
    let (high, values) = rest.split_at(rest.len().min(32));
    for (i, part) in floats.chunks_exact_mut(32).enumerate() {
        let bytes = values.iter().skip(i / 2 * 32).take(32).zip(high);
        head.write(i, bytes.map(|(low, high)| low >> (i % 2 * 4) & 15 | (high >> i & 1) << 4), part);
    }
}

/// `d · s · (q − 32)`: of each 128 elements four quarters, whose lower bits are the lower halves of 64 bytes, then the upper
/// ones, and whose upper bits are pairs of 32 bytes.
pub(super) fn q6_k(block: &[u8], floats: &mut [f32]) {
    let (low, rest) = block.split_at(block.len().min(128));
    let (high, rest) = rest.split_at(rest.len().min(64));
    let (scales, rest) = rest.split_at(rest.len().min(16));
    let (scale, _) = half(rest);
    let at = |bytes: &[u8], i: usize| bytes.get(i).copied().unwrap_or_default();
    for (i, float) in floats.iter_mut().enumerate() {
        let (of_128, within) = (i / 128, i % 128);
        let (quarter, l) = (within / 32, within % 32);
        let lower = at(low, of_128 * 64 + quarter % 2 * 32 + l) >> (quarter / 2 * 4) & 15;
        let upper = at(high, of_128 * 32 + l) >> (quarter * 2) & 3;
        let value = f32::from(lower | upper << 4) - 32.0;
        *float = scale * f32::from(at(scales, i / 16).cast_signed()) * value;
    }
}

/// `d · s · q − m · o`, with the scales in the lower halves of 16 bytes and the offsets in the upper ones; of each 128
/// elements four quarters, which are pairs of bits of 32 bytes.
pub(super) fn q2_k(block: &[u8], floats: &mut [f32]) {
    let (scales, rest) = block.split_at(block.len().min(16));
    let (values, rest) = rest.split_at(rest.len().min(64));
    let (scale, rest) = half(rest);
    let (least, _) = half(rest);
    let at = |bytes: &[u8], i: usize| bytes.get(i).copied().unwrap_or_default();
    for (i, float) in floats.iter_mut().enumerate() {
        let part = at(scales, i / 16);
        let value = at(values, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3;
        *float = scale * f32::from(part & 15) * f32::from(value) - least * f32::from(part >> 4);
    }
}

/// `d · (s − 32) · (q − 4)`, whose third bit is in the first 32 bytes: bit `i` for the eighth `i` of the block.
pub(super) fn q3_k(block: &[u8], floats: &mut [f32]) {
    let (high, rest) = block.split_at(block.len().min(32));
    let (values, rest) = rest.split_at(rest.len().min(64));
    let (packed, rest) = rest.split_at(rest.len().min(SCALES));
    let (scale, _) = half(rest);
    let at = |bytes: &[u8], i: usize| bytes.get(i).copied().unwrap_or_default();
    // Of 16 scales, the lower 4 bits of 8 and 8 in 8 bytes, the upper 2 of all in the 4 after.
    let scale_of = |i: usize| {
        let (lower, upper) = (at(packed, i % 8) >> (i / 8 * 4) & 15, at(packed, 8 + i % 4) >> (i / 4 * 2) & 3);
        f32::from(lower | upper << 4) - 32.0
    };
    for (i, float) in floats.iter_mut().enumerate() {
        let low = at(values, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3;
        let third = at(high, i % 32) >> (i / 32) & 1;
        *float = scale * scale_of(i / 16) * (f32::from(low | third << 2) - 4.0);
    }
}
