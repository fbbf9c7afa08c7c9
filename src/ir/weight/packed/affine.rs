//! Integers of a few bits in groups along the columns: `w[r, c] = (code[r, c] − zero[r, g]) · scale[r, g]`, where `g` is the
//! group of column `c`. Words are `i32`, and the first code of a word is in its lowest bits.
//!
//! Sources: AutoGPTQ's and GPTQModel's `QuantLinear.pack`, AutoAWQ's `WQLinear_GEMM` and `WQLinear_GEMV`, and `pack_to_int32`
//! of compressed-tensors.

use std::fmt;
use std::ops::Range;

use super::super::{DType, Evaluated, Weight};
use super::parts::{FLOATS, Floats, at, expect, numbers, product, sizes, wrong_number};
use super::source_blocks::{Row, SourceBlocks};
use crate::error::{Error, Result};

/// Where codes, zero points and scales are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// GPTQ: codes in words along the columns, `[k · bits / 32, n]`; zero points less one, `[groups, n · bits / 32]`; scales
    /// `[groups, n]`.
    Gptq,
    /// The same with zero points as they are: version 2 of GPTQModel.
    GptqV2,
    /// AWQ's GEMM: eight rows to a word, in the order 0, 2, 4, 6, 1, 3, 5, 7: `[k, n / 8]`, zero points `[groups, n / 8]`, scales
    /// `[groups, n]`. 4 bits.
    Awq,
    /// AWQ's GEMV: eight columns to a word, `[n, k / 8]`; zero points `[n, words]` and scales `[n, 8 · words]`, which go beyond the
    /// groups. 4 bits.
    AwqGemv,
    /// compressed-tensors: `[n, k · bits / 32]`; scales `[n, groups]`; zero points, if any, `[⌈n · bits / 32⌉, groups]`, otherwise the
    /// middle.
    Rows,
}

impl Layout {
    const ALL: [Layout; 5] = [Layout::Gptq, Layout::GptqV2, Layout::Awq, Layout::AwqGemv, Layout::Rows];

    fn name(self) -> &'static str {
        match self {
            Layout::Gptq => "gptq",
            Layout::GptqV2 => "gptqv2",
            Layout::Awq => "awq",
            Layout::AwqGemv => "awqgemv",
            Layout::Rows => "pack",
        }
    }
}

/// Integers in groups. Parts: codes, scales, zero points, and the group of each column as `i32 [k]` where columns are not in
/// the order of their groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affine {
    /// Where everything is.
    pub layout: Layout,
    /// Bits of a code: 2, 3, 4 or 8.
    pub bits: usize,
    /// Columns of a group; the last may have fewer.
    pub group: usize,
}

impl fmt::Display for Affine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.layout.name(), self.bits, self.group)
    }
}

/// The bits of codes that are read.
const BITS: [usize; 4] = [2, 3, 4, 8];

/// Where the rows of a word of AWQ's GEMM are in it.
const PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The parts by what they are.
struct Parts<'a> {
    codes: &'a Weight,
    scales: &'a Weight,
    zeros: Option<&'a Weight>,
    order: Option<&'a Weight>,
}

impl Affine {
    /// The packing with that name.
    pub(super) fn from_name(name: &str) -> Option<Affine> {
        let layout = name.split('_').next()?;
        let layout = Layout::ALL.into_iter().find(|known| known.name() == layout)?;
        let [bits, group] = numbers(name)?;
        let is_known = match layout {
            Layout::Awq | Layout::AwqGemv => bits == 4,
            Layout::Rows => [4, 8].contains(&bits),
            Layout::Gptq | Layout::GptqV2 => BITS.contains(&bits),
        };
        (is_known && group > 0).then_some(Affine { layout, bits, group })
    }

