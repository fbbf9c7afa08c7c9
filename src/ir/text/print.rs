//! Prints a graph.

use std::fmt::{self, Display, Formatter, Write};

use super::expression::Expression;
use crate::ir::{Attribute, Dim, Graph, Node, Origin, ValueId};

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {:?} {{", self.name())?;
        for id in self.inputs() {
            let value = self.value(*id);
            writeln!(f, "  input {}: {}", Name(&value.name), value.ty)?;
        }
        let mut printed = vec![false; self.values().count()];
        for (_, node) in self.nodes() {
            for id in node.inputs.iter().flatten() {
                write_weight(f, self, *id, &mut printed)?;
            }
            write_node(f, self, node)?;
        }
        for id in self.outputs() {
            write_weight(f, self, *id, &mut printed)?;
            writeln!(f, "  output {}", Name(&self.value(*id).name))?;
        }
        f.write_str("}\n")
    }
}

fn write_weight(f: &mut Formatter<'_>, graph: &Graph, id: ValueId, printed: &mut [bool]) -> fmt::Result {
    let value = graph.value(id);
    if let (Origin::Weight(weight), Some(done)) = (&value.origin, printed.get_mut(id.0))
        && !std::mem::replace(done, true)
    {
        writeln!(f, "  weight {}: {} = {}", Name(&value.name), value.ty, Expression::outer(weight))?;
    }
    Ok(())
}

fn write_node(f: &mut Formatter<'_>, graph: &Graph, node: &Node) -> fmt::Result {
    f.write_str("  ")?;
    for (i, id) in node.outputs.iter().enumerate() {
        let value = graph.value(*id);
        write!(f, "{}{}: {}", if i == 0 { "" } else { ", " }, Name(&value.name), value.ty)?;
    }
    write!(f, " = {}", node.op.name())?;
    let attributes = node.op.attributes();
    for (i, (name, value)) in attributes.iter().enumerate() {
        write!(f, "{}{name}={}", if i == 0 { " {" } else { ", " }, Shown(value))?;
    }
    f.write_str(if attributes.is_empty() { "(" } else { "} (" })?;
    for (i, input) in node.inputs.iter().enumerate() {
        f.write_str(if i == 0 { "" } else { ", " })?;
        match input {
            Some(id) => write!(f, "{}", Name(&graph.value(*id).name))?,
            None => f.write_char('_')?,
        }
    }
    f.write_char(')')?;
    if let Some(role) = node.role {
        write!(f, " {role}")?;
    }
    f.write_char('\n')
}

/// A value's name; quoted where it has characters that a bare name cannot have.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(super::parse::is_name_char) {
            write!(f, "%{}", self.0)
        } else {
            write!(f, "%{:?}", self.0)
        }
    }
}

struct Shown<'a>(&'a Attribute);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Attribute::Int(n) => write!(f, "{n}"),
            Attribute::Float(x) => write!(f, "{x:?}"),
            Attribute::Bool(b) => write!(f, "{b}"),
            Attribute::Ints(ns) => write!(f, "{ns:?}"),
            Attribute::DType(dtype) => write!(f, "{dtype}"),
            Attribute::Dim(Dim::Fixed(n)) => write!(f, "dim {n}"),
            Attribute::Dim(Dim::Symbol(name)) => write!(f, "dim {name}"),
        }
    }
}
