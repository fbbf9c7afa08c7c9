//! An answer to a question.

use serde::Serialize;

/// An answer, as in the Hub's `question-answering`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// The probability that an answer begins here times that it ends here; a sum, where the same words are at several
    /// positions or windows.
    pub score: f32,
    /// Where it begins in the text, in characters.
    pub start: usize,
    /// Where it ends, in characters.
    pub end: usize,
    /// Its text; empty, where there is no answer.
    pub answer: String,
}
