//! The inputs of a decoder besides a text: positions, and a cache, which is empty in a prefill and not in a step.

use crate::error::{Error, Result};
use crate::ir::{DType, Graph, TensorType};
use crate::ports::{CACHE_AXIS, PortKind};
use crate::runtime::{self, Elements, Named, Tensor};

/// The inputs of a graph for texts that are run at once: those of the texts, and for a decoder the positions that the mask
/// says and an empty cache. Fails where a cache's sizes are not known.
pub fn prefill(graph: &Graph, texts: &Named) -> Result<Named> {
    let mut inputs = texts.clone();
    for id in graph.inputs() {
        let value = graph.value(*id);
        let added = match PortKind::of(&value.name) {
            _ if texts.iter().any(|(name, _)| *name == value.name) => continue,
            Some(PortKind::PositionIds) => positions(texts)?,
            Some(kind) if kind.is_past() => empty(&value.name, &value.ty, texts)?,
            _ => continue,
        };
        inputs.push((value.name.clone(), added));
    }
    Ok(inputs)
}

/// How many tokens come before each in its text.
fn positions(texts: &Named) -> Result<Tensor> {
    let mask = runtime::port(texts, PortKind::AttentionMask).ok_or_else(|| Error::bug("a text has a mask"))?;
    let Elements::I64(kept) = &mask.elements else { return Err(Error::bug("a mask is of integers")) };
    let length = mask.shape.last().copied().unwrap_or(1).max(1);
    let counted = |row: &[i64]| -> Vec<i64> {
        row.iter()
            .scan(0_i64, |count, kept| {
                *count += i64::from(*kept != 0);
                Some((*count - 1).max(0))
            })
            .collect()
    };
    Ok(Tensor { shape: mask.shape.clone(), elements: Elements::I64(kept.chunks(length).flat_map(counted).collect()) })
}

/// A cache of no token.
fn empty(name: &str, ty: &TensorType, texts: &Named) -> Result<Tensor> {
    let rows = texts.first().and_then(|(_, tensor)| tensor.shape.first().copied()).unwrap_or_default();
    if ty.dtype != DType::F32 {
        return Err(Error::bug(format!("`{name}` is a cache of {}", ty.dtype)));
    }
    let size = |axis: usize| match axis {
        0 => Ok(rows),
        CACHE_AXIS => Ok(0),
        _ => ty.shape.get(axis).and_then(|dim| dim.fixed()).ok_or_else(|| Error::bug(format!("`{name}` has no size"))),
    };
    let shape = (0..ty.rank()).map(size).collect::<Result<_>>()?;
    Ok(Tensor { shape, elements: Elements::F32(Vec::new()) })
}

/// One text in two runs: all of its tokens but the last, and the last with the cache of the others.
pub struct Step {
    /// The inputs of the first run.
    pub before: Named,
    last: Named,
}

impl Step {
    /// The inputs of the second run, with the cache among the outputs of the first.
    pub fn after(&self, outputs: &Named) -> Named {
        let mut inputs = self.last.clone();
        for (name, tensor) in outputs {
            if let Some(next) = PortKind::of(name).and_then(PortKind::next) {
                inputs.push((next.name().into_owned(), tensor.clone()));
            }
        }
        inputs
    }
}

/// The two runs of the inputs of one text. None where the graph has no cache, or the text one token.
pub fn step(graph: &Graph, inputs: &Named) -> Result<Option<Step>> {
    let has_cache = graph.inputs().iter().any(|id| graph.kind(*id).is_some_and(PortKind::is_past));
    let tokens =
        runtime::port(inputs, PortKind::TokenIds).and_then(|ids| ids.shape.get(1)).copied().unwrap_or_default();
    if !has_cache || tokens < 2 {
        return Ok(None);
    }
    // The mask covers the cache, too.
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (name, tensor) in inputs {
        let kind = PortKind::of(name);
        if kind.is_some_and(PortKind::is_past) {
            before.push((name.clone(), tensor.clone()));
            continue;
        }
        let Elements::I64(values) = &tensor.elements else { return Err(Error::bug("tokens are integers")) };
        let part = |values: &[i64]| Tensor { shape: vec![1, values.len()], elements: Elements::I64(values.to_vec()) };
        let (first, last) = values.split_at_checked(tokens - 1).ok_or_else(|| Error::bug("a text has its tokens"))?;
        before.push((name.clone(), part(first)));
        after.push((name.clone(), part(if kind == Some(PortKind::AttentionMask) { values } else { last })));
    }
    Ok(Some(Step { before, last: after }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    #[test]
    fn a_decoder_begins_without_a_cache_and_counts_its_tokens() {
        let graph = parse(
            r#"graph "g" {
  input %input_ids: i64[b, s]
  input %attention_mask: i64[b, p + s]
  input %position_ids: i64[b, s]
  input %past_key_values.0.key: f32[b, 2, p, 4]
  weight %w: f32[8, 4] = source "w"
  %y: f32[b, s, 4] = Embed(%w, %position_ids)
  output %y
}
"#,
        )
        .unwrap();
        let integers = |name: &str, values: &[i64]| {
            (name.to_owned(), Tensor { shape: vec![2, 3], elements: Elements::I64(values.to_vec()) })
        };
        let texts = vec![integers("input_ids", &[1, 2, 3, 4, 5, 6]), integers("attention_mask", &[1, 1, 0, 0, 1, 1])];
        let given = prefill(&graph, &texts).unwrap();
        assert_eq!(given[2], integers("position_ids", &[0, 1, 1, 0, 0, 1]));
        let empty = Tensor { shape: vec![2, 2, 0, 4], elements: Elements::F32(Vec::new()) };
        assert_eq!(given[3..], [("past_key_values.0.key".to_owned(), empty)]);
    }
}
