//! Builds a graph, node by node, with every type inferred as it goes.

use std::collections::HashMap;

use super::graph::{Graph, Node, NodeId, Origin, Value, ValueId, without_dead};
use super::infer::infer;
use super::op::Op;
use super::role::Role;
use super::types::TensorType;
use super::weight::Weight;
use crate::error::{Error, Result};

/// Builds one graph.
///
/// Names that are taken get a number (`x`, `x.1`), so building never fails over a name; inputs and outputs keep the
/// names they have on the outside, and an inner value that has such a name makes way.
#[derive(Default)]
pub struct Builder {
    graph: Graph,
    taken: HashMap<String, usize>,
    role: Option<Role>,
}

impl Builder {
    /// An empty graph of that name.
    pub fn new(name: impl Into<String>) -> Builder {
        Builder { graph: Graph { name: name.into(), ..Graph::default() }, ..Builder::default() }
    }

    /// The role of the nodes that are made from here on.
    pub fn set_role(&mut self, role: Option<Role>) {
        self.role = role;
    }

    /// An input.
    pub fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        let id = self.value(name, ty, Origin::Input);
        self.graph.inputs.push(id);
        id
    }

    /// An input that the caller may set; `default` otherwise.
    pub fn optional_input(&mut self, name: &str, ty: TensorType, default: Weight) -> ValueId {
        let id = self.input(name, ty);
        self.graph.defaults.insert(id, default);
        id
    }

    /// A constant.
    pub fn weight(&mut self, name: &str, weight: Weight) -> ValueId {
        self.value(name, weight.ty(), Origin::Weight(weight))
    }

    /// A node with one output, which gets the node's name. Fails where the operands do not fit.
    pub fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        match self.nodes(name, op, &inputs)?.as_slice() {
            [only] => Ok(*only),
            outputs => Err(Error::bug(format!("node `{name}` has {} outputs where one was meant", outputs.len()))),
        }
    }

    /// A node with any number of outputs and with optional operands. Fails where the operands do not fit.
    pub fn nodes(&mut self, name: &str, op: Op, inputs: &[Option<ValueId>]) -> Result<Vec<ValueId>> {
        let operands: Vec<_> = inputs.iter().map(|id| id.map(|id| &self.graph.value(id).ty)).collect();
        let types = infer(&op, &operands).map_err(|what| Error::bad_input(what).at(format!("node `{name}`")))?;
        let node = NodeId(self.graph.nodes.len());
        let outputs: Vec<_> =
            types.into_iter().enumerate().map(|(slot, ty)| self.value(name, ty, Origin::Node { node, slot })).collect();
        self.graph.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), role: self.role });
        Ok(outputs)
    }

    /// Makes a value an output under that very name. Fails where the name or the value is already an output.
    pub fn output(&mut self, name: &str, id: ValueId) -> Result<()> {
        if self.graph.outputs.contains(&id) {
            return Err(Error::bug(format!("`{}` is a duplicate output", self.graph.value(id).name)));
        }
        if self.graph.value(id).name != name {
            if let Some(other) = self.graph.find(name) {
                if self.graph.inputs.contains(&other) || self.graph.outputs.contains(&other) {
                    return Err(Error::bug(format!("the outside name `{name}` is taken")));
                }
                self.graph.values[other.0].name = self.free_name(name);
            }
            self.taken.insert(name.to_owned(), 0);
            self.graph.values[id.0].name = name.to_owned();
        }
        self.graph.outputs.push(id);
        Ok(())
    }

    /// Names a value exactly as in a text. That names are unique is the caller's part.
    pub(super) fn rename(&mut self, id: ValueId, name: &str) {
        self.taken.insert(name.to_owned(), 0);
        self.graph.values[id.0].name = name.to_owned();
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.graph.value(id).ty
    }

    /// The graph, without the values that no output needs.
    pub fn finish(self) -> Graph {
        without_dead(&self.graph)
    }

    fn value(&mut self, name: &str, ty: TensorType, origin: Origin) -> ValueId {
        let id = ValueId(self.graph.values.len());
        let name = self.free_name(name);
        self.graph.values.push(Value { name, ty, origin });
        id
    }

    fn free_name(&mut self, name: &str) -> String {
        let mut candidate = name.to_owned();
        while self.taken.contains_key(&candidate) {
            let next = self.taken.entry(name.to_owned()).or_insert(0);
            *next += 1;
            candidate = format!("{name}.{next}");
        }
        self.taken.insert(candidate.clone(), 0);
        candidate
    }
}
