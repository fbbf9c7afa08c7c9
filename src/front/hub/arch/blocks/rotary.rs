//! Rotary positions: tables of cosines and sines, and heads that are turned by them.

use super::{Blocks, DecoderInputs, DecoderLayer};
use crate::error::Result;
use crate::front::hub::checkpoint::Scope;
use crate::ir::{Op, Part, ValueId, Weight};

/// The angles of pairs of channels (arXiv 2104.09864): at a position, it times the frequency of a pair.
#[derive(Clone, Debug)]
pub struct Angles {
    /// The frequency of each pair.
    pub frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    pub factor: f32,
    /// Most positions.
    pub positions: usize,
}

impl Angles {
    /// Cosines and sines, `[positions, pairs]` each. Angles are products in 32 bits, as in `transformers`.
    fn tables(&self) -> [Vec<f32>; 2] {
        let of = |function: fn(f64) -> f64| {
            let row = |at: usize| {
                let turned = move |frequency: &f32| function(f64::from(at as f32 * frequency)) as f32 * self.factor;
                self.frequencies.iter().map(turned)
            };
            (0..self.positions).flat_map(row).collect()
        };
        [of(f64::cos), of(f64::sin)]
    }
}

/// The tables of a graph by which heads are turned.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    cos: ValueId,
    sin: ValueId,
    interleaved: bool,
}

impl Rotation {
    /// The same for channels whose pairs are neighbours.
    pub fn interleaved(self) -> Rotation {
        Rotation { interleaved: true, ..self }
    }
}

impl Blocks {
    /// The tables of some angles, as constants below `name`.
    pub fn rotation(&mut self, name: &str, angles: &Angles) -> Result<Rotation> {
        let shape = vec![angles.positions, angles.frequencies.len()];
        let [cos, sin] = angles.tables();
        let cos = self.constant(&format!("{name}.cos"), Weight::f32s(shape.clone(), &cos)?);
        let sin = self.constant(&format!("{name}.sin"), Weight::f32s(shape, &sin)?);
        Ok(Rotation { cos, sin, interleaved: false })
    }

    /// Queries and keys turned by their positions; values as they are.
    pub fn rotated(
        &mut self,
        attention: &Scope,
        i: usize,
        (layer, rotation): (&DecoderLayer, &Rotation),
        [query, key, value]: [ValueId; 3],
        inputs: &DecoderInputs,
    ) -> Result<[ValueId; 3]> {
        self.role(crate::ir::Role::layer(Part::Attention, i));
        let Rotation { cos, sin, interleaved } = *rotation;
        let mut turn = |what: &str, heads: i64, x: ValueId| {
            let op = Op::Rotary { heads, interleaved };
            self.builder.node(&attention.full(what), op, &[x, cos, sin, inputs.positions])
        };
        let query = turn("query", layer.sizes.heads, query)?;
        Ok([query, turn("key", layer.kv_heads, key)?, value])
    }
}
