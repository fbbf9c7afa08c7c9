//! Writes a lowered graph as an ONNX file.
//!
//! Weights are streamed: each is computed when its part of the file is written, in parallel, and freed.

mod adapter;
mod layout;
mod matrices;
mod node;

use std::path::Path;

use onnx_protobuf::type_proto::{self, Tensor as TensorTypeProto};
use onnx_protobuf::{
    GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_shape_proto,
};

use crate::error::Result;
use crate::ir::{Dim, Graph, TensorType, Weight};
use crate::verify::Verified;

pub use super::stream::Progress;
pub use adapter::write_adapter;
pub use layout::Written;
pub use matrices::{Matrix, matrices};

/// Largest file that is written as one: readers take no protobuf message of 2 GiB.
const LARGEST_MESSAGE: u64 = (1 << 31) - (1 << 20);

/// Writes `graph` to `path`; weights that would make the file pass 2 GiB go to `path` + `_data` beside it.
///
/// The file is complete and synced when this returns; the caller renames it safely.
pub fn write(graph: &Verified<Graph>, path: &Path, progress: &Progress<'_>) -> Result<Written> {
    write_with(graph, path, &[], progress)
}

/// Like [`write()`], with names and values of the file's metadata.
pub fn write_with(
    graph: &Verified<Graph>,
    path: &Path,
    metadata: &[(String, String)],
    progress: &Progress<'_>,
) -> Result<Written> {
    write_up_to(graph, path, metadata, LARGEST_MESSAGE, progress)
}

/// Writes the components of a program over one file of weights, `data`, in the folder of all of them. A weight that several
/// read is there once. Files are complete and synced when this returns: the components in their order, and then the data.
pub fn write_components(
    components: &[(&Verified<Graph>, &Path)],
    data: &Path,
    metadata: &[(String, String)],
    progress: &Progress<'_>,
) -> Result<Written> {
    let messages =
        components.iter().map(|(graph, _)| Messages::of(graph, metadata)).collect::<Result<Vec<Messages>>>()?;
    let parts: Vec<layout::Part> = messages
        .iter()
        .zip(components)
        .map(|(it, (_, path))| layout::Part { model: &it.model, graph: &it.graph, weights: &it.weights, path })
        .collect();
    layout::write_sharing(&parts, data, progress)
}

fn write_up_to(
    graph: &Verified<Graph>,
    path: &Path,
    metadata: &[(String, String)],
    largest: u64,
    progress: &Progress<'_>,
) -> Result<Written> {
    let Messages { model, graph, weights } = Messages::of(graph, metadata)?;
    layout::write(&model, &graph, &weights, path, largest, progress)
}

/// A graph as messages, and its weights.
struct Messages {
    /// The model without its graph.
    model: ModelProto,
    /// The graph without its weights.
    graph: GraphProto,
    /// The weights, and the small constants that nodes read where our operations have attributes.
    weights: Vec<(String, Weight)>,
}

impl Messages {
    fn of(graph: &Graph, metadata: &[(String, String)]) -> Result<Messages> {
        let mut messages = messages(graph)?;
        let entry = |(key, value): &(String, String)| StringStringEntryProto {
            key: key.clone(),
            value: value.clone(),
            ..Default::default()
        };
        messages.model.metadata_props = metadata.iter().map(entry).collect();
        let weights = &mut messages.weights;
        // A reader takes an initializer that is an input too for the input's default.
        weights.extend(graph.defaults().map(|(value, default)| (value.name.clone(), default.clone())));
        weights.extend(graph.weights().map(|(_, value, weight)| (value.name.clone(), weight.clone())));
        Ok(messages)
    }
}

fn messages(graph: &Graph) -> Result<Messages> {
    let mut body = GraphProto::new();
    body.name = graph.name().to_owned();
    let mut constants = Vec::new();
    let opset = node::opset(graph);
    for (_, node) in graph.nodes() {
        let written = node::onnx_node(graph, node, opset)?;
        body.node.push(written.node);
        constants.extend(written.constants);
    }
    let info = |id: &crate::ir::ValueId| value_info(&graph.value(*id).name, &graph.value(*id).ty);
    body.input = graph.inputs().iter().map(info).collect();
    body.output = graph.outputs().iter().map(info).collect();
    let inner = graph.nodes().flat_map(|(_, node)| &node.outputs).filter(|id| !graph.outputs().contains(id));
    body.value_info = inner.map(info).collect();

    let mut model = ModelProto::new();
    model.ir_version = node::ir_version(opset);
    model.producer_name = "kilnc".to_owned();
    model.producer_version = env!("CARGO_PKG_VERSION").to_owned();
    model.opset_import = vec![operator_set("", opset)];
    if body.node.iter().any(|node| node.domain == node::MICROSOFT) {
        model.opset_import.push(operator_set(node::MICROSOFT, 1));
    }
    Ok(Messages { model, graph: body, weights: constants })
}

