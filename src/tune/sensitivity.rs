//! How 8 bits in one layer change the outputs.

use super::{Layer, Request, time};
use crate::back::onnx;
use crate::build::{compile, prepare};
use crate::bundle;
use crate::error::Result;
use crate::eval::{Example, Reference, Workload};
use crate::ir::{Block, Op, Role};
use crate::passes::Manager;
use crate::precision::Precision;
use crate::runtime::{self, Options, Runtime};
use crate::target::Target;

/// Texts on which single layers are measured: enough to rank them.
const LAYER_TEXTS: usize = 48;

/// Every so many texts one is among those on which layers are measured.
pub(super) fn sampled(texts: &[Example]) -> Vec<Example> {
    texts.iter().step_by(texts.len().div_ceil(LAYER_TEXTS).max(1)).cloned().collect()
}

/// Every layer that can be in 8 bits, with its sensitivity and its time.
pub(super) fn layers(
    request: &Request,
    target: &Target,
    workload: &Workload,
    reference: &mut Reference,
) -> Result<Vec<Layer>> {
    let graph = prepare(request.model.graph(), target, &mut Manager::default())?;
    let mut layers: Vec<(Role, time::Shape)> = Vec::new();
    for (_, node) in graph.nodes().filter(|(_, node)| node.op == Op::Linear) {
        let weight = node.operand(1).and_then(|id| graph.weight(id));
        let Some((role, weight)) = node.role.zip(weight) else { continue };
        let rows = node.outputs.first().map(|id| graph.value(*id).ty.shape.clone()).unwrap_or_default();
        let one_row = rows.len() == 2 || rows.get(1).and_then(|dim| dim.fixed()) == Some(1);
        if matches!(role.part.block(), Block::Attention | Block::FeedForward) {
            layers.push((role, time::Shape::of(weight, one_row, request.shape)));
        }
    }
    let all: Vec<Role> = layers.iter().map(|(role, _)| *role).collect();
    request.observer.begin(&format!("measuring layers on {target}"), Some(layers.len() as u64));
    let mut sensitivities = Vec::new();
    for (role, _) in &layers {
        let keep: Vec<Role> = all.iter().filter(|other| *other != role).copied().collect();
        let scheme = request.scheme(target, Precision::Int8, &keep);
        let graph = compile(request.model.graph(), &scheme, &mut Manager::default())?;
        let file = request.scratch.join("layer.onnx");
        onnx::write(&graph, &file, &|_| {})?;
        let mut engine = runtime::open_isolated(Runtime::of(target), &file, Options::default(), &[])?;
        let batch = bundle::batch(Precision::Int8, target);
        sensitivities.push(reference.compare(&mut *engine, batch, &|| {})?.change());
        request.observer.advance(1);
    }
    request.observer.done(&format!(
        "{} layers on {target}, each in 8 bits alone on {} texts",
        all.len(),
        workload.texts()
    ));
    let times = time::layers(layers.iter().map(|(_, shape)| *shape).collect(), target, request)?;
    let found = layers.into_iter().zip(sensitivities).filter_map(|((role, shape), sensitivity)| {
        let [ms_full, ms_int8] = *times.get(&shape)?;
        let name = role.name();
        Some(Layer { name, sensitivity, ms_full, ms_int8, chosen: String::new(), why: String::new(), role: Some(role) })
    });
    Ok(found.collect())
}
