//! From the graph of a model to that of an engine.

use super::formats;
use super::scheme::Scheme;
use crate::back;
use crate::error::Result;
use crate::ir::Graph;
use crate::passes::{FirstToken, FuseQkv, Manager};
use crate::target::Target;
use crate::verify::Verified;

/// The graph that all precisions of a target begin from.
pub fn prepare(graph: &Verified<Graph>, target: &Target, manager: &mut Manager) -> Result<Verified<Graph>> {
    let (mut graph, can) = (graph.clone(), target.capabilities());
    if can.unequal_attention {
        graph = manager.run(&graph, &FirstToken)?;
    }
    if can.merged_projections {
        graph = manager.run(&graph, &FuseQkv)?;
    }
    Ok(graph)
}

/// The graph of an engine, of that of a model in composite operations: the passes of its number format, then the
/// lowering of its target.
pub fn compile(graph: &Verified<Graph>, scheme: &Scheme, manager: &mut Manager) -> Result<Verified<Graph>> {
    let graph = prepare(graph, scheme.target, manager)?;
    let graph = formats::apply(&graph, scheme, manager)?;
    back::lower(&graph, scheme.target)
}
