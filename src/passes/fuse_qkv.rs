//! Query, key and value in one product.
//!
//! `Attention(x·Wq + bq, x·Wk + bk, x·Wv + bv) = Attention(split(x·[Wq|Wk|Wv] + [bq|bk|bv]))`
//!
//! What is added to a projection, as an adapter's change is, is added to its piece instead.
//!
//! One wide product keeps the cores busier than three narrow ones, and quantizes `x` once.

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
        let fused = rewrite(graph, |rw, node| {
            let Op::Attention { .. } = node.op else { return Ok(Action::Keep) };
            match matched(rw.old(), node) {
                Ok(projections) => {
                    report.changed += 1;
                    replace(rw, node, &projections)
                }
                Err(why) => {
                    report.left.push(format!("{}: {why}", rw.name(node)));
                    Ok(Action::Keep)
                }
            }
        })?;
        Ok((fused, report))
    }
}

/// One of an attention's projections.
#[derive(Clone, Copy)]
struct Projection<'a> {
    linear: &'a Node,
    /// The sum of it and a change, and the change.
    changed: Option<(&'a Node, ValueId)>,
}

/// The projections of one value in an attention that can be one: all three, or key and value where the query reads
/// other rows. Or why there are none.
fn matched<'a>(graph: &'a Graph, attention: &Node) -> Result<Vec<Projection<'a>>, &'static str> {
    let projection = |i: usize| {
        let id = operand(attention, i).ok_or("an operand is missing")?;
        let projection = projection(graph, id).ok_or("an operand is no linear layer")?;
        let linear = projection.linear;
        let read_once = |id: &ValueId| graph.consumers(*id).count() == 1 && !graph.outputs().contains(id);
        if ![id].iter().chain(&linear.outputs).all(read_once) {
            return Err("a projection is read elsewhere too");
        }
        if (1..linear.inputs.len()).filter_map(|i| operand(linear, i)).any(|id| graph.weight(id).is_none()) {
            return Err("a weight or bias is not a constant");
        }
        Ok(projection)
    };
    let [q, k, v] = [projection(0)?, projection(1)?, projection(2)?];
    let reads = |projection: Projection<'a>| projection.linear.inputs.first();
    if reads(k) != reads(v) {
        return Err("the projections read different values");
    }
    let all = if reads(q) == reads(k) { vec![q, k, v] } else { vec![k, v] };
    let has_bias = |projection: &Projection| operand(projection.linear, 2).is_some();
    match all.iter().all(|projection| has_bias(projection) == has_bias(&k)) {
        true => Ok(all),
        false => Err("some projections have a bias and some have none"),
    }
}

/// The linear layer that a value is, with or without a change.
fn projection(graph: &Graph, id: ValueId) -> Option<Projection<'_>> {
    let linear = |id| graph.producer(id).filter(|node| node.op == Op::Linear);
    let node = graph.producer(id)?;
    match node.op {
        Op::Linear => Some(Projection { linear: node, changed: None }),
        Op::Add => {
            let (base, change) = (operand(node, 0)?, operand(node, 1)?);
            Some(Projection { linear: linear(base)?, changed: Some((node, change)) })
        }
        _ => None,
    }
}

fn operand(node: &Node, i: usize) -> Option<ValueId> {
    node.inputs.get(i).copied().flatten()
}

fn replace(rw: &mut Rewriter, attention: &Node, projections: &[Projection]) -> Result<Action> {
    let name = rw.name(attention);
    let (part, short) = if projections.len() == 3 { (Part::Qkv, "qkv") } else { (Part::KeyValue, "kv") };
    rw.set_role(attention.role.map(|role| Role { part, ..role }));
    let first = projections.first().ok_or_else(|| Error::bug("a match has projections"))?;
    let mut operands = vec![rw.required(first.linear, 0)?];
    let constants = |rw: &Rewriter, i| -> Vec<Weight> {
        projections.iter().filter_map(|projection| rw.constant(projection.linear, i).cloned()).collect()
    };
    for (i, what, axis) in [(1, "weight", 1), (2, "bias", 0)] {
        let parts = constants(rw, i);
        if !parts.is_empty() {
            operands.push(rw.weight(&format!("{name}.{short}.{what}"), Weight::concat(axis, parts)?));
        }
    }
    let merged = rw.node(&format!("{name}.{short}"), Op::Linear, &operands)?;
    let sizes = constants(rw, 1).iter().filter_map(|weight| weight.shape().last().map(|n| *n as i64)).collect();
    let pieces = rw.nodes(&format!("{name}.split"), Op::Split { axis: -1, sizes }, &[Some(merged)])?;
    let mut inputs = Vec::with_capacity(attention.inputs.len());
    if part == Part::KeyValue {
        inputs.push(rw.operand(attention, 0)?);
    }
    for (piece, projection) in pieces.into_iter().zip(projections) {
        inputs.push(Some(with_change(rw, name, piece, projection)?));
    }
    rw.set_role(attention.role);
    for i in 3..attention.inputs.len() {
        inputs.push(rw.operand(attention, i)?);
    }
    let op = attention.op.clone();
    rw.nodes(name, op, &inputs).map(Action::Replace)
}