    fn parts(self, parts: &[Weight]) -> Result<Parts<'_>> {
        let [codes, scales, rest @ ..] = parts else { return Err(wrong_number(self, parts)) };
        let (orders, zeros): (Vec<&Weight>, Vec<&Weight>) = rest.iter().partition(|part| part.shape().len() == 1);
        match (&zeros[..], &orders[..]) {
            ([], [] | [_]) if self.layout == Layout::Rows => {}
            ([_], [] | [_]) => {}
            _ => return Err(wrong_number(self, parts)),
        }
        Ok(Parts { codes, scales, zeros: zeros.first().copied(), order: orders.first().copied() })
    }

    /// `[n, k]`
    pub(super) fn shape(self, parts: &[Weight]) -> Result<Vec<usize>> {
        let Parts { codes, scales, zeros, order } = self.parts(parts)?;
        let [n, k] = self.sizes(codes)?;
        let groups = k.div_ceil(self.group);
        let words = product(codes, &[n, self.bits])?.div_ceil(32);
        let expected = match self.layout {
            Layout::Gptq | Layout::GptqV2 => [[groups, n], [groups, words]],
            Layout::Awq => [[groups, n], [groups, n / 8]],
            Layout::AwqGemv => {
                let [_, width] = zeros.map_or(Ok([0, 0]), |zeros| sizes(zeros, &[DType::I32]))?;
                let width = width.max(groups.div_ceil(8));
                [[n, product(codes, &[width, 8])?], [n, width]]
            }
            Layout::Rows => [[n, groups], [words, groups]],
        };
        expect(scales, FLOATS, &expected[0])?;
        zeros.map_or(Ok(()), |zeros| expect(zeros, &[DType::I32], &expected[1]))?;
        order.map_or(Ok(()), |order| expect(order, &[DType::I32], &[k]))?;
        Ok(vec![n, k])
    }

    /// `[n, k]`, from the words of the codes.
    fn sizes(self, codes: &Weight) -> Result<[usize; 2]> {
        let [first, second] = sizes(codes, &[DType::I32])?;
        let of_words = |words: usize| -> Result<usize> {
            let bits = product(codes, &[words, 32])?;
            match bits % self.bits {
                0 => Ok(bits / self.bits),
                _ => Err(Error::bad_input(format!(
                    "{} has {words} words of 32 bits, which are no whole number of values of {} bits",
                    super::super::elements::describe(codes),
                    self.bits
                ))),
            }
        };
        Ok(match self.layout {
            Layout::Gptq | Layout::GptqV2 => [second, of_words(first)?],
            Layout::Awq => [of_words(second)?, first],
            Layout::AwqGemv | Layout::Rows => [first, of_words(second)?],
        })
    }

    fn open(self, parts: &[Weight]) -> Result<Opened<'_>> {
        let [n, k] = <[usize; 2]>::try_from(self.shape(parts)?).map_err(|_| wrong_number(self, parts))?;
        let Parts { codes, scales, zeros, order } = self.parts(parts)?;
        let groups = k.div_ceil(self.group);
        let groups_of = order.map(|order| groups_of(order, groups)).transpose()?;
        Ok(Opened {
            how: self,
            n,
            k,
            groups,
            width: zeros.and_then(|zeros| zeros.shape().get(1)).copied().unwrap_or_default(),
            codes: codes.evaluate()?,
            scales: Floats::of(scales)?,
            zeros: zeros.map(Weight::evaluate).transpose()?,
            groups_of,
        })
    }

    /// Decodes some rows and columns.
    pub(super) fn decode(
        self,
        parts: &[Weight],
        rows: Range<usize>,
        columns: Range<usize>,
        floats: &mut [f32],
    ) -> Result<()> {
        let opened = self.open(parts)?;
        for (row, mut floats) in rows.zip(floats.chunks_exact_mut(columns.len().max(1))) {
            let (mut codes, mut column) = (opened.codes(row, columns.start), columns.start);
            while !floats.is_empty() {
                let (group, end) = opened.group_from(column);
                let (zero, scale) = opened.group(row, group);
                let (of_group, rest) = floats.split_at_mut((end - column).min(floats.len()));
                column += of_group.len();
                of_group.iter_mut().for_each(|float| *float = scale * (codes.next().cast_signed() - zero) as f32);
                floats = rest;
            }
        }
        Ok(())
    }

    /// Some rows in blocks that divide the groups.
    pub(super) fn source_blocks(
        self,
        parts: &[Weight],
        rows: &Range<usize>,
        bits: usize,
        size: usize,
    ) -> Result<Option<SourceBlocks>> {
        let opened = self.open(parts)?;
        let divides = self.group.is_multiple_of(size) || opened.groups == 1;
        if bits != self.bits || opened.groups_of.is_some() || !divides {
            return Ok(None);
        }
        let mut source_blocks = SourceBlocks::empty();
        for row in rows.clone() {
            let row = Row {
                // It has no more bits than `self.bits`.
                code: |column| opened.code(row, column) as u8,
                group: |column| opened.group(row, opened.group_of(column)),
            };
            source_blocks.push(&row, opened.k, bits, size);
        }
        Ok(Some(source_blocks))
    }
}

