//! Feed-forward blocks of decoders: gated ones (arXiv 2002.05202), and those with a bias or without by the configuration.

use super::{Blocks, DecoderLayer};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Part, Role, ValueId};

/// The layers of a gated block, below its path.
#[derive(Clone, Copy, Debug)]
pub struct GatedNames {
    /// That of the gates.
    pub gate: &'static str,
    /// That of what is gated.
    pub up: &'static str,
    /// The projection back.
    pub down: &'static str,
}

/// As most families call them.
const GATED: GatedNames = GatedNames { gate: "gate_proj", up: "up_proj", down: "down_proj" };

impl Blocks {
    /// `down(f(gate(x)) · up(x))`, below the path of the block.
    pub fn gated(&mut self, p: &Scope, i: usize, layer: &DecoderLayer, bias: bool, x: ValueId) -> Result<ValueId> {
        self.gated_with(GATED, p, i, layer, bias, x)
    }

    /// The same by other names, without biases.
    pub fn gated_by(
        &mut self,
        names: GatedNames,
        p: &Scope,
        i: usize,
        layer: &DecoderLayer,
        x: ValueId,
    ) -> Result<ValueId> {
        self.gated_with(names, p, i, layer, false, x)
    }

    fn gated_with(
        &mut self,
        names: GatedNames,
        p: &Scope,
        i: usize,
        layer: &DecoderLayer,
        bias: bool,
        x: ValueId,
    ) -> Result<ValueId> {
        let (hidden, inner) = (layer.sizes.hidden, layer.sizes.inner);
        self.role(Role::layer(Part::FeedForwardIn, i));
        let gate = self.dense(&p.sub(names.gate), [hidden, inner], bias, x)?;
        let up = self.dense(&p.sub(names.up), [hidden, inner], bias, x)?;
        self.ungated(p, i, (layer, names.down), bias, [gate, up])
    }

    /// The same by one projection, the gates first.
    pub fn fused_gated(&mut self, p: &Scope, i: usize, layer: &DecoderLayer, x: ValueId) -> Result<ValueId> {
        let (hidden, inner) = (layer.sizes.hidden, layer.sizes.inner);
        self.role(Role::layer(Part::FeedForwardIn, i));
        let both = Size { n: inner.n.saturating_mul(2), ..inner };
        let both = self.dense(&p.sub("gate_up_proj"), [hidden, both], false, x)?;
        let gates = self.split(&p.full("gate_up_proj.split"), both)?;
        self.ungated(p, i, (layer, GATED.down), false, gates)
    }

    fn ungated(
        &mut self,
        p: &Scope,
        i: usize,
        (layer, down): (&DecoderLayer, &str),
        bias: bool,
        [gate, up]: [ValueId; 2],
    ) -> Result<ValueId> {
        self.role(Role::layer(Part::Activation, i));
        let open = self.activation(&p.full("activation"), layer.sizes.activation, gate)?;
        let gated = self.mul(&p.full("gated"), open, up)?;
        self.role(Role::layer(Part::FeedForwardOut, i));
        self.dense(&p.sub(down), [layer.sizes.inner, layer.sizes.hidden], bias, gated)
    }

    /// `out(f(in(x)))`
    pub fn plain_feed_forward(
        &mut self,
        [ffn_in, ffn_out]: [&Scope; 2],
        i: usize,
        layer: &DecoderLayer,
        bias: bool,
        x: ValueId,
    ) -> Result<ValueId> {
        let (hidden, inner) = (layer.sizes.hidden, layer.sizes.inner);
        self.role(Role::layer(Part::FeedForwardIn, i));
        let x = self.dense(ffn_in, [hidden, inner], bias, x)?;
        self.role(Role::layer(Part::Activation, i));
        let x = self.activation(&ffn_in.full("activation"), layer.sizes.activation, x)?;
        self.role(Role::layer(Part::FeedForwardOut, i));
        self.dense(ffn_out, [inner, hidden], bias, x)
    }
}
