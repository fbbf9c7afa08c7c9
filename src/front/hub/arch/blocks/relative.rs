//! Attention by positions and token types.

use super::{Blocks, EncoderLayer};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Op, Part, ValueId};

/// Longest sequence whose distances are listed where nothing in a checkpoint bounds it.
pub const LONGEST: usize = 1 << 13;

impl Blocks {
    /// T5's bias by relative position, with the buckets that `transformers` fixes for MPNet.
    pub fn relative_bias(&mut self, p: &Scope, layer: &EncoderLayer, positions: Size, ids: ValueId) -> Result<ValueId> {
        self.role(Part::Embedding);
        let rows = p.shape("weight")?.first().copied().unwrap_or_default();
        let heads = Size { n: layer.heads as usize, field: "num_attention_heads" };
        let table = [Size { n: rows, field: "relative_attention_num_buckets" }, heads];
        let table = self.weight(p, "weight", &table)?;
        let op = Op::RelativeBias { buckets: 32, max_distance: 128, positions: count(positions.n) };
        self.builder.node(p.path(), op, &[table, ids])
    }

    /// Rotary positions for one projection.
    pub fn rotary(&mut self, name: &str, heads: i64, theta: f32, positions: usize, x: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::ThetaRotary { heads, theta, positions: count(positions) }, &[x])
    }

    /// The mask that keeps attention within `window` tokens to either side.
    pub fn local_bias(&mut self, name: &str, window: i64, positions: usize, ids: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::LocalBias { window, positions: count(positions) }, &[ids])
    }

    /// The rows of a table `[2 · span, …]` of the distances `s, s − 1 … 1 − s`, or for their opposites.
    pub fn distance_rows(
        &mut self,
        name: &str,
        [buckets, max_distance, positions]: [usize; 3],
        opposite: bool,
        ids: ValueId,
    ) -> Result<ValueId> {
        let [buckets, max_distance, positions] = [buckets, max_distance, positions].map(count);
        self.builder.node(name, Op::DistanceRows { buckets, max_distance, opposite, positions }, &[ids])
    }

    /// Rows of a table that was computed.
    pub fn rows_of(&mut self, name: &str, table: ValueId, rows: ValueId) -> Result<ValueId> {
        self.builder.node(name, Op::Embed, &[table, rows])
    }

    /// Sines and cosines of the distances `s, s − 1 … 1 − s`, which end at `clamp` if it is not 0.
    pub fn sinusoids(&mut self, width: Size, clamp: usize, positions: usize, ids: ValueId) -> Result<ValueId> {
        let op = Op::Sinusoids { width: count(width.n), clamp: count(clamp), positions: count(positions) };
        self.builder.node("sinusoids", op, &[ids])
    }

    /// `scale` times the products of queries, or of keys, with the rows of their distances.
    pub fn distance_scores(
        &mut self,
        name: &str,
        heads: i64,
        scale: f32,
        keys: bool,
        [x, rows]: [ValueId; 2],
    ) -> Result<ValueId> {
        self.builder.node(name, Op::DistanceScores { heads, scale, keys }, &[x, rows])
    }

    /// `scale` times the products of queries with one row for keys of the same type and one for those of another.
    pub fn segment_scores(
        &mut self,
        name: &str,
        heads: i64,
        scale: f32,
        [x, table, types]: [ValueId; 3],
    ) -> Result<ValueId> {
        self.builder.node(name, Op::SegmentScores { heads, scale }, &[x, table, types])
    }

    /// A mask by query and key that lets every token attend to itself, padding too.
    pub fn self_mask(&mut self, positions: usize, mask: ValueId) -> Result<ValueId> {
        self.builder.node("self_mask", Op::SelfMask { positions: count(positions) }, &[mask])
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
