//! Inputs that were tokenized elsewhere: NumPy's `.npz`, a zip archive of arrays.
//!
//! The format: NEP 1 (`numpy.lib.format`), versions 1 to 3.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::{Error, Result, is_machine_fault, printable};
use crate::ir::{Graph, Op};
use crate::ports::PortKind;
use crate::runtime::{Elements, Named, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Longest description of an array, in bytes.
const LONGEST_HEADER: usize = 1 << 16;

/// Largest array, in bytes.
const LARGEST: usize = 1 << 30;

/// The arrays that are read: `[texts, length]`, integers of 32 or 64 bits. Only the first must be there.
const ARRAYS: [PortKind; 3] = [PortKind::TokenIds, PortKind::AttentionMask, PortKind::TokenTypes];

/// Reads the inputs of texts, each alone and without its padding.
///
/// Without an `attention_mask` every token counts, without `token_type_ids` all are of type 0. Fails where the file is
/// no such archive, arrays are of other types or shapes, or a text has no tokens or gaps between them.
pub fn read(path: &Path) -> Result<Vec<Named>> {
    let at = |e: Error| e.at(path.display().to_string());
    let file = File::open(path).map_err(|e| Error::io("reading", path, &e))?;
    let arrays = arrays(file).map_err(at)?;
    texts(arrays).map_err(at)
}

/// Fails where a token id is no row of the model's table.
pub fn check(inputs: &[Named], graph: &Graph) -> Result<()> {
    for (_, node) in graph.nodes().filter(|(_, node)| node.op == Op::Embed) {
        let (Some(table), Some(ids)) = (node.operand(0), node.operand(1)) else { continue };
        let (Some(rows), name) =
            (graph.value(table).ty.shape.first().and_then(|rows| rows.fixed()), &graph.value(ids).name)
        else {
            continue;
        };
        for (i, text) in inputs.iter().enumerate() {
            let given = text.iter().find(|(given, _)| graph.inputs().contains(&ids) && given == name);
            let Some((_, Tensor { elements: Elements::I64(values), .. })) = given else { continue };
            if let Some(beyond) = values.iter().find(|value| **value >= rows as i64) {
                return Err(Error::bad_input(format!(
                    "`{name}` of text {} holds {beyond}, but the model's table has {rows} rows",
                    i + 1
                ))
                .hint("the inputs were made by the tokenizer of another model"));
            }
        }
    }
    Ok(())
}

struct Array {
    shape: [usize; 2],
    values: Vec<i64>,
}

impl Array {
    fn row(&self, i: usize) -> &[i64] {
        self.values.get(i * self.shape[1]..(i + 1) * self.shape[1]).unwrap_or_default()
    }
}

/// The arrays in the order of [`ARRAYS`].
fn arrays(file: File) -> Result<[Option<Array>; 3]> {
    let malformed = |e: ZipError| match e {
        ZipError::Io(e) if is_machine_fault(&e) => Error::of_system("the archive cannot be read", &e),
        e => Error::bad_input(format!("no .npz archive: {}", printable(&e.to_string()))),
    };
    let mut archive = ZipArchive::new(file).map_err(malformed)?;
    if archive.has_duplicate_names() {
        return Err(Error::bad_input("duplicate array"));
    }
    let mut arrays = [const { None }; 3];
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(malformed)?;
        let name = entry.name().map_err(malformed)?;
        let name = name.strip_suffix(".npy").unwrap_or(&name).to_owned();
        let Some(slot) = ARRAYS.iter().position(|known| known.is(&name)).and_then(|i| arrays.get_mut(i)) else {
            return Err(Error::bad_input(format!(
                "unknown array `{}`; known: {}",
                printable(&name),
                ARRAYS.map(PortKind::name).join(", ")
            )));
        };
        if slot.is_some() {
            return Err(Error::bad_input(format!("duplicate array `{name}`")));
        }
        *slot = Some(array(entry).map_err(|e| e.at(format!("array `{name}`")))?);
    }
    Ok(arrays)
}

/// One array from its file, of which no more is read than its header announces.
fn array(mut file: impl Read) -> Result<Array> {
    let (shape, width) = header(&mut file)?;
    let [texts, length] = shape;
    let bytes = texts.checked_mul(length).and_then(|n| n.checked_mul(width)).filter(|bytes| *bytes <= LARGEST);
    let bytes = bytes.ok_or_else(|| {
        Error::bad_input(format!("{texts} texts of {length} tokens are more than the {LARGEST} bytes that are read"))
    })?;
    let mut data = Vec::new();
    let read = file.take(bytes as u64 + 1).read_to_end(&mut data).map_err(broken)?;
    if read != bytes {
        let more = if read > bytes { "more" } else { "fewer" };
        return Err(Error::bad_input(format!("the array has {more} bytes than the {bytes} of its shape {shape:?}")));
    }
    let values = match width {
        4 => data.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        _ => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
    };
    Ok(Array { shape, values })
}

