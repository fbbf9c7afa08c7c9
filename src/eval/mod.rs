//! Accuracy and agreement: parity of two sets of outputs, measures on labelled texts of every task, and gates
//! over both.

mod compare;
mod compared;
mod correlation;
mod dataset;
mod entities;
mod gate;
mod golden;
mod greedy;
mod masks;
mod parity;
mod probes;
mod rows;
mod score;
mod spans;
mod workload;

pub use compare::{Comparison, OutputParity, TextOutput, answer, per_text, reported};
pub use compared::{Accuracy, Compared, lost};
pub use correlation::Correlation;
pub use dataset::{
    Example, Located, Masked, Pair, Question, Tagged, Text, Truth, examples, examples_with_any_labels, is_misspelt,
    not_none, parse_examples, parse_masked, parse_pairs, parse_questions, parse_tagged, parse_texts, read_examples,
    read_masked, read_pairs, read_questions, read_tagged, read_texts,
};
pub use entities::{Entity, EntityScore, KindScore, Tagging, entities, kind};
pub use gate::{Check, Gate, short};
pub use golden::Golden;
pub use greedy::{Beginnings, Greedy, TIE};
pub use masks::{MaskScore, TokenScore};
pub use parity::Parity;
pub use probes::PROBES;
pub use score::Score;
pub use spans::{Part, SpanScore};
pub use workload::{Reference, Workload};