fn operator_set(domain: &str, version: i64) -> OperatorSetIdProto {
    let mut set = OperatorSetIdProto::new();
    set.domain = domain.to_owned();
    set.version = version;
    set
}

fn value_info(name: &str, ty: &TensorType) -> ValueInfoProto {
    let mut shape = TensorShapeProto::new();
    for dim in &ty.shape {
        let mut out = tensor_shape_proto::Dimension::new();
        match dim {
            Dim::Fixed(n) => out.set_dim_value(i64::try_from(*n).unwrap_or(i64::MAX)),
            Dim::Symbol(name) => out.set_dim_param(name.to_string()),
            Dim::Computed(size) => out.set_dim_param(size.to_string()),
        }
        shape.dim.push(out);
    }
    let mut tensor = TensorTypeProto::new();
    tensor.elem_type = node::element_type(ty.dtype);
    tensor.shape = Some(shape).into();
    let mut out = ValueInfoProto::new();
    out.name = name.to_owned();
    out.type_ = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::new() }).into();
    out
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::fs;

    use onnx_protobuf::tensor_proto::DataLocation;
    use onnx_protobuf::{Message, TensorProto};

    use super::*;
    use crate::back::lower;
    use crate::ir::weight::Int8Range;
    use crate::ir::{Builder, DType, Op};
    use crate::verify::verify;

    const QUIET: &Progress = &|_| {};

    fn numbers(shape: [usize; 2]) -> Weight {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i % 251) as f32 - 125.0).collect();
        Weight::f32s(shape.to_vec(), &values).unwrap()
    }

    /// Weights of every kind that is emitted, of 1 024 bytes and more and of less.
    fn graph(target: &str) -> Verified<Graph> {
        let mut b = Builder::new("g");
        let x = b.input("x", TensorType::new(DType::F32, [Dim::from("b"), Dim::from("s"), Dim::from(16)]));
        let mask = b.input("mask", TensorType::new(DType::I64, ["b", "s"]));
        let square = b.weight("square", numbers([16, 16]));
        let bias = b.weight("bias", Weight::f32s(vec![16], &[0.5; 16]).unwrap());
        let y = b.node("y", Op::Linear, &[x, square, bias]).unwrap();
        let y = b.node("attended", Op::attention(2, 0.25), &[y, y, y, mask]).unwrap();
        let (values, scales) = numbers([300, 16]).transpose().unwrap().quantize(1, Int8Range::Full).unwrap();
        let (values, scales) = (b.weight("values", values), b.weight("scales", scales));
        let y = b.node("wide", Op::DynamicQuantLinear, &[y, values, scales]).unwrap();
        let y = b.node("narrow", Op::Cast { to: DType::F16 }, &[y]).unwrap();
        let last = b.weight("last", numbers([300, 7]).cast(DType::F16));
        let y = b.node("last.product", Op::Linear, &[y, last]).unwrap();
        b.output("logits", y).unwrap();
        lower(&verify(b.finish()).unwrap(), &target.parse().unwrap()).unwrap()
    }

    fn write_and_read(graph: &Verified<Graph>, largest: u64) -> (tempfile::TempDir, Written, ModelProto) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.onnx");
        let written = write_up_to(graph, &path, &[], largest, QUIET).unwrap();
        assert_eq!(written.bytes, written.files.iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>());
        let model = ModelProto::parse_from_bytes(&fs::read(path).unwrap()).unwrap();
        (dir, written, model)
    }

    /// Checks type, shape and elements of every constant of the graph, read by `raw`.
    fn check_weights(graph: &Graph, model: &ModelProto, raw: impl Fn(&TensorProto) -> Vec<u8>) {
        let tensors: HashMap<_, _> = model.graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        assert_eq!(tensors.len(), model.graph.initializer.len());
        for (_, value, weight) in graph.weights() {
            let tensor = tensors[value.name.as_str()];
            assert_eq!(tensor.data_type, node::element_type(weight.dtype()), "{}", value.name);
            assert_eq!(tensor.dims, weight.shape().iter().map(|n| *n as i64).collect::<Vec<_>>(), "{}", value.name);
            assert!(raw(tensor) == weight.evaluate().unwrap().as_bytes(), "{}", value.name);
        }
    }

    #[test]
    fn a_file_holds_every_weight_and_the_type_of_every_value() {
        for target in ["ort-cpu", "tract"] {
            let graph = graph(target);
            let (_dir, written, model) = write_and_read(&graph, LARGEST_MESSAGE);
            assert_eq!(written.files.len(), 1);
            check_weights(&graph, &model, |tensor| tensor.raw_data.clone());

            let body = &model.graph;
            let collected: HashMap<_, _> =
                body.input.iter().chain(&body.output).chain(&body.value_info).map(|v| (v.name.as_str(), v)).collect();
            for (id, value) in graph.values().filter(|(id, _)| graph.weight(*id).is_none()) {
                assert_eq!(*collected[value.name.as_str()], value_info(&value.name, &value.ty));
                assert_eq!(graph.inputs().contains(&id), body.input.iter().any(|v| v.name == value.name));
            }
            assert_eq!(body.output.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["logits"]);
        }
    }

    #[test]
    fn every_name_that_a_node_reads_is_there_before_it() {
        for target in ["ort-cpu", "tract"] {
            let (_dir, _, model) = write_and_read(&graph(target), LARGEST_MESSAGE);
            let body = &model.graph;
            let mut known: HashSet<&str> = body.initializer.iter().map(|t| t.name.as_str()).collect();
            known.extend(body.input.iter().map(|v| v.name.as_str()));
            known.insert("");
            for node in &body.node {
                assert!(node.input.iter().all(|name| known.contains(name.as_str())), "{}", node.name);
                assert!(node.output.iter().all(|name| known.insert(name)), "{}", node.name);
            }
        }
    }

    #[test]
    fn the_domains_that_are_used_are_imported() {
        let imported = |target| {
            let (_dir, _, model) = write_and_read(&graph(target), LARGEST_MESSAGE);
            model.opset_import.iter().map(|set| (set.domain.clone(), set.version)).collect::<Vec<_>>()
        };
        assert_eq!(imported("tract"), [(String::new(), 17)]);
        assert_eq!(imported("ort-cpu"), [(String::new(), 23), ("com.microsoft".to_owned(), 1)]);
    }

    #[test]
    fn weights_of_a_file_that_would_be_too_long_are_beside_it_page_aligned() {
        let graph = graph("tract");
        let (dir, written, model) = write_and_read(&graph, 4000);
        assert_eq!(written.files, [dir.path().join("model.onnx"), dir.path().join("model.onnx_data")]);
        let data = fs::read(&written.files[1]).unwrap();
        let mut end = 0;
        check_weights(&graph, &model, |tensor| {
            if tensor.data_location.enum_value_or_default() != DataLocation::EXTERNAL {
                assert!(tensor.raw_data.len() < 1024, "{}", tensor.name);
                return tensor.raw_data.clone();
            }
            let [location, offset, length] = ["location", "offset", "length"].map(|key| {
                let entry = tensor.external_data.iter().find(|entry| entry.key == key).unwrap();
                entry.value.as_str()
            });
            assert_eq!(location, "model.onnx_data");
            let (offset, length): (usize, usize) = (offset.parse().unwrap(), length.parse().unwrap());
            assert!(offset.is_multiple_of(4096) && length >= 1024 && tensor.raw_data.is_empty(), "{}", tensor.name);
            data[offset..offset + length].to_vec()
        });
        for tensor in &model.graph.initializer {
            let number =
                |key| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.parse::<u64>().unwrap());
            if let (Some(offset), Some(length)) = (number("offset"), number("length")) {
                assert!(offset >= end, "{} overlaps what comes before", tensor.name);
                end = offset + length;
            }
        }
        assert_eq!(end, data.len() as u64);
    }

    #[test]
    fn the_same_graph_has_the_same_bytes() {
        let graph = graph("ort-cpu");
        let bytes = |largest| {
            let (_dir, written, _) = write_and_read(&graph, largest);
            written.files.iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>()
        };
        for largest in [4000, LARGEST_MESSAGE] {
            assert!(bytes(largest) == bytes(largest));
        }
    }

    #[test]
    fn progress_counts_every_byte_of_the_weights() {
        let graph = graph("tract");
        let collected = std::sync::atomic::AtomicU64::new(0);
        let dir = tempfile::tempdir().unwrap();
        write(&graph, &dir.path().join("model.onnx"), &|n| {
            collected.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        })
        .unwrap();
        let weights: usize = graph.weights().map(|(.., weight)| weight.byte_len()).sum();
        let constants: usize = messages(&graph).unwrap().weights.iter().map(|(_, weight)| weight.byte_len()).sum();
        assert_eq!(collected.into_inner(), (weights + constants) as u64);
    }

    #[test]
    fn a_composite_operation_cannot_be_written() {
        let mut b = Builder::new("g");
        let x = b.input("x", TensorType::new(DType::F32, ["b"]));
        let y = b.node("y", Op::Gelu { tanh: false }, &[x]).unwrap();
        b.output("y", y).unwrap();
        let error = write(&verify(b.finish()).unwrap(), Path::new("never.onnx"), QUIET).unwrap_err();
        assert_eq!(error.message(), "`y` is a Gelu, which was to be lowered");
    }
}