fn broken(e: std::io::Error) -> Error {
    if is_machine_fault(&e) {
        return Error::of_system("reading the archive", &e);
    }
    Error::bad_input(format!("the archive is damaged or cut short: {}", printable(&e.to_string())))
}

/// The sizes of an array and of its elements.
fn header(file: &mut impl Read) -> Result<([usize; 2], usize)> {
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(broken)?;
    let length = match (start.strip_prefix(MAGIC), start[6]) {
        (Some(_), 1) => {
            let mut length = [0; 2];
            file.read_exact(&mut length).map_err(broken)?;
            usize::from(u16::from_le_bytes(length))
        }
        (Some(_), 2 | 3) => {
            let mut length = [0; 4];
            file.read_exact(&mut length).map_err(broken)?;
            u32::from_le_bytes(length) as usize
        }
        _ => return Err(Error::bad_input("it does not begin as NumPy's arrays do")),
    };
    if length > LONGEST_HEADER {
        return Err(Error::bad_input(format!("a header of {length} bytes, at most {LONGEST_HEADER} are read")));
    }
    let mut text = vec![0; length];
    file.read_exact(&mut text).map_err(broken)?;
    let text = String::from_utf8(text).map_err(|_| Error::bad_input("the header is not UTF-8"))?;
    describe(&text)
}

/// Reads a header such as `{'descr': '<i8', 'fortran_order': False, 'shape': (3, 4), }`.
fn describe(text: &str) -> Result<([usize; 2], usize)> {
    let malformed = || Error::bad_input(format!("malformed header `{}`", printable(text.trim())));
    let value =
        |key: &str| text.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start()).ok_or_else(malformed);
    let dtype = value("descr")?.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(dtype, _)| dtype);
    let width = match dtype {
        Some("<i4") => 4,
        Some("<i8") => 8,
        // A list describes records.
        other => {
            let found = printable(other.unwrap_or("records"));
            return Err(Error::bad_input(format!(
                "it holds `{found}`, expected integers of 32 or 64 bits (`<i4`, `<i8`)"
            )));
        }
    };
    if !value("fortran_order")?.starts_with("False") {
        return Err(Error::unsupported("it is stored by columns").hint("save numpy.ascontiguousarray(…) of it"));
    }
    let sizes = value("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(malformed)?.0;
    let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
    let sizes: Vec<usize> = sizes.map(|size| size.parse().ok()).collect::<Option<_>>().ok_or_else(malformed)?;
    let shape = <[usize; 2]>::try_from(sizes).map_err(|sizes| {
        Error::bad_input(format!("it has shape {sizes:?}, expected two sizes: texts, and tokens of each"))
    })?;
    Ok((shape, width))
}

/// Every text with the tokens that its mask shows.
fn texts(arrays: [Option<Array>; 3]) -> Result<Vec<Named>> {
    let [ids, mask, types] = arrays;
    let ids = ids.ok_or_else(|| Error::bad_input("there is no array `input_ids`"))?;
    for (array, name) in [(&mask, "attention_mask"), (&types, "token_type_ids")] {
        if let Some(array) = array.as_ref().filter(|array| array.shape != ids.shape) {
            let (found, expected) = (array.shape, ids.shape);
            return Err(Error::bad_input(format!("`{name}` has shape {found:?}, but `input_ids` {expected:?}")));
        }
    }
    if ids.shape.contains(&0) {
        return Err(Error::bad_input(format!("`input_ids` has shape {:?}: it holds no texts", ids.shape)));
    }
    let text = |i: usize| {
        let shown = match &mask {
            Some(mask) => shown(mask.row(i)).map_err(|e| e.at(format!("`attention_mask` of text {}", i + 1)))?,
            None => 0..ids.shape[1],
        };
        let cut = |row: &[i64]| row.get(shown.clone()).unwrap_or_default().to_vec();
        let (ids, types) = (cut(ids.row(i)), types.as_ref().map(|types| cut(types.row(i))));
        let types = types.unwrap_or_else(|| vec![0; ids.len()]);
        if ids.iter().chain(&types).any(|id| *id < 0) {
            return Err(Error::bad_input(format!("text {} has a token of a negative number", i + 1)));
        }
        let ones = vec![1; ids.len()];
        let tensor = |values: Vec<i64>| Tensor { shape: vec![1, values.len()], elements: Elements::I64(values) };
        Ok(ARRAYS
            .iter()
            .zip([ids, ones, types])
            .map(|(kind, values)| (kind.name().into_owned(), tensor(values)))
            .collect())
    };
    (0..ids.shape[0]).map(text).collect()
}

