//! The format: a header with counts, the keys, the descriptions of tensors, and their bytes.
//!
//! All numbers are little-endian. A text is its length (u64) and its bytes; a tensor begins at a multiple of
//! `general.alignment`, 32 by default, from where the descriptions end. Source: `docs/gguf.md` of ggml.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::keys::Keys;
use super::value::{List, Value, ValueType};
use crate::error::{Error, Result, printable};
use crate::ir::weight::{GgmlType, Packing};
use crate::ir::{Blob, DType, Weight};

/// The first bytes.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// Most dimensions of a tensor.
const DIMENSIONS: u32 = 4;

/// Fewest bytes of a key with its value: length, type, and a value of one byte.
const KEY: usize = 8 + 4 + 1;

/// Fewest bytes of the description of a tensor: length, number of dimensions, one of them, type and offset.
const TENSOR: usize = 8 + 4 + 8 + 4 + 8;

/// A mapped file.
type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// What a file holds.
pub(super) struct Contents {
    pub keys: Keys,
    /// The tensors by their names, as `[rows, columns]`: the innermost dimension, which files have first, is the last.
    pub tensors: BTreeMap<String, Weight>,
}

/// The description of a tensor.
struct Description {
    name: String,
    /// Innermost first.
    dimensions: Vec<usize>,
    ty: u32,
    /// From where the tensors begin.
    offset: u64,
}

/// How the elements of a tensor are stored.
#[derive(Clone, Copy)]
enum Storage {
    Plain(DType),
    Blocks(GgmlType),
}

impl Contents {
    /// Reads the header, the keys and the descriptions.
    pub fn read(file: Bytes) -> Result<Contents> {
        let whole = Arc::clone(&file);
        let bytes = (*whole).as_ref();
        let mut cursor = Cursor { bytes, at: 0 };
        let [tensors, keys] = header(&mut cursor)?;
        let keys = read_keys(&mut cursor, keys, &file)?;
        let descriptions = descriptions(&mut cursor, tensors)?;
        let alignment = alignment(&keys)?;
        let start = cursor.at.checked_next_multiple_of(alignment).unwrap_or(bytes.len());
        let mut taken: Vec<(Range<usize>, String)> = Vec::with_capacity(descriptions.len());
        let mut tensors = BTreeMap::new();
        for description in descriptions {
            let place = |e: Error| e.at(format!("tensor `{}`", printable(&description.name)));
            let (range, weight) = description.weight(&file, start, alignment).map_err(place)?;
            taken.push((range, description.name.clone()));
            tensors.insert(description.name, weight);
        }
        check_disjoint(taken)?;
        Ok(Contents { keys, tensors })
    }
}

/// The numbers of tensors and of keys.
fn header(cursor: &mut Cursor) -> Result<[usize; 2]> {
    if cursor.take(4).is_ok_and(|magic| magic != MAGIC) || cursor.bytes.len() < 4 {
        return Err(Error::bad_input("the file does not begin with `GGUF`").hint("give a file that llama.cpp reads"));
    }
    let version = cursor.u32()?;
    if version & 0xFFFF == 0 {
        return Err(
            Error::unsupported("a file for big-endian machines is not read").hint("convert it for this machine")
        );
    }
    if !(2..=3).contains(&version) {
        return Err(Error::unsupported(format!("version {version} of the format is not read"))
            .hint("known: 2 and 3; llama.cpp's converters write 3"));
    }
    let mut count = |what: &str, fewest: usize| {
        let said = cursor.u64()?;
        let fits =
            usize::try_from(said).ok().filter(|n| n.checked_mul(fewest).is_some_and(|n| n <= cursor.bytes.len()));
        fits.ok_or_else(|| {
            Error::bad_input(format!("{said} {what} are announced, more than {} bytes can hold", cursor.bytes.len()))
                .hint(DAMAGED)
        })
    };
    Ok([count("tensors", TENSOR)?, count("keys", KEY)?])
}

const DAMAGED: &str = "the file is damaged or cut short; fetch it again";

fn read_keys(cursor: &mut Cursor, count: usize, file: &Bytes) -> Result<Keys> {
    let mut values = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.text()?;
        let place = |e: Error| e.at(format!("key `{}`", printable(&key)));
        let value = read_value(cursor).map_err(place)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(Error::bad_input(format!("duplicate key `{}`", printable(&key))));
        }
    }
    Ok(Keys::new(values, file.clone()))
}