/// The group of each column, which must be one of `groups`.
fn groups_of(order: &Weight, groups: usize) -> Result<Vec<usize>> {
    let evaluated = order.evaluate()?;
    let (words, _) = evaluated.as_bytes().as_chunks::<4>();
    let group = |word: &[u8; 4]| usize::try_from(i32::from_le_bytes(*word)).ok().filter(|group| *group < groups);
    words.iter().map(group).collect::<Option<_>>().ok_or_else(|| {
        let name = super::super::elements::describe(order);
        Error::bad_input(format!("{name} names a group that is not one of the {groups}"))
    })
}

/// The elements of the parts.
struct Opened<'a> {
    how: Affine,
    n: usize,
    k: usize,
    groups: usize,
    /// The second dimension of the zero points.
    width: usize,
    codes: Evaluated<'a>,
    scales: Floats<'a>,
    zeros: Option<Evaluated<'a>>,
    groups_of: Option<Vec<usize>>,
}

impl Opened<'_> {
    fn group_of(&self, column: usize) -> usize {
        self.groups_of.as_ref().map_or(column / self.how.group, |groups| at(groups, column))
    }

    /// The group of a column, and the column after it that may be of another.
    fn group_from(&self, column: usize) -> (usize, usize) {
        let group = self.group_of(column);
        match self.groups_of {
            Some(_) => (group, column + 1),
            None => (group, (group + 1).saturating_mul(self.how.group)),
        }
    }

    /// The codes of a row from a column on.
    fn codes(&self, row: usize, column: usize) -> Codes<'_> {
        let bits = self.how.bits;
        let (first, stride) = match self.how.layout {
            Layout::Gptq | Layout::GptqV2 => (row, self.n),
            Layout::AwqGemv | Layout::Rows => (row * (self.k * bits / 32), 1),
            Layout::Awq => return Codes::Apart { of: self, row, column },
        };
        let (place, offset) = (column * bits / 32, column * bits % 32);
        let words = self.codes.as_bytes().as_chunks::<4>().0;
        let mut stream = Stream { words, next: first + place * stride, stride, bits, held: 0, left: 0 };
        stream.load();
        (stream.held, stream.left) = (stream.held >> offset, stream.left - offset);
        Codes::Stream(stream)
    }

    fn code(&self, row: usize, column: usize) -> u32 {
        let words = self.codes.as_bytes().as_chunks::<4>().0;
        let bits = self.how.bits;
        match self.how.layout {
            Layout::Gptq | Layout::GptqV2 => value(words, row, self.n, bits, column),
            Layout::Awq => value(words, column * (self.n / 8) + row / 8, 1, bits, at(&PLACES, row % 8)),
            Layout::AwqGemv | Layout::Rows => value(words, row * (self.k * bits / 32), 1, bits, column),
        }
    }

    /// Zero point and scale.
    fn group(&self, row: usize, group: usize) -> (i32, f32) {
        let bits = self.how.bits;
        let by_row = row * self.groups + group;
        let by_group = group * self.n + row;
        let scale = match self.how.layout {
            Layout::Gptq | Layout::GptqV2 | Layout::Awq => by_group,
            Layout::AwqGemv => row * self.width * 8 + group,
            Layout::Rows => by_row,
        };
        let zero = match &self.zeros {
            None => 1 << (bits - 1),
            Some(zeros) => {
                let words = zeros.as_bytes().as_chunks::<4>().0;
                let zero = match self.how.layout {
                    Layout::Gptq | Layout::GptqV2 => value(words, group * self.width, 1, bits, row),
                    Layout::Awq => value(words, group * self.width + row / 8, 1, bits, at(&PLACES, row % 8)),
                    Layout::AwqGemv => value(words, row * self.width, 1, bits, group),
                    Layout::Rows => value(words, group, self.groups, bits, row),
                };
                zero.cast_signed() + i32::from(self.how.layout == Layout::Gptq)
            }
        };
        (zero, self.scales.at(scale))
    }
}