/// Where a mask is 1: from one position to another without a gap.
fn shown(mask: &[i64]) -> Result<std::ops::Range<usize>> {
    if let Some(other) = mask.iter().find(|m| !matches!(m, 0 | 1)) {
        return Err(Error::bad_input(format!("it holds {other}, expected 0 and 1")));
    }
    let start = mask.iter().position(|m| *m == 1).ok_or_else(|| Error::bad_input("it shows no token"))?;
    let end = mask.iter().rposition(|m| *m == 1).map_or(start, |last| last + 1);
    match mask.get(start..end).unwrap_or_default().contains(&0) {
        true => Err(Error::bad_input("it has a gap between tokens")),
        false => Ok(start..end),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::CompressionMethod;
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    fn npy(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut text = format!("{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}");
        while (10 + text.len() + 1) % 64 != 0 {
            text.push(' ');
        }
        text.push('\n');
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn int32(shape: &str, values: &[i32]) -> Vec<u8> {
        npy("'<i4'", shape, bytemuck::cast_slice(values))
    }

    fn int64(shape: &str, values: &[i64]) -> Vec<u8> {
        npy("'<i8'", shape, bytemuck::cast_slice(values))
    }

    fn read_of(arrays: &[(&str, Vec<u8>)]) -> Result<Vec<Named>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        write(&path, arrays);
        read(&path)
    }

    fn write(path: &Path, arrays: &[(&str, Vec<u8>)]) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for (i, (name, bytes)) in arrays.iter().enumerate() {
            let method = if i % 2 == 0 { CompressionMethod::Deflated } else { CompressionMethod::Stored };
            zip.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    fn refused(arrays: &[(&str, Vec<u8>)]) -> String {
        read_of(arrays).unwrap_err().to_string().lines().next().unwrap().to_owned()
    }

    fn values(named: &Named) -> Vec<Vec<i64>> {
        let of = |(_, tensor): &(String, Tensor)| match &tensor.elements {
            Elements::I64(values) => {
                assert_eq!(tensor.shape, [1, values.len()]);
                values.clone()
            }
            _ => unreachable!(),
        };
        named.iter().map(of).collect()
    }

    #[test]
    fn texts_come_one_by_one_and_without_padding() {
        let inputs = read_of(&[
            ("attention_mask", int64("(2, 3)", &[1, 1, 0, 0, 1, 1])),
            ("input_ids", int32("(2, 3)", &[5, 6, 0, 0, 7, 8])),
            ("token_type_ids", int64("(2, 3)", &[0, 1, 0, 0, 0, 1])),
        ])
        .unwrap();
        assert_eq!(inputs[0].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ARRAYS.map(PortKind::name));
        assert_eq!(values(&inputs[0]), [[5, 6], [1, 1], [0, 1]]);
        assert_eq!(values(&inputs[1]), [[7, 8], [1, 1], [0, 1]]);
        let bare = read_of(&[("input_ids", int64("(1, 2)", &[5, 0]))]).unwrap();
        assert_eq!(values(&bare[0]), [[5, 0], [1, 1], [0, 0]]);
    }

    #[test]
    fn other_arrays_types_and_shapes_are_refused_by_name() {
        let ids = || ("input_ids", int64("(1, 2)", &[1, 2]));
        assert_eq!(
            refused(&[ids(), ("labels", int64("(1,)", &[1]))]),
            "unknown array `labels`; known: input_ids, attention_mask, token_type_ids"
        );
        assert_eq!(refused(&[("attention_mask", int64("(1, 2)", &[1, 1]))]), "there is no array `input_ids`");
        assert_eq!(
            refused(&[("input_ids", npy("'<f4'", "(1, 1)", &[0; 4]))]),
            "it holds `<f4`, expected integers of 32 or 64 bits (`<i4`, `<i8`)"
        );
        assert!(refused(&[("input_ids", npy("[('a', '<i4')]", "(1,)", &[0; 4]))]).contains("it holds `records`"));
        assert_eq!(
            refused(&[("input_ids", int64("(2,)", &[1, 2]))]),
            "it has shape [2], expected two sizes: texts, and tokens of each"
        );
        assert_eq!(
            refused(&[ids(), ("attention_mask", int64("(2, 1)", &[1, 1]))]),
            "`attention_mask` has shape [2, 1], but `input_ids` [1, 2]"
        );
        assert!(refused(&[("input_ids", int64("(0, 4)", &[]))]).ends_with("it holds no texts"));
        let mut by_columns = int64("(1, 2)", &[1, 2]);
        let at = by_columns.windows(5).position(|bytes| bytes == b"False").unwrap();
        by_columns[at..at + 5].copy_from_slice(b"True ");
        assert_eq!(refused(&[("input_ids", by_columns)]), "it is stored by columns");
    }

    #[test]
    fn announced_sizes_are_not_trusted() {
        assert_eq!(
            refused(&[("input_ids", int64("(3, 4)", &[1, 2]))]),
            "the array has fewer bytes than the 96 of its shape [3, 4]"
        );
        assert_eq!(
            refused(&[("input_ids", int64("(1, 1)", &[1, 2]))]),
            "the array has more bytes than the 8 of its shape [1, 1]"
        );
        let huge = refused(&[("input_ids", int64("(4294967296, 4294967296)", &[1]))]);
        assert!(huge.ends_with("are more than the 1073741824 bytes that are read"), "{huge}");
        assert!(refused(&[("input_ids", int64("(-1, 2)", &[1, 2]))]).starts_with("malformed header"));
        assert_eq!(refused(&[("input_ids", b"\x93NUMPX\x01\x00".to_vec())]), "it does not begin as NumPy's arrays do");
        let mut long = MAGIC.to_vec();
        long.extend([2, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(refused(&[("input_ids", long)]), "a header of 4294967295 bytes, at most 65536 are read");
    }

    #[test]
    fn masks_are_one_run_of_ones() {
        let with = |mask: &[i64]| {
            let mask = ("attention_mask", int64("(1, 3)", mask));
            refused(&[("input_ids", int64("(1, 3)", &[1, 2, 3])), mask])
        };
        assert_eq!(with(&[1, 0, 1]), "it has a gap between tokens");
        assert_eq!(with(&[0, 0, 0]), "it shows no token");
        assert_eq!(with(&[1, 2, 0]), "it holds 2, expected 0 and 1");
        assert_eq!(refused(&[("input_ids", int64("(1, 1)", &[-1]))]), "text 1 has a token of a negative number");
    }

    #[test]
    fn truncated_files_and_other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        std::fs::write(&path, "{\"text\": \"a\"}").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.message().starts_with("no .npz archive: "), "{error}");
        assert_eq!((error.exit_code(), error.locations()), (2, &[path.display().to_string()][..]));
        assert!(read(&dir.path().join("nowhere.npz")).unwrap_err().message().starts_with("reading "));
    }

    #[test]
    fn a_duplicate_array_is_refused() {
        let ids = int64("(1, 1)", &[1]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        write(&path, &[("input_ids", ids.clone()), ("input_idx", ids.clone())]);
        let mut bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() - 9 {
            if &bytes[at..at + 9] == b"input_idx" {
                bytes[at + 8] = b's';
            }
        }
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(&path).unwrap_err().message(), "duplicate array");
        let dir = File::create(&path).unwrap();
        let mut zip = ZipWriter::new(dir);
        for name in ["input_ids", "input_ids.npy"] {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(&ids).unwrap();
        }
        zip.finish().unwrap();
        assert_eq!(read(&path).unwrap_err().message(), "duplicate array `input_ids`");
    }

    #[test]
    fn tokens_beyond_the_models_table_are_named() {
        let graph = crate::ir::text::parse(
            "graph \"g\" { input %input_ids: i64[b, s] weight %table: f32[4, 2] = source \"table\" \
             %y: f32[b, s, 2] = Embed(%table, %input_ids) output %y }",
        )
        .unwrap();
        let inputs = |ids: &[i64]| read_of(&[("input_ids", int64("(1, 2)", ids))]).unwrap();
        check(&inputs(&[0, 3]), &graph).unwrap();
        assert_eq!(
            check(&inputs(&[0, 4]), &graph).unwrap_err().message(),
            "`input_ids` of text 1 holds 4, but the model's table has 4 rows"
        );
    }
}
