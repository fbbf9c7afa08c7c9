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

/// A rotation of heads by tables that a graph has once.
#[derive(Clone, Debug)]
pub struct Rotation {
    name: &'static str,
    angles: Angles,
    interleaved: bool,
}

impl Rotation {
    /// By these angles, with tables below `name`.
    pub fn new(name: &'static str, angles: Angles) -> Rotation {
        Rotation { name, angles, interleaved: false }
    }

    /// The same for channels whose pairs are neighbours.
    pub fn interleaved(self) -> Rotation {
        Rotation { interleaved: true, ..self }
    }
}

impl Blocks {
    /// Cosines and sines. They are made where the first heads are turned, whose size the weights have confirmed by then.
    fn tables(&mut self, rotation: &Rotation) -> Result<[ValueId; 2]> {
        let names = ["cos", "sin"].map(|part| format!("{}.{part}", rotation.name));
        if let [Some(cos), Some(sin)] = names.each_ref().map(|name| self.weights.get(name)) {
            return Ok([*cos, *sin]);
        }
        let shape = vec![rotation.angles.positions, rotation.angles.frequencies.len()];
        let [cos, sin] = rotation.angles.tables();
        let [cos_name, sin_name] = names;
        let cos = self.constant(&cos_name, Weight::f32s(shape.clone(), &cos)?);
        Ok([cos, self.constant(&sin_name, Weight::f32s(shape, &sin)?)])
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
        let ([cos, sin], interleaved) = (self.tables(rotation)?, rotation.interleaved);
        let mut turn = |what: &str, heads: i64, x: ValueId| {
            let op = Op::Rotary { heads, interleaved };
            self.builder.node(&attention.full(what), op, &[x, cos, sin, inputs.positions])
        };
        let query = turn("query", layer.sizes.heads, query)?;
        Ok([query, turn("key", layer.kv_heads, key)?, value])
    }
}
