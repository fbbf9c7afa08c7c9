//! One node of the graph as one node of ONNX.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, NodeProto};

use crate::error::{Error, Result};
use crate::ir::{DType, Dim, Graph, Node, Op, Weight};

/// The domain of ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// A node of ONNX, and the small constants that it reads where our operation has attributes.
pub(super) struct OnnxNode {
    pub node: NodeProto,
    pub constants: Vec<(String, Weight)>,
}

/// The version of ONNX's own operators with `LayerNormalization`, and that with `Attention` and `RMSNormalization`.
const NORMS: i64 = 17;
const ATTENTION: i64 = 23;

/// The version of ONNX's own operators that a graph needs: the oldest that has them all.
pub(super) fn opset(graph: &Graph) -> i64 {
    let is_new = |op: &Op| matches!(op, Op::BiasedAttention { .. } | Op::RmsNorm { .. });
    if graph.nodes().any(|(_, node)| is_new(&node.op)) { ATTENTION } else { NORMS }
}

/// The version of the file format that goes with one of the operators.
pub(super) fn ir_version(opset: i64) -> i64 {
    if opset < ATTENTION { 8 } else { 11 }
}

/// Writes a node with the operators of that version. Composite operations cannot be written: lowering has replaced them.
pub(super) fn onnx_node(graph: &Graph, node: &Node, opset: i64) -> Result<OnnxNode> {
    let name = graph.node_name(node);
    let mut out = NodeProto::new();
    out.name = name.to_owned();
    out.op_type = node.op.name().to_owned();
    out.input =
        node.inputs.iter().map(|input| input.map_or_else(String::new, |id| graph.value(id).name.clone())).collect();
    out.output = node.outputs.iter().map(|id| graph.value(*id).name.clone()).collect();
    let mut written = OnnxNode { node: out, constants: Vec::new() };
    match &node.op {
        Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Sum
        | Op::MatMul
        | Op::Tanh
        | Op::Sin
        | Op::Cos
        | Op::Sigmoid
        | Op::Relu
        | Op::Erf
        | Op::Where
        | Op::Max
        | Op::NonZero { .. }
        | Op::Sqrt => {}
        Op::DynamicQuantizeLinear | Op::MatMulInteger | Op::QuantizeLinear => {}
        Op::DequantizeLinear { axis } => written.int("axis", *axis),
        Op::Softmax { axis } | Op::Gather { axis } | Op::Concat { axis } => written.int("axis", *axis),
        Op::Cast { to } => written.int("to", i64::from(element_type(*to))),
        Op::Transpose { perm } => written.ints("perm", perm),
        Op::Reshape { shape } => written.constant("shape", shape)?,
        Op::ReshapeTo { .. } => written.node.op_type = "Reshape".to_owned(),
        Op::ExpandTo { .. } => written.node.op_type = "Expand".to_owned(),
        Op::Join { .. } => {
            written.node.op_type = "Concat".to_owned();
            written.int("axis", 0);
        }
        Op::SplitTo { axis, .. } => {
            written.node.op_type = "Split".to_owned();
            written.int("axis", *axis);
        }
        Op::Scatter { axis } => {
            written.node.op_type = "ScatterElements".to_owned();
            written.int("axis", *axis);
        }
        Op::TopK { largest, .. } => {
            written.int("axis", -1);
            written.int("largest", i64::from(*largest));
        }
        Op::Conv { groups, pads: Some(pads) } => {
            written.int("group", *groups);
            written.ints("pads", pads);
        }
        Op::Conv { groups, pads: None } => {
            let kernel = node.operand(1).and_then(|id| graph.value(id).ty.shape.last()?.fixed());
            let around = kernel.map_or(0, |kernel| (kernel / 2) as i64);
            written.int("group", *groups);
            written.ints("pads", &[around, around]);
        }
        Op::Unsqueeze { axes } => written.constant("axes", axes)?,
        Op::ReduceSum { axes, keep } => {
            written.int("keepdims", i64::from(*keep));
            written.constant("axes", axes)?;
        }
        Op::Split { axis, sizes } => {
            written.int("axis", *axis);
            written.constant("split", sizes)?;
        }
        Op::Shape { start, end } => {
            written.int("start", *start);
            written.int("end", *end);
        }
        Op::Slice { axis, .. } => written.constant("axes", &[*axis])?,
        Op::ReduceMean { axes, keep } | Op::ReduceMax { axes, keep } => {
            written.int("keepdims", i64::from(*keep));
            match opset {
                ..18 => written.ints("axes", axes),
                _ => written.constant("axes", axes)?,
            }
        }
        Op::LeakyRelu { alpha } => written.float("alpha", *alpha),
        Op::CumSum { axis } => written.scalar("axis", *axis)?,
        Op::LayerNorm { epsilon } => {
            written.node.op_type = "LayerNormalization".to_owned();
            written.int("axis", -1);
            written.float("epsilon", *epsilon);
        }
        Op::RmsNorm { epsilon } => {
            written.node.op_type = "RMSNormalization".to_owned();
            written.int("axis", -1);
            written.float("epsilon", *epsilon);
        }
        Op::BiasedAttention { heads, scale, kv_heads } => {
            written.node.op_type = "Attention".to_owned();
            written.int("q_num_heads", *heads);
            written.int("kv_num_heads", kv_heads.unwrap_or(*heads));
            written.float("scale", *scale);
        }
        Op::MultiHeadAttention { heads, scale } => {
            written.node.domain = MICROSOFT.to_owned();
            written.int("num_heads", *heads);
            written.float("scale", *scale);
        }
        Op::DynamicQuantizeMatMul | Op::MatMulIntegerToFloat => written.node.domain = MICROSOFT.to_owned(),
        Op::MatMulNBits { bits, size } => {
            written.node.domain = MICROSOFT.to_owned();
            written.int("K", known(graph, node, 0, |shape| shape.last())?);
            written.int("N", known(graph, node, 1, |shape| shape.first())?);
            written.int("bits", *bits);
            written.int("block_size", *size);
            // Activations may be quantized block by block, too: the products of 8 bits are the fast ones.
            written.int("accuracy_level", 4);
        }
        Op::FusedGelu => {
            written.node.domain = MICROSOFT.to_owned();
            written.node.op_type = "Gelu".to_owned();
        }
        composite if composite.is_composite() => {
            return Err(Error::bug(format!("`{name}` is a {}, which was to be lowered", node.op.name())));
        }
        other => return Err(Error::bug(format!("`{name}` is a {}, which is not written to ONNX", other.name()))),
    }
    Ok(written)
}

