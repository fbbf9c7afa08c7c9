//! Query, key and value in one product.
//!
//! `Attention(x·Wq + bq, x·Wk + bk, x·Wv + bv) = Attention(split(x·[Wq|Wk|Wv] + [bq|bk|bv]))`
//!
//! One wide product keeps the cores busier than three narrow ones, and quantizes `x` once.

use super::{Pass, Report};
use crate::error::Result;
use crate::ir::{Action, Graph, Node, Op, Part, Rewriter, Role, Weight, rewrite};

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

/// The three projections of an attention, if they are linear layers of one value, or why not.
fn matched<'a>(graph: &'a Graph, attention: &Node) -> Result<[&'a Node; 3], &'static str> {
    let projection = |i: usize| {
        let id = attention.inputs.get(i).copied().flatten().ok_or("an operand is missing")?;
        if graph.consumers(id).count() != 1 {
            return Err("a projection is read elsewhere too");
        }
        graph.producer(id).filter(|node| node.op == Op::Linear).ok_or("an operand is no linear layer")
    };
    let all = [projection(0)?, projection(1)?, projection(2)?];
    let [q, k, v] = all;
    if q.inputs.first() != k.inputs.first() || q.inputs.first() != v.inputs.first() {
        return Err("the projections read different values");
    }
    if q.inputs.len() != k.inputs.len() || q.inputs.len() != v.inputs.len() {
        return Err("some projections have a bias and some have none");
    }
    Ok(all)
}

fn replace(rw: &mut Rewriter, attention: &Node, projections: &[&Node; 3]) -> Result<Action> {
    let [q, ..] = projections;
    let name = rw.name(attention);
    rw.set_role(attention.role.map(|role| Role { part: Part::Qkv, ..role }));
    let mut operands = vec![rw.required(q, 0)?];
    for (i, part, axis) in [(1, "weight", 1), (2, "bias", 0)] {
        let parts: Vec<Weight> = projections.iter().filter_map(|node| rw.constant(node, i).cloned()).collect();
        if parts.len() == 3 {
            operands.push(rw.weight(&format!("{name}.qkv.{part}"), Weight::concat(axis, parts)?));
        } else if q.inputs.get(i).is_some() {
            return Ok(Action::Keep);
        }
    }
    let merged = rw.node(&format!("{name}.qkv"), Op::Linear, &operands)?;
    let sizes = projections.iter().filter_map(|node| rw.constant(node, 1)?.shape().last().map(|n| *n as i64)).collect();
    let mut inputs: Vec<_> = rw
        .nodes(&format!("{name}.split"), Op::Split { axis: -1, sizes }, &[Some(merged)])?
        .into_iter()
        .map(Some)
        .collect();
    rw.set_role(attention.role);
    inputs.push(rw.operand(attention, 3)?);
    let op = attention.op.clone();
    rw.nodes(name, op, &inputs).map(Action::Replace)
}
