//! Norms by the names of papers, over hidden states and over heads.

use super::Blocks;
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Op, Part, Role, ValueId, Weight};

/// A norm over the last dimension, and what is added to the mean of squares.
#[derive(Clone, Copy, Debug)]
pub enum Norm {
    /// Mean and variance, with a scale and a shift (arXiv 1607.06450).
    Layer(f32),
    /// Mean and variance, with a scale.
    LayerScale(f32),
    /// The root of the mean square, with a scale (arXiv 1910.07467).
    Rms(f32),
    /// The same, with one plus a scale.
    RmsPlusOne(f32),
}

impl Blocks {
    /// `x` normed, by the weights of a scope.
    pub fn normed(&mut self, norm: Norm, p: &Scope, width: Size, x: ValueId) -> Result<ValueId> {
        let (op, scale) = match norm {
            Norm::Layer(epsilon) => return self.layer_norm(p, width, epsilon, x),
            Norm::LayerScale(epsilon) => (Op::LayerNorm { epsilon }, self.weight(p, "weight", &[width])?),
            Norm::Rms(epsilon) => (Op::RmsNorm { epsilon }, self.weight(p, "weight", &[width])?),
            Norm::RmsPlusOne(epsilon) => {
                let scale = p.tensor("weight", &[width])?;
                let ones = Weight::f32s(vec![width.n], &vec![1.0; width.n])?;
                let scale = Weight::sum(vec![(1.0, scale), (1.0, ones)])?;
                (Op::RmsNorm { epsilon }, self.constant(&p.full("weight"), scale))
            }
        };
        self.builder.node(p.path(), op, &[x, scale])
    }

    /// The norm before attention.
    pub fn attention_norm(&mut self, norm: Norm, p: &Scope, i: usize, width: Size, x: ValueId) -> Result<ValueId> {
        self.role(Role::layer(Part::AttentionNorm, i));
        self.normed(norm, p, width, x)
    }

    /// The norm before the feed-forward block.
    pub fn feed_forward_norm(&mut self, norm: Norm, p: &Scope, i: usize, width: Size, x: ValueId) -> Result<ValueId> {
        self.role(Role::layer(Part::FeedForwardNorm, i));
        self.normed(norm, p, width, x)
    }

    /// Each of `heads` heads normed alone, all by the same weights.
    pub fn normed_heads(&mut self, norm: Norm, p: &Scope, heads: i64, size: Size, x: ValueId) -> Result<ValueId> {
        let by_head = self.by_head(p, heads, size, x)?;
        let normed = self.normed(norm, p, size, by_head)?;
        self.joined_heads(p, heads, size, normed)
    }

    /// Each of the heads normed alone by mean and variance, and scaled by weights of its own, `[heads, size]`.
    pub fn heads_scaled_apart(
        &mut self,
        epsilon: f32,
        p: &Scope,
        [heads, size]: [Size; 2],
        x: ValueId,
    ) -> Result<ValueId> {
        let count = i64::try_from(heads.n).unwrap_or_default();
        let by_head = self.by_head(p, count, size, x)?;
        let ones = Weight::f32s(vec![size.n], &vec![1.0; size.n])?;
        let ones = self.constant(&p.full("ones"), ones);
        let normed = self.builder.node(&p.full("normal"), Op::LayerNorm { epsilon }, &[by_head, ones])?;
        let scale = self.weight(p, "weight", &[heads, size])?;
        let scaled = self.mul(p.path(), normed, scale)?;
        self.joined_heads(p, count, size, scaled)
    }

    /// `[b, s, heads · size] → [b, s, heads, size]`
    fn by_head(&mut self, p: &Scope, heads: i64, size: Size, x: ValueId) -> Result<ValueId> {
        let shape = vec![0, 0, heads, size.n as i64];
        self.builder.node(&p.full("heads"), Op::Reshape { shape }, &[x])
    }

    /// `[b, s, heads, size] → [b, s, heads · size]`
    fn joined_heads(&mut self, p: &Scope, heads: i64, size: Size, x: ValueId) -> Result<ValueId> {
        let shape = vec![0, 0, heads.saturating_mul(size.n as i64)];
        self.builder.node(&p.full("joined"), Op::Reshape { shape }, &[x])
    }

    /// `x` times a number.
    pub fn times(&mut self, name: &str, factor: f32, x: ValueId) -> Result<ValueId> {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = self.number(&format!("{name}.factor"), factor)?;
        self.mul(name, x, factor)
    }

    /// `cap · tanh(x / cap)`: no element beyond it (arXiv 1611.09940).
    pub fn capped(&mut self, name: &str, cap: f32, x: ValueId) -> Result<ValueId> {
        let number = self.number(&format!("{name}.cap"), cap)?;
        let share = self.builder.node(&format!("{name}.share"), Op::Div, &[x, number])?;
        let bounded = self.builder.node(&format!("{name}.bounded"), Op::Tanh, &[share])?;
        self.mul(name, bounded, number)
    }
}