/// A piece of the merged projection, with what was added to its own.
fn with_change(rw: &mut Rewriter, name: &str, piece: ValueId, projection: &Projection) -> Result<ValueId> {
    let Some((sum, change)) = projection.changed else { return Ok(piece) };
    rw.set_role(sum.role);
    let change = rw.get(change)?;
    rw.node(&format!("{name}.changed"), Op::Add, &[piece, change])
}

#[cfg(test)]
mod tests {
    use super::FuseQkv;
    use crate::passes::tests::run;

    const APART: &str = r#"graph "g" {
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
        let (after, left) = run(&FuseQkv, APART);
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
        let bare = ["q", "k", "v"].iter().fold(APART.to_owned(), |text, p| text.replace(&format!(", %{p}.bias"), ""));
        let (after, left) = run(&FuseQkv, &bare);
        assert!(after.contains("%y.qkv: f32[b, s, 12] = Linear(%x, %y.qkv.weight) @qkv/3"), "{after}");
        assert!(left.is_empty());
    }

    #[test]
    fn what_is_added_to_a_projection_is_added_to_its_piece() {
        let changed = APART
            .replace("input %mask", "input %d: f32[b, s, 4]\n  input %mask")
            .replace("  %y:", "  %qd: f32[b, s, 4] = Add(%q, %d) @adapter/3\n  %y:")
            .replace("(%q, %k", "(%qd, %k");
        let (after, left) = run(&FuseQkv, &changed);
        assert!(
            after.ends_with(
                r#"  %y.changed: f32[b, s, 4] = Add(%y.split, %d) @adapter/3
  %y: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%y.changed, %y.split.1, %y.split.2, %mask) @attention/3
  output %y
}
"#
            ),
            "{after}"
        );
        assert!(left.is_empty() && !after.contains("%qd"), "{after}");
        let twice = changed.replace("output %y", "%z: f32[b, s, 4] = Tanh(%q)\n  output %y\n  output %z");
        assert_eq!(run(&FuseQkv, &twice).1, ["y: a projection is read elsewhere too"]);
    }

    #[test]
    fn what_does_not_match_is_left_with_the_reason() {
        let cases = [
            ("%y: f32", "%z: f32[b, s, 4] = Tanh(%k)\n%y: f32", "a projection is read elsewhere too"),
            ("output %y", "output %y\noutput %v", "a projection is read elsewhere too"),
            ("Linear(%x, %k.weight", "Linear(%other, %k.weight", "the projections read different values"),
            ("(%x, %v.weight, %v.bias)", "(%x, %v.weight)", "some projections have a bias and some have none"),
            ("(%x, %v.weight, %v.bias)", "(%x, %v.weight, _)", "some projections have a bias and some have none"),
            ("Linear(%x, %q.weight, %q.bias)", "Tanh(%x)", "an operand is no linear layer"),
            ("(%q, %k, %v, %mask)", "(%q, %k, %x, %mask)", "an operand is no linear layer"),
            ("(%x, %k.weight, %k.bias)", "(%x, %given, %k.bias)", "a weight or bias is not a constant"),
        ];
        for (from, to, reason) in cases {
            let text = APART
                .replace("input %mask", "input %other: f32[b, s, 4]\ninput %given: f32[4, 4]\ninput %mask")
                .replace("output %y", if to.contains("%z") { "output %y\noutput %z" } else { "output %y" })
                .replace(from, to);
            let (after, left) = run(&FuseQkv, &text);
            assert_eq!(after, crate::ir::text::parse(&text).unwrap().to_string(), "{reason}");
            assert_eq!(left, [format!("y: {reason}")]);
        }
    }
}
