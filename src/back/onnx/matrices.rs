//! The constant matrices of an ONNX file that was written, read back from its bytes.

use std::collections::HashMap;
use std::path::Path;

use onnx_protobuf::{ModelProto, NodeProto, TensorProto};
use protobuf::Message;

use crate::error::{Error, Result, printable};

/// Products by the second operand; the first is `[…, k]`, the second `[k, n]`.
const PRODUCTS: [&str; 5] = ["MatMul", "Gemm", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"];

/// The nodes between a constant and a product that only widen its type.
const WIDENS: [&str; 2] = ["DequantizeLinear", "Cast"];

/// A constant matrix `[k, n]` that something is multiplied by.
pub struct Matrix {
    /// The name of the initializer.
    pub name: String,
    /// Its columns.
    pub n: usize,
    /// For every element, row after row, whether it is 0.
    pub zeros: Vec<bool>,
}

/// Reads the constant matrices that products of the file multiply by, through the nodes that widen their type. Matrices in
/// blocks are not among them.
pub fn matrices(path: &Path) -> Result<Vec<Matrix>> {
    let reading = |e| Error::io("reading", path, &e);
    let bytes = std::fs::read(path).map_err(reading)?;
    let model = ModelProto::parse_from_bytes(&bytes)
        .map_err(|e| Error::bad_input(format!("{}: no ONNX model: {e}", path.display())))?;
    let tensors: HashMap<&str, &TensorProto> =
        model.graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let made: HashMap<&str, &NodeProto> =
        model.graph.node.iter().flat_map(|node| node.output.iter().map(move |out| (out.as_str(), node))).collect();
    let mut found: Vec<Matrix> = Vec::new();
    for node in model.graph.node.iter().filter(|node| PRODUCTS.contains(&node.op_type.as_str())) {
        let Some(operand) = node.input.get(1) else { continue };
        let widened = |name: &String| {
            let source = made.get(name.as_str()).filter(|node| WIDENS.contains(&node.op_type.as_str()));
            source.and_then(|node| node.input.first()).cloned()
        };
        // Numbers may be widened in two steps, and never in more.
        let name = (0..WIDENS.len()).try_fold(operand.clone(), |name, _| widened(&name).ok_or(name));
        let name = name.unwrap_or_else(|first| first);
        let Some(tensor) = tensors.get(name.as_str()) else { continue };
        let ([_, n], Some(width)) = (tensor.dims.as_slice(), width(tensor.data_type)) else { continue };
        if found.iter().any(|matrix| matrix.name == name) {
            continue;
        }
        let elements = elements(tensor, path)?;
        let zeros = elements.chunks_exact(width).map(|element| element.iter().all(|byte| *byte == 0)).collect();
        found.push(Matrix { name, n: usize::try_from(*n).unwrap_or(0), zeros });
    }
    Ok(found)
}

/// Bytes of an element of those types that weights have.
fn width(data_type: i32) -> Option<usize> {
    match data_type {
        1 => Some(4),
        2 | 3 => Some(1),
        10 | 16 => Some(2),
        _ => None,
    }
}

fn elements(tensor: &TensorProto, path: &Path) -> Result<Vec<u8>> {
    if tensor.external_data.is_empty() {
        return Ok(tensor.raw_data.to_vec());
    }
    let value =
        |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let number = |key: &str| value(key).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let lost = || Error::bug(format!("`{}` is not where {} says", printable(&tensor.name), path.display()));
    // Only files that kilnc has just written are read, whose data is beside them.
    let beside = path.with_file_name(value("location").ok_or_else(lost)?);
    let data = std::fs::File::open(&beside).map_err(|e| Error::io("reading", &beside, &e))?;
    // SAFETY: the file is of the stage, where no one else writes.
    let data = unsafe { memmap2::Mmap::map(&data) }.map_err(|e| Error::io("reading", &beside, &e))?;
    let (offset, length) = (number("offset"), number("length"));
    data.get(offset..offset + length).map(<[u8]>::to_vec).ok_or_else(lost)
}
