//! Writes a lowered graph as an ONNX file.
//!
//! Weights are streamed: each is computed when its place in the file is written, in parallel, and let go.

mod layout;
mod node;

use std::path::Path;

use onnx_protobuf::type_proto::{self, Tensor as TensorTypeProto};
use onnx_protobuf::{
    GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto,
};

use crate::error::Result;
use crate::ir::{Dim, Graph, TensorType, Weight};
use crate::verify::Verified;

pub use layout::{Progress, Written};

/// The version of ONNX's operators that is written: the first with `LayerNormalization`.
pub const OPSET: i64 = 17;

/// The version of the file format that goes with [`OPSET`].
const IR_VERSION: i64 = 8;

/// Largest file that is written as one: readers take no protobuf message of 2 GiB.
const LARGEST_MESSAGE: u64 = (1 << 31) - (1 << 20);

/// Writes `graph` to `path`; weights that would make the file pass 2 GiB go to `path` + `_data` beside it.
///
/// The file is complete and synced when this returns; to put it in place safely is the caller's part.
pub fn write(graph: &Verified<Graph>, path: &Path, progress: &Progress<'_>) -> Result<Written> {
    write_up_to(graph, path, LARGEST_MESSAGE, progress)
}

fn write_up_to(graph: &Verified<Graph>, path: &Path, largest: u64, progress: &Progress<'_>) -> Result<Written> {
    let messages = messages(graph)?;
    let mut weights = messages.constants;
    weights.extend(graph.weights().map(|(_, value, weight)| (value.name.clone(), weight.clone())));
    layout::write(&messages.model, &messages.graph, &weights, path, largest, progress)
}

/// A graph as messages, but for its weights.
struct Messages {
    /// The model without its graph.
    model: ModelProto,
    /// The graph without its weights.
    graph: GraphProto,
    /// The small constants that nodes read where our operations have attributes.
    constants: Vec<(String, Weight)>,
}

fn messages(graph: &Graph) -> Result<Messages> {
    let mut body = GraphProto::new();
    body.name = graph.name().to_owned();
    let mut constants = Vec::new();
    for (_, node) in graph.nodes() {
        let spelled = node::spell(graph, node)?;
        body.node.push(spelled.node);
        for (name, values) in spelled.constants {
            constants.push((name, Weight::i64s(vec![values.len()], &values)?));
        }
    }
    let info = |id: &crate::ir::ValueId| value_info(&graph.value(*id).name, &graph.value(*id).ty);
    body.input = graph.inputs().iter().map(info).collect();
    body.output = graph.outputs().iter().map(info).collect();
    let inner = graph.nodes().flat_map(|(_, node)| &node.outputs).filter(|id| !graph.outputs().contains(id));
    body.value_info = inner.map(info).collect();

    let mut model = ModelProto::new();
    model.ir_version = IR_VERSION;
    model.producer_name = "kilnc".to_owned();
    model.producer_version = env!("CARGO_PKG_VERSION").to_owned();
    model.opset_import = vec![operator_set("", OPSET)];
    if body.node.iter().any(|node| node.domain == node::MICROSOFT) {
        model.opset_import.push(operator_set(node::MICROSOFT, 1));
    }
    Ok(Messages { model, graph: body, constants })
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
