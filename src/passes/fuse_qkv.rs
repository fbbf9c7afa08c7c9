//! Query, key and value in one product.
//!
//! `x·Wq + bq, x·Wk + bk, x·Wv + bv = split(x·[Wq|Wk|Wv] + [bq|bk|bv])`, where an attention reads them
//!
//! One wide product keeps the cores busier than three narrow ones, and quantizes `x` once. Every other reader of one of the
//! three, such as scores by distance, reads its piece.

use std::collections::HashMap;

use super::{Pass, Report};
use crate::error::{Error, Result};
use crate::ir::{Action, Graph, Node, Op, Part, Rewriter, Role, ValueId, Weight, rewrite};

/// The pass.
pub struct FuseQkv;

impl Pass for FuseQkv {
    fn name(&self) -> &'static str {
        "fuse-qkv"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let mut found = Found::default();
        for (_, node) in graph.nodes().filter(|(_, node)| matches!(node.op, Op::Attention { .. })) {
            match found.matched(graph, node) {
                Ok(projections) => found.insert(node, projections),
                Err(why) => report.left.push(format!("{}: {why}", graph.node_name(node))),
            }
        }
        report.changed = found.attentions.len();
        let mut built: Vec<Vec<ValueId>> = vec![Vec::new(); found.attentions.len()];
        let fused = rewrite(graph, |rw, node| {
            let place = node.outputs.first().and_then(|id| found.places.get(id));
            let Some((attention, piece)) = place.copied() else { return Ok(Action::Keep) };
            let (Some(pieces), Some(of)) = (built.get_mut(attention), found.attentions.get(attention)) else {
                return Err(Error::bug("a projection belongs to an attention"));
            };
            if pieces.is_empty() {
                *pieces = merge(rw, of)?;
            }
            Ok(Action::Replace(pieces.get(piece).copied().into_iter().collect()))
        })?;
        Ok((fused, report))
    }
}

/// An attention and those of its projections that become one: all three, or key and value where the query reads other
/// rows.
struct Attention<'a> {
    node: &'a Node,
    projections: Vec<&'a Node>,
}

/// The attentions whose projections become one.
#[derive(Default)]
struct Found<'a> {
    attentions: Vec<Attention<'a>>,
    /// The attention that a projection belongs to, and its operand there, by the projection's output.
    places: HashMap<ValueId, (usize, usize)>,
}

impl<'a> Found<'a> {
    fn insert(&mut self, node: &'a Node, projections: Vec<&'a Node>) {
        for (piece, projection) in projections.iter().enumerate() {
            self.places.extend(projection.outputs.iter().map(|id| (*id, (self.attentions.len(), piece))));
        }
        self.attentions.push(Attention { node, projections });
    }

    /// The projections of one value in an attention, if they are linear layers, or why there are none.
    fn matched(&self, graph: &'a Graph, attention: &Node) -> Result<Vec<&'a Node>, &'static str> {
        let projection = |i: usize| {
            let id = projected(graph, attention.operand(i).ok_or("an operand is missing")?);
            let node =
                graph.producer(id).filter(|node| node.op == Op::Linear).ok_or("an operand is no linear layer")?;
            if self.places.contains_key(&id) {
                return Err("a projection is another attention's too");
            }
            if (1..node.inputs.len()).filter_map(|i| node.operand(i)).any(|id| graph.weight(id).is_none()) {
                return Err("a weight or bias is not a constant");
            }
            Ok(node)
        };
        let [q, k, v] = [projection(0)?, projection(1)?, projection(2)?];
        if q.outputs == k.outputs || q.outputs == v.outputs || k.outputs == v.outputs {
            return Err("two operands are one projection");
        }
        if k.inputs.first() != v.inputs.first() {
            return Err("the projections read different values");
        }
        let all = if q.inputs.first() == k.inputs.first() { vec![q, k, v] } else { vec![k, v] };
        let has_bias = |node: &Node| node.operand(2).is_some();
        match all.iter().all(|node| has_bias(node) == has_bias(k)) {
            true => Ok(all),
            false => Err("some projections have a bias and some have none"),
        }
    }
}