/// A size of an operand that is known now.
fn known(graph: &Graph, node: &Node, i: usize, which: fn(&[Dim]) -> Option<&Dim>) -> Result<i64> {
    let operand = node.operand(i);
    let size = operand.and_then(|id| which(&graph.value(id).ty.shape)?.fixed());
    size.and_then(|size| i64::try_from(size).ok())
        .ok_or_else(|| Error::bug(format!("a size of operand {i} of `{}` is not known", graph.node_name(node))))
}

impl OnnxNode {
    fn attribute(&mut self, name: &str, ty: AttributeType, set: impl FnOnce(&mut AttributeProto)) {
        let mut attribute = AttributeProto::new();
        attribute.name = name.to_owned();
        attribute.type_ = ty.into();
        set(&mut attribute);
        self.node.attribute.push(attribute);
    }

    fn int(&mut self, name: &str, value: i64) {
        self.attribute(name, AttributeType::INT, |attribute| attribute.i = value);
    }

    fn ints(&mut self, name: &str, values: &[i64]) {
        self.attribute(name, AttributeType::INTS, |attribute| attribute.ints = values.to_vec());
    }

    fn float(&mut self, name: &str, value: f32) {
        self.attribute(name, AttributeType::FLOAT, |attribute| attribute.f = value);
    }

    /// A further operand, which ONNX wants as a constant where we have an attribute.
    fn constant(&mut self, name: &str, values: &[i64]) -> Result<()> {
        let weight = Weight::i64s(vec![values.len()], values)?;
        self.operand(name, weight);
        Ok(())
    }

    /// The same, of a single number.
    fn scalar(&mut self, name: &str, value: i64) -> Result<()> {
        let weight = Weight::i64s(Vec::new(), &[value])?;
        self.operand(name, weight);
        Ok(())
    }

    fn operand(&mut self, name: &str, weight: Weight) {
        let name = format!("{}.{name}", self.node.name);
        self.node.input.push(name.clone());
        self.constants.push((name, weight));
    }
}

/// The number of an element type in `TensorProto.DataType`.
pub(super) fn element_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::I16 => 5,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::BF16 => 16,
    }
}
