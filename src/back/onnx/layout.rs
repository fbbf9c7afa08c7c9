//! Where each byte of an ONNX file goes, and the writing of them.
//!
//! A protobuf message states the length of its content first. All lengths are known before any weight
//! is computed, so every weight has its offset from the start and can be written by whichever thread computes it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use protobuf::Message;

use super::node::element_type;
use crate::back::stream::{Piece, Progress, write_pieces};
use crate::error::{Error, Result};
use crate::ir::{Identity, Weight};

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
    let (model, graph) = (encoded(model)?, encoded(graph)?);
    let inline = Layout::new(&model, &graph, weights, None)?;
    if inline.len <= largest {
        return inline.write(path, progress);
    }
    let mut data = Data::beside(path)?;
    let layout = Layout::new(&model, &graph, weights, Some(&mut data))?;
    let data = data.write(progress)?;
    Ok(layout.write(path, progress)?.and(data))
}

/// A model whose large weights are in a file that others read, too.
pub(super) struct Part<'a> {
    pub model: &'a ModelProto,
    pub graph: &'a GraphProto,
    pub weights: &'a [(String, Weight)],
    pub path: &'a Path,
}

/// Writes models over one file of weights, `data` beside them. A weight of several is there once.
pub(super) fn write_sharing(parts: &[Part], data: &Path, progress: &Progress<'_>) -> Result<Written> {
    let mut data = Data { shared: Some(HashMap::new()), ..Data::at(data)? };
    let mut layouts = Vec::new();
    for Part { model, graph, weights, path } in parts {
        layouts.push((Layout::new(&encoded(*model)?, &encoded(*graph)?, weights, Some(&mut data))?, path));
    }
    let data = data.write(progress)?;
    let mut all = Written { files: Vec::new(), bytes: 0 };
    for (layout, path) in layouts {
        all = all.and(layout.write(path, progress)?);
    }
    Ok(all.and(data))
}

impl Written {
    /// These files, and then the others.
    fn and(mut self, others: Written) -> Written {
        self.files.extend(others.files);
        Written { bytes: self.bytes + others.bytes, ..self }
    }
}

/// A file of weights beside models.
struct Data<'a> {
    path: PathBuf,
    /// Its name. It is in the models, so it has to be UTF-8.
    location: String,
    pieces: Vec<Piece<'a>>,
    len: u64,
    /// Where weights are, where models share them.
    shared: Option<HashMap<Identity, u64>>,
}

impl<'a> Data<'a> {
    /// That of one model.
    fn beside(path: &Path) -> Result<Data<'a>> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push("_data");
        Data::at(&path.with_file_name(name))
    }

    fn at(path: &Path) -> Result<Data<'a>> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::bad_input(format!("{} is no file name in UTF-8", path.display())))?;
        Ok(Data { path: path.to_owned(), location: name.to_owned(), pieces: Vec::new(), len: 0, shared: None })
    }

    /// The offset of a weight, which is put there if it is not yet.
    fn place(&mut self, weight: &'a Weight) -> u64 {
        let identity = self.shared.as_ref().and_then(|_| Identity::of(weight));
        let known = self.shared.as_ref().zip(identity.as_ref()).and_then(|(shared, identity)| shared.get(identity));
        if let Some(offset) = known {
            return *offset;
        }
        let offset = self.len.next_multiple_of(PAGE);
        self.pieces.push(Piece::Weight(offset, weight));
        self.len = offset + weight.byte_len() as u64;
        if let (Some(shared), Some(identity)) = (&mut self.shared, identity) {
            shared.insert(identity, offset);
        }
        offset
    }

    fn write(self, progress: &Progress<'_>) -> Result<Written> {
        write_pieces(&self.path, &self.pieces, self.len, progress)?;
        Ok(Written { files: vec![self.path], bytes: self.len })
    }
}

struct Layout<'a> {
    pieces: Vec<Piece<'a>>,
    len: u64,
}

impl<'a> Layout<'a> {
    /// Lays the file out. Large weights go to `data`, where there is one.
    fn new(
        model: &[u8],
        graph: &[u8],
        weights: &'a [(String, Weight)],
        mut data: Option<&mut Data<'a>>,
    ) -> Result<Layout<'a>> {
        let mut tensors = Vec::with_capacity(weights.len());
        for (name, weight) in weights {
            let outside = data.as_mut().filter(|_| weight.byte_len() >= SMALL);
            let place = outside.map(|data| {
                let offset = data.place(weight);
                (data.location.as_str(), offset)
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
        Ok(Layout { pieces, len: at })
    }

    fn write(self, path: &Path, progress: &Progress<'_>) -> Result<Written> {
        write_pieces(path, &self.pieces, self.len, progress)?;
        Ok(Written { files: vec![path.to_owned()], bytes: self.len })
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
    let mut fields = encoded(&tensor)?;
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

fn encoded(message: &impl Message) -> Result<Vec<u8>> {
    message.write_to_bytes().map_err(|e| Error::bug(format!("an ONNX message cannot be encoded: {e}")))
}

/// Seven bits a byte, lowest first; the top bit means that more follow.
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
