//! Fewer tokens.
//!
//! `Embed(table, ids) = Embed(take_0(table, kept), new(ids))` · `take_n(x · W + b) = x · take_1(W) + take_0(b)`
//!
//! where `new` maps old token ids to new ones: the cut tokenizer does that, so that the graph computes nothing of it
//! here. Rows that no token of the tokenizer has are gone with the others. A table that a head is tied to is cut once
//! and stays tied.

use super::{Pass, Report};
use crate::error::{Error, Result, printable};
use crate::ir::{Action, Graph, Node, Op, Rewriter, ValueId, Weight, reshape};
use crate::ports::PortKind;

/// The pass.
#[derive(Debug)]
pub struct CutVocabulary<'a> {
    /// The old ids of the tokens that stay, in the order of the new ones.
    pub kept: &'a [u32],
    /// Whether the logits are over the vocabulary.
    pub scores: bool,
}

impl Pass for CutVocabulary<'_> {
    fn name(&self) -> &'static str {
        "cut-vocabulary"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let port = |kind: PortKind| {
            let missing = || Error::unsupported(format!("the graph has no `{}` to cut the vocabulary of", kind.name()));
            graph.port(kind).ok_or_else(missing)
        };
        let ids = port(PortKind::TokenIds)?;
        let scores = self.scores.then(|| port(PortKind::Logits)).transpose()?;
        let at = self.kept.iter().map(|number| usize::try_from(*number)).collect::<Result<_, _>>();
        let at = at.map_err(|_| Error::bad_input("a token id is larger than any index in memory"))?;
        let mut rewriting = Rewriting {
            pass: self,
            ids,
            scores,
            rows: rows(graph, ids)?,
            at,
            cut: Vec::new(),
            report: Report::default(),
        };
        let changed = reshape(graph, |rw, node| rewriting.node(rw, node))?;
        if rewriting.scores.is_some() {
            return Err(Error::unsupported(format!(
                "`{}` are not made by a layer with an output for each token",
                PortKind::Logits.name()
            )));
        }
        Ok((changed, rewriting.report))
    }
}

/// The rows of the tables of token embeddings, which must be one for each token.
fn rows(graph: &Graph, ids: ValueId) -> Result<usize> {
    let tables = graph.consumers(ids).filter(|node| is_table(node, ids));
    let sizes = tables.map(|node| node.operand(0).and_then(|table| graph.value(table).ty.shape.first()?.fixed()));
    let sizes: Vec<Option<usize>> = sizes.collect();
    match sizes.as_slice() {
        [Some(first), rest @ ..] if rest.iter().all(|size| *size == Some(*first)) => Ok(*first),
        _ => {
            Err(Error::unsupported(format!("`{}` are not looked up in tables of one size", PortKind::TokenIds.name())))
        }
    }
}

fn is_table(node: &Node, ids: ValueId) -> bool {
    node.op == Op::Embed && node.operand(1) == Some(ids)
}

/// Whether an operation reads only the shape of its operand of token ids, and not the ids.
fn reads_shape(op: &Op) -> bool {
    matches!(
        op,
        Op::PositionEmbed { .. }
            | Op::RelativeBias { .. }
            | Op::LocalBias { .. }
            | Op::DistanceRows { .. }
            | Op::Sinusoids { .. }
            | Op::Shape { .. }
    )
}

struct Rewriting<'a> {
    pass: &'a CutVocabulary<'a>,
    ids: ValueId,
    /// The scores of tokens, until the layer that makes them is found.
    scores: Option<ValueId>,
    rows: usize,
    at: Vec<usize>,
    /// Weights with a row for each token, before and after.
    cut: Vec<(Weight, Weight)>,
    report: Report,
}

