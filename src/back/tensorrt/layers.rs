//! The layers of a compiled engine, read from the builder's log or from the inspector's output.
//!
//! The inspector deserializes the plan and so needs a GPU. With detailed profiling verbosity
//! the builder logs the same in one message: a line `Layers:`, a line for each layer, an
//! empty line, and then the engine's inputs and outputs. The format is TensorRT's own and
//! is promised nowhere: lines that do not parse are counted.

use std::collections::BTreeMap;
use std::fmt;

/// One layer of the engine, usually several ONNX nodes fused.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Layer {
    /// TensorRT's name, e.g. `layer.0.ffn1.matmul_myl0_10` or `_gemm_mha_v2_myl0_7`.
    pub name: String,
    /// TensorRT's kind: `gemm` (a library kernel), `runtime_fusion` (a GEMM fused with what
    /// follows, compiled on the device), `kgen` (a generated kernel), `shape_call`, …
    pub kind: String,
    /// Tensors that flow in.
    pub inputs: Vec<Port>,
    /// Weights and scalars built into the engine.
    pub constants: Vec<Port>,
    /// Tensors that flow out.
    pub outputs: Vec<Port>,
    /// Names of the ONNX nodes that the layer computes, in TensorRT's order.
    pub nodes: Vec<String>,
}

/// A tensor at the edge of a layer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Port {
    /// TensorRT's name.
    pub name: String,
    /// Its shape; -1 is a dimension known only at run time.
    pub shape: Vec<i64>,
    /// TensorRT's name of the element type: `Float`, `Half`, `BFloat16`, `Int8`, `Int64`, `Bool`, ….
    pub data_type: String,
}

/// The content of the log's list of layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LayerList {
    pub layers: Vec<Layer>,
    /// Lines of the list that do not look like a layer.
    pub unread: usize,
}

impl LayerList {
    /// Reads the message that starts with `Layers:`; never fails.
    pub fn parse(message: &str) -> LayerList {
        let mut list = LayerList::default();
        for line in message.lines().skip(1).take_while(|line| !line.is_empty()) {
            match Layer::parse(line) {
                Some(layer) => list.layers.push(layer),
                None => list.unread += 1,
            }
        }
        list
    }
}

impl Layer {
    /// Whether this is attention from the scores to the context in one kernel.
    pub fn is_fused_attention(&self) -> bool {
        self.name.starts_with("_gemm_mha")
    }

    /// The element type in which this layer multiplies matrices; `None` if it does not,
    /// or if it is fused attention.
    ///
    /// `Int8` only where both operands are: an INT8 weight beside an FP16 activation is
    /// widened first, so the product is FP16.
    pub fn gemm_precision(&self) -> Option<&str> {
        // A fused GEMM is recognised by the operations in its name, e.g. `__myl_FcAddRelu_myl0_1`.
        let multiplies = self.kind == "gemm" || (self.kind == "runtime_fusion" && self.name.contains("Fc"));
        if !multiplies || self.is_fused_attention() {
            return None;
        }
        let mut operands = self
            .inputs
            .iter()
            .chain(&self.constants)
            .filter(|port| port.is_matrix())
            .take(2)
            .map(|port| port.data_type.as_str());
        let first = operands.next()?;
        Some(match operands.next() {
            Some(second) if first == "Int8" => second,
            _ => first,
        })
    }

    fn parse(line: &str) -> Option<Layer> {
        let (name, rest) = line.strip_prefix("Name: ")?.split_once(", LayerType: ")?;
        let (kind, rest) = rest.split_once(", Inputs: ")?;
        let (inputs, rest) = rest.split_once(", Outputs: ")?;
        // Kinds that TensorRT for RTX has not are listed without them.
        let (inputs, constants) = inputs.split_once(", Constants: ").unwrap_or((inputs, "[]"));
        let (outputs, rest) = rest.split_once(", TacticName: ")?;
        let (_, metadata) = rest.split_once(", Metadata: ")?;
        Some(Layer {
            name: name.to_owned(),
            kind: kind.to_owned(),
            inputs: ports(inputs)?,
            constants: ports(constants)?,
            outputs: ports(outputs)?,
            nodes: nodes(metadata),
        })
    }
}

