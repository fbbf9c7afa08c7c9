//! The invariants of a graph, and the proof that one has them.
//!
//! Only this module makes a [`Verified`]. Back-ends take nothing else, which is why they need no checks of their own.

use std::collections::{BTreeSet, HashSet};
use std::ops::Deref;

use crate::error::{Error, Result};
use crate::ir::{Dim, Graph, Node, Op, Origin, TensorType, ValueId, infer};

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
    defaults_fit(&graph)?;
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
        return Err(broken(&graph.value(*id).name, "has a duplicate name"));
    }
    let operands: Vec<_> = node.inputs.iter().map(|id| id.map(|id| &graph.value(id).ty)).collect();
    let inferred = infer(&node.op, &operands).map_err(|what| broken(name, what))?;
    let found: Vec<TensorType> = node.outputs.iter().map(|id| graph.value(*id).ty.clone()).collect();
    if inferred != found {
        return Err(broken(name, format!("makes {}, but its outputs are {}", listed(&inferred), listed(&found))));
    }
    Ok(())
}

fn listed(types: &[TensorType]) -> String {
    types.iter().map(TensorType::to_string).collect::<Vec<_>>().join(", ")
}

fn symbols_are_bound(graph: &Graph) -> Result<()> {
    let dims = |id: &ValueId| graph.value(*id).ty.shape.iter();
    let mut bound: BTreeSet<_> = BTreeSet::new();
    for dim in graph.inputs().iter().flat_map(dims) {
        bound.extend(dim.symbols().into_iter().filter(|_| matches!(dim, Dim::Symbol(_)) && !dim.is_fresh()));
    }
    let check = |id: &ValueId, bound: &BTreeSet<_>| match dims(id)
        .flat_map(Dim::symbols)
        .find(|symbol| !bound.contains(symbol))
    {
        None => Ok(()),
        Some(symbol) => Err(broken(&graph.value(*id).name, format!("has size `{symbol}`, which no input has"))),
    };
    graph.inputs().iter().try_for_each(|id| check(id, &bound))?;
    for (_, node) in graph.nodes() {
        for length in made(&node.op).filter(|length| length.is_fresh()) {
            let again = length.symbols().into_iter().find(|symbol| bound.contains(symbol));
            if let Some(symbol) = again {
                return Err(broken(
                    graph.node_name(node),
                    format!("makes the size `{symbol}`, which is there already"),
                ));
            }
            bound.extend(length.symbols());
        }
        node.outputs.iter().try_for_each(|id| check(id, &bound))?;
    }
    Ok(())
}

