//! The passes of a number format, which depend on the target.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::rounding::beyond_half;
use super::scheme::Scheme;
use crate::build::calibration::Calibrator;
use crate::calibrate::{Calibration, Estimator, Ranges};
use crate::error::{Error, Result};
use crate::ir::weight::{Blocks, Int8Range};
use crate::ir::{DType, Dim, Graph, Node, Op, Role};
use crate::passes::{
    ActivationType, GroupNeurons, Half, Manager, QuantizeDynamic, QuantizeEmbeddings, QuantizeStatic, QuantizeWeights,
    Smooth, Stored, Wide,
};
use crate::precision::Precision;
use crate::runtime::Hints;
use crate::target::{DynamicQuantForm, HalfForm, Target, WeightForm};
use crate::verify::Verified;

/// The graph in the number format of a scheme.
pub(in crate::build) fn apply(
    graph: &Verified<Graph>,
    scheme: &Scheme,
    manager: &mut Manager,
) -> Result<Verified<Graph>> {
    let can = scheme.target.capabilities();
    check_keep(graph, scheme.keep)?;
    if scheme.range == Int8Range::Reduced {
        check_reduced(scheme.target, scheme.precision)?;
    }
    let graph = match scheme.precision {
        Precision::Fp32 if !can.fp32_gemm => {
            return Err(
                Error::unsupported(format!("{} multiplies no 32-bit matrices", scheme.target)).hint("use fp16 for it")
            );
        }
        Precision::Fp32 => return Ok(graph.clone()),
        Precision::Fp16 => return narrowed(graph, scheme, DType::F16, manager),
        Precision::Bf16 => return narrowed(graph, scheme, DType::BF16, manager),
        Precision::Int8Weights => lighter(graph, scheme, 8, manager)?,
        Precision::Int4 => lighter(graph, scheme, 4, manager)?,
        Precision::Int8 | Precision::Int8Fast if can.dynamic_quant != DynamicQuantForm::None => {
            dynamic(graph, scheme, manager)?
        }
        Precision::Int8 | Precision::Int8Fast | Precision::Int8Static => fixed(graph, scheme, manager)?,
    };
    match can.fp16 {
        HalfForm::Computed => computed(&graph, scheme, DType::F16, &[], manager),
        _ => manager.run(&graph, &QuantizeEmbeddings { keep: scheme.keep }),
    }
}

/// Fails where a smaller range of weights costs accuracy and gains nothing.
pub fn check_reduced(target: &Target, precision: Precision) -> Result<()> {
    let why = match (precision.is_calibrated(), target.saturates(precision)) {
        (_, true) => return Ok(()),
        (false, _) => format!("{precision} has no products of 8 bits whose sums could saturate"),
        _ => format!("{target} adds products of 8 bits in 32 everywhere"),
    };
    Err(Error::bad_input(why).hint(REDUCED_FOR))
}

/// The error where a reduced range is requested and no engine has a use for it.
pub fn nothing_saturates() -> Error {
    Error::bad_input("no engine has products of 8 bits whose sums saturate").at("--reduce-range").hint(REDUCED_FOR)
}

const REDUCED_FOR: &str = "a reduced range is for int8, int8-fast and int8-static on ort-cpu and openvino";

/// Fails where `keep` names no layer or table of the graph.
fn check_keep(graph: &Graph, keep: &[Role]) -> Result<()> {
    let quantizable = |node: &Node| matches!(node.op, Op::Linear | Op::Embed);
    let names = |role: &Role| graph.nodes().any(|(_, node)| quantizable(node) && Role::is_in(node.role, &[*role]));
    match keep.iter().find(|role| !names(role)) {
        None => Ok(()),
        Some(role) => {
            let name = role.name();
            Err(Error::bad_input(format!("`{name}` is in `keep`, and the model has no such layer"))
                .hint("layers are counted from 0, as in ffn-out/3; kilnc tune lists those of a model"))
        }
    }
}