impl Port {
    /// Whether two or more dimensions are not 1: a bias or a scalar is no matrix.
    fn is_matrix(&self) -> bool {
        self.shape.iter().filter(|&&size| size != 1).count() >= 2
    }

    fn parse(text: &str) -> Option<Port> {
        let (name, rest) = text.split_once(", Dimensions: [")?;
        let (shape, rest) = rest.split_once(']')?;
        let (_, rest) = rest.split_once("Datatype: ")?;
        let (data_type, _) = rest.split_once(',')?;
        Some(Port {
            name: name.to_owned(),
            shape: shape
                .split(',')
                .filter(|size| !size.is_empty())
                .map(|size| size.trim().parse().ok())
                .collect::<Option<_>>()?,
            data_type: data_type.to_owned(),
        })
    }
}

/// `[ { Name: a, … }, { Name: b, … }]`, or `[]`.
fn ports(section: &str) -> Option<Vec<Port>> {
    section.split("{ Name: ").skip(1).map(Port::parse).collect()
}

/// `[ONNX Layer: a]␟[ONNX Layer: b]`, with the ASCII unit separator between; other kinds of metadata are left out.
fn nodes(metadata: &str) -> Vec<String> {
    metadata.split("[ONNX Layer: ").skip(1).filter_map(|node| Some(node.rsplit_once(']')?.0.to_owned())).collect()
}

/// How many INT8 products leave their sums in FP16 before the scale is applied.
///
/// With per-channel FP16 scales TensorRT multiplies by them in the layer after the GEMM,
/// and the GEMM's bare sums (up to 127² times the depth) pass 65504, the end of FP16.
pub(super) fn bare_half_sums(layers: &[Layer]) -> usize {
    let scales = |gemm: &Layer, next: &Layer| {
        // The layer that holds the rest of a product names the product's own node again.
        next.inputs.iter().any(|port| gemm.outputs.iter().any(|out| out.name == port.name))
            && next.nodes.iter().any(|node| gemm.nodes.contains(node))
    };
    layers
        .iter()
        .filter(|layer| layer.gemm_precision() == Some("Int8"))
        .filter(|gemm| gemm.outputs.iter().any(|out| out.data_type == "Half"))
        .filter(|gemm| layers.iter().any(|next| scales(gemm, next)))
        .count()
}

/// Counts of the layers that decide an encoder's speed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerSummary {
    /// Kernels that the engine launches: its layers less those that only order the others.
    pub kernels: usize,
    /// Matrix multiplications outside attention, by the element type of their operands.
    pub gemms: BTreeMap<String, usize>,
    /// Attention blocks that became one kernel.
    pub fused_attention: usize,
}

/// Kinds of layers that compute nothing.
const ORDERING: [&str; 3] = ["shape_call", "signal", "wait"];

impl LayerSummary {
    /// Counts over `layers`.
    pub fn of(layers: &[Layer]) -> LayerSummary {
        let mut gemms = BTreeMap::new();
        for precision in layers.iter().filter_map(Layer::gemm_precision) {
            *gemms.entry(precision.to_owned()).or_insert(0) += 1;
        }
        LayerSummary {
            kernels: layers.iter().filter(|layer| !ORDERING.contains(&layer.kind.as_str())).count(),
            gemms,
            fused_attention: layers.iter().filter(|layer| layer.is_fused_attention()).count(),
        }
    }
}

