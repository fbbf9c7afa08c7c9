//! Rotary positions: tables of cosines and sines, and heads that are turned by them.

use super::{Blocks, DecoderInputs, DecoderLayer};
use crate::error::{Error, Result};
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
    /// Those of texts that are longer than others.
    pub longer: Longer,
}

/// Frequencies that follow how many tokens a text has: the past ones of a run and its new ones, padding left out.
#[derive(Clone, Debug, PartialEq)]
pub enum Longer {
    /// They do not.
    Same,
    /// Others for texts of more tokens than these.
    Others {
        /// Most tokens of a text by the frequencies for short ones.
        trained: usize,
        /// The frequency of each pair in longer texts.
        frequencies: Vec<f32>,
        /// Whether the family's class runs a text anew once it has become longer.
        restarts: bool,
    },
    /// Others for each number of tokens beyond those trained.
    Growing(DynamicBase),
}

/// A base of angles that grows with the length of a text: `theta · (factor · length / trained − factor + 1)^(d / (d −
/// 2))` for `d` channels (`dynamic` of `transformers`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicBase {
    /// Most tokens of a text whose base is `theta`.
    pub trained: usize,
    /// The base of texts that are not longer.
    pub theta: f32,
    /// How many times as long texts may become.
    pub factor: f64,
    /// How many channels of a head are turned, more than 2.
    pub turned: usize,
}

impl DynamicBase {
    /// The frequency of each pair in texts of so many tokens, in 32 bits.
    pub fn frequencies(&self, length: usize) -> Vec<f32> {
        let share = self.factor as f32 * length as f32 / self.trained as f32 - (self.factor - 1.0) as f32;
        let power = self.turned as f64 / self.turned.saturating_sub(2) as f64;
        let base = self.theta * f64::from(share).powf(power) as f32;
        wave_lengths(base, self.turned).into_iter().map(f32::recip).collect()
    }
}

/// `base^(2i/d)` for each pair of `d` channels, in 32 bits.
pub fn wave_lengths(base: f32, turned: usize) -> Vec<f32> {
    let share = |i: usize| (2 * i) as f32 / turned as f32;
    (0..turned / 2).map(|i| f64::from(base).powf(f64::from(share(i))) as f32).collect()
}

impl Angles {
    /// Cosines and sines, `[positions, pairs]` each, after those of short texts where longer ones have others. Angles
    /// are products in 32 bits, as in `transformers`.
    fn tables(&self) -> [Vec<f32>; 2] {
        let of = |function: fn(f64) -> f64| match &self.longer {
            Longer::Others { trained, frequencies, .. } => {
                let short = self.rows(function, &self.frequencies, *trained);
                short.chain(self.rows(function, frequencies, self.positions)).collect()
            }
            _ => self.rows(function, &self.frequencies, self.positions).collect(),
        };
        [of(f64::cos), of(f64::sin)]
    }

    fn rows(&self, function: fn(f64) -> f64, frequencies: &[f32], positions: usize) -> impl Iterator<Item = f32> {
        let row = move |at: usize| {
            frequencies.iter().map(move |frequency| function(f64::from(at as f32 * frequency)) as f32 * self.factor)
        };
        (0..positions).flat_map(row)
    }

    /// How many rows the tables have.
    fn table_rows(&self) -> usize {
        match &self.longer {
            Longer::Others { trained, .. } => trained.saturating_add(self.positions),
            _ => self.positions,
        }
    }
}

/// A rotation of heads by tables that a graph has once.
#[derive(Clone, Debug)]
pub struct Rotation {
    name: &'static str,
    angles: Angles,
    interleaved: bool,
}

/// Cosines and sines, and the rows of them that tokens have; where there are none, each token has its own.
struct Turns {
    cos_sin: [ValueId; 2],
    rows: Option<ValueId>,
}

impl Rotation {
    /// By these angles, with tables below `name`.
    pub fn new(name: &'static str, angles: Angles) -> Rotation {
        Rotation { name, angles, interleaved: false }
    }

    /// Whether tokens have rows in its tables.
    fn has_rows(&self) -> bool {
        !matches!(self.angles.longer, Longer::Growing(_))
    }

    /// The same for channels whose pairs are neighbours.
    pub fn interleaved(self) -> Rotation {
        Rotation { interleaved: true, ..self }
    }
}

