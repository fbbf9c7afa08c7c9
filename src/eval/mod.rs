//! Are the answers still right? Parity of two sets of outputs, accuracy on labelled texts, and gates over both.

mod dataset;
mod gate;
mod golden;
mod parity;
mod probes;
mod score;

pub use dataset::{Example, Truth, parse_examples, read_examples};
pub use gate::{Check, Gate};
pub use golden::Golden;
pub use parity::Parity;
pub use probes::PROBES;
pub use score::Score;
