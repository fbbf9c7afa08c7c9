//! Tables of embeddings in 8 bits.
//!
//! `Embed(t, ids) = QuantEmbed(quantize(t, per row), ids)`, up to rounding
//!
//! They are most of a small model's file and no part of its time.

use super::Channels;
use crate::error::Result;
use crate::ir::{Action, Graph, Op, Role, rewrite};
use crate::passes::{Pass, Report};

/// Tables with fewer rows stay as they are: they weigh nothing, and every text reads all of their rows.
const FEWEST_ROWS: usize = 1024;

/// The pass.
pub struct QuantizeEmbeddings<'a> {
    /// The tables that stay as they are.
    pub keep: &'a [Role],
}

impl Pass for QuantizeEmbeddings<'_> {
    fn name(&self) -> &'static str {
        "quantize-embeddings"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut report = Report::default();
        let mut rows = Channels::of_tables();
        let quantized = rewrite(graph, |rw, node| {
            if node.op != Op::Embed {
                return Ok(Action::Keep);
            }
            let why = match rw.constant(node, 0).map(|table| table.shape()) {
                _ if Role::is_in(node.role, self.keep) => "`keep` holds it in full precision".to_owned(),
                None => "its table is not a constant".to_owned(),
                Some([v, _]) if *v < FEWEST_ROWS => format!("its table has {v} rows, fewer than {FEWEST_ROWS}"),
                Some(_) => {
                    report.changed += 1;
                    let [values, scales] = rows.of(rw, node)?;
                    let operands = [values, scales, rw.required(node, 1)?];
                    return Ok(Action::Replace(vec![rw.node(rw.name(node), Op::QuantEmbed, &operands)?]));
                }
            };
            report.left.push(format!("{}: {why}", rw.name(node)));
            Ok(Action::Keep)
        })?;
        Ok((quantized, report))
    }
}

#[cfg(test)]
mod tests {
    use super::QuantizeEmbeddings;
    use crate::passes::tests::run;

    #[test]
    fn large_tables_are_quantized_row_by_row() {
        let before = r#"graph "g" {
  input %ids: i64[b, s]
  input %given: f32[2000, 4]
  weight %words: f32[2000, 4] = source "words"
  %word: f32[b, s, 4] = Embed(%words, %ids) @embedding
  weight %types: f32[2, 4] = source "types"
  %type: f32[b, s, 4] = Embed(%types, %ids) @embedding
  %other: f32[b, s, 4] = Embed(%given, %ids)
  output %word
  output %type
  output %other
}
"#;
        let (after, left) = run(&QuantizeEmbeddings { keep: &[] }, before);
        assert_eq!(
            after,
            r#"graph "g" {
  input %ids: i64[b, s]
  input %given: f32[2000, 4]
  weight %words.int8: i8[2000, 4] = quantized(0, source "words" f32[2000, 4])
  weight %words.scale: f32[2000] = scales(0, source "words" f32[2000, 4])
  %word: f32[b, s, 4] = QuantEmbed(%words.int8, %words.scale, %ids) @embedding
  weight %types: f32[2, 4] = source "types"
  %type: f32[b, s, 4] = Embed(%types, %ids) @embedding
  %other: f32[b, s, 4] = Embed(%given, %ids)
  output %word
  output %type
  output %other
}
"#
        );
        assert_eq!(left, ["type: its table has 2 rows, fewer than 1024", "other: its table is not a constant"]);
    }
}
