//! The text form of a graph.
//!
//! ```text
//! graph "tiny" {
//!   input %x: f32[batch_size, 4]
//!   weight %w: f32[4, 2] = transpose(source "dense.weight" f32[2, 4])
//!   %y: f32[batch_size, 2] = Linear(%x, %w)
//!   %z: f32[batch_size, 2] = Softmax {axis=-1} (%y) @head
//!   output %z
//! }
//! ```
//!
//! Sizes are numbers, names, and sums, products, divisions and maxima of them: `past + s`, `512*ceil(s/512)`, `max(s, 16)`.
//! Constants are written where they are first read. An absent optional operand is `_`. Data of file tensors is not part of
//! the text: a graph that was parsed has types, and sources without data.

mod expression;
mod parse;
mod print;
mod size;

pub use parse::{parse, parse_type};

use super::weight::Weight;

/// The text of a weight: its type, and how its elements come about.
pub fn weight(weight: &Weight) -> String {
    expression::Expression::typed(weight).to_string()
}
