//! Values, nodes and the graph that holds them.

use std::collections::{BTreeMap, HashMap};

use super::op::Op;
use super::role::Role;
use super::types::TensorType;
use super::weight::Weight;
use crate::ports::PortKind;

/// A value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub(super) usize);

/// A node of one graph; its number is its index in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) usize);

/// Something a node reads or makes.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique in the graph; the outside names of inputs and outputs.
    pub name: String,
    /// Element type and shape.
    pub ty: TensorType,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The caller.
    Input,
    /// A constant.
    Weight(Weight),
    /// Output number `slot` of a node.
    Node {
        /// The node.
        node: NodeId,
        /// Which of its outputs.
        slot: usize,
    },
}

/// One operation on values.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its operation.
    pub op: Op,
    /// Its operands, `None` where an optional input is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// Its outputs.
    pub outputs: Vec<ValueId>,
    /// The part it plays in the model.
    pub role: Option<Role>,
}

impl Node {
    /// Operand `i`, `None` where it is absent.
    pub fn operand(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
}

/// A dataflow graph: nodes in an order in which they can run. Made by [`super::Builder`] and [`super::rewrite()`].
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(super) name: String,
    pub(super) values: Vec<Value>,
    pub(super) nodes: Vec<Node>,
    pub(super) inputs: Vec<ValueId>,
    pub(super) outputs: Vec<ValueId>,
    pub(super) defaults: BTreeMap<ValueId, Weight>,
}

impl Graph {
    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The default of an input, if it may be left out.
    pub fn default_of(&self, input: ValueId) -> Option<&Weight> {
        self.defaults.get(&input)
    }

    /// The outputs, in order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// A value. Its id must come from this graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    /// A node. Its id must come from this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// All values, in no order that means anything.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, value)| (ValueId(i), value))
    }

    /// All nodes, in an order in which they can run.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, node)| (NodeId(i), node))
    }

    /// The constants, in the order in which nodes first read them.
    pub fn weights(&self) -> impl Iterator<Item = (ValueId, &Value, &Weight)> {
        self.values().filter_map(|(id, value)| match &value.origin {
            Origin::Weight(weight) => Some((id, value, weight)),
            _ => None,
        })
    }

    /// The defaults of inputs, in the order of the inputs.
    pub fn defaults(&self) -> impl Iterator<Item = (&Value, &Weight)> {
        self.inputs.iter().filter_map(|id| Some((self.value(*id), self.default_of(*id)?)))
    }

    /// The constant that a value is, if it is one.
    pub fn weight(&self, id: ValueId) -> Option<&Weight> {
        match &self.value(id).origin {
            Origin::Weight(weight) => Some(weight),
            _ => None,
        }
    }

    /// The node that makes a value, if a node makes it.
    pub fn producer(&self, id: ValueId) -> Option<&Node> {
        match self.value(id).origin {
            Origin::Node { node, .. } => Some(self.node(node)),
            _ => None,
        }
    }

    /// The nodes that read a value.
    pub fn consumers(&self, id: ValueId) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.inputs.contains(&Some(id)))
    }

    /// Whether a node's only readers are norms, as those of a residual sum are.
    pub fn feeds_only_norms(&self, node: &Node) -> bool {
        node.outputs.iter().all(|id| {
            let mut readers = self.consumers(*id).peekable();
            !self.outputs.contains(id)
                && readers.peek().is_some()
                && readers.all(|reader| matches!(reader.op, Op::LayerNorm { .. } | Op::RmsNorm { .. }))
        })
    }

    /// The graph as far as these values need it: they are its outputs, under their own names, each once.
    pub fn up_to(&self, ids: impl IntoIterator<Item = ValueId>) -> Graph {
        let mut graph = Graph { outputs: Vec::new(), ..self.clone() };
        for id in ids {
            if !graph.outputs.contains(&id) {
                graph.outputs.push(id);
            }
        }
        without_dead(&graph)
    }

    /// The name by which messages call a node: that of its first output.
    pub fn node_name(&self, node: &Node) -> &str {
        node.outputs.first().map_or("", |id| &self.value(*id).name)
    }

    /// The input or output of that kind.
    pub fn port(&self, kind: PortKind) -> Option<ValueId> {
        self.inputs.iter().chain(&self.outputs).copied().find(|id| kind.is(&self.value(*id).name))
    }

    /// The kind of an input or output; none where its name is no known one.
    pub fn kind(&self, id: ValueId) -> Option<PortKind> {
        PortKind::of(&self.value(id).name)
    }

    /// The value with that name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values().find(|(_, value)| value.name == name).map(|(id, _)| id)
    }
}

/// A copy that keeps the inputs, the outputs and what leads to them; weights stand in the order of first use.
pub(super) fn without_dead(graph: &Graph) -> Graph {
    let mut live = vec![false; graph.values.len()];
    graph.outputs.iter().for_each(|id| live[id.0] = true);
    let mut kept = vec![false; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        kept[i] = node.outputs.iter().any(|id| live[id.0]);
        if kept[i] {
            node.inputs.iter().flatten().for_each(|id| live[id.0] = true);
        }
    }
    let mut copy =
        Copy { from: graph, to: Graph { name: graph.name.clone(), ..Graph::default() }, map: HashMap::new() };
    copy.to.inputs = graph.inputs.iter().map(|id| copy.value(*id)).collect();
    for (id, default) in &graph.defaults {
        let id = copy.value(*id);
        copy.to.defaults.insert(id, default.clone());
    }
    for (node, _) in graph.nodes.iter().zip(kept).filter(|(_, kept)| *kept) {
        copy.node(node);
    }
    copy.to.outputs = graph.outputs.iter().map(|id| copy.value(*id)).collect();
    copy.to
}

struct Copy<'a> {
    from: &'a Graph,
    to: Graph,
    map: HashMap<ValueId, ValueId>,
}

impl Copy<'_> {
    fn value(&mut self, old: ValueId) -> ValueId {
        if let Some(new) = self.map.get(&old) {
            return *new;
        }
        let new = ValueId(self.to.values.len());
        self.to.values.push(self.from.value(old).clone());
        self.map.insert(old, new);
        new
    }

    fn node(&mut self, node: &Node) {
        let id = NodeId(self.to.nodes.len());
        let inputs = node.inputs.iter().map(|input| input.map(|input| self.value(input))).collect();
        let outputs: Vec<_> = node.outputs.iter().map(|output| self.value(*output)).collect();
        for (slot, output) in outputs.iter().enumerate() {
            self.to.values[output.0].origin = Origin::Node { node: id, slot };
        }
        self.to.nodes.push(Node { op: node.op.clone(), inputs, outputs, role: node.role });
    }
}

/// Graphs are sound by construction; this is how tests of the verifier break one.
#[cfg(test)]
impl Graph {
    pub(crate) fn parts_mut(&mut self) -> (&mut Vec<Value>, &mut Vec<Node>, &mut Vec<ValueId>) {
        (&mut self.values, &mut self.nodes, &mut self.outputs)
    }
}
