//! Linear layers whose weights alone are in 8 bits or fewer; activations stay as they are.
//!
//! `Linear(x, w, b) = WeightQuantLinear(x, quantize(w, per output channel), b)`
//! `Linear(x, w, b) = BlockQuantLinear(x, quantize(w, in blocks along k), b)`, up to rounding
//!
//! Needs no calibration, stays closest to FP32 and makes the file small. Runtimes that quantize activations in the
//! same blocks while they run are fast at it, too.

use std::collections::HashMap;

use super::{Channels, known_constant, linears};
use crate::error::Result;
use crate::ir::weight::{BlockPart, Blocks, Int8Range};
use crate::ir::{Graph, Node, Op, Rewriter, Role, ValueId};
use crate::passes::{Pass, Report};

/// The pass.
pub struct QuantizeWeights<'a> {
    /// The blocks; without them, 8 bits with one step for each output channel.
    pub blocks: Option<Blocks>,
    /// Layers that stay as they are.
    pub keep: &'a [Role],
}

impl Pass for QuantizeWeights<'_> {
    fn name(&self) -> &'static str {
        "quantize-weights"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        let (mut channels, mut shared) = (Channels::of_layers(Int8Range::Full), HashMap::new());
        linears(graph, self.keep, |rw, node| {
            let mut operands = vec![Some(rw.required(node, 0)?)];
            let op = match self.blocks {
                None => {
                    operands.extend(channels.of(rw, node)?.map(Some));
                    Op::WeightQuantLinear
                }
                Some(how) => {
                    operands.extend(parts(rw, node, how, &mut shared)?);
                    Op::BlockQuantLinear { bits: how.bits as i64, size: how.size as i64 }
                }
            };
            operands.extend(rw.operand(node, 2)?.map(Some));
            let outputs = rw.nodes(rw.name(node), op, &operands)?;
            Ok(outputs.first().copied().ok_or_else(|| "it has no output".to_owned()))
        })
    }
}

/// Values, scales and zero points of a layer's weight. One that several layers share is quantized once.
fn parts(
    rw: &mut Rewriter,
    node: &Node,
    how: Blocks,
    shared: &mut HashMap<ValueId, [Option<ValueId>; 3]>,
) -> Result<[Option<ValueId>; 3]> {
    let (id, weight) = known_constant(rw, node, 1)?;
    if let Some(built) = shared.get(&id) {
        return Ok(*built);
    }
    let (rows, of) = (weight.transpose()?, rw.old().value(id).name.clone());
    let part = |rw: &mut Rewriter, part: BlockPart, name: &str| -> Result<ValueId> {
        Ok(rw.weight(&format!("{of}.{name}"), rows.in_blocks(how, part)?))
    };
    let values = part(rw, BlockPart::Values, &format!("int{}", how.bits))?;
    let scales = part(rw, BlockPart::Scales, "scale")?;
    let zeros = if how.zero_points { Some(part(rw, BlockPart::ZeroPoints, "zero")?) } else { None };
    let built = [Some(values), Some(scales), zeros];
    shared.insert(id, built);
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::QuantizeWeights;
    use crate::ir::weight::Blocks;
    use crate::passes::tests::run;

    const BEFORE: &str = r#"graph "g" {
  input %x: f32[b, 40]
  weight %w: f32[40, 2] = transpose(source "w" f32[2, 40])
  weight %bias: f32[2] = source "bias"
  %first: f32[b, 2] = Linear(%x, %w, %bias) @ffn-in/0
  %second: f32[b, 2] = Linear(%x, %w) @ffn-in/1
  %sum: f32[b, 2] = Add(%first, %second)
  weight %head.w: f32[2, 3] = source "head.w"
  %logits: f32[b, 3] = Linear(%sum, %head.w) @head
  output %logits
}
"#;

    #[test]
    fn weights_are_cut_into_blocks_along_the_inputs() {
        let blocks = Blocks { bits: 4, size: 16, zero_points: true };
        let (after, left) = run(&QuantizeWeights { blocks: Some(blocks), keep: &[] }, BEFORE);
        assert_eq!(
            after,
            r#"graph "g" {
  input %x: f32[b, 40]
  weight %w.int4: u8[2, 3, 8] = blocks(values, 4, 16, own, source "w" f32[2, 40])
  weight %w.scale: f32[2, 3] = blocks(scales, 4, 16, own, source "w" f32[2, 40])
  weight %w.zero: u8[2, 2] = blocks(zeros, 4, 16, own, source "w" f32[2, 40])
  weight %bias: f32[2] = source "bias"
  %first: f32[b, 2] = BlockQuantLinear {bits=4, size=16} (%x, %w.int4, %w.scale, %w.zero, %bias) @ffn-in/0
  %second: f32[b, 2] = BlockQuantLinear {bits=4, size=16} (%x, %w.int4, %w.scale, %w.zero) @ffn-in/1
  %sum: f32[b, 2] = Add(%first, %second)
  weight %head.w: f32[2, 3] = source "head.w"
  %logits: f32[b, 3] = Linear(%sum, %head.w) @head
  output %logits
}
"#
        );
        assert_eq!(left, ["logits: heads keep full precision"]);
        let (after, _) =
            run(&QuantizeWeights { blocks: Some(Blocks { zero_points: false, ..blocks }), keep: &[] }, BEFORE);
        assert!(after.contains("BlockQuantLinear {bits=4, size=16} (%x, %w.int4, %w.scale, _, %bias)"), "{after}");
    }

    #[test]
    fn without_blocks_every_channel_has_its_step() {
        let (after, _) = run(&QuantizeWeights { blocks: None, keep: &[] }, BEFORE);
        assert!(
            after.contains("%first: f32[b, 2] = WeightQuantLinear(%x, %w.int8, %w.scale, %bias) @ffn-in/0"),
            "{after}"
        );
        assert!(after.contains("%second: f32[b, 2] = WeightQuantLinear(%x, %w.int8, %w.scale) @ffn-in/1"), "{after}");
    }
}
