//! How texts are asked and answers told.

use super::{Aggregation, Join, Model};
use crate::error::{Error, Result};
use crate::runtime::Lengths;

/// How texts are asked and answers told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Longest window in tokens; the model's own, if not given.
    pub window: Option<usize>,
    /// How many tokens a window shares with the one before it; a quarter of a window, if not given.
    pub stride: Option<usize>,
    /// Whether a text that is longer than a window is cut, rather than read in several.
    pub truncate: bool,
    /// How many windows are run together. One keeps answers apart: engines in 8 bits with dynamic ranges scale a whole
    /// batch at once.
    pub batch: usize,
    /// How the scores of several windows become one.
    pub join: Join,
    /// How many answers are told: labels, spans or tokens. If not given, the labels that are chosen, one span, five
    /// tokens.
    pub top_k: Option<usize>,
    /// How tokens become entities.
    pub aggregation: Aggregation,
    /// Longest answer to a question, in tokens.
    pub longest_answer: usize,
    /// Whether a question may have no answer; then the empty one competes with the others.
    pub no_answer: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            window: None,
            stride: None,
            truncate: false,
            batch: 1,
            join: Join::default(),
            top_k: None,
            aggregation: Aggregation::default(),
            longest_answer: 15,
            no_answer: false,
        }
    }
}

/// The windows that texts are cut into. Fails where they cannot be.
pub(super) fn lengths(options: &Options, model: &Model, longest: usize) -> Result<Lengths> {
    let window = options.window.unwrap_or(longest);
    if !(2..=longest).contains(&window) {
        return Err(Error::bad_input(format!("a window of {window} tokens is outside 2…{longest}"))
            .hint("the model reads no more at once"));
    }
    let stride = options.stride.unwrap_or(window / 4);
    if stride >= window {
        return Err(Error::bad_input(format!(
            "the stride is {stride}, which is no less than the window of {window} tokens"
        ))
        .hint("the stride is what two windows share; a quarter of a window is taken where nothing is said"));
    }
    let nothing = [("a batch of 0 texts", options.batch), ("0 answers are asked for", options.top_k.unwrap_or(1))];
    let nothing = nothing.into_iter().chain([("an answer of 0 tokens", options.longest_answer)]);
    if let Some((what, _)) = nothing.into_iter().find(|(_, n)| *n == 0) {
        return Err(Error::bad_input(what));
    }
    Ok(Lengths { window, stride, truncate: options.truncate, slide: model.slide() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Classes;
    use crate::task::Task;

    #[test]
    fn windows_and_strides_that_cannot_be_are_refused() {
        let model = Model::new(Task::TextClassification, Classes::default(), "bert");
        let said = |options: Options| lengths(&options, &model, 64).unwrap_err().message().to_owned();
        let options = Options::default();
        assert_eq!(said(Options { window: Some(65), ..options }), "a window of 65 tokens is outside 2…64");
        assert_eq!(said(Options { window: Some(1), ..options }), "a window of 1 tokens is outside 2…64");
        let expected = "the stride is 64, which is no less than the window of 64 tokens";
        assert_eq!(said(Options { stride: Some(64), ..options }), expected);
        assert_eq!(said(Options { batch: 0, ..options }), "a batch of 0 texts");
        assert_eq!(said(Options { top_k: Some(0), ..options }), "0 answers are asked for");
        assert_eq!(said(Options { longest_answer: 0, ..options }), "an answer of 0 tokens");
        assert_eq!(lengths(&options, &model, 64).unwrap().stride, 16);
    }
}
