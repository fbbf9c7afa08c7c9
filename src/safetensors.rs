//! Reads safetensors files.
//!
//! The format: a length (u64, little-endian), a JSON header of that many bytes, then the tensors' bytes, which must
//! cover the rest of the file without gap or overlap. The file is mapped, not read; a tensor is a lazy [`Weight`].
//! FP8 is packed to be read as FP32 ([`Packing`]). Source: the format's description in the safetensors repository. Stricter than the `safetensors` crate in one
//! point: a duplicate key is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Kind, Result, printable};
use crate::ir::weight::{Element, Packing, Scaled};
use crate::ir::{Blob, DType, Weight};
use crate::{file, json};

/// Longest header that the format admits, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Tensor(Entry),
    Metadata(BTreeMap<String, String>),
}

/// The content of a file.
pub struct Contents {
    /// The tensors, by name.
    pub tensors: Vec<(String, Weight)>,
    /// Its `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// The tensors of a file, by name. Fails where the file is not well-formed; only the header is read.
pub fn read(path: &Path) -> Result<Vec<(String, Weight)>> {
    Ok(read_with_metadata(path)?.tensors)
}

/// The tensors of a file, and its `__metadata__`.
pub fn read_with_metadata(path: &Path) -> Result<Contents> {
    parse_whole(file::map(path)?).map_err(|e| {
        let hint = match e.kind() {
            Kind::Unsupported => "save it in one of F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U8, BOOL",
            _ => "the file is damaged or cut short; fetch it again",
        };
        e.at(json::file_name(path)).hint(hint)
    })
}

/// The tensors of a file's bytes, by name.
pub fn parse(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Vec<(String, Weight)>> {
    Ok(parse_whole(bytes)?.tensors)
}

fn parse_whole(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Contents> {
    let (header, data_start) = header((*bytes).as_ref())?;
    let data_len = (*bytes).as_ref().len().saturating_sub(data_start);
    let mut tensors = Vec::with_capacity(header.len());
    let mut metadata = BTreeMap::new();
    for (name, value) in header {
        match value {
            HeaderValue::Metadata(found) if name == "__metadata__" => metadata = found,
            HeaderValue::Tensor(entry) if name != "__metadata__" => tensors.push((name, entry)),
            _ => return Err(Error::bad_input(format!("header: `{}` is malformed", printable(&name)))),
        }
    }
    cover(&tensors, data_len)?;
    let tensors = tensors.into_iter().map(|(name, entry)| weight(&bytes, data_start, name, &entry));
    Ok(Contents { tensors: tensors.collect::<Result<_>>()?, metadata })
}

fn header(bytes: &[u8]) -> Result<(Vec<(String, HeaderValue)>, usize)> {
    let (length, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| Error::bad_input(format!("{} bytes are too few for a safetensors file", bytes.len())))?;
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER {
        return Err(Error::bad_input(format!("header: {length} bytes, at most {LONGEST_HEADER} are admitted")));
    }
    let text = rest.get(..length as usize).ok_or_else(|| {
        Error::bad_input(format!("header: {length} bytes announced, {} are left in the file", rest.len()))
    })?;
    let text = std::str::from_utf8(text).map_err(|_| Error::bad_input("header: not UTF-8"))?;
    if !text.starts_with('{') {
        return Err(Error::bad_input("header: does not start with `{`"));
    }
    let entries = json::parse::<BTreeMap<String, HeaderValue>>(text, "header")?;
    Ok((entries.into_iter().collect(), 8 + length as usize))
}

/// The tensors' bytes must follow each other from the first to the last byte. Empty tensors may share an offset.
fn cover(tensors: &[(String, Entry)], data_len: usize) -> Result<()> {
    let mut order: Vec<&(String, Entry)> = tensors.iter().collect();
    order.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut end = 0;
    for (name, Entry { data_offsets: [begin, stop], .. }) in order {
        if begin > stop || *stop > data_len {
            return Err(Error::bad_input(format!(
                "tensor `{}`: bytes {begin}…{stop} are outside the file's {data_len} bytes of data",
                printable(name)
            )));
        }
        if *begin != end {
            let what = if *begin < end { "overlap" } else { "leave a gap after" };
            return Err(Error::bad_input(format!(
                "tensor `{}`: bytes {begin}…{stop} {what} those before, which end at {end}",
                printable(name)
            )));
        }
        end = *stop;
    }
    if end != data_len {
        return Err(Error::bad_input(format!("{} bytes follow the last tensor", data_len - end)));
    }
    Ok(())
}

fn weight(
    bytes: &Arc<dyn AsRef<[u8]> + Send + Sync>,
    data_start: usize,
    name: String,
    entry: &Entry,
) -> Result<(String, Weight)> {
    let (dtype, packed) = match entry.dtype.as_str() {
        "F8_E4M3" => (DType::U8, Some(Element::E4M3)),
        "F8_E5M2" => (DType::U8, Some(Element::E5M2)),
        "F64" => (DType::F64, None),
        "F32" => (DType::F32, None),
        "F16" => (DType::F16, None),
        "BF16" => (DType::BF16, None),
        "I64" => (DType::I64, None),
        "I32" => (DType::I32, None),
        "I16" => (DType::I16, None),
        "I8" => (DType::I8, None),
        "U8" => (DType::U8, None),
        "BOOL" => (DType::Bool, None),
        other => {
            return Err(Error::unsupported(format!(
                "tensor `{}`: element type `{}` is not one kilnc reads",
                printable(&name),
                printable(other)
            )));
        }
    };
    let [begin, end] = entry.data_offsets;
    let blob = Blob::new(bytes.clone(), data_start + begin..data_start + end);
    let blob = blob.ok_or_else(|| Error::bug("a checked range is outside the file"))?;
    let weight = Weight::source(name.clone(), dtype, entry.shape.clone(), Some(blob))?;
    match packed {
        None => Ok((name, weight)),
        Some(element) => Ok((name, Weight::packed(Packing::Scaled(Scaled { element, block: None }), vec![weight])?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn refusal(bytes: Vec<u8>) -> String {
        parse(Arc::new(bytes)).unwrap_err().message().to_owned()
    }

    fn entry(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    }

    #[test]
    fn tensors_are_read_with_names_types_and_bytes() {
        let header = format!(
            r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}"#,
            entry("b", "F32", "[1,2]", "[0,8]"),
            entry("a", "I64", "[]", "[8,16]"),
            entry("empty", "F16", "[0]", "[8,8]"),
        );
        let data: Vec<u8> = (0..16).collect();
        let tensors = parse(Arc::new(file(&header, &data))).unwrap();
        let names: Vec<_> = tensors.iter().map(|(name, w)| format!("{name}: {}", w.ty())).collect();
        assert_eq!(names, ["a: i64[]", "b: f32[1, 2]", "empty: f16[0]"]);
        assert_eq!(tensors[0].1.evaluate().unwrap().as_bytes(), &data[8..]);
    }

    #[test]
    fn eight_bit_floats_are_read_as_floats() {
        let header =
            format!("{{{},{}}}", entry("a", "F8_E4M3", "[1,2]", "[0,2]"), entry("b", "F8_E5M2", "[2]", "[2,4]"));
        let tensors = parse(Arc::new(file(&header, &[0x38, 0xb8, 0x3c, 0xbc]))).unwrap();
        let read: Vec<_> =
            tensors.iter().map(|(_, w)| (w.ty().to_string(), w.to_f32s().unwrap().into_owned())).collect();
        assert_eq!(read, [("f32[1, 2]".to_owned(), vec![1.0, -1.0]), ("f32[2]".to_owned(), vec![1.0, -1.0])]);
        assert_eq!(tensors[0].1.stored_len(), 2);
        assert_eq!(tensors[0].1.reshape(vec![2]).unwrap().to_f32s().unwrap()[..], [1.0, -1.0]);
    }

    #[test]
    fn every_malformation_has_its_message() {
        let one = |dtype, shape, offsets, data: usize| {
            file(&format!("{{{}}}", entry("w", dtype, shape, offsets)), &vec![0; data])
        };
        let two = |first: &str, second: &str| file(&format!("{{{first},{second}}}"), &[0; 8]);
        let cases = [
            (vec![1, 2, 3], "3 bytes are too few for a safetensors file"),
            (u64::MAX.to_le_bytes().to_vec(), "header: 18446744073709551615 bytes, at most 100000000 are admitted"),
            (100_000_001u64.to_le_bytes().to_vec(), "header: 100000001 bytes, at most 100000000 are admitted"),
            (100_000_000u64.to_le_bytes().to_vec(), "header: 100000000 bytes announced, 0 are left in the file"),
            (100u64.to_le_bytes().to_vec(), "header: 100 bytes announced, 0 are left in the file"),
            (file("[]", &[]), "header: does not start with `{`"),
            (one("F32", "[2]", "[0,4]", 4), "tensor `w` holds 4 bytes, but f32[2] needs 8"),
            (one("F32", "[1]", "[4,0]", 4), "tensor `w`: bytes 4…0 are outside the file's 4 bytes of data"),
            (one("F32", "[1]", "[0,4]", 2), "tensor `w`: bytes 0…4 are outside the file's 2 bytes of data"),
            (one("F32", "[1]", "[0,4]", 9), "5 bytes follow the last tensor"),
            (one("F4", "[1]", "[0,4]", 4), "tensor `w`: element type `F4` is not one kilnc reads"),
            (one("F32", "[9223372036854775807,4]", "[0,4]", 4), "tensor `w`: its size overflows"),
            (
                two(&entry("a", "F32", "[1]", "[0,4]"), &entry("b", "F32", "[1]", "[2,6]")),
                "tensor `b`: bytes 2…6 overlap those before, which end at 4",
            ),
            (
                two(&entry("a", "U8", "[1]", "[0,1]"), &entry("b", "F32", "[1]", "[4,8]")),
                "tensor `b`: bytes 4…8 leave a gap after those before, which end at 1",
            ),
            (file(r#"{"__metadata__":{"format":3}}"#, &[]), "header: __metadata__: data did not match any variant"),
            (file(r#"{"__metadata__":["pt"]}"#, &[]), "header: __metadata__: data did not match any variant"),
            (file(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), "header: duplicate `__metadata__`"),
            (file(r#"{"__metadata__":{"a":"","a":""}}"#, &[]), "header: __metadata__: duplicate `a`"),
            (file(r#"{"w":{}}"#, &[]), "header: `w` is malformed"),
            (one("F32", "[-1]", "[0,4]", 4), "header: w: data did not match any variant"),
            (one("F32", "[1]", "[-4,0]", 4), "header: w: data did not match any variant"),
        ];
        for (bytes, expected) in cases {
            let found = refusal(bytes);
            assert!(found.starts_with(expected), "{found}");
        }
        let twice = two(&entry("a", "F32", "[1]", "[0,4]"), &entry("a", "F32", "[1]", "[4,8]"));
        assert_eq!(refusal(twice), "header: duplicate `a` at line 1 column 57");
        assert_eq!(
            refusal(file("{\u{0}", &[]).into_iter().map(|b| if b == 0x7b { 0xff } else { b }).collect()),
            "header: not UTF-8"
        );
    }

    #[test]
    fn a_hint_says_what_helps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let hint = |bytes: Vec<u8>| {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err();
            assert_eq!((error.locations(), error.exit_code()), (&["model.safetensors".to_owned()][..], 2));
            error.hints()[0].clone()
        };
        assert_eq!(hint(vec![1]), "the file is damaged or cut short; fetch it again");
        assert_eq!(hint(vec![]), "the file is damaged or cut short; fetch it again");
        assert_eq!(
            hint(file(&format!("{{{}}}", entry("w", "F8_E8M0", "[1]", "[0,1]")), &[0])),
            "save it in one of F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U8, BOOL"
        );
    }

    #[test]
    fn the_reference_crate_agrees_on_what_it_writes() {
        let data: Vec<u8> = (0..24).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &data).unwrap();
        let bytes = safetensors::serialize([("w", view)], None).unwrap();
        let tensors = parse(Arc::new(bytes)).unwrap();
        assert_eq!(tensors.len(), 1);
        assert_eq!(tensors[0].1.evaluate().unwrap().as_bytes(), data);
    }
}