/// The codes of a row, one after another.
enum Codes<'a> {
    /// Each word has several.
    Stream(Stream<'a>),
    /// Each is in another word.
    Apart { of: &'a Opened<'a>, row: usize, column: usize },
}

impl Codes<'_> {
    #[inline]
    fn next(&mut self) -> u32 {
        match self {
            Codes::Stream(stream) => stream.next(),
            Codes::Apart { of, row, column } => {
                *column += 1;
                of.code(*row, *column - 1)
            }
        }
    }
}

/// Values that follow each other in words without a gap.
struct Stream<'a> {
    words: &'a [[u8; 4]],
    /// The word that is read next, and how far the one after it is.
    next: usize,
    stride: usize,
    bits: usize,
    /// Bits that were read and not used, the next value lowest, and how many.
    held: u64,
    left: usize,
}

impl Stream<'_> {
    #[inline]
    fn load(&mut self) {
        self.held |= u64::from(u32::from_le_bytes(at(self.words, self.next))) << self.left;
        self.left += 32;
        self.next += self.stride;
    }

    #[inline]
    fn next(&mut self) -> u32 {
        if self.left < self.bits {
            self.load();
        }
        let value = self.held & ((1 << self.bits) - 1);
        self.held >>= self.bits;
        self.left -= self.bits;
        value as u32
    }
}

