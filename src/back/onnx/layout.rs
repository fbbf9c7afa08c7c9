//! Where each byte of an ONNX file goes, and the writing of them.
//!
//! A protobuf message states the length of its content first. All lengths are known before any weight
//! is computed, so every weight has its offset from the start and can be written by whichever thread computes it.

use std::path::{Path, PathBuf};

use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use protobuf::Message;

use super::node::element_type;
use crate::back::stream::{Piece, Progress, write_pieces};
use crate::error::{Error, Result};
use crate::ir::Weight;

/// The files that were written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The files, the model first.
    pub files: Vec<PathBuf>,
    /// Their length together.
    pub bytes: u64,
}

/// Weights beside the model begin at multiples of this, so that they can be mapped.
const PAGE: u64 = 4096;

/// Weights shorter than this stay in the model, where shape inference looks for them.
const SMALL: usize = 1024;

/// Numbers and wire type 2 (a length and bytes) of the fields that are written by hand.
const MODEL_GRAPH: u8 = 7 << 3 | 2;
const GRAPH_INITIALIZER: u8 = 5 << 3 | 2;
const TENSOR_RAW_DATA: u8 = 9 << 3 | 2;

pub(super) fn write(
    model: &ModelProto,
    graph: &GraphProto,
    weights: &[(String, Weight)],
    path: &Path,
    largest: u64,
    progress: &Progress<'_>,
) -> Result<Written> {
    let message = |e: protobuf::Error| Error::bug(format!("an ONNX message cannot be encoded: {e}"));
    let model = model.write_to_bytes().map_err(message)?;
    let graph = graph.write_to_bytes().map_err(message)?;
    let inline = Layout::new(&model, &graph, weights, None)?;
    if inline.model_len <= largest {
        return inline.write(path, None, progress);
    }
    let location = location(path)?;
    let beside = path.with_file_name(&location);
    Layout::new(&model, &graph, weights, Some(&location))?.write(path, Some(&beside), progress)
}

/// The name of the file beside the model. It is in the model, so it has to be UTF-8.
fn location(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::bad_input(format!("{} is no file name in UTF-8", path.display())))?;
    Ok(format!("{name}_data"))
}

struct Layout<'a> {
    model: Vec<Piece<'a>>,
    model_len: u64,
    data: Vec<Piece<'a>>,
    data_len: u64,
}

impl<'a> Layout<'a> {
    /// Lays the file out. With `location`, large weights go to the file of that name.
    fn new(model: &[u8], graph: &[u8], weights: &'a [(String, Weight)], location: Option<&str>) -> Result<Layout<'a>> {
        let mut tensors = Vec::with_capacity(weights.len());
        let mut data = Vec::new();
        let mut data_len = 0u64;
        for (name, weight) in weights {
            let outside = location.filter(|_| weight.byte_len() >= SMALL);
            let place = outside.map(|location| {
                let offset = data_len.next_multiple_of(PAGE);
                data.push(Piece::Weight(offset, weight));
                data_len = offset + weight.byte_len() as u64;
                (location, offset)
            });
            tensors.push((tensor_header(name, weight, place)?, weight, place.is_some()));
        }
        let graph_len = graph.len() as u64 + tensors.iter().map(|(header, ..)| header.total).sum::<u64>();
        let mut head = model.to_vec();
        head.push(MODEL_GRAPH);
        push_varint(&mut head, graph_len);
        head.extend_from_slice(graph);
        let mut at = head.len() as u64;
        let mut pieces = vec![Piece::Bytes(0, head)];
        for (header, weight, outside) in tensors {
            let raw_at = at + header.bytes.len() as u64;
            pieces.push(Piece::Bytes(at, header.bytes));
            if !outside {
                pieces.push(Piece::Weight(raw_at, weight));
            }
            at += header.total;
        }
        Ok(Layout { model: pieces, model_len: at, data, data_len })
    }

    fn write(self, path: &Path, beside: Option<&Path>, progress: &Progress<'_>) -> Result<Written> {
        let mut files = Vec::new();
        if let Some(beside) = beside {
            write_pieces(beside, &self.data, self.data_len, progress)?;
            files.push(beside.to_owned());
        }
        write_pieces(path, &self.model, self.model_len, progress)?;
        files.insert(0, path.to_owned());
        Ok(Written { files, bytes: self.model_len + self.data_len })
    }
}

/// An initializer up to its raw bytes, and its length with them.
struct TensorHeader {
    bytes: Vec<u8>,
    total: u64,
}

fn tensor_header(name: &str, weight: &Weight, place: Option<(&str, u64)>) -> Result<TensorHeader> {
    let mut tensor = TensorProto::new();
    tensor.name = name.to_owned();
    tensor.data_type = element_type(weight.dtype());
    tensor.dims = weight.shape().iter().map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect();
    let raw_len = weight.byte_len() as u64;
    if let Some((location, offset)) = place {
        tensor.data_location = DataLocation::EXTERNAL.into();
        let entries =
            [("location", location.to_owned()), ("offset", offset.to_string()), ("length", raw_len.to_string())];
        tensor.external_data = entries
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value, ..Default::default() })
            .collect();
    }
    let mut fields =
        tensor.write_to_bytes().map_err(|e| Error::bug(format!("an ONNX tensor cannot be encoded: {e}")))?;
    let inline_len = if place.is_none() { raw_len } else { 0 };
    if place.is_none() {
        fields.push(TENSOR_RAW_DATA);
        push_varint(&mut fields, raw_len);
    }
    let mut bytes = vec![GRAPH_INITIALIZER];
    push_varint(&mut bytes, fields.len() as u64 + inline_len);
    bytes.extend(fields);
    Ok(TensorHeader { total: bytes.len() as u64 + inline_len, bytes })
}

/// Seven bits a byte, lowest first; the top bit means that more follow.
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