/// The product of a projection, before a constant or an adapter's change was added to it.
fn projected(graph: &Graph, id: ValueId) -> ValueId {
    let linear = |id: ValueId| graph.producer(id).is_some_and(|node| node.op == Op::Linear);
    match graph.producer(id) {
        Some(Node { op: Op::Add, inputs, .. }) => match inputs.as_slice() {
            [Some(x), Some(by)] if graph.weight(*by).is_some() || linear(*x) => *x,
            _ => id,
        },
        _ => id,
    }
}

/// One product and its pieces.
fn merge(rw: &mut Rewriter, of: &Attention) -> Result<Vec<ValueId>> {
    let Attention { node: attention, projections } = of;
    let name = rw.name(attention);
    let (part, short) = match (projections.len(), attention.role) {
        (3, _) => (Part::Qkv, "qkv"),
        (_, Some(Role { part: Part::CrossAttention, .. })) => (Part::CrossKeyValue, "kv"),
        _ => (Part::KeyValue, "kv"),
    };
    rw.set_role(attention.role.map(|role| Role { part, ..role }));
    let first = projections.first().ok_or_else(|| Error::bug("a match has projections"))?;
    let mut operands = vec![rw.required(first, 0)?];
    for (i, what, axis) in [(1, "weight", 1), (2, "bias", 0)] {
        let parts: Vec<Weight> = projections.iter().filter_map(|node| rw.constant(node, i).cloned()).collect();
        if !parts.is_empty() {
            operands.push(rw.weight(&format!("{name}.{short}.{what}"), Weight::concat(axis, parts)?));
        }
    }
    let merged = rw.node(&format!("{name}.{short}"), Op::Linear, &operands)?;
    let sizes = projections.iter().filter_map(|node| rw.constant(node, 1)?.shape().last().map(|n| *n as i64)).collect();
    rw.nodes(&format!("{name}.split"), Op::Split { axis: -1, sizes }, &[Some(merged)])
}

#[cfg(test)]
mod tests {
    use super::FuseQkv;
    use crate::passes::tests::run;

