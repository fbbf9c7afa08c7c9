//! What goes wrong in a template, in words.

use std::error::Error as _;
use std::fmt;

use minijinja::ErrorKind;

use super::limits::STEPS;
use crate::error::{Error, printable_sentence};
use crate::runtime::LONGEST_TEXT;

/// What a template raised by `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The error of a template, with its file and line.
pub(super) fn of(error: &minijinja::Error, file: &str) -> Error {
    let mut causes = vec![error];
    let mut raised = None;
    let mut next = error.source();
    while let Some(cause) = next {
        causes.extend(cause.downcast_ref::<minijinja::Error>());
        raised = raised.or(cause.downcast_ref::<Raised>());
        next = cause.source();
    }
    let is = |kind: ErrorKind| causes.iter().any(|cause| cause.kind() == kind);
    // The innermost is where it happened.
    let line = causes.iter().rev().find_map(|cause| cause.line());
    let error = if let Some(Raised(message)) = raised {
        Error::bad_input(format!("the chat template refuses the messages: {}", printable_sentence(message)))
    } else if is(ErrorKind::OutOfFuel) {
        Error::bad_input(format!("the chat template does not end within {STEPS} steps"))
            .hint("it loops, or the messages are too many or too long for it")
    } else if is(ErrorKind::WriteFailure) {
        Error::bad_input(format!("the chat template makes a text of more than {LONGEST_TEXT} bytes"))
    } else {
        Error::bad_input(format!("the chat template fails: {}", printable_sentence(&sentence(&causes))))
    };
    match line {
        Some(line) => error.at(format!("{file} line {line}")),
        None => error.at(file.to_owned()),
    }
}

/// The kinds and details of an error and its causes, without their locations.
fn sentence(causes: &[&minijinja::Error]) -> String {
    let said = |cause: &&minijinja::Error| match cause.detail() {
        Some(detail) => format!("{}: {detail}", cause.kind()),
        None => cause.kind().to_string(),
    };
    causes.iter().map(said).collect::<Vec<_>>().join(": ")
}