impl Blocks {
    /// Cosines and sines. They are made where the first heads are turned, whose size the weights have confirmed by then.
    fn turns(&mut self, rotation: &Rotation, inputs: &DecoderInputs) -> Result<Turns> {
        let made = ["cos", "sin", "rows"].map(|part| self.weights.get(&format!("{}.{part}", rotation.name)).copied());
        if let [Some(cos), Some(sin), rows] = made {
            let rows = rows.or_else(|| rotation.has_rows().then_some(inputs.positions));
            return Ok(Turns { cos_sin: [cos, sin], rows });
        }
        match &rotation.angles.longer {
            Longer::Same => Ok(Turns { cos_sin: self.tables(rotation)?, rows: Some(inputs.positions) }),
            Longer::Others { trained, restarts, .. } => {
                let rows = self.rows_by_length(&format!("{}.rows", rotation.name), (*trained, *restarts), inputs)?;
                Ok(Turns { cos_sin: self.tables(rotation)?, rows: Some(rows) })
            }
            Longer::Growing(base) => Ok(Turns { cos_sin: self.growing(rotation, base, inputs)?, rows: None }),
        }
    }

    fn tables(&mut self, rotation: &Rotation) -> Result<[ValueId; 2]> {
        let shape = vec![rotation.angles.table_rows(), rotation.angles.frequencies.len()];
        let [cos, sin] = rotation.angles.tables();
        let [cos_name, sin_name] = ["cos", "sin"].map(|part| format!("{}.{part}", rotation.name));
        let cos = self.constant(&cos_name, Weight::f32s(shape.clone(), &cos)?);
        Ok([cos, self.constant(&sin_name, Weight::f32s(shape, &sin)?)])
    }

    /// The rows of tokens in tables for short texts and, after these, for longer ones.
    fn rows_by_length(
        &mut self,
        name: &str,
        (trained, restarts): (usize, bool),
        inputs: &DecoderInputs,
    ) -> Result<ValueId> {
        self.role(Part::Position);
        let trained = i64::try_from(trained).map_err(|_| Error::bug("positions are bounded"))?;
        let rows = self.builder.node(name, Op::RowsByLength { trained, restarts }, &[inputs.positions])?;
        self.weights.insert(name.to_owned(), rows);
        Ok(rows)
    }

    /// Cosines and sines `[b, s, pairs]` by frequencies for each length.
    fn growing(&mut self, rotation: &Rotation, base: &DynamicBase, inputs: &DecoderInputs) -> Result<[ValueId; 2]> {
        self.role(Part::Position);
        let at = |part: &str| format!("{}.{part}", rotation.name);
        let Angles { frequencies, factor, positions, .. } = &rotation.angles;
        let longer = (base.trained + 1..=*positions).flat_map(|length| base.frequencies(length));
        let all: Vec<f32> = frequencies.iter().copied().chain(longer).collect();
        let shape = vec![all.len() / frequencies.len().max(1), frequencies.len()];
        let all = self.constant(&at("frequencies"), Weight::f32s(shape, &all)?);
        let trained = i64::try_from(base.trained).map_err(|_| Error::bug("positions are bounded"))?;
        let made =
            self.builder.nodes(rotation.name, Op::GrowingAngles { trained }, &[Some(all), Some(inputs.positions)])?;
        let &[cos, sin] = made.as_slice() else { return Err(Error::bug("angles have cosines and sines")) };
        let (cos, sin) = (self.times(&at("cos"), *factor, cos)?, self.times(&at("sin"), *factor, sin)?);
        self.weights.extend([(at("cos"), cos), (at("sin"), sin)]);
        Ok([cos, sin])
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
        let Turns { cos_sin: [cos, sin], rows } = self.turns(rotation, inputs)?;
        self.role(crate::ir::Role::layer(Part::Attention, i));
        let mut turn = |what: &str, heads: i64, x: ValueId| {
            let op = Op::Rotary { heads, interleaved: rotation.interleaved };
            let operands: Vec<ValueId> = [x, cos, sin].into_iter().chain(rows).collect();
            self.builder.node(&attention.full(what), op, &operands)
        };
        let query = turn("query", layer.sizes.heads, query)?;
        Ok([query, turn("key", layer.kv_heads, key)?, value])
    }
}