/// Floats of 16 bits.
fn narrowed(graph: &Verified<Graph>, scheme: &Scheme, to: DType, manager: &mut Manager) -> Result<Verified<Graph>> {
    let (target, can) = (scheme.target, scheme.target.capabilities());
    match if to == DType::BF16 { can.bf16 } else { can.fp16 } {
        HalfForm::Computed => computed(graph, scheme, to, scheme.keep, manager),
        HalfForm::Stored => manager.run(graph, &Stored { to, keep: scheme.keep }),
        HalfForm::Hinted if !scheme.keep.is_empty() => Err(Error::unsupported(format!(
            "{target} computes all layers in {to}, and none can stay in full precision"
        ))
        .hint("leave `keep` out, or use fp16, int8 or int8-weights")),
        HalfForm::Hinted => {
            no_shared_bias(graph, target)?;
            // Half precision holds more digits than the products will, and a runtime that takes no BF16 tensors takes it.
            manager.run(graph, &Stored::to(DType::F16))
        }
        HalfForm::None => Err(Error::unsupported(format!("{target} has no kernels for {to}"))
            .hint("use fp16 for it; of all targets, openvino computes in bf16")),
    }
}

/// Floats of 16 bits in which the target computes, but for the layers in `keep` and those that leave their range on the
/// calibration texts. BF16 has the range of 32 bits.
fn computed(
    graph: &Verified<Graph>,
    scheme: &Scheme,
    to: DType,
    keep: &[Role],
    manager: &mut Manager,
) -> Result<Verified<Graph>> {
    let mut wide = match to {
        DType::F16 => beyond_half(graph, scheme.target, scheme.calibrator)?,
        _ => BTreeMap::new(),
    };
    let is_kept = |op: &Op| matches!(op, Op::Linear | Op::Embed | Op::PositionEmbed { .. });
    let layers = graph.nodes().filter(|(_, node)| is_kept(&node.op));
    for (_, node) in layers.filter(|(_, node)| Role::is_in(node.role, keep)) {
        wide.entry(graph.node_name(node).to_owned()).or_insert(Wide::Kept);
    }
    manager.run(graph, &Half { to, wide: &wide, wide_products: scheme.target.capabilities().fp32_gemm })
}

/// Whether an engine is computed in half precision, in which values overflow: it follows from the calibration texts,
/// and is checked in its own arithmetic.
pub fn computes_in_half(target: &Target, precision: Precision) -> bool {
    precision != Precision::Fp32 && precision != Precision::Bf16 && target.capabilities().fp16 == HalfForm::Computed
}

/// OpenVINO 2025.4 writes outside its memory where it fuses attention in BF16 and one bias serves all heads.
fn no_shared_bias(graph: &Graph, target: &Target) -> Result<()> {
    let shared = |node: &Node| {
        let bias = node.operand(4).filter(|_| matches!(node.op, Op::Attention { .. }));
        bias.is_some_and(|bias| graph.value(bias).ty.shape.get(1) == Some(&Dim::Fixed(1)))
    };
    match graph.nodes().find(|(_, node)| shared(node)) {
        None => Ok(()),
        Some((_, node)) => Err(Error::unsupported(format!(
            "`{}` has a bias that all heads share, with which {target} computes wrongly in bf16",
            graph.node_name(node)
        ))
        .hint("use fp32, int8 or int8-weights for this model")),
    }
}

/// Weights of 8 or 4 bits.
fn lighter(graph: &Verified<Graph>, scheme: &Scheme, bits: usize, manager: &mut Manager) -> Result<Verified<Graph>> {
    let blocks = match scheme.target.capabilities().weights_of(bits) {
        WeightForm::Blocks { size, zero_points, .. } => Some(Blocks { bits, size, zero_points }),
        WeightForm::Channels => None,
        WeightForm::None => {
            return Err(Error::unsupported(format!(
                "{} runs no layers whose weights alone are of {bits} bits",
                scheme.target
            ))
            .hint("use fp16 for it"));
        }
    };
    manager.run(graph, &QuantizeWeights { blocks, keep: scheme.keep })
}

