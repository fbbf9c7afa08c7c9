//! Short convolutions between layers with attention: gated before and after, channel by channel over the last few
//! tokens.

use super::{Blocks, DecoderInputs};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Op, Part, Role, ValueId};
use crate::ports::PortKind;

/// The sizes of a short convolution.
#[derive(Clone, Copy, Debug)]
pub struct ShortConv {
    /// Width of the residual stream, and channels.
    pub hidden: Size,
    /// How many tokens it is over, its own included.
    pub kernel: Size,
    /// Whether projections and kernel have biases.
    pub bias: bool,
}

impl Blocks {
    /// `out(c · conv(b · x))` with `b, c, x` of one projection. Padding, where `mask [b, s]` is 0, is zeros to the
    /// convolution, as what comes before a text is.
    pub fn short_conv(
        &mut self,
        p: &Scope,
        i: usize,
        sizes: &ShortConv,
        x: ValueId,
        (mask, inputs): (ValueId, &DecoderInputs),
    ) -> Result<ValueId> {
        let (hidden, one) = (sizes.hidden, Size { n: 1, ..sizes.hidden });
        self.role(Role::layer(Part::Qkv, i));
        let three = Size { n: hidden.n.saturating_mul(3), ..hidden };
        let three = self.dense(&p.sub("in_proj"), [hidden, three], sizes.bias, x)?;
        let [before, after, x] = self.split(&p.full("split"), three)?;
        self.role(Role::layer(Part::Attention, i));
        let x = self.mul(&p.full("gated"), before, x)?;
        let x = self.zero_padding(&p.full("real"), x, mask)?;
        let conv = p.sub("conv");
        let kernel = self.weight(&conv, "weight", &[hidden, one, sizes.kernel])?;
        let bias = if sizes.bias { Some(self.weight(&conv, "bias", &[hidden])?) } else { None };
        let mut operands = vec![Some(x), Some(kernel), inputs.past_conv(i), bias];
        while operands.last() == Some(&None) {
            operands.pop();
        }
        let mixed = match self.builder.nodes(conv.path(), Op::CausalConv, &operands)?.as_slice() {
            [mixed] => *mixed,
            [mixed, last] => {
                self.present.push((PortKind::PresentConv(i), *last));
                *mixed
            }
            _ => return Err(Error::bug("a convolution has one output, or two")),
        };
        let out = self.mul(&p.full("open"), after, mixed)?;
        self.role(Role::layer(Part::AttentionOutput, i));
        self.dense(&p.sub("out_proj"), [hidden, hidden], sizes.bias, out)
    }
}