    const SEPARATE: &str = r#"graph "g" {
  input %x: f32[b, s, 4]
  input %mask: i64[b, s]
  weight %q.weight: f32[4, 4] = transpose(source "q.weight" f32[4, 4])
  weight %q.bias: f32[4] = source "q.bias"
  %q: f32[b, s, 4] = Linear(%x, %q.weight, %q.bias) @query/3
  weight %k.weight: f32[4, 4] = transpose(source "k.weight" f32[4, 4])
  weight %k.bias: f32[4] = source "k.bias"
  %k: f32[b, s, 4] = Linear(%x, %k.weight, %k.bias) @key/3
  weight %v.weight: f32[4, 4] = transpose(source "v.weight" f32[4, 4])
  weight %v.bias: f32[4] = source "v.bias"
  %v: f32[b, s, 4] = Linear(%x, %v.weight, %v.bias) @value/3
  %y: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%q, %k, %v, %mask) @attention/3
  output %y
}
"#;

    #[test]
    fn three_projections_of_one_value_become_one() {
        let (after, left) = run(&FuseQkv, SEPARATE);
        assert_eq!(
            after,
            r#"graph "g" {
  input %x: f32[b, s, 4]
  input %mask: i64[b, s]
  weight %y.qkv.weight: f32[4, 12] = transpose(concat(0, source "q.weight" f32[4, 4], source "k.weight" f32[4, 4], source "v.weight" f32[4, 4]))
  weight %y.qkv.bias: f32[12] = concat(0, source "q.bias" f32[4], source "k.bias" f32[4], source "v.bias" f32[4])
  %y.qkv: f32[b, s, 12] = Linear(%x, %y.qkv.weight, %y.qkv.bias) @qkv/3
  %y.split: f32[b, s, 4], %y.split.1: f32[b, s, 4], %y.split.2: f32[b, s, 4] = Split {axis=-1, sizes=[4, 4, 4]} (%y.qkv) @qkv/3
  %y: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%y.split, %y.split.1, %y.split.2, %mask) @attention/3
  output %y
}
"#
        );
        assert!(left.is_empty());
    }

    #[test]
    fn projections_without_bias_become_one_without_bias() {
        let bare =
            ["q", "k", "v"].iter().fold(SEPARATE.to_owned(), |text, p| text.replace(&format!(", %{p}.bias"), ""));
        let (after, left) = run(&FuseQkv, &bare);
        assert!(after.contains("%y.qkv: f32[b, s, 12] = Linear(%x, %y.qkv.weight) @qkv/3"), "{after}");
        assert!(left.is_empty());
    }

    #[test]
    fn an_adapters_change_of_a_projection_is_added_to_its_piece() {
        let changed = SEPARATE
            .replace("input %mask", "input %d: f32[b, s, 4]\n  input %mask")
            .replace("  %y:", "  %qd: f32[b, s, 4] = Add(%q, %d) @adapter/3\n  %y:")
            .replace("(%q, %k", "(%qd, %k");
        let (after, left) = run(&FuseQkv, &changed);
        assert!(after.contains("%qd: f32[b, s, 4] = Add(%y.split, %d) @adapter/3"), "{after}");
        assert!(after.contains("(%qd, %y.split.1, %y.split.2, %mask)") && left.is_empty(), "{after}");
    }

    #[test]
    fn other_readers_of_a_projection_read_its_piece() {
        let text = SEPARATE
            .replace("  %y: f32", "  %z: f32[b, s, 4] = Tanh(%k)\n  weight %by: f32[4] = source \"by\"\n  %moved: f32[b, s, 4] = Add(%q, %by)\n  %y: f32")
            .replace("(%q, %k, %v, %mask)", "(%moved, %k, %v, %mask)")
            .replace("output %y", "output %y\n  output %z\n  output %v");
        let (after, left) = run(&FuseQkv, &text);
        let ends = r#"  %y.split: f32[b, s, 4], %y.split.1: f32[b, s, 4], %v: f32[b, s, 4] = Split {axis=-1, sizes=[4, 4, 4]} (%y.qkv) @qkv/3
  %z: f32[b, s, 4] = Tanh(%y.split.1)
  weight %by: f32[4] = source "by"
  %moved: f32[b, s, 4] = Add(%y.split, %by)
  %y: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%moved, %y.split.1, %v, %mask) @attention/3
  output %y
  output %z
  output %v
}
"#;
        assert!(after.ends_with(ends), "{after}");
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_projection_belongs_to_one_attention() {
        let again = "  %w: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%q, %k, %v, %mask)\n  output %w\n  output %y";
        let (after, left) = run(&FuseQkv, &SEPARATE.replace("  output %y", again));
        assert_eq!(after.matches("= Linear").count(), 1, "{after}");
        assert_eq!(left, ["w: a projection is another attention's too"]);
    }

    #[test]
    fn near_matches_are_left_with_the_reason() {
        let cases = [
            ("(%q, %k, %v, %mask)", "(%q, %k, %k, %mask)", "two operands are one projection"),
            ("Linear(%x, %k.weight", "Linear(%other, %k.weight", "the projections read different values"),
            ("(%x, %v.weight, %v.bias)", "(%x, %v.weight)", "some projections have a bias and some have none"),
            ("(%x, %v.weight, %v.bias)", "(%x, %v.weight, _)", "some projections have a bias and some have none"),
            ("Linear(%x, %q.weight, %q.bias)", "Tanh(%x)", "an operand is no linear layer"),
            ("(%q, %k, %v, %mask)", "(%q, %k, %x, %mask)", "an operand is no linear layer"),
            ("(%x, %k.weight, %k.bias)", "(%x, %given, %k.bias)", "a weight or bias is not a constant"),
        ];
        for (from, to, reason) in cases {
            let text = SEPARATE
                .replace("input %mask", "input %other: f32[b, s, 4]\ninput %given: f32[4, 4]\ninput %mask")
                .replace(from, to);
            let (after, left) = run(&FuseQkv, &text);
            assert_eq!(after, crate::ir::text::parse(&text).unwrap().to_string(), "{reason}");
            assert_eq!(left, [format!("y: {reason}")]);
        }
    }
}