/// The sizes that an operation may make.
fn made(op: &Op) -> impl Iterator<Item = &Dim> {
    let lengths = match op {
        Op::Slice { length, .. } | Op::NonZero { length } => std::slice::from_ref(length),
        Op::SplitTo { lengths, .. } => lengths,
        _ => &[],
    };
    lengths.iter()
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

fn defaults_fit(graph: &Graph) -> Result<()> {
    let fits = |input: &TensorType, default: &TensorType| {
        let same = |(a, b): (&Dim, &Dim)| a.fixed().is_none() || a == b;
        input.dtype == default.dtype
            && input.rank() == default.rank()
            && input.shape.iter().zip(&default.shape).all(same)
    };
    match graph.defaults().find(|(input, default)| !fits(&input.ty, &default.ty())) {
        None => Ok(()),
        Some((input, default)) => {
            Err(broken(&input.name, format!("is {}, and its default is {}", input.ty, default.ty())))
        }
    }
}

fn broken(name: &str, what: impl std::fmt::Display) -> Error {
    Error::bug(format!("the graph is broken: `{name}` {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Value;
    use crate::ir::text::{parse, parse_type};

    const SOUND: &str = r#"graph "g" {
  input %x: f32[b, 4]
  weight %w: f32[4, 2] = source "w"
  %y: f32[b, 2] = Linear(%x, %w)
  %z: f32[b, 2] = Tanh(%y)
  output %z
}
"#;

    type Parts<'a> = (&'a mut Vec<Value>, &'a mut Vec<Node>, &'a mut Vec<ValueId>);

    /// The verifier's message for [`SOUND`] after `breaking` changed its values, nodes and outputs.
    fn complaint(breaking: impl FnOnce(Parts)) -> String {
        let mut graph = parse(SOUND).unwrap();
        breaking(graph.parts_mut());
        let error = verify(graph).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        error.message().strip_prefix("the graph is broken: ").unwrap().to_owned()
    }

    fn retype(values: &mut [Value], name: &str, ty: &str) {
        values.iter_mut().find(|value| value.name == name).unwrap().ty = parse_type(ty).unwrap();
    }

    #[test]
    fn a_sound_graph_passes() {
        assert_eq!(verify(parse(SOUND).unwrap()).unwrap().to_string(), SOUND);
    }

    #[test]
    fn a_value_is_made_once_and_before_it_is_read() {
        assert_eq!(complaint(|(_, nodes, _)| nodes.swap(0, 1)), "`z` reads `y` before it is made");
        assert_eq!(complaint(|(_, nodes, _)| nodes[1].outputs = nodes[0].outputs.clone()), "`y` has a duplicate name");
        assert_eq!(complaint(|(_, nodes, _)| nodes.truncate(1)), "`z` is an output that nothing makes");
    }

    #[test]
    fn names_are_unique() {
        assert_eq!(complaint(|(values, ..)| values[2].name = "x".to_owned()), "`x` names two values, or none");
        assert_eq!(complaint(|(values, ..)| values[2].name.clear()), "`` names two values, or none");
    }

    #[test]
    fn types_are_those_that_are_inferred() {
        assert_eq!(
            complaint(|(values, ..)| retype(values, "y", "f32[b, 3]")),
            "`y` makes f32[b, 2], but its outputs are f32[b, 3]"
        );
        assert_eq!(
            complaint(|(values, ..)| retype(values, "x", "f32[b, 5]")),
            "`y` Linear: f32[b, 5] cannot be multiplied by f32[4, 2]"
        );
    }

    #[test]
    fn a_named_size_is_bound_by_an_input() {
        let unbound = r#"graph "g" {
  input %x: f32[b, 4]
  weight %zero: i64[1] = literal x"0000000000000000"
  %y: f32[p, 4] = Slice {axis=0, length=dim p} (%x, %zero, %zero)
  output %y
}
"#;
        let error = verify(parse(unbound).unwrap()).unwrap_err();
        assert_eq!(error.message(), "the graph is broken: `y` has size `p`, which no input has");
        verify(parse(&unbound.replace("[p,", "[?p,").replace("dim p", "dim ?p")).unwrap()).unwrap();
        let given = unbound.replace("[b,", "[?b,").replace("[p,", "[?b,").replace("dim p", "dim ?b");
        let error = verify(parse(&given).unwrap()).unwrap_err();
        assert_eq!(error.message(), "the graph is broken: `x` has size `?b`, which no input has");
    }

    #[test]
    fn a_computed_size_binds_no_symbol() {
        let text = |of: &str| {
            let inputs = format!("  input %m: i64[b, p + s]\n  input %x: f32[b, s]\n  input %y: f32[{of}]\n");
            format!("graph \"g\" {{\n{inputs}  %z: f32[b, s] = Tanh(%x)\n  output %z\n}}\n")
        };
        verify(parse(&text("p")).unwrap()).unwrap();
        let error = verify(parse(&text("2*p")).unwrap()).unwrap_err();
        assert_eq!(error.message(), "the graph is broken: `m` has size `p`, which no input has");
    }

    #[test]
    fn a_constant_has_the_type_of_its_expression() {
        assert_eq!(
            complaint(|(values, ..)| retype(values, "w", "f32[4, 3]")),
            "`w` is f32[4, 3], its constant f32[4, 2]"
        );
    }

    #[test]
    fn a_default_has_the_type_of_its_input() {
        let with = |default: &str| {
            let text = SOUND.replace("  weight", &format!("  input %r: f32[r, 2] = literal {default}\n  weight"));
            verify(parse(&text).unwrap()).map(drop)
        };
        with("x\"\" f32[0, 2]").unwrap();
        for wrong in ["x\"\" f32[0, 3]", "x\"\" f16[0, 2]", "x\"\" f32[0]"] {
            let said = with(wrong).unwrap_err().message().to_owned();
            assert!(said.starts_with("the graph is broken: `r` is f32[r, 2], and "), "{said}");
        }
    }

    #[test]
    fn every_node_leads_to_an_output_and_every_constant_is_read() {
        assert_eq!(complaint(|(_, nodes, outputs)| *outputs = nodes[0].outputs.clone()), "`z` leads to no output");
        let unread = |(values, ..): Parts| {
            let w = values.iter().find(|value| value.name == "w").unwrap();
            let copy = Value { name: "w.1".to_owned(), ..w.clone() };
            values.push(copy);
        };
        assert_eq!(complaint(unread), "`w.1` is a constant that nothing reads");
    }
}
