//! The invariants of a graph, and the proof that one has them.
//!
//! Only this module makes a [`Verified`]. Back-ends take nothing else, which is why they need no checks of their own.

use std::collections::{BTreeSet, HashSet};
use std::ops::Deref;

use crate::error::{Error, Result};
use crate::ir::{Dim, Graph, Node, Origin, TensorType, ValueId, infer};

/// Something whose invariants have been checked, and that cannot be changed any more.
#[derive(Clone, Debug)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Verified<T> {
    /// Gives up the proof, to change the thing.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Checks the invariants that [`crate::ir`] lists. The error names the node or value that breaks one.
pub fn verify(graph: Graph) -> Result<Verified<Graph>> {
    names_are_unique(&graph)?;
    let mut defined: HashSet<ValueId> = graph.inputs().iter().copied().collect();
    for (id, value, weight) in graph.weights() {
        if weight.ty() != value.ty {
            return Err(broken(&value.name, format!("is {}, its constant {}", value.ty, weight.ty())));
        }
        defined.insert(id);
    }
    for (_, node) in graph.nodes() {
        node_is_sound(&graph, node, &defined)?;
        defined.extend(&node.outputs);
    }
    if let Some(id) = graph.outputs().iter().find(|id| !defined.contains(id)) {
        return Err(broken(&graph.value(*id).name, "is an output that nothing makes"));
    }
    symbols_are_bound(&graph)?;
    nothing_is_dead(&graph)?;
    Ok(Verified(graph))
}

fn names_are_unique(graph: &Graph) -> Result<()> {
    let mut seen = HashSet::new();
    match graph.values().find(|(_, value)| value.name.is_empty() || !seen.insert(&value.name)) {
        Some((_, value)) => Err(broken(&value.name, "names two values, or none")),
        None => Ok(()),
    }
}

fn node_is_sound(graph: &Graph, node: &Node, defined: &HashSet<ValueId>) -> Result<()> {
    let name = graph.node_name(node);
    if let Some(id) = node.inputs.iter().flatten().find(|id| !defined.contains(id)) {
        return Err(broken(name, format!("reads `{}` before it is made", graph.value(*id).name)));
    }
    if let Some(id) = node.outputs.iter().find(|id| defined.contains(id)) {
        return Err(broken(&graph.value(*id).name, "is made twice"));
    }
    let operands: Vec<_> = node.inputs.iter().map(|id| id.map(|id| &graph.value(id).ty)).collect();
    let inferred = infer(&node.op, &operands).map_err(|what| broken(name, what))?;
    let found: Vec<&TensorType> = node.outputs.iter().map(|id| &graph.value(*id).ty).collect();
    if !inferred.iter().eq(found.iter().copied()) {
        return Err(broken(name, format!("makes {inferred:?}, but its outputs say {found:?}")));
    }
    Ok(())
}

fn symbols_are_bound(graph: &Graph) -> Result<()> {
    let symbols = |id: ValueId| {
        graph.value(id).ty.shape.iter().filter_map(|dim| match dim {
            Dim::Symbol(name) => Some(name.clone()),
            Dim::Fixed(_) => None,
        })
    };
    let bound: BTreeSet<_> = graph.inputs().iter().flat_map(|id| symbols(*id)).collect();
    for (id, value) in graph.values() {
        if let Some(symbol) = symbols(id).find(|symbol| !bound.contains(symbol)) {
            return Err(broken(&value.name, format!("has size `{symbol}`, which no input has")));
        }
    }
    Ok(())
}

fn nothing_is_dead(graph: &Graph) -> Result<()> {
    let mut read: HashSet<ValueId> = graph.outputs().iter().copied().collect();
    read.extend(graph.nodes().flat_map(|(_, node)| node.inputs.iter().flatten().copied()));
    let unread = |id: &ValueId| !read.contains(id);
    if let Some((_, node)) = graph.nodes().find(|(_, node)| node.outputs.iter().all(unread)) {
        return Err(broken(graph.node_name(node), "leads to no output"));
    }
    match graph.values().find(|(id, value)| unread(id) && matches!(value.origin, Origin::Weight(_))) {
        Some((_, value)) => Err(broken(&value.name, "is a constant that nothing reads")),
        None => Ok(()),
    }
}

fn broken(name: &str, what: impl std::fmt::Display) -> Error {
    Error::bug(format!("the graph is broken: `{name}` {what}"))
}
