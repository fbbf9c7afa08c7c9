//! Replaces nodes of a graph by others.
//!
//! A rewrite walks the old graph in order and builds a new one. At each node the rule either keeps the node or builds
//! its replacement, which must have the same types, which is checked here. What nothing
//! needs afterwards is gone from the new graph.

use std::collections::HashMap;

use super::builder::Builder;
use super::graph::{Graph, Node, Origin, ValueId};
use super::op::Op;
use super::types::TensorType;
use super::weight::Weight;
use crate::error::{Error, Result};

/// The result of a rule for a node.
pub enum Action {
    /// The node stays as it is.
    Keep,
    /// These values of the new graph replace the node's outputs.
    Replace(Vec<ValueId>),
}

/// The two graphs of a rule: the old one to read, the new one to build in.
pub struct Rewriter<'a> {
    old: &'a Graph,
    new: Builder,
    map: HashMap<ValueId, ValueId>,
}

/// Rebuilds `graph`, calling `rule` at every node.
///
/// Fails where the rule fails, and where it replaces a value by one of another type.
pub fn rewrite(graph: &Graph, mut rule: impl FnMut(&mut Rewriter, &Node) -> Result<Action>) -> Result<Graph> {
    rewrite_with(graph, Preserved::Types, &mut rule)
}

/// Like [`rewrite()`], for rules that change types on purpose: nothing is compared with the old graph but the
/// outputs' types.
pub fn retype(graph: &Graph, mut rule: impl FnMut(&mut Rewriter, &Node) -> Result<Action>) -> Result<Graph> {
    rewrite_with(graph, Preserved::Outputs, &mut rule)
}

/// Like [`retype()`], for rules that change the outputs' sizes on purpose.
pub fn reshape(graph: &Graph, mut rule: impl FnMut(&mut Rewriter, &Node) -> Result<Action>) -> Result<Graph> {
    rewrite_with(graph, Preserved::Names, &mut rule)
}

/// The parts of the old graph that the new one must have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preserved {
    /// The types at every node.
    Types,
    /// The types of the outputs.
    Outputs,
    /// The names of the outputs.
    Names,
}

fn rewrite_with(
    graph: &Graph,
    kept: Preserved,
    rule: &mut dyn FnMut(&mut Rewriter, &Node) -> Result<Action>,
) -> Result<Graph> {
    let mut rw = Rewriter { old: graph, new: Builder::new(graph.name()), map: HashMap::new() };
    for id in graph.inputs() {
        let value = graph.value(*id);
        let new = match graph.default_of(*id) {
            None => rw.new.input(&value.name, value.ty.clone()),
            Some(default) => rw.new.optional_input(&value.name, value.ty.clone(), default.clone()),
        };
        rw.map.insert(*id, new);
    }
    for (_, node) in graph.nodes() {
        rw.new.set_role(node.role);
        let outputs = match rule(&mut rw, node)? {
            Action::Keep => rw.keep(node)?,
            Action::Replace(outputs) => outputs,
        };
        rw.replace_outputs(node, &outputs, kept)?;
    }
    for id in graph.outputs() {
        let (value, new) = (graph.value(*id), rw.get(*id)?);
        if *rw.new.ty(new) != value.ty && kept != Preserved::Names {
            return Err(Error::bug(format!("output `{}` changed its type to {}", value.name, rw.new.ty(new))));
        }
        rw.new.output(&value.name, new)?;
    }
    Ok(rw.new.finish())
}

impl<'a> Rewriter<'a> {
    /// The graph that is being replaced.
    pub fn old(&self) -> &'a Graph {
        self.old
    }

    /// The new graph's value for a value of the old one.
    pub fn get(&mut self, old: ValueId) -> Result<ValueId> {
        if let Some(new) = self.map.get(&old) {
            return Ok(*new);
        }
        let value = self.old.value(old);
        let Origin::Weight(weight) = &value.origin else {
            return Err(Error::bug(format!("`{}` is used before it is made", value.name)));
        };
        let new = self.new.weight(&value.name, weight.clone());
        self.map.insert(old, new);
        Ok(new)
    }

    /// The new graph's value for operand `i` of a node, `None` where it is absent.
    pub fn operand(&mut self, node: &Node, i: usize) -> Result<Option<ValueId>> {
        node.operand(i).map(|id| self.get(id)).transpose()
    }

    /// The new graph's value for operand `i` of a node, which must be there.
    pub fn required(&mut self, node: &Node, i: usize) -> Result<ValueId> {
        let name = self.old.node_name(node);
        self.operand(node, i)?.ok_or_else(|| Error::bug(format!("node `{name}` lacks operand {i}")))
    }

    /// The constant of the old graph that operand `i` of a node is, if it is one.
    pub fn constant(&self, node: &Node, i: usize) -> Option<&'a Weight> {
        node.operand(i).and_then(|id| self.old.weight(id))
    }

    /// The name of a node, from which the names of its replacements are made.
    pub fn name(&self, node: &Node) -> &'a str {
        self.old.node_name(node)
    }

    /// The type of a value of the new graph.
    pub fn ty(&self, new: ValueId) -> TensorType {
        self.new.ty(new).clone()
    }

    /// The constant that a value of the new graph is, if it is one.
    pub fn built(&self, new: ValueId) -> Option<Weight> {
        self.new.graph().weight(new).cloned()
    }

    /// Adds a constant to the new graph.
    pub fn weight(&mut self, name: &str, weight: Weight) -> ValueId {
        self.new.weight(name, weight)
    }

    /// Adds an input to the new graph, which the caller may leave out.
    pub fn optional_input(&mut self, name: &str, ty: TensorType, default: Weight) -> ValueId {
        self.new.optional_input(name, ty, default)
    }

    /// Whether a value of the new graph replaces one of the old graph.
    pub fn is_built(&self, old: ValueId) -> bool {
        self.map.contains_key(&old)
    }

    /// Replaces a value of the old graph by one of the new graph, from here on.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        self.map.insert(old, new);
    }

    /// Adds a node with one output to the new graph.
    pub fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        self.new.node(name, op, inputs)
    }

    /// Adds a node with several outputs or with optional operands to the new graph.
    pub fn nodes(&mut self, name: &str, op: Op, inputs: &[Option<ValueId>]) -> Result<Vec<ValueId>> {
        self.new.nodes(name, op, inputs)
    }

    /// Sets the role of new nodes from here to the end of this node.
    pub fn set_role(&mut self, role: Option<super::role::Role>) {
        self.new.set_role(role);
    }

    fn keep(&mut self, node: &Node) -> Result<Vec<ValueId>> {
        let inputs = (0..node.inputs.len()).map(|i| self.operand(node, i)).collect::<Result<Vec<_>>>()?;
        self.new.nodes(self.old.node_name(node), node.op.clone(), &inputs)
    }

    fn replace_outputs(&mut self, node: &Node, outputs: &[ValueId], kept: Preserved) -> Result<()> {
        if outputs.len() != node.outputs.len() {
            return Err(Error::bug(format!(
                "node `{}` has {} outputs, its replacement {}",
                self.old.node_name(node),
                node.outputs.len(),
                outputs.len()
            )));
        }
        for (old, new) in node.outputs.iter().zip(outputs) {
            let (was, is) = (&self.old.value(*old).ty, self.new.ty(*new));
            if was != is && kept == Preserved::Types {
                return Err(Error::bug(format!(
                    "`{}` has type {was}, its replacement {is}",
                    self.old.value(*old).name
                )));
            }
            self.map.insert(*old, *new);
        }
        Ok(())
    }
}
