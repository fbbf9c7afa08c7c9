//! The constants of a graph, evaluated when they are read.

use std::collections::HashMap;

use super::array::Array;
use super::layout::place;
use crate::error::{Error, Result};
use crate::ir::{DType, Graph, Node, Op, ValueId, Weight};

/// Bytes of evaluated constants that an evaluator caches; others are evaluated again each time it is read.
pub const CACHE: usize = 1 << 30;

/// Constants that were read before.
#[derive(Default)]
pub(super) struct Weights {
    kept: HashMap<ValueId, Array>,
    bytes: usize,
}

impl Weights {
    /// The elements of a constant.
    fn get(&mut self, id: ValueId, weight: &Weight) -> Result<Array> {
        if let Some(array) = self.kept.get(&id) {
            return Ok(array.clone());
        }
        let array = Array::of(weight)?;
        if self.bytes.saturating_add(array.bytes()) <= CACHE {
            self.bytes += array.bytes();
            self.kept.insert(id, array.clone());
        }
        Ok(array)
    }

    /// The elements of a value that a node reads: a constant, or one of those that are `live`.
    pub fn read(&mut self, graph: &Graph, id: ValueId, live: &HashMap<ValueId, Array>) -> Result<Array> {
        match graph.weight(id) {
            Some(weight) => self.get(id, weight),
            None => live
                .get(&id)
                .cloned()
                .ok_or_else(|| Error::bug(format!("`{}` is read before it is made", graph.value(id).name))),
        }
    }

    /// The rows that a [`Op::Gather`] reads of a float table in a file, without reading the others.
    pub fn rows(&self, graph: &Graph, node: &Node, live: &HashMap<ValueId, Array>) -> Result<Option<Array>> {
        let (Op::Gather { axis: 0 }, Some(table), Some(ids)) = (&node.op, node.operand(0), node.operand(1)) else {
            return Ok(None);
        };
        let (Some(weight), Some(Array::I64(ids))) = (graph.weight(table), live.get(&ids)) else { return Ok(None) };
        let &[rows, width] = weight.shape() else { return Ok(None) };
        if weight.dtype() != DType::F32 || !weight.is_stored() {
            return Ok(None);
        }
        let evaluated = weight.evaluate()?;
        let bytes = evaluated.as_bytes();
        let mut values = Vec::with_capacity(ids.len() * width);
        for id in ids {
            let from = place(*id, rows)? * width * 4;
            let row = bytes.get(from..from + width * 4);
            let row = row.ok_or_else(|| Error::bug(format!("{} has other elements", weight.ty())))?;
            values.extend(row.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        let shape: Vec<usize> = ids.shape().iter().copied().chain([width]).collect();
        Array::f32s(&shape, values).map(Some)
    }
}

#[cfg(test)]
impl Weights {
    /// Cached bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