impl Rewriting<'_> {
    fn node(&mut self, rw: &mut Rewriter, node: &Node) -> Result<Action> {
        match node.op {
            Op::Embed if is_table(node, self.ids) => {
                self.constant(rw, node, 0, Rewriting::taken)?;
                self.report.changed += 1;
                Ok(Action::Keep)
            }
            Op::TokenPositions { pad, place } if node.operand(0) == Some(self.ids) => {
                let number = self.pass.kept.iter().position(|kept| i64::from(*kept) == pad);
                let pad = number.and_then(|number| i64::try_from(number).ok()).unwrap_or(-1);
                let ids = rw.required(node, 0)?;
                rw.node(rw.name(node), Op::TokenPositions { pad, place }, &[ids]).map(|out| Action::Replace(vec![out]))
            }
            Op::Linear if self.makes_scores(rw, node) => {
                self.scores = None;
                self.constant(rw, node, 1, |rewriting, weight| rewriting.taken(&weight.transpose()?)?.transpose())?;
                if node.operand(2).is_some() {
                    self.constant(rw, node, 2, Rewriting::taken)?;
                }
                self.report.changed += 1;
                Ok(Action::Keep)
            }
            _ if node.inputs.contains(&Some(self.ids)) && !reads_shape(&node.op) => Err(Error::unsupported(format!(
                "`{}` reads token ids in a way that the vocabulary cannot be cut under",
                printable(rw.name(node))
            ))),
            _ => Ok(Action::Keep),
        }
    }

    /// Whether a node makes the scores, with one for each row of the tables.
    fn makes_scores(&self, rw: &Rewriter, node: &Node) -> bool {
        let Some([out]) = self.scores.map(|scores| [scores]) else { return false };
        let sized = rw.old().value(out).ty.shape.last().and_then(|dim| dim.fixed()) == Some(self.rows);
        node.outputs == [out] && sized
    }

    /// Builds `change` of the constant that operand `i` is. No other node may read the old one.
    fn constant(
        &mut self,
        rw: &mut Rewriter,
        node: &Node,
        i: usize,
        change: impl Fn(&mut Self, &Weight) -> Result<Weight>,
    ) -> Result<()> {
        let refused = |why: &str| {
            Error::unsupported(format!("the vocabulary of `{}` cannot be cut: {why}", printable(rw.name(node))))
        };
        let id = node.operand(i).ok_or_else(|| refused("it has no weight"))?;
        let weight = rw.constant(node, i).ok_or_else(|| refused("its weight is no constant"))?;
        if rw.old().consumers(id).any(|other| other.outputs != node.outputs && !is_table(other, self.ids)) {
            return Err(refused("something else reads its weight too"));
        }
        if !rw.is_built(id) {
            let changed = change(self, weight)?;
            let built = rw.weight(&rw.old().value(id).name, changed);
            rw.replace(id, built);
        }
        Ok(())
    }

    /// The rows that stay; the same weight for the same weight.
    fn taken(&mut self, weight: &Weight) -> Result<Weight> {
        if let Some((_, taken)) = self.cut.iter().find(|(before, _)| before.is(weight)) {
            return Ok(taken.clone());
        }
        let taken = weight.take(0, self.at.clone())?;
        self.cut.push((weight.clone(), taken.clone()));
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::CutVocabulary;
    use crate::error::Kind;
    use crate::ir::{Op, text::parse};
    use crate::passes::Pass;
    use crate::passes::tests::run;

    const BEFORE: &str = r#"graph "g" {
  input %input_ids: i64[b, s]
  weight %words: f32[6, 2] = source "words"
  %w: f32[b, s, 2] = Embed(%words, %input_ids) @embedding
  %ids: i64[b, s] = TokenPositions {pad=1, place=1} (%input_ids) @embedding
  weight %places: f32[9, 2] = source "places"
  %p: f32[b, s, 2] = Embed(%places, %ids) @embedding
  %x: f32[b, s, 2] = Add(%w, %p) @embedding
  weight %decoder: f32[2, 6] = transpose(source "words" f32[6, 2])
  weight %bias: f32[6] = source "bias"
  %logits: f32[b, s, 6] = Linear(%x, %decoder, %bias) @head
  output %logits
}
"#;

    fn pass(kept: &[u32]) -> CutVocabulary<'_> {
        CutVocabulary { kept, scores: true }
    }

    #[test]
    fn tables_and_heads_lose_rows_and_padding_keeps_its_position() {
        let (after, left) = run(&pass(&[1, 3, 5]), BEFORE);
        assert_eq!(left, [""; 0]);
        assert_eq!(
            after,
            r#"graph "g" {
  input %input_ids: i64[b, s]
  weight %words: f32[3, 2] = take(0, [1, 3, 5], source "words" f32[6, 2])
  %w: f32[b, s, 2] = Embed(%words, %input_ids) @embedding
  %ids: i64[b, s] = TokenPositions {pad=0, place=1} (%input_ids) @embedding
  weight %places: f32[9, 2] = source "places"
  %p: f32[b, s, 2] = Embed(%places, %ids) @embedding
  %x: f32[b, s, 2] = Add(%w, %p) @embedding
  weight %decoder: f32[2, 3] = transpose(take(0, [1, 3, 5], source "words" f32[6, 2]))
  weight %bias: f32[3] = take(0, [1, 3, 5], source "bias" f32[6])
  %logits: f32[b, s, 3] = Linear(%x, %decoder, %bias) @head
  output %logits
}
"#
        );
        let (without, _) = run(&pass(&[0, 2]), BEFORE);
        assert!(without.contains("TokenPositions {pad=-1, place=1}"), "{without}");
    }

    #[test]
    fn a_classifier_with_as_many_labels_as_tokens_keeps_them() {
        let (after, _) = run(&CutVocabulary { kept: &[0], scores: false }, BEFORE);
        assert!(after.contains("%words: f32[1, 2]") && after.contains("%logits: f32[b, s, 6]"), "{after}");
    }

    #[test]
    fn a_tied_table_stays_one_weight() {
        let mut builder = crate::ir::Builder::new("g");
        let shape = crate::ir::TensorType::new(crate::ir::DType::I64, ["b", "s"]);
        let table = crate::ir::Weight::f32s(vec![3, 2], &[0.0; 6]).unwrap();
        let ids = builder.input("input_ids", shape);
        let words = builder.weight("words", table.clone());
        let x = builder.node("w", Op::Embed, &[words, ids]).unwrap();
        let decoder = builder.weight("decoder", table.transpose().unwrap());
        let logits = builder.node("logits", Op::Linear, &[x, decoder]).unwrap();
        builder.output("logits", logits).unwrap();
        let (after, report) = pass(&[2, 0]).run(&builder.finish()).unwrap();
        let weight = |name: &str| after.weight(after.find(name).unwrap()).unwrap().clone();
        assert!(weight("decoder").transpose().unwrap().is(&weight("words")));
        assert_eq!(report.changed, 2);
    }

    #[test]
    fn graphs_that_cannot_be_cut_are_named() {
        let said = |text: &str, kept: &[u32]| {
            let error = pass(kept).run(&parse(text).unwrap()).err().unwrap();
            assert!(matches!(error.kind(), Kind::Unsupported | Kind::BadInput));
            error.message().to_owned()
        };
        assert_eq!(
            said(&BEFORE.replace("input_ids", "ids_of_tokens"), &[0]),
            "the graph has no `input_ids` to cut the vocabulary of"
        );
        assert_eq!(said(BEFORE, &[0, 6]), "f32[6, 2] has no index 6 along dimension 0");
        let more = BEFORE
            .replace("f32[6, 2])", "f32[7, 2])")
            .replace("2, 6]", "2, 7]")
            .replace("[6] =", "[7] =")
            .replace("s, 6]", "s, 7]");
        assert_eq!(said(&more, &[0]), "`logits` are not made by a layer with an output for each token");
        let cast = BEFORE.replace("  output", "  %f: f32[b, s] = Cast {to=f32} (%input_ids)\n  output %f\n  output");
        assert_eq!(said(&cast, &[0]), "`f` reads token ids in a way that the vocabulary cannot be cut under");
        let shared = BEFORE.replace("  output", "  %t: f32[6, 2] = Tanh(%words)\n  output %t\n  output");
        assert_eq!(said(&shared, &[0]), "the vocabulary of `w` cannot be cut: something else reads its weight too");
        let none = BEFORE
            .replace("Embed(%words, %input_ids)", "Embed(%words, %other)")
            .replace("  weight %words", "  input %other: i64[b, s]\n  weight %words");
        assert_eq!(said(&none, &[0]), "`input_ids` are not looked up in tables of one size");
    }
}