fn read_value(cursor: &mut Cursor) -> Result<Value> {
    let ty = ValueType::numbered(cursor.u32()?)?;
    match ty {
        ValueType::Text => Ok(Value::Text(cursor.text()?)),
        ValueType::List => read_list(cursor).map(Value::List),
        plain => Value::plain(plain, cursor.take(plain.bytes())?),
    }
}

/// A list, whose elements are walked over and not stored.
fn read_list(cursor: &mut Cursor) -> Result<List> {
    let ty = ValueType::numbered(cursor.u32()?)?;
    let said = cursor.u64()?;
    if ty == ValueType::List {
        return Err(Error::unsupported("a list of lists is not read"));
    }
    let count = usize::try_from(said).ok().filter(|n| n.checked_mul(ty.bytes()).is_some_and(|n| n <= cursor.left()));
    let count = count.ok_or_else(|| {
        Error::bad_input(format!("{said} values are announced, more than {} bytes can hold", cursor.left()))
            .hint(DAMAGED)
    })?;
    let start = cursor.at;
    match ty {
        ValueType::Text => {
            for _ in 0..count {
                cursor.span()?;
            }
        }
        plain => drop(cursor.take(count * plain.bytes())?),
    }
    Ok(List { ty, count, bytes: start..cursor.at })
}

fn descriptions(cursor: &mut Cursor, count: usize) -> Result<Vec<Description>> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let name = cursor.text()?;
        if !seen.insert(name.clone()) {
            return Err(Error::bad_input(format!("duplicate tensor `{}`", printable(&name))));
        }
        let place = |e: Error| e.at(format!("tensor `{}`", printable(&name)));
        let dimensions = dimensions(cursor).map_err(place)?;
        all.push(Description { dimensions, ty: cursor.u32()?, offset: cursor.u64()?, name });
    }
    Ok(all)
}

fn dimensions(cursor: &mut Cursor) -> Result<Vec<usize>> {
    let count = cursor.u32()?;
    if count > DIMENSIONS {
        return Err(Error::bad_input(format!("{count} dimensions, at most {DIMENSIONS} are admitted")));
    }
    let mut all = Vec::new();
    for _ in 0..count {
        let said = cursor.u64()?;
        let size = usize::try_from(said).ok().filter(|size| *size > 0);
        all.push(size.ok_or_else(|| Error::bad_input(format!("a dimension of {said}")))?);
    }
    let product = all.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    match product.filter(|product| i64::try_from(*product).is_ok()) {
        Some(_) => Ok(all),
        None => Err(Error::bad_input("its size overflows")),
    }
}

fn alignment(keys: &Keys) -> Result<usize> {
    let key = "general.alignment";
    let said = keys.size(key)?.unwrap_or(32);
    match said.is_power_of_two() && said <= 1 << 20 {
        true => Ok(said),
        false => {
            Err(Error::bad_input(format!("expected a power of two up to 2^20, found {said}"))
                .at(format!("key `{key}`")))
        }
    }
}

impl Description {
    /// Where its bytes are, and the weight that they are.
    fn weight(&self, file: &Bytes, start: usize, alignment: usize) -> Result<(Range<usize>, Weight)> {
        let storage = storage(self.ty)?;
        let columns = self.dimensions.first().copied().unwrap_or(1);
        let rows: usize = self.dimensions.iter().skip(1).product();
        let row = match storage {
            Storage::Plain(dtype) => columns.checked_mul(dtype.size()),
            Storage::Blocks(ty) if columns % ty.elements() != 0 => {
                return Err(Error::bad_input(format!(
                    "rows of {columns} elements are no multiple of the {} of a {} block",
                    ty.elements(),
                    ty.name()
                )));
            }
            Storage::Blocks(ty) => Some(columns / ty.elements() * ty.bytes()),
        };
        let length = row.and_then(|row| row.checked_mul(rows));
        let range = self.range(length, start, alignment, (**file).as_ref().len())?;
        let blob =
            Blob::new(file.clone(), range.clone()).ok_or_else(|| Error::bug("a checked range is outside the file"))?;
        let shape: Vec<usize> = self.dimensions.iter().rev().copied().collect();
        let weight = match storage {
            Storage::Plain(dtype) => Weight::source(&self.name, dtype, shape, Some(blob))?,
            Storage::Blocks(ty) if shape.len() != 2 => {
                let what = format!("{} dimensions in {} blocks, expected 2", shape.len(), ty.name());
                return Err(Error::unsupported(what));
            }
            Storage::Blocks(ty) => {
                let part = Weight::source(&self.name, DType::U8, vec![rows, row.unwrap_or_default()], Some(blob))?;
                Weight::packed(Packing::Ggml(ty), vec![part])?
            }
        };
        Ok((range, weight))
    }

