//! The operands of a node as rules ask for them.

use crate::ir::op::Op;
use crate::ir::types::TensorType;

/// The result of the rules: the types of the outputs, or the mismatch.
pub(super) type Inferred = Result<Vec<TensorType>, String>;

/// The operands of one node, requested by index and name.
pub(super) struct Operands<'a> {
    pub op: &'a Op,
    pub inputs: &'a [Option<&'a TensorType>],
}

impl<'a> Operands<'a> {
    pub fn count(&self, least: usize, most: usize) -> Result<(), String> {
        let n = self.inputs.len();
        if (least..=most).contains(&n) {
            return Ok(());
        }
        let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
        Err(format!("{} takes {expected} operands, found {n}", self.op.name()))
    }

    pub fn optional(&self, i: usize) -> Option<&'a TensorType> {
        self.inputs.get(i).copied().flatten()
    }

    pub fn get(&self, i: usize, name: &str) -> Result<&'a TensorType, String> {
        self.optional(i).ok_or_else(|| format!("{} lacks its operand `{name}`", self.op.name()))
    }

    pub fn only(&self) -> Result<&'a TensorType, String> {
        self.count(1, 1)?;
        self.get(0, "x")
    }

    pub fn expect(&self, i: usize, name: &str, expected: &TensorType) -> Result<(), String> {
        let found = self.get(i, name)?;
        if found == expected {
            return Ok(());
        }
        Err(format!("{}: `{name}` must be {expected}, found {found}", self.op.name()))
    }

    pub fn expect_optional(&self, i: usize, name: &str, expected: &TensorType) -> Result<(), String> {
        if self.optional(i).is_some() { self.expect(i, name, expected) } else { Ok(()) }
    }

    pub fn fail<T>(&self, what: impl std::fmt::Display) -> Result<T, String> {
        Err(format!("{}: {what}", self.op.name()))
    }

    /// An axis, counted from the end when negative, of a value of that rank.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, String> {
        let from_front = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(from_front) {
            Ok(i) if i < rank => Ok(i),
            _ => self.fail(format!("axis {axis} is outside rank {rank}")),
        }
    }
}

/// `[…, k] × [k, n] → […, n]`
pub(super) fn project(o: &Operands, x: &TensorType, w: &TensorType) -> Result<TensorType, String> {
    match (x.shape.split_last(), w.shape.as_slice()) {
        (Some((k, leading)), [wk, n]) if k == wk => Ok(TensorType::new(x.dtype, leading.iter().chain([n]).cloned())),
        _ => o.fail(format!("{x} cannot be multiplied by {w}")),
    }
}
