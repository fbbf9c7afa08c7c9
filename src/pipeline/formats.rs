//! The passes of a number format, which depend on what the target makes of it.

use crate::error::{Error, Result};
use crate::ir::weight::Blocks;
use crate::ir::{DType, Dim, Graph, Node, Op};
use crate::passes::{Activations, Half, Manager, QuantizeStatic, QuantizeWeights, Ranges, Stored};
use crate::precision::Precision;
use crate::runtime::Hints;
use crate::target::{DynamicQuantForm, HalfForm, Target, WeightForm};
use crate::verify::Verified;

/// Floats of 16 bits.
pub(super) fn narrowed(
    manager: &mut Manager,
    graph: &Verified<Graph>,
    target: &Target,
    to: DType,
) -> Result<Verified<Graph>> {
    let can = target.capabilities();
    match if to == DType::BF16 { can.bf16 } else { can.fp16 } {
        HalfForm::Computed => manager.run(graph, &Half(to)),
        HalfForm::Stored => manager.run(graph, &Stored(to)),
        HalfForm::Hinted => {
            no_shared_bias(graph, target)?;
            // Half precision holds more digits than the products will, and a runtime that takes no BF16 tensors takes it.
            manager.run(graph, &Stored(DType::F16))
        }
        HalfForm::None => Err(Error::unsupported(format!("{target} has no kernels for {to}"))
            .hint("use fp16 for it; of all targets, openvino computes in bf16")),
    }
}

/// OpenVINO 2025.4 writes outside its memory where it fuses attention in BF16 and one bias serves all heads.
fn no_shared_bias(graph: &Graph, target: &Target) -> Result<()> {
    let shared = |node: &Node| {
        let bias = node.inputs.get(4).copied().flatten().filter(|_| matches!(node.op, Op::Attention { .. }));
        bias.is_some_and(|bias| graph.value(bias).ty.shape.get(1) == Some(&Dim::Fixed(1)))
    };
    match graph.nodes().find(|(_, node)| shared(node)) {
        None => Ok(()),
        Some((_, node)) => Err(Error::unsupported(format!(
            "`{}` has a bias that all heads share, with which {target} computes wrongly in bf16",
            graph.node_name(node)
        ))
        .hint("use fp32, int8-static or int8-weights for this model")),
    }
}

/// Activations and weights of 8 bits.
pub(super) fn calibrated(
    manager: &mut Manager,
    graph: &Verified<Graph>,
    target: &Target,
    ranges: &Ranges,
) -> Result<Verified<Graph>> {
    if ranges.is_empty() {
        return Err(Error::bad_input("int8-static needs the ranges of the activations, and none were observed")
            .hint("calibrate with texts like those that the engine will answer"));
    }
    let can = target.capabilities();
    let activations = if can.symmetric_activations { Activations::S8 } else { Activations::U8 };
    let quantized = manager.run(graph, &QuantizeStatic { ranges, activations })?;
    match can.fp16 {
        HalfForm::Computed => manager.run(&quantized, &Half(DType::F16)),
        _ => Ok(quantized),
    }
}

/// Weights of 8 or 4 bits.
pub(super) fn lighter(
    manager: &mut Manager,
    graph: &Verified<Graph>,
    target: &Target,
    bits: usize,
) -> Result<Verified<Graph>> {
    let blocks = match target.capabilities().weights_of(bits) {
        WeightForm::Blocks { size, zero_points, .. } => Some(Blocks { bits, size, zero_points }),
        WeightForm::Channels => None,
        WeightForm::None => {
            return Err(Error::unsupported(format!("{target} runs no layers whose weights alone are of {bits} bits"))
                .hint("use fp16 for it"));
        }
    };
    manager.run(graph, &QuantizeWeights { blocks })
}

/// Whether a target has engines of that number format; [`super::compile`] refuses the others by name.
pub fn supports(target: &Target, precision: Precision) -> bool {
    let can = target.capabilities();
    match precision {
        Precision::Fp32 => can.fp32_gemm,
        Precision::Fp16 => can.fp16 != HalfForm::None,
        Precision::Bf16 => can.bf16 != HalfForm::None,
        Precision::Int8 => !matches!(can.dynamic_quant, DynamicQuantForm::None { .. }),
        Precision::Int8Static => true,
        Precision::Int8Weights => can.weights_of(8) != WeightForm::None,
        Precision::Int4 => can.weights_of(4) != WeightForm::None,
    }
}

/// What an engine's file tells the runtime beside the graph.
pub fn hints(target: &Target, precision: Precision) -> Hints {
    let can = target.capabilities();
    let group = |bits| match can.weights_of(bits) {
        WeightForm::Blocks { group, .. } => u32::try_from(group).unwrap_or(0),
        _ => 0,
    };
    match (target, precision) {
        (Target::OpenVino, Precision::Bf16) => Hints { bf16: true, ..Hints::default() },
        (Target::OpenVino, Precision::Int8Weights) => Hints { group: group(8), ..Hints::default() },
        (Target::OpenVino, Precision::Int4) => Hints { group: group(4), ..Hints::default() },
        _ => Hints::default(),
    }
}
