//! Linear layers in 8 bits, with ranges that were observed before.
//!
//! `Linear(x, w, b) = StaticQuantLinear(round(x / step) + zero, quantize(w, per output channel), b)`, up to rounding and
//! to values outside the range
//!
//! Saves the pass over the activations that dynamic ranges cost, and no prediction depends on its neighbours in a batch.
//! Values outside the observed range are clipped to it.

use std::cell::RefCell;

use super::{Channels, linears};
use crate::calibrate::{Calibration, Ranges};
use crate::error::Result;
use crate::ir::weight::Int8Range;
use crate::ir::{DType, Graph, Op, Role};
use crate::passes::{Pass, Report};

/// The 8-bit type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationType {
    /// 0…255 with a zero point of their own.
    U8,
    /// −127…127 around 0.
    S8,
}

/// The pass: every layer whose input has a range gets it; the others are left.
pub struct QuantizeStatic<'a> {
    /// The ranges of the layers' inputs.
    pub ranges: &'a Ranges,
    /// The collected statistics of activations, for rounding weights.
    pub calibration: Option<&'a RefCell<Calibration>>,
    /// The type of quantized activations.
    pub activations: ActivationType,
    /// Layers that stay as they are.
    pub keep: &'a [Role],
    /// The values that weights are rounded to.
    pub range: Int8Range,
}

impl Pass for QuantizeStatic<'_> {
    fn name(&self) -> &'static str {
        "quantize-static"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut channels = Channels::of_calibrated_layers(graph, self.calibration, self.keep, self.range)?;
        linears(graph, self.keep, |rw, node| {
            let input = node.operand(0).map(|id| rw.old().value(id).name.as_str());
            let Some(range) = input.and_then(|name| self.ranges.get(name)) else {
                return Ok(Err(format!("no range was observed for its input `{}`", input.unwrap_or_default())));
            };
            let Some((scale, zero_point)) = self.activations.step(*range) else {
                return Ok(Err(format!("its input ranges from {} to {}", range.0, range.1)));
            };
            let [values, scales] = channels.of(rw, node)?;
            let mut operands = vec![rw.required(node, 0)?, values, scales];
            operands.extend(rw.operand(node, 2)?);
            let op = Op::StaticQuantLinear { to: self.activations.dtype(), scale, zero_point };
            rw.node(rw.name(node), op, &operands).map(Ok)
        })
    }
}

impl ActivationType {
    fn dtype(self) -> DType {
        match self {
            ActivationType::U8 => DType::U8,
            ActivationType::S8 => DType::I8,
        }
    }

    /// Step and zero point for a range, which is widened to hold 0; `None` where it is no range of finite numbers.
    fn step(self, (low, high): (f32, f32)) -> Option<(f32, i64)> {
        if !low.is_finite() || !high.is_finite() || low > high {
            return None;
        }
        // Differences of 32-bit floats can leave their range.
        let (low, high) = (f64::from(low.min(0.0)), f64::from(high.max(0.0)));
        let step = match self {
            ActivationType::U8 => (high - low) / 255.0,
            ActivationType::S8 => high.max(-low) / 127.0,
        };
        // Any positive step represents a value that is always 0.
        let step = if step < f64::from(f32::MIN_POSITIVE) { 1.0 } else { step };
        let zero = match self {
            ActivationType::U8 => (-low / step).round_ties_even() as i64,
            ActivationType::S8 => 0,
        };
        Some((step as f32, zero))
    }
}

#[cfg(test)]
mod tests {
    use super::{ActivationType, Int8Range, QuantizeStatic, Ranges};
    use crate::passes::tests::run;

    const BEFORE: &str = r#"graph "g" {
  input %x: f32[b, 4]
  weight %w: f32[4, 2] = transpose(source "w" f32[2, 4])
  weight %bias: f32[2] = source "bias"
  %inner: f32[b, 2] = Linear(%x, %w, %bias) @ffn-in/0
  weight %out.w: f32[2, 2] = source "out.w"
  %out: f32[b, 2] = Linear(%inner, %out.w) @ffn-out/0
  weight %head.w: f32[2, 3] = source "head.w"
  %logits: f32[b, 3] = Linear(%out, %head.w) @head
  output %logits
}
"#;

    fn with(ranges: &Ranges, activations: ActivationType) -> QuantizeStatic<'_> {
        QuantizeStatic { ranges, calibration: None, activations, keep: &[], range: Int8Range::Full }
    }

    fn ranges(of: &[(&str, f32, f32)]) -> Ranges {
        of.iter().map(|(name, low, high)| ((*name).to_owned(), (*low, *high))).collect()
    }

    #[test]
    fn layers_whose_input_has_a_range_get_it() {
        let ranges = ranges(&[("x", -1.0, 4.1), ("inner", -2.0, 1.0), ("out", -1.0, 1.0)]);
        let (after, left) = run(&with(&ranges, ActivationType::U8), BEFORE);
        assert_eq!(
            after,
            r#"graph "g" {
  input %x: f32[b, 4]
  weight %w.int8: i8[4, 2] = quantized(1, transpose(source "w" f32[2, 4]))
  weight %w.scale: f32[2] = scales(1, transpose(source "w" f32[2, 4]))
  weight %bias: f32[2] = source "bias"
  %inner: f32[b, 2] = StaticQuantLinear {to=u8, scale=0.02, zero_point=50} (%x, %w.int8, %w.scale, %bias) @ffn-in/0
  weight %out.w.int8: i8[2, 2] = quantized(1, source "out.w" f32[2, 2])
  weight %out.w.scale: f32[2] = scales(1, source "out.w" f32[2, 2])
  %out: f32[b, 2] = StaticQuantLinear {to=u8, scale=0.011764706, zero_point=170} (%inner, %out.w.int8, %out.w.scale) @ffn-out/0
  weight %head.w: f32[2, 3] = source "head.w"
  %logits: f32[b, 3] = Linear(%out, %head.w) @head
  output %logits
}
"#
        );
        assert_eq!(left, ["logits: heads keep full precision"]);
    }

    #[test]
    fn layers_without_a_range_of_finite_numbers_are_left_with_the_reason() {
        let ranges = ranges(&[("inner", f32::NEG_INFINITY, 1.0)]);
        let (after, left) = run(&with(&ranges, ActivationType::S8), BEFORE);
        assert_eq!(after, BEFORE);
        assert_eq!(
            left,
            [
                "inner: no range was observed for its input `x`",
                "out: its input ranges from -inf to 1",
                "logits: heads keep full precision"
            ]
        );
    }

    #[test]
    fn steps_cover_zero_and_the_whole_range() {
        let step = |activations: ActivationType, low, high| activations.step((low, high));
        assert_eq!(step(ActivationType::U8, 1.0, 2.55), Some((0.01, 0)));
        assert_eq!(step(ActivationType::U8, -2.55, -1.0), Some((0.01, 255)));
        assert_eq!(step(ActivationType::S8, -1.0, 2.54), Some((0.02, 0)));
        assert_eq!(step(ActivationType::S8, 0.0, 0.0), Some((1.0, 0)));
        assert_eq!(step(ActivationType::U8, f32::MIN, f32::MAX), Some(((f64::from(f32::MAX) / 127.5) as f32, 128)));
        assert_eq!(step(ActivationType::U8, 1.0, -1.0), None);
        assert_eq!(step(ActivationType::U8, f32::NAN, 1.0), None);
    }
}