impl fmt::Display for LayerSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kernels", self.kernels)?;
        for (precision, count) in &self.gemms {
            write!(f, ", {count} {precision} GEMM")?;
        }
        write!(f, ", {} fused attention", self.fused_attention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some layers of an INT8 BERT compiled for sm75 by TensorRT for RTX 1.7.1.116.
    const LOG: &str = include_str!("layers_fixture.txt");

    #[test]
    fn a_real_log_is_read_to_the_last_line() {
        let list = LayerList::parse(LOG);
        assert_eq!(list.unread, 0);
        assert_eq!(
            LayerSummary::of(&list.layers).to_string(),
            "6 kernels, 2 Half GEMM, 1 Int8 GEMM, 1 fused attention"
        );
    }

    #[test]
    fn a_layer_has_its_edges_and_nodes() {
        let list = LayerList::parse(LOG);
        let attention = list.layers.iter().find(|layer| layer.is_fused_attention());
        let attention = attention.expect("the fixture holds one");
        assert_eq!(attention.name, "_gemm_mha_v2_myl0_8");
        assert_eq!(attention.kind, "kgen");
        let types: Vec<_> = attention.inputs.iter().map(|port| port.data_type.as_str()).collect();
        assert_eq!(types, ["Half", "Half", "Half", "Half"]);
        assert_eq!(
            attention.outputs,
            [Port {
                name: "__myln_k_arg__bb1_25_myl0".to_owned(),
                shape: vec![-1, -1, 64],
                data_type: "Int8".to_owned(),
            }]
        );
        let nodes = ["out.in.q", "context", "softmax", "mask", "scale", "scores"];
        assert_eq!(attention.nodes, nodes.map(|node| format!("layer.0.{node}")));
    }

    #[test]
    fn an_int8_weight_widened_to_half_counts_as_half() {
        let list = LayerList::parse(LOG);
        let widened = list.layers.iter().find(|layer| layer.name.contains("CastMulFc"));
        let widened = widened.expect("the fixture holds one");
        assert_eq!(widened.inputs.first().map(|port| port.data_type.as_str()), Some("Int8"));
        assert_eq!(widened.gemm_precision(), Some("Half"));
    }

    #[test]
    fn a_layer_without_constants_is_read() {
        let line = "Layers:\nName: Reformatting CopyNode for Input Tensor 0, LayerType: Reformat, Inputs: [ { Name: x, \
                    Location: Device, Dimensions: [1,8], Format/Datatype: Row major linear FP16 format }], Outputs: [ { \
                    Name: y, Location: Device, Dimensions: [1,8], Datatype: Half, Format: Linear }], ParameterType: \
                    Reformat, Origin: REFORMAT, TacticName: , StreamId: 0, Metadata: ";
        let non_finite = LayerList::parse(line);
        // A datatype that is written out with the format is not parsed.
        assert_eq!((non_finite.layers.len(), non_finite.unread), (0, 1));
        let list =
            LayerList::parse(&line.replace("Format/Datatype: Row major linear FP16 format", "Datatype: Half, F"));
        assert_eq!((list.layers.len(), list.unread), (1, 0));
        assert_eq!((list.layers[0].constants.len(), list.layers[0].outputs[0].data_type.as_str()), (0, "Half"));
    }

    #[test]
    fn an_int8_sum_scaled_after_it_is_half_is_found() {
        let mut list = LayerList::parse(LOG);
        assert_eq!(bare_half_sums(&list.layers), 1);
        for layer in &mut list.layers {
            layer.outputs.iter_mut().for_each(|out| out.data_type = "Float".to_owned());
        }
        assert_eq!(bare_half_sums(&list.layers), 0);
    }

    #[test]
    fn lines_that_are_no_layer_are_counted_and_not_fatal() {
        for (text, unread) in [
            ("", 0),
            ("Layers:", 0),
            ("Layers:\nName: a", 1),
            (
                "Layers:\nName: a, LayerType: b, Inputs: [ { Name: x }], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: ",
                1,
            ),
            ("Layers:\n???\n\nI/O Tensors:\n Name: x", 1),
        ] {
            let list = LayerList::parse(text);
            assert_eq!((list.layers.len(), list.unread), (0, unread), "{text:?}");
        }
    }

    #[test]
    fn a_truncated_log_never_panics() {
        for (end, _) in LOG.char_indices() {
            if let Some(text) = LOG.get(..end) {
                LayerSummary::of(&LayerList::parse(text).layers);
            }
        }
    }
}