/// The value `index` of those that follow each other without a gap in the words `first`, `first + stride`, ….
fn value(words: &[[u8; 4]], first: usize, stride: usize, bits: usize, index: usize) -> u32 {
    let word = |i: usize| u32::from_le_bytes(at(words, first + i * stride));
    let (place, offset) = (index * bits / 32, index * bits % 32);
    let low = word(place) >> offset;
    let high = if offset + bits > 32 { word(place + 1) << (32 - offset) } else { 0 };
    (low | high) & ((1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::weight::Packing;

    fn words(shape: [usize; 2], values: &[u32]) -> Weight {
        Weight::literal(DType::I32, shape.to_vec(), bytemuck::cast_slice(values).to_vec()).unwrap()
    }

    fn floats(shape: [usize; 2], values: &[f32]) -> Weight {
        Weight::f32s(shape.to_vec(), values).unwrap()
    }

    fn decoded(name: &str, parts: Vec<Weight>) -> Vec<f32> {
        let weight = Weight::packed(Packing::from_name(name).unwrap(), parts).unwrap();
        weight.to_f32s().unwrap().into_owned()
    }

    #[test]
    fn values_of_three_bits_cross_words() {
        // 32 values of 3 bits, i % 8 each, in three words.
        let bits = (0..32u128).fold(0, |bits, i| bits | (i % 8) << (3 * i));
        let codes: Vec<u32> = (0..3).map(|i| (bits >> (32 * i)) as u32).collect();
        let parts = vec![words([1, 3], &codes), floats([1, 1], &[1.0])];
        let affine = Affine { layout: Layout::Rows, bits: 3, group: 32 };
        let mut found = vec![0.0; 32];
        affine.decode(&parts, 0..1, 0..32, &mut found).unwrap();
        assert_eq!(found, (0..32).map(|i| (i % 8 - 4) as f32).collect::<Vec<_>>());
    }

    #[test]
    fn gptq_has_words_along_the_columns_and_zero_points_less_one() {
        // Two groups of four columns and eight rows: row r has the codes r + c, and zero points 1 + r % 2 and 3.
        let codes: Vec<u32> = (0..8).map(|r| (0..8).fold(0, |word, c| word | ((r + c) % 16) << (4 * c))).collect();
        let zeros = [0x1010_1010, 0x2222_2222];
        let scales: Vec<f32> = (0..16).map(|i| if i < 8 { 1.0 } else { 0.5 }).collect();
        let parts = vec![words([1, 8], &codes), floats([2, 8], &scales), words([2, 1], &zeros)];
        let row = |found: Vec<f32>, r: usize| found[r * 8..(r + 1) * 8].to_vec();
        let found = decoded("gptq_4_4", parts.clone());
        assert_eq!(row(found.clone(), 0), [-1., 0., 1., 2., 0.5, 1., 1.5, 2.]);
        assert_eq!(row(found, 3), [1., 2., 3., 4., 2., 2.5, 3., 3.5]);
        assert_eq!(row(decoded("gptqv2_4_4", parts.clone()), 0), [0., 1., 2., 3., 1., 1.5, 2., 2.5]);
        let order = Weight::i32s(vec![8], &[1, 0, 1, 0, 1, 0, 1, 0]).unwrap();
        let ordered = [parts.clone(), vec![order]].concat();
        assert_eq!(row(decoded("gptq_4_4", ordered), 0), [-1.5, 0., -0.5, 2., 0.5, 4., 1.5, 6.]);
        let order = Weight::i32s(vec![8], &[1, 0, 1, 0, 1, 0, 1, 2]).unwrap();
        let beyond = Weight::packed(Packing::from_name("gptq_4_4").unwrap(), [parts, vec![order]].concat()).unwrap();
        assert_eq!(
            beyond.evaluate().err().unwrap().message(),
            "a computed tensor names a group that is not one of the 2"
        );
    }

    #[test]
    fn awq_has_eight_rows_in_a_word_in_its_order() {
        // Row r of column 0 has the code r, so that a word reads 0, 2, 4, 6, 1, 3, 5, 7 from its lowest bits.
        let parts = vec![words([1, 1], &[0x7531_6420]), floats([1, 8], &[1.0; 8]), words([1, 1], &[0x2222_2222])];
        assert_eq!(decoded("awq_4_1", parts), [-2., -1., 0., 1., 2., 3., 4., 5.]);
        // One row of two groups, in words that have place for eight.
        let codes = [0x7654_3210, 0x0123_4567];
        let scales = [1.0, 2.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0];
        let parts = vec![words([1, 2], &codes), floats([1, 8], &scales), words([1, 1], &[0xffff_ff21])];
        let found = decoded("awqgemv_4_8", parts);
        assert_eq!(found, [-1., 0., 1., 2., 3., 4., 5., 6., 10., 8., 6., 4., 2., 0., -2., -4.]);
    }

    #[test]
    fn a_range_of_rows_is_decoded_alone() {
        let codes: Vec<u32> = (0..4).map(|r| 0x1111_1111 * r).collect();
        let parts = vec![words([4, 1], &codes), floats([4, 1], &[1.0, 1.0, 0.5, 1.0])];
        let weight = Weight::packed(Packing::from_name("pack_4_8").unwrap(), parts).unwrap();
        let cut = weight.slice(0, 2..4).unwrap();
        assert_eq!(cut.to_f32s().unwrap()[..], [[-3.0; 8], [-5.0; 8]].concat());
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let refused = |name: &str, parts: Vec<Weight>| {
            let packing = Packing::from_name(name).unwrap();
            Weight::packed(packing, parts).err().unwrap().message().to_owned()
        };
        let (codes, zeros) = (words([1, 8], &[0; 8]), words([1, 1], &[0]));
        let scales = floats([1, 8], &[1.0; 8]);
        assert_eq!(refused("gptq_4_8", vec![codes.clone(), scales.clone()]), "2 parts are not those of gptq_4_8");
        assert_eq!(
            refused("gptq_4_4", vec![codes.clone(), scales.clone(), zeros.clone()]),
            "a computed tensor has shape [1, 8], expected [2, 8]"
        );
        assert_eq!(
            refused("gptq_4_8", vec![scales.clone(), scales.clone(), zeros.clone()]),
            "a computed tensor holds f32, expected i32"
        );
        assert_eq!(
            refused("gptq_3_8", vec![codes, scales.clone(), zeros.clone()]),
            "a computed tensor has 1 words of 32 bits, which are no whole number of values of 3 bits"
        );
        assert_eq!(
            refused("gptq_4_8", vec![words([0, 8], &[]), scales, zeros]),
            "a computed tensor has shape [0, 8], expected 2 dimensions, none of them empty"
        );
        for name in ["gptq_5_8", "awq_3_8", "gptq_4_0", "gptq_4", "gptq_4_8_1", "pack_-4_8"] {
            assert!(Packing::from_name(name).is_none(), "{name}");
        }
    }
}
