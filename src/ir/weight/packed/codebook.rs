//! The 4 bits of bitsandbytes (NF4 and FP4, arXiv 2305.14314): `w[i] = table[code[i]] · absmax[i / block]`, where `i` counts the
//! elements of the whole tensor.
//!
//! Parts: `u8 [n, k / 2]`, two elements in a byte with the first in the upper half; the table, `f32 [16]`; the largest
//! magnitudes of the blocks, as floats, or as `u8` with a table of 256, its own largest magnitudes and one offset for all:
//! `absmax[j] = nested_table[code[j]] · nested_absmax[j / nested block] + offset`.

use std::fmt;
use std::ops::Range;

use super::super::{DType, Evaluated, Weight};
use super::parts::{FLOATS, Floats, at, expect, numbers, product, sizes, wrong_number};
use crate::error::Result;

/// The blocks. With `nested`, the largest magnitudes are quantized in blocks of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codebook {
    /// Elements that share a largest magnitude.
    pub block: usize,
    /// Largest magnitudes that share one themselves.
    pub nested: Option<usize>,
}

const NAME: &str = "bnb";

impl fmt::Display for Codebook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}_{}", self.block)?;
        self.nested.map_or(Ok(()), |nested| write!(f, "_{nested}"))
    }
}

impl Codebook {
    /// The packing with that name.
    pub(super) fn from_name(name: &str) -> Option<Codebook> {
        if name.split('_').next() != Some(NAME) {
            return None;
        }
        let nested = || numbers(name).map(|[block, nested]| Codebook { block, nested: Some(nested) });
        let found = numbers(name).map(|[block]| Codebook { block, nested: None }).or_else(nested)?;
        (found.block > 0 && found.nested != Some(0)).then_some(found)
    }

    /// `[n, k]`
    pub(super) fn shape(self, parts: &[Weight]) -> Result<Vec<usize>> {
        let [codes, table, largest, nested @ ..] = parts else { return Err(wrong_number(self, parts)) };
        let [n, bytes] = sizes(codes, &[DType::U8])?;
        let k = product(codes, &[bytes, 2])?;
        expect(table, FLOATS, &[16])?;
        let blocks = product(codes, &[n, k])?.div_ceil(self.block);
        match (self.nested, nested) {
            (None, []) => expect(largest, FLOATS, &[blocks])?,
            (Some(size), [table, nested, offset]) => {
                expect(largest, &[DType::U8], &[blocks])?;
                expect(table, FLOATS, &[256])?;
                expect(nested, FLOATS, &[blocks.div_ceil(size)])?;
                expect(offset, &[DType::F32], &[])?;
            }
            _ => return Err(wrong_number(self, parts)),
        }
        Ok(vec![n, k])
    }

    /// Decodes some rows and columns.
    pub(super) fn decode(
        self,
        parts: &[Weight],
        rows: Range<usize>,
        columns: Range<usize>,
        floats: &mut [f32],
    ) -> Result<()> {
        let ([_, k], [codes, table, ..]) = (&self.shape(parts)?[..], parts) else {
            return Err(wrong_number(self, parts));
        };
        let (codes, table, largest) = (codes.evaluate()?, table.to_f32s()?, self.largest(parts)?);
        for (row, floats) in rows.zip(floats.chunks_exact_mut(columns.len().max(1))) {
            let (mut last, mut by) = (usize::MAX, 0.0);
            for (column, float) in columns.clone().zip(floats) {
                let index = row * k + column;
                let byte = at(codes.as_bytes(), index / 2);
                let code = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
                if index / self.block != last {
                    last = index / self.block;
                    by = largest.at(last);
                }
                *float = at(&table, usize::from(code)) * by;
            }
        }
        Ok(())
    }

    fn largest(self, parts: &[Weight]) -> Result<Largest<'_>> {
        match (self.nested, parts) {
            (None, [_, _, largest]) => Ok(Largest::Plain(Floats::of(largest)?)),
            (Some(size), [_, _, codes, table, nested, offset]) => Ok(Largest::Nested {
                size,
                codes: codes.evaluate()?,
                table: Floats::of(table)?,
                largest: Floats::of(nested)?,
                offset: Floats::of(offset)?.at(0),
            }),
            _ => Err(wrong_number(self, parts)),
        }
    }
}

/// The largest magnitudes of blocks.
enum Largest<'a> {
    Plain(Floats<'a>),
    Nested { size: usize, codes: Evaluated<'a>, table: Floats<'a>, largest: Floats<'a>, offset: f32 },
}

impl Largest<'_> {
    fn at(&self, block: usize) -> f32 {
        match self {
            Largest::Plain(largest) => largest.at(block),
            Largest::Nested { size, codes, table, largest, offset } => {
                table.at(usize::from(at(codes.as_bytes(), block))) * largest.at(block / size) + offset
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Packing;
    use super::*;

    fn bytes(shape: &[usize], values: &[u8]) -> Weight {
        Weight::literal(DType::U8, shape.to_vec(), values.to_vec()).unwrap()
    }

    fn table(n: usize) -> Weight {
        Weight::f32s(vec![n], &(0..n).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn blocks_run_over_the_ends_of_rows() {
        let codes = bytes(&[2, 3], &[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]);
        let largest = Weight::f32s(vec![3], &[1.0, 10.0, 100.0]).unwrap();
        let weight = Weight::packed(Packing::from_name("bnb_4").unwrap(), vec![codes, table(16), largest]).unwrap();
        let expected = [1., 2., 3., 4., 50., 60., 70., 80., 900., 1000., 1100., 1200.];
        assert_eq!(weight.to_f32s().unwrap()[..], expected);
        assert_eq!(weight.slice(0, 1..2).unwrap().to_f32s().unwrap()[..], expected[6..]);
    }

    #[test]
    fn magnitudes_may_be_quantized_themselves() {
        let codes = bytes(&[1, 4], &[0x11; 4]);
        let largest = bytes(&[4], &[1, 2, 3, 255]);
        let nested = Weight::f32s(vec![2], &[10.0, 100.0]).unwrap();
        let parts = vec![codes, table(16), largest, table(256), nested, Weight::f32s(vec![], &[0.5]).unwrap()];
        let weight = Weight::packed(Packing::from_name("bnb_2_3").unwrap(), parts).unwrap();
        assert_eq!(weight.to_f32s().unwrap()[..], [10.5, 10.5, 20.5, 20.5, 30.5, 30.5, 25500.5, 25500.5]);
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let source = |name: &str, dtype, shape: &[usize]| Weight::source(name, dtype, shape.to_vec(), None).unwrap();
        let refused = |name: &str, parts: Vec<Weight>| {
            let packing = Packing::from_name(name).unwrap();
            Weight::packed(packing, parts).err().unwrap().message().to_owned()
        };
        let codes = source("w", DType::U8, &[2, 4]);
        let absmax = |n: usize| source("w.absmax", DType::F32, &[n]);
        assert_eq!(
            refused("bnb_4", vec![codes.clone(), table(16), absmax(3)]),
            "tensor `w.absmax` has shape [3], expected [4]"
        );
        assert_eq!(
            refused("bnb_4", vec![codes.clone(), table(8), absmax(4)]),
            "a computed tensor has shape [8], expected [16]"
        );
        assert_eq!(refused("bnb_4_2", vec![codes, table(16), absmax(4)]), "3 parts are not those of bnb_4_2");
        for name in ["bnb", "bnb_0", "bnb_4_0", "bnb_4_4_4", "nb_4"] {
            assert!(Packing::from_name(name).is_none(), "{name}");
        }
    }
}
