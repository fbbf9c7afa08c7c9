//! Rows that nothing reads are not computed.
//!
//! `Select₀(f(x)) = Select₀(f(x[:, 0:1]))` for every `f` that works row by row
//!
//! Most classifiers read the first token alone. Of the last layer it needs one row of the query, of what
//! attention puts out and of the feed-forward block; only keys and values are needed for every token. That is most of
//! a layer, exact to the last bit but for the order of sums.

use std::collections::{HashMap, HashSet};

use super::{Pass, Report};
use crate::error::Result;
use crate::ir::{Action, Dim, Graph, Node, Op, Rewriter, ValueId, Weight, retype};

/// The pass.
pub struct FirstToken;

impl Pass for FirstToken {
    fn name(&self) -> &'static str {
        "first-token"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let narrow = narrow_values(graph);
        let mut report = Report::default();
        let mut cut = HashMap::new();
        let after = retype(graph, |rw, node| {
            if !node.outputs.iter().any(|id| narrow.contains(id)) {
                return Ok(Action::Keep);
            }
            report.changed += 1;
            let inputs = (0..node.inputs.len())
                .map(|i| match node.operand(i) {
                    Some(id) if reads_rows(rw.old(), node, i) && !narrow.contains(&id) => {
                        first_row(rw, id, &mut cut).map(Some)
                    }
                    _ => rw.operand(node, i),
                })
                .collect::<Result<Vec<_>>>()?;
            rw.nodes(rw.name(node), node.op.clone(), &inputs).map(Action::Replace)
        })?;
        Ok((after, report))
    }
}

/// The values of which only the first token is read.
fn narrow_values(graph: &Graph) -> HashSet<ValueId> {
    let mut narrow = HashSet::new();
    let nodes: Vec<&Node> = graph.nodes().map(|(_, node)| node).collect();
    for node in nodes.into_iter().rev() {
        let worked_by_rows = row_by_row(graph, node);
        if worked_by_rows && node.outputs.iter().all(|id| read_at_first_only(graph, *id, &narrow)) {
            narrow.extend(node.outputs.iter().copied());
        }
    }
    narrow
}

fn read_at_first_only(graph: &Graph, id: ValueId, narrow: &HashSet<ValueId>) -> bool {
    let mut readers = graph.consumers(id).peekable();
    let reads_first = |reader: &Node| match reader.op {
        Op::Select { axis: 1, index: 0 } => true,
        _ => {
            reader.outputs.iter().all(|out| narrow.contains(out))
                && (0..reader.inputs.len()).all(|i| reader.operand(i) != Some(id) || reads_rows(graph, reader, i))
        }
    };
    !graph.outputs().contains(&id) && readers.peek().is_some() && readers.all(reads_first)
}

/// Whether row `i` of every output depends on row `i` of the operands that [`reads_rows`] names, and on no other.
fn row_by_row(graph: &Graph, node: &Node) -> bool {
    let tokens = |id: ValueId| matches!(graph.value(id).ty.shape.as_slice(), [_, Dim::Symbol(_), _]);
    let fits = match node.op {
        Op::Linear | Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Normalize => true,
        Op::Gelu { .. } | Op::Tanh | Op::Relu | Op::Erf | Op::Sigmoid | Op::LeakyRelu { .. } => true,
        Op::Split { axis, .. } => axis == -1 || axis == 2,
        // The positions of queries are counted from the last key.
        Op::Attention { causal: true, .. } | Op::Attention { window: Some(_), .. } => false,
        // A bias between positions has its own rows, and so has a mask by query and key.
        Op::Attention { .. } => {
            node.operand(4).is_none() && node.operand(3).is_none_or(|mask| graph.value(mask).ty.rank() == 2)
        }
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Sum | Op::Max => {
            (0..node.inputs.len()).filter_map(|i| node.operand(i)).all(|id| tokens(id) || is_one_row(graph, id))
        }
        _ => false,
    };
    fits && node.outputs.iter().all(|id| tokens(*id))
}

/// A constant without a dimension for tokens.
fn is_one_row(graph: &Graph, id: ValueId) -> bool {
    graph.weight(id).is_some_and(|weight| weight.shape().len() < 2)
}

