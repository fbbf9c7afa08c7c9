//! The limits of a graph's inputs: which token ids it has, and how long a text can be.

use std::collections::BTreeSet;

use crate::ir::{Graph, Node, Op, Origin, ValueId, Weight};
use crate::ports::PortKind;
use crate::settings::LongTexts;

/// The rows of the table of token embeddings.
pub(crate) fn rows(graph: &Graph) -> Option<usize> {
    let ids = graph.port(PortKind::TokenIds)?;
    graph.consumers(ids).filter(|node| node.op == Op::Embed).filter_map(|node| table_rows(graph, node)).min()
}

/// The bytes of the tables of token embeddings.
pub(crate) fn table_bytes(graph: &Graph) -> usize {
    let Some(ids) = graph.port(PortKind::TokenIds) else { return 0 };
    let readers = graph.consumers(ids).filter(|node| node.op == Op::Embed);
    let tables: BTreeSet<ValueId> = readers.filter_map(|node| node.operand(0)).collect();
    tables.into_iter().filter_map(|table| graph.weight(table)).map(Weight::byte_len).sum()
}

/// Longest text, in tokens: the size of the tables of positions. None where no table bounds it.
pub(crate) fn positions(graph: &Graph) -> Option<usize> {
    graph.nodes().filter_map(|(_, node)| covered(graph, node)).min()
}

/// What becomes of texts that are longer than trained, where the graph's angles follow the length of a text.
pub(crate) fn long_texts(graph: &Graph) -> Option<LongTexts> {
    graph.nodes().find_map(|(_, node)| {
        let (trained, restart) = match node.op {
            Op::RowsByLength { trained, restarts } => (trained, restarts),
            Op::GrowingAngles { trained } => (trained, false),
            _ => return None,
        };
        Some(LongTexts { after: usize::try_from(trained).ok()?, restart })
    })
}

fn covered(graph: &Graph, node: &Node) -> Option<usize> {
    match node.op {
        Op::PositionEmbed { offset } => table_rows(graph, node)?.checked_sub(usize::try_from(offset).ok()?),
        // Positions that skip padding count from the one after its own.
        Op::Embed => table_rows(graph, node)?.checked_sub(usize::try_from(position_of_padding(graph, node)?).ok()? + 1),
        Op::Rotary { .. } => rows_of(graph, node, 1),
        Op::Attention { positions, .. } => usize::try_from(positions?).ok(),
        Op::ThetaRotary { positions, .. }
        | Op::LocalBias { positions, .. }
        | Op::RelativeBias { positions, .. }
        | Op::DistanceRows { positions, .. }
        | Op::Sinusoids { positions, .. }
        | Op::SelfMask { positions } => usize::try_from(positions).ok(),
        _ => None,
    }
}

/// The position of padding, where a table is indexed by positions that skip it.
fn position_of_padding(graph: &Graph, node: &Node) -> Option<i64> {
    let Origin::Node { node: by, .. } = &graph.value((*node.inputs.get(1)?)?).origin else { return None };
    match graph.nodes().find(|(id, _)| id == by)?.1.op {
        Op::TokenPositions { place, .. } => Some(place),
        _ => None,
    }
}

fn table_rows(graph: &Graph, node: &Node) -> Option<usize> {
    rows_of(graph, node, 0)
}

fn rows_of(graph: &Graph, node: &Node, operand: usize) -> Option<usize> {
    graph.value(node.operand(operand)?).ty.shape.first()?.fixed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    fn graph(positions: &str) -> Graph {
        let text = format!(
            r#"graph "g" {{
  input %input_ids: i64[b, s]
  weight %words: f32[64, 4] = source "words"
  %w: f32[b, s, 4] = Embed(%words, %input_ids)
  weight %places: f32[42, 4] = source "places"
{positions}
  %y: f32[b, s, 4] = Add(%w, %p)
  output %y
}}
"#
        );
        text::parse(&text).unwrap()
    }

    #[test]
    fn tables_bound_token_ids_and_positions() {
        let absolute = graph("  %p: f32[s, 4] = PositionEmbed {offset=0} (%places, %input_ids)");
        assert_eq!((rows(&absolute), positions(&absolute)), (Some(64), Some(42)));
        let skipping = graph(
            "  %ids: i64[b, s] = TokenPositions {pad=0, place=1} (%input_ids)\n  %p: f32[b, s, 4] = Embed(%places, %ids)",
        );
        assert_eq!((rows(&skipping), positions(&skipping)), (Some(64), Some(40)));
        let turned = "  weight %angles: f32[30, 2] = source \"angles\"\n  %p: f32[b, s, 4] = Rotary {heads=1} (%w, %angles, %angles)";
        assert_eq!(positions(&graph(turned)), Some(30));
        let causal = "  %p: f32[b, s, 4] = Attention {heads=1, scale=0.5, causal=true, positions=20} (%w, %w, %w)";
        assert_eq!(positions(&graph(causal)), Some(20));
        assert_eq!(long_texts(&graph(causal)), None);
        let rows = "  %ids: i64[b, s] = RowsByLength {trained=9, restarts=true} (%input_ids)";
        let by_length = format!("{rows}\n  %p: f32[b, s, 4] = Embed(%places, %ids)");
        assert_eq!(long_texts(&graph(&by_length)), Some(LongTexts { after: 9, restart: true }));
    }
}
