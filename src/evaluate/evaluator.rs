//! Computes the nodes of a graph in their order, and keeps the values that are still read.

use std::collections::HashMap;

use super::arithmetic::{Arithmetic, Floats, Int8Sums};
use super::array::Array;
use super::fused::Integers;
use super::nodes;
use super::sizes::Sizes;
use super::weights::Weights;
use crate::error::{Error, Result, printable};
use crate::ir::{DType, Graph, Node, NodeId, Role, TensorType, ValueId};
use crate::verify::Verified;

/// A value that a node has just made.
pub struct Observed<'a> {
    /// The value.
    pub id: ValueId,
    /// Its name.
    pub name: &'a str,
    /// The part that its node plays in the model.
    pub role: Option<Role>,
    /// Its declared type.
    pub ty: &'a TensorType,
    /// Its elements.
    pub array: &'a Array,
}

/// A graph that is ready to be computed.
pub struct Evaluator {
    graph: Verified<Graph>,
    arithmetic: Arithmetic,
    weights: Weights,
    last_reads: HashMap<ValueId, NodeId>,
    /// Products of floats that are computed as products of integers, and their parts.
    integers: HashMap<NodeId, Integers>,
}

impl Evaluator {
    /// Fails where the graph has an operation or a type that is not covered, naming it. Computes nothing yet.
    pub fn new(graph: &Verified<Graph>, arithmetic: Arithmetic) -> Result<Evaluator> {
        let (mut last_reads, mut integers) = (HashMap::new(), HashMap::new());
        for (id, node) in graph.nodes() {
            let name = printable(graph.node_name(node));
            if node.op.is_composite() {
                return Err(Error::unsupported(format!(
                    "`{name}` is a {}, which the evaluator computes only once it is lowered",
                    node.op.name()
                )));
            }
            last_reads.extend(node.inputs.iter().flatten().map(|input| (*input, id)));
            if let Some(found) = Integers::of(graph, node).filter(|_| arithmetic.int8 == Int8Sums::Saturating) {
                last_reads.extend(found.ids().map(|input| (input, id)));
                integers.insert(id, found);
            }
        }
        if let Some((_, value)) = graph.values().find(|(_, value)| matches!(value.ty.dtype, DType::F64 | DType::I16)) {
            let (name, dtype) = (printable(&value.name), value.ty.dtype);
            return Err(Error::unsupported(format!("`{name}` is {dtype}, with which the evaluator does not compute")));
        }
        Ok(Evaluator { graph: graph.clone(), arithmetic, weights: Weights::default(), last_reads, integers })
    }

    /// The graph.
    pub fn graph(&self) -> &Verified<Graph> {
        &self.graph
    }

    /// The arithmetic.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// The outputs for inputs by their names, in the graph's order. A missing input takes its default.
    pub fn run(&mut self, inputs: &[(&str, Array)]) -> Result<Vec<(String, Array)>> {
        self.run_with(inputs, &mut |_| Ok(()))
    }

    /// Like [`Evaluator::run`]; `see` gets every value that a node makes.
    pub fn run_with(
        &mut self,
        inputs: &[(&str, Array)],
        see: &mut dyn FnMut(&Observed) -> Result<()>,
    ) -> Result<Vec<(String, Array)>> {
        let Evaluator { graph, arithmetic, weights, last_reads, integers } = self;
        let (mut live, mut sizes) = given(graph, inputs)?;
        for (id, node) in graph.nodes() {
            let at = |e: Error| e.at(format!("node {}", printable(graph.node_name(node))));
            let outputs = match integers.get(&id) {
                Some(of) => vec![of.product(graph, &live, weights).map_err(at)?],
                None => {
                    let operands = operands(graph, node, &live, weights).map_err(at)?;
                    // A value that is read for the last time is changed in place.
                    drop_read(graph, node.inputs.iter().flatten(), id, last_reads, &mut live);
                    nodes::compute(&node.op, operands, arithmetic.int8).map_err(at)?
                }
            };
            let of = integers.get(&id).into_iter().flat_map(Integers::ids).collect::<Vec<_>>();
            drop_read(graph, node.inputs.iter().flatten().chain(&of), id, last_reads, &mut live);
            if outputs.len() != node.outputs.len() {
                return Err(at(Error::bug(format!("{} outputs were made", outputs.len()))));
            }
            for (output, mut array) in node.outputs.iter().zip(outputs) {
                let value = graph.value(*output);
                sizes.bind_fresh(&value.ty, &array);
                sizes.check(&value.ty, &array).map_err(at)?;
                if arithmetic.float == Floats::RoundEachNode {
                    array.round(value.ty.dtype);
                }
                see(&Observed { id: *output, name: &value.name, role: node.role, ty: &value.ty, array: &array })?;
                if last_reads.contains_key(output) || graph.outputs().contains(output) {
                    live.insert(*output, array);
                }
            }
        }
        let output = |id: &ValueId| {
            let name = &graph.value(*id).name;
            let array = match graph.weight(*id) {
                Some(weight) => Some(Array::of(weight)?),
                None => live.get(id).cloned(),
            };
            Ok((name.clone(), array.ok_or_else(|| Error::bug(format!("`{name}` was not made")))?))
        };
        graph.outputs().iter().map(output).collect()
    }
}

/// Frees the values that no node reads after that one.
fn drop_read<'a>(
    graph: &Graph,
    read: impl Iterator<Item = &'a ValueId>,
    by: NodeId,
    last_reads: &HashMap<ValueId, NodeId>,
    live: &mut HashMap<ValueId, Array>,
) {
    for id in read.filter(|id| last_reads.get(*id) == Some(&by) && !graph.outputs().contains(id)) {
        live.remove(id);
    }
}

/// The operands of a node.
fn operands(
    graph: &Graph,
    node: &Node,
    live: &HashMap<ValueId, Array>,
    weights: &mut Weights,
) -> Result<nodes::Operands> {
    // Of a table that need not be computed, the rows that are read are enough.
    if let Some(rows) = weights.rows(graph, node, live)? {
        return Ok(nodes::Operands::gathered(rows));
    }
    let mut operand = |input: &Option<ValueId>| input.map(|id| weights.read(graph, id, live)).transpose();
    node.inputs.iter().map(&mut operand).collect::<Result<Vec<_>>>().map(nodes::Operands::new)
}

/// The inputs by their values, and the named sizes that they have.
fn given(graph: &Graph, inputs: &[(&str, Array)]) -> Result<(HashMap<ValueId, Array>, Sizes)> {
    let (mut live, mut sizes) = (HashMap::new(), Sizes::default());
    for id in graph.inputs() {
        let value = graph.value(*id);
        let array = match (inputs.iter().find(|(name, _)| *name == value.name), graph.default_of(*id)) {
            (Some((_, array)), _) => array.clone(),
            (None, Some(default)) => Array::of(default)?,
            (None, None) => {
                return Err(Error::bad_input(format!("the input `{}` is missing", printable(&value.name))));
            }
        };
        sizes.bind(&value.ty, &array);
        live.insert(*id, array);
    }
    // A size may follow from those of inputs that come later.
    for (id, array) in graph.inputs().iter().filter_map(|id| Some((id, live.get(id)?))) {
        let value = graph.value(*id);
        sizes.check(&value.ty, array).map_err(|e| e.at(format!("input {}", printable(&value.name))))?;
    }
    Ok((live, sizes))
}

#[cfg(test)]
mod tests;