/// Layers of 8 bits in an engine that finds the ranges of activations when it runs.
fn dynamic(graph: &Verified<Graph>, scheme: &Scheme, manager: &mut Manager) -> Result<Verified<Graph>> {
    let keep = scheme.keep;
    let Some(calibrator) = scheme.calibrator else {
        return manager.run(graph, &QuantizeDynamic { calibration: None, keep, range: scheme.range });
    };
    let calibration = &RefCell::new(calibrator.on(graph)?);
    // Where ranges follow each text, the neurons that fire far beyond the rest cost less.
    let groups = if scheme.precision == Precision::Int8Fast { 0 } else { 1 };
    let graph = smoothed(graph, scheme, groups, calibration, manager)?;
    manager.run(&graph, &QuantizeDynamic { calibration: Some(calibration), keep, range: scheme.range })
}

/// Layers of 8 bits in an engine with static ranges of activations.
fn fixed(graph: &Verified<Graph>, scheme: &Scheme, manager: &mut Manager) -> Result<Verified<Graph>> {
    let can = scheme.target.capabilities();
    let Some(calibrator) = scheme.calibrator else {
        return Err(Error::bad_input(format!(
            "{} for {} needs the ranges of the activations, and none were observed",
            scheme.precision, scheme.target
        ))
        .hint("calibrate with texts like those that the engine will read"));
    };
    let calibration = &RefCell::new(calibrator.on(graph)?.fixed());
    // On a GPU every further part is a further kernel, and costs more than its product.
    let groups = match (scheme.precision, can.fp16) {
        (Precision::Int8Fast, HalfForm::Computed) => 0,
        (Precision::Int8, HalfForm::Computed) | (Precision::Int8Fast | Precision::Int8Static, _) => 1,
        _ => 2,
    };
    let graph = smoothed(graph, scheme, groups, calibration, manager)?;
    let ranges = ranges(&graph, calibration, calibrator)?;
    let activations = if can.symmetric_activations { ActivationType::S8 } else { ActivationType::U8 };
    let pass = QuantizeStatic {
        ranges: &ranges,
        calibration: Some(calibration),
        activations,
        keep: scheme.keep,
        range: scheme.range,
    };
    manager.run(&graph, &pass)
}

/// Channels of one size, and the neurons of feed-forward blocks in at most so many groups of one size; with none, they
/// stay where they are.
fn smoothed(
    graph: &Verified<Graph>,
    scheme: &Scheme,
    groups: usize,
    calibration: &RefCell<Calibration>,
    manager: &mut Manager,
) -> Result<Verified<Graph>> {
    let keep = scheme.keep;
    let graph = manager.run(graph, &Smooth { calibration, keep, range: scheme.range })?;
    if groups == 0 || scheme.keep_order {
        return Ok(graph);
    }
    manager.run(&graph, &GroupNeurons { calibration, groups, keep })
}

/// Clipping estimators need histograms, which the values that passes make do not have: they are observed
/// at themselves.
fn ranges(graph: &Verified<Graph>, calibration: &RefCell<Calibration>, calibrator: &Calibrator) -> Result<Ranges> {
    match calibrator.estimator() {
        Estimator::MinMax => Ok(calibration.borrow().ranges(Estimator::MinMax)),
        clipping => Ok(calibrator.on(graph)?.ranges(clipping)),
    }
}

/// Whether a target has engines of that number format; [`super::compile`] refuses the others by name.
pub fn supports(target: &Target, precision: Precision) -> bool {
    let can = target.capabilities();
    match precision {
        Precision::Fp32 => can.fp32_gemm,
        Precision::Fp16 => can.fp16 != HalfForm::None,
        Precision::Bf16 => can.bf16 != HalfForm::None,
        Precision::Int8 | Precision::Int8Fast | Precision::Int8Static => true,
        Precision::Int8Weights => can.weights_of(8) != WeightForm::None,
        Precision::Int4 => can.weights_of(4) != WeightForm::None,
    }
}

/// The options in an engine's file beside the graph.
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
