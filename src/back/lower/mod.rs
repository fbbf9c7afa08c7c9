//! From composite operations to those of a target.
//!
//! One file for each composite. The target's form is read from its [`Capabilities`]; the result holds plain and
//! contrib operations only, and has been verified again.

mod attention;
mod conv;
mod distance;
mod elementary;
mod experts;
mod gelu;
mod linear;
mod masks;
mod norm;
mod places;
mod pool;
mod quant;
mod relative;
mod rotary;
mod segment;

use std::collections::HashMap;

use crate::error::Result;
use crate::ir::{Action, Dim, Graph, Node, Op, Rewriter, rewrite};
use crate::target::{Capabilities, DynamicQuantForm, GeluForm, RmsNormForm, StaticQuantForm, Target, WeightForm};
use crate::verify::{Verified, verify};

/// The graph in the operations of `target`.
pub fn lower(graph: &Verified<Graph>, target: &Target) -> Result<Verified<Graph>> {
    let mut lowering = Lowering {
        can: target.capabilities(),
        masks: masks::Masks::default(),
        shifts: HashMap::new(),
        angles: HashMap::new(),
        shared: quant::Shared::default(),
    };
    let lowered =
        rewrite(graph, |rw, node| lowering.node(rw, node)).map_err(|e| e.at(format!("lowering to {target}")))?;
    verify(lowered).map_err(|e| e.at(format!("lowering to {target}")))
}

struct Lowering {
    can: Capabilities,
    masks: masks::Masks,
    /// The constants of a length that every layer's shift by distance needs.
    shifts: HashMap<Dim, distance::Shift>,
    /// Cosines and sines of the tokens' angles.
    angles: rotary::Angles,
    /// Activations in 8 bits.
    shared: quant::Shared,
}

impl Lowering {
    fn node(&mut self, rw: &mut Rewriter, node: &Node) -> Result<Action> {
        let replacement = match &node.op {
            Op::Embed => elementary::embed(rw, node)?,
            Op::PositionEmbed { offset } => elementary::position_embed(rw, node, *offset)?,
            Op::Rotary { heads, interleaved } => rotary::rotary(rw, node, *heads, *interleaved, &mut self.angles)?,
            Op::ThetaRotary { heads, theta, positions } => {
                relative::theta_rotary(rw, node, *heads, *theta, *positions)?
            }
            Op::RmsNorm { epsilon } if self.can.rms_norm == RmsNormForm::Plain => norm::rms(rw, node, *epsilon)?,
            Op::LocalBias { window, positions } => relative::local(rw, node, *window, *positions)?,
            Op::MeanPool => pool::mean(rw, node)?,
            Op::MeanSqrtLenPool => pool::mean_sqrt_len(rw, node)?,
            Op::WeightedMeanPool => pool::weighted_mean(rw, node)?,
            Op::MaxPool => pool::max(rw, node)?,
            Op::LastToken => pool::last_token(rw, node)?,
            Op::Normalize => pool::normalize(rw, node)?,
            Op::RelativeBias { buckets, max_distance, positions } => {
                relative::bias(rw, node, *buckets, *max_distance, *positions)?
            }
            Op::DistanceRows { buckets, max_distance, opposite, positions } => {
                distance::rows(rw, node, [*buckets, *max_distance, *positions], *opposite)?
            }
            Op::Sinusoids { width, clamp, positions } => distance::sinusoids(rw, node, *width, *clamp, *positions)?,
            Op::DistanceScores { heads, scale, keys } => {
                distance::scores(rw, node, *heads, *scale, *keys, &mut self.shifts)?
            }
            Op::SegmentScores { heads, scale } => segment::scores(rw, node, *heads, *scale, &mut self.masks)?,
            Op::SelfMask { positions } => relative::self_mask(rw, node, *positions)?,
            Op::ZeroPadding => pool::zero_padding(rw, node)?,
            Op::Dispatch { experts } => return experts::dispatch(rw, node, *experts).map(Action::Replace),
            Op::SplitTo { axis, lengths } => {
                let form = self.can.computed_splits;
                return experts::computed_split(rw, node, form, (*axis, lengths)).map(Action::Replace);
            }
            Op::CausalConv => return conv::causal(rw, node).map(Action::Replace),
            Op::RowsByLength { trained, .. } => rotary::rows_by_length(rw, node, *trained)?,
            Op::GrowingAngles { trained } => {
                return rotary::growing_angles(rw, node, *trained).map(|made| Action::Replace(made.into()));
            }
            Op::TokenConv { groups } => conv::along_tokens(rw, node, *groups)?,
            Op::TokenPositions { pad, place } => elementary::token_positions(rw, node, *pad, *place)?,
            Op::Select { axis, index } => elementary::select(rw, node, *axis, *index)?,
            Op::Linear => linear::float(rw, node)?,
            Op::DynamicQuantLinear => match self.can.dynamic_quant {
                DynamicQuantForm::Fused => self.shared.dynamic(rw, node)?,
                DynamicQuantForm::Plain => quant::dynamic_plain(rw, node)?,
                DynamicQuantForm::None => return Err(quant::no_dynamic(rw, node)),
            },
            Op::WeightQuantLinear => quant::widened(rw, node)?,
            Op::BlockQuantLinear { bits, size } => {
                let form = usize::try_from(*bits).map_or(WeightForm::None, |bits| self.can.weights_of(bits));
                match form {
                    WeightForm::Blocks { .. } => quant::blocks(rw, node, *bits, *size)?,
                    WeightForm::Channels | WeightForm::None => return Err(quant::no_blocks(rw, node, *bits)),
                }
            }
            Op::QuantEmbed => quant::embed(rw, node)?,
            Op::StaticQuantLinear { to, scale, zero_point } => {
                let steps = (*to, *scale, *zero_point);
                match self.can.static_quant {
                    StaticQuantForm::Fused => self.shared.fused(rw, node, steps)?,
                    StaticQuantForm::Annotated => self.shared.annotated(rw, node, steps)?,
                    StaticQuantForm::Rescaled => self.shared.rescaled(rw, node, steps)?,
                    StaticQuantForm::Plain => self.shared.plain(rw, node, steps)?,
                }
            }
            Op::Gelu { tanh: true } => gelu::tanh(rw, node)?,
            Op::Gelu { tanh: false } => match self.can.gelu {
                GeluForm::Fused => gelu::fused(rw, node)?,
                GeluForm::Erf => gelu::erf(rw, node)?,
            },
            Op::Attention { .. } => {
                return attention::lower(rw, node, self.can.attention, &mut self.masks).map(Action::Replace);
            }
            Op::Add if self.can.residual_as_sum && rw.old().feeds_only_norms(node) => {
                elementary::residual_sum(rw, node)?
            }
            _ => return Ok(Action::Keep),
        };
        Ok(Action::Replace(vec![replacement]))
    }
}