/// Whether operand `i` has a row for each row of the output.
fn reads_rows(graph: &Graph, node: &Node, i: usize) -> bool {
    match node.op {
        Op::Linear | Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Attention { .. } => i == 0,
        _ => node.operand(i).is_some_and(|id| graph.weight(id).is_none()),
    }
}

fn first_row(rw: &mut Rewriter, old: ValueId, cut: &mut HashMap<ValueId, ValueId>) -> Result<ValueId> {
    if let Some(built) = cut.get(&old) {
        return Ok(*built);
    }
    let name = format!("{}.first", rw.old().value(old).name);
    let x = rw.get(old)?;
    let start = rw.weight(&format!("{name}.start"), Weight::i64s(vec![1], &[0])?);
    let end = rw.weight(&format!("{name}.end"), Weight::i64s(vec![1], &[1])?);
    let built = rw.node(&name, Op::Slice { axis: 1, length: Dim::Fixed(1) }, &[x, start, end])?;
    cut.insert(old, built);
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::FirstToken;
    use crate::passes::tests::run;

    #[test]
    fn the_query_and_what_follows_attention_shrink_to_one_row() {
        let before = r#"graph "g" {
  input %x: f32[b, s, 4]
  input %mask: i64[b, s]
  weight %w: f32[4, 4] = source "w"
  %q: f32[b, s, 4] = Linear(%x, %w) @query/0
  %k: f32[b, s, 4] = Linear(%x, %w) @key/0
  %a: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%q, %k, %k, %mask) @attention/0
  %sum: f32[b, s, 4] = Add(%a, %x) @attention-norm/0
  %first: f32[b, 4] = Select {axis=1, index=0} (%sum) @pooler
  output %first
}
"#;
        assert_eq!(
            run(&FirstToken, before).0,
            r#"graph "g" {
  input %x: f32[b, s, 4]
  input %mask: i64[b, s]
  weight %x.first.start: i64[1] = literal x"0000000000000000"
  weight %x.first.end: i64[1] = literal x"0100000000000000"
  %x.first: f32[b, 1, 4] = Slice {axis=1, length=dim 1} (%x, %x.first.start, %x.first.end) @query/0
  weight %w: f32[4, 4] = source "w"
  %q: f32[b, 1, 4] = Linear(%x.first, %w) @query/0
  %k: f32[b, s, 4] = Linear(%x, %w) @key/0
  %a: f32[b, 1, 4] = Attention {heads=2, scale=0.5} (%q, %k, %k, %mask) @attention/0
  %sum: f32[b, 1, 4] = Add(%a, %x.first) @attention-norm/0
  %first: f32[b, 4] = Select {axis=1, index=0} (%sum) @pooler
  output %first
}
"#
        );
    }

    #[test]
    fn attention_that_differs_from_query_to_query_keeps_all_rows() {
        for (operand, of) in [("_, %by", "f32[b, 2, s, s]"), ("%by", "i64[b, s, s]")] {
            let before = format!(
                r#"graph "g" {{
  input %x: f32[b, s, 4]
  input %by: {of}
  %a: f32[b, s, 4] = Attention {{heads=2, scale=0.5}} (%x, %x, %x, {operand})
  %first: f32[b, 4] = Select {{axis=1, index=0}} (%a)
  output %first
}}
"#
            );
            assert_eq!(run(&FirstToken, &before).0, before);
        }
    }

    #[test]
    fn attention_by_position_keeps_all_rows() {
        for places in ["causal=true", "window=2"] {
            let before = format!(
                r#"graph "g" {{
  input %x: f32[b, s, 4]
  %a: f32[b, s, 4] = Attention {{heads=2, scale=0.5, {places}, positions=9}} (%x, %x, %x)
  %first: f32[b, 4] = Select {{axis=1, index=0}} (%a)
  output %first
}}
"#
            );
            assert_eq!(run(&FirstToken, &before).0, before);
        }
    }

    #[test]
    fn values_that_are_read_elsewhere_keep_all_rows() {
        let before = r#"graph "g" {
  input %x: f32[b, s, 4]
  weight %w: f32[4, 4] = source "w"
  %y: f32[b, s, 4] = Linear(%x, %w)
  %first: f32[b, 4] = Select {axis=1, index=0} (%y)
  output %y
  output %first
}
"#;
        assert_eq!(run(&FirstToken, before).0, before);
    }
}