    fn range(&self, length: Option<usize>, start: usize, alignment: usize, end: usize) -> Result<Range<usize>> {
        let offset = usize::try_from(self.offset).ok();
        if offset.is_none_or(|offset| offset % alignment != 0) {
            return Err(Error::bad_input(format!("it begins at {}, no multiple of {alignment}", self.offset)));
        }
        let begin = offset.and_then(|offset| start.checked_add(offset));
        let range = begin.zip(length).and_then(|(begin, length)| Some(begin..begin.checked_add(length)?));
        range.filter(|range| range.end <= end).ok_or_else(|| {
            Error::bad_input(format!(
                "it begins at {} of the data and ends past the {end} bytes of the file",
                self.offset
            ))
            .hint(DAMAGED)
        })
    }
}

/// Types that are not read, by their numbers, for messages.
const UNREAD: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

fn storage(ty: u32) -> Result<Storage> {
    Ok(match ty {
        0 => Storage::Plain(DType::F32),
        1 => Storage::Plain(DType::F16),
        28 => Storage::Plain(DType::F64),
        30 => Storage::Plain(DType::BF16),
        2 => Storage::Blocks(GgmlType::Q4_0),
        3 => Storage::Blocks(GgmlType::Q4_1),
        6 => Storage::Blocks(GgmlType::Q5_0),
        7 => Storage::Blocks(GgmlType::Q5_1),
        8 => Storage::Blocks(GgmlType::Q8_0),
        10 => Storage::Blocks(GgmlType::Q2_K),
        11 => Storage::Blocks(GgmlType::Q3_K),
        12 => Storage::Blocks(GgmlType::Q4_K),
        13 => Storage::Blocks(GgmlType::Q5_K),
        14 => Storage::Blocks(GgmlType::Q6_K),
        other => {
            let name = UNREAD.iter().find(|(number, _)| *number == other).map(|(_, name)| format!(" {name}"));
            let known: Vec<&str> = GgmlType::ALL.iter().map(|ty| ty.name()).collect();
            return Err(Error::unsupported(format!("the type{} {other} is not read", name.unwrap_or_default()))
                .hint(format!("known: F32, F16, BF16, F64, {}", known.join(", "))));
        }
    })
}

/// Tensors may have gaps between them, as alignment makes them, and share no byte.
fn check_disjoint(mut taken: Vec<(Range<usize>, String)>) -> Result<()> {
    taken.sort_by_key(|(range, _)| range.start);
    let pairs = taken.iter().zip(taken.iter().skip(1));
    match pairs.into_iter().find(|((before, _), (after, _))| before.end > after.start) {
        None => Ok(()),
        Some(((_, before), (_, after))) => {
            Err(Error::bad_input(format!("tensors `{}` and `{}` overlap", printable(before), printable(after))))
        }
    }
}

/// A position in bytes from outside.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| {
            Error::bad_input(format!("{n} bytes are announced at byte {}, {} are left", self.at, self.left()))
                .hint(DAMAGED)
        })?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Error::bug("a slice of another length than was taken"))
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The bytes of a text.
    fn span(&mut self) -> Result<&'a [u8]> {
        let said = self.u64()?;
        // A length that no memory has is past the end of every file.
        self.take(usize::try_from(said).unwrap_or(usize::MAX))
    }

    fn text(&mut self) -> Result<String> {
        let at = self.at;
        let text = std::str::from_utf8(self.span()?);
        text.map(str::to_owned).map_err(|_| Error::bad_input(format!("the text at byte {at} is not UTF-8")))
    }
}
