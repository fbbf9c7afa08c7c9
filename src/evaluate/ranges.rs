//! How large the values inside a graph become.

use std::collections::{HashMap, HashSet};

use half::{bf16, f16};

use super::array::Array;
use super::evaluator::{Evaluator, Observed};
use crate::error::Result;
use crate::ir::weight::Expr;
use crate::ir::{DType, Graph, Node, Op, Role, TensorType, ValueId, Weight};

/// The range of one float value.
#[derive(Clone, Debug)]
pub struct Range {
    /// The value.
    pub id: ValueId,
    /// Its name.
    pub name: String,
    /// The part that its node plays in the model.
    pub role: Option<Role>,
    /// Its declared type.
    pub ty: TensorType,
    /// The lowest finite element; 0 where all are above.
    pub lowest: f32,
    /// The highest finite element; 0 where all are below.
    pub highest: f32,
    /// Elements that are NaN or infinite.
    pub non_finite: usize,
    /// All elements, but for those that a mask has replaced by the lowest number.
    pub elements: usize,
}

impl Range {
    /// The largest magnitude of the finite elements.
    pub fn magnitude(&self) -> f32 {
        self.highest.max(-self.lowest)
    }

    fn add(&mut self, elements: impl Iterator<Item = f32>) {
        for x in elements {
            self.elements += 1;
            if x.is_finite() {
                self.lowest = self.lowest.min(x);
                self.highest = self.highest.max(x);
            } else {
                self.non_finite += 1;
            }
        }
    }
}

/// The ranges of all float values that nodes make, over the texts, in the order of the nodes.
///
/// `texts` are the inputs of one run each. Scores that masks replace by the lowest number of the type, so that no
/// softmax reads it, is left out.
pub fn ranges<'a>(
    evaluator: &mut Evaluator,
    texts: impl IntoIterator<Item = Vec<(&'a str, Array)>>,
) -> Result<Vec<Range>> {
    let masked = masked(evaluator.graph());
    let (mut found, mut places) = (Vec::<Range>::new(), HashMap::new());
    for inputs in texts {
        evaluator.run_with(&inputs, &mut |seen| {
            let Array::F32(x) = seen.array else { return Ok(()) };
            let place = *places.entry(seen.id).or_insert(found.len());
            if place == found.len() {
                found.push(unseen(seen));
            }
            let below = masked.contains(&seen.id).then(|| lowest(seen.ty.dtype) / 2.0);
            if let Some(range) = found.get_mut(place) {
                range.add(x.iter().copied().filter(|x| below.is_none_or(|below| x.is_nan() || *x > below)));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn unseen(seen: &Observed) -> Range {
    Range {
        id: seen.id,
        name: seen.name.to_owned(),
        role: seen.role,
        ty: seen.ty.clone(),
        lowest: 0.0,
        highest: 0.0,
        non_finite: 0,
        elements: 0,
    }
}

/// The lowest finite number of a float type.
fn lowest(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::MIN.to_f32(),
        DType::BF16 => bf16::MIN.to_f32(),
        _ => f32::MIN,
    }
}

/// The values whose elements a mask may have replaced: those that a literal of the lowest number flows into, up to what
/// computes with all elements of a row.
fn masked(graph: &Graph) -> HashSet<ValueId> {
    let mut masked: HashSet<ValueId> =
        graph.weights().filter(|(_, _, weight)| is_mask(weight)).map(|(id, ..)| id).collect();
    for (_, node) in graph.nodes().filter(|(_, node)| passes_on(node)) {
        if node.inputs.iter().flatten().any(|input| masked.contains(input)) {
            masked.extend(&node.outputs);
        }
    }
    masked
}

fn is_mask(weight: &Weight) -> bool {
    let literal = |weight: &Weight| matches!(weight.expr(), Expr::Literal(_)) && weight.dtype().is_float();
    let made = match weight.expr() {
        Expr::Cast(of) => literal(of),
        _ => literal(weight),
    };
    made && Array::of(weight).is_ok_and(|x| match x {
        Array::F32(x) => x.iter().any(|x| *x <= lowest(weight.dtype())),
        _ => false,
    })
}

fn passes_on(node: &Node) -> bool {
    matches!(
        node.op,
        Op::Where
            | Op::Add
            | Op::Sub
            | Op::Sum
            | Op::Cast { .. }
            | Op::Gather { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Reshape { .. }
            | Op::ReshapeTo { .. }
            | Op::ExpandTo { .. }
            | Op::Transpose { .. }
            | Op::Unsqueeze { .. }
    )
}
