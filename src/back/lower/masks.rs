//! Masks in the form that attention wants them, made once and read by every layer.

use std::collections::HashMap;

use crate::error::Result;
use crate::ir::{DType, Dim, Op, Rewriter, ValueId};

/// Masks in the form that attention wants them, made once and read by every layer.
#[derive(Default)]
pub(super) struct Masks {
    /// In another element type, and in the shape of that type.
    pub forms: HashMap<(ValueId, DType), ValueId>,
    /// To be added to scores of that type, of so many queries.
    pub biases: HashMap<(ValueId, DType, Dim), ValueId>,
    /// By query and key, where positions count.
    pub by_place: HashMap<(Option<ValueId>, Places), ValueId>,
}

/// The positions of queries and keys, and the rule by which they attend to each other.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Places {
    pub causal: bool,
    pub window: Option<i64>,
    pub positions: i64,
    pub queries: Dim,
    pub keys: Dim,
}

/// `i64 [b, s] → bool [b, 1, 1, s]`, `i64 [b, s, s] → bool [b, 1, s, s]`
pub(super) fn spread_mask(rw: &mut Rewriter, mask: ValueId, masks: &mut Masks) -> Result<ValueId> {
    if let Some(made) = masks.forms.get(&(mask, DType::Bool)) {
        return Ok(*made);
    }
    let kept = rw.node("attention_mask.kept", Op::Cast { to: DType::Bool }, &[mask])?;
    let axes = if rw.ty(mask).rank() == 2 { vec![1, 2] } else { vec![1] };
    let spread = rw.node("attention_mask.spread", Op::Unsqueeze { axes }, &[kept])?;
    masks.forms.insert((mask, DType::Bool), spread);
    Ok(spread)
}
