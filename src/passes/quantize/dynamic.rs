//! Linear layers in 8 bits, with ranges that are found when the engine runs.
//!
//! `Linear(x, w, b) = DynamicQuantLinear(x, quantize(w, per output channel), b)`, up to rounding

use std::cell::RefCell;

use super::{Channels, linears};
use crate::calibrate::Calibration;
use crate::error::Result;
use crate::ir::weight::Int8Range;
use crate::ir::{Graph, Op, Role};
use crate::passes::{Pass, Report};

/// The pass: activations get one range per tensor, weights one step per output channel.
#[derive(Default)]
pub struct QuantizeDynamic<'a> {
    /// The collected statistics of activations.
    pub calibration: Option<&'a RefCell<Calibration>>,
    /// Layers that stay as they are.
    pub keep: &'a [Role],
    /// The values that weights are rounded to.
    pub range: Int8Range,
}

impl Pass for QuantizeDynamic<'_> {
    fn name(&self) -> &'static str {
        "quantize-dynamic"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let mut channels = Channels::of_calibrated_layers(graph, self.calibration, self.keep, self.range)?;
        linears(graph, self.keep, |rw, node| {
            let [values, scales] = channels.of(rw, node)?;
            let mut operands = vec![rw.required(node, 0)?, values, scales];
            operands.extend(rw.operand(node, 2)?);
            rw.node(rw.name(node), Op::DynamicQuantLinear, &operands).map(Ok)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::QuantizeDynamic;
    use crate::passes::tests::run;

    #[test]
    fn layers_are_quantized_and_heads_are_left() {
        let before = r#"graph "g" {
  input %x: f32[b, 4]
  input %given: f32[2, 2]
  weight %w: f32[4, 2] = transpose(source "w" f32[2, 4])
  weight %bias: f32[2] = source "bias"
  %inner: f32[b, 2] = Linear(%x, %w, %bias) @ffn-in/0
  weight %plain.w: f32[2, 2] = source "plain.w"
  %plain: f32[b, 2] = Linear(%inner, %plain.w)
  %dynamic: f32[b, 2] = Linear(%plain, %given) @query/0
  weight %head.w: f32[2, 3] = source "head.w"
  %logits: f32[b, 3] = Linear(%dynamic, %head.w) @head
  output %logits
}
"#;
        let (after, left) = run(&QuantizeDynamic::default(), before);
        assert_eq!(
            after,
            r#"graph "g" {
  input %x: f32[b, 4]
  input %given: f32[2, 2]
  weight %w.int8: i8[4, 2] = quantized(1, transpose(source "w" f32[2, 4]))
  weight %w.scale: f32[2] = scales(1, transpose(source "w" f32[2, 4]))
  weight %bias: f32[2] = source "bias"
  %inner: f32[b, 2] = DynamicQuantLinear(%x, %w.int8, %w.scale, %bias) @ffn-in/0
  weight %plain.w: f32[2, 2] = source "plain.w"
  %plain: f32[b, 2] = Linear(%inner, %plain.w)
  %dynamic: f32[b, 2] = Linear(%plain, %given) @query/0
  weight %head.w: f32[2, 3] = source "head.w"
  %logits: f32[b, 3] = Linear(%dynamic, %head.w) @head
  output %logits
}
"#
        );
        assert_eq!(
            left,
            ["plain: it has no role", "dynamic: its weight is not a constant", "logits: heads keep full precision"]
        );
    }

    #[test]
    fn a_weight_that_two_layers_share_is_quantized_once() {
        let before = r#"graph "g" {
  input %x: f32[b, 2]
  weight %w: f32[2, 2] = source "w"
  %first: f32[b, 2] = Linear(%x, %w) @ffn-in/0
  %second: f32[b, 2] = Linear(%first, %w) @ffn-in/1
  output %second
}
"#;
        assert_eq!(
            run(&QuantizeDynamic::default(), before).0,
            r#"graph "g" {
  input %x: f32[b, 2]
  weight %w.int8: i8[2, 2] = quantized(1, source "w" f32[2, 2])
  weight %w.scale: f32[2] = scales(1, source "w" f32[2, 2])
  %first: f32[b, 2] = DynamicQuantLinear(%x, %w.int8, %w.scale) @ffn-in/0
  %second: f32[b, 2] = DynamicQuantLinear(%first, %w.int8, %w.scale) @ffn-in/1
  output %second
}
"#
        );
    }
}
