//! Are the answers still right? Parity of two sets of outputs, accuracy on labelled texts, and gates over both.

mod dataset;
mod gate;
mod golden;
mod parity;
mod probes;
mod rows;
mod score;

pub use dataset::{Example, Truth, examples, not_none, parse_examples, read_examples};
pub use gate::{Check, Gate, short};
pub use golden::Golden;
pub use parity::Parity;
pub use probes::PROBES;
pub use rows::Lines;
pub use score::Score;
