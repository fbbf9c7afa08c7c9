//! The one error type of kilnc.
//!
//! An error names the thing, what was expected and what was found. Where it was met ([`Error::at`]) and what can be
//! done about it ([`Error::hint`]) are kept apart, so that the command line can lay them out and `--json` can carry them.

use std::fmt;

/// The result of everything in kilnc that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act on an error; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, flag or recipe is wrong. Exit code 2.
    BadInput,
    /// The input is sound, but kilnc does not do this. Exit code 2.
    Unsupported,
    /// The build worked and its answers did not pass a gate. Exit code 3.
    GateFailed,
    /// A native library or a device is not there. Exit code 4.
    RuntimeMissing,
    /// kilnc broke one of its own invariants. Exit code 1.
    Bug,
}

impl Kind {
    /// The stable name of the kind, as `--json` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::BadInput => "bad-input",
            Kind::Unsupported => "unsupported",
            Kind::GateFailed => "gate-failed",
            Kind::RuntimeMissing => "runtime-missing",
            Kind::Bug => "bug",
        }
    }
}

/// What went wrong, where, and what to do about it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    locations: Vec<String>,
    hints: Vec<String>,
}

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), locations: Vec::new(), hints: Vec::new() }))
    }

    /// A file, flag or recipe is wrong.
    pub fn bad_input(message: impl Into<String>) -> Error {
        Error::new(Kind::BadInput, message)
    }

    /// Sound input that asks for something kilnc does not do.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(Kind::Unsupported, message)
    }

    /// A result that missed a gate.
    pub fn gate_failed(message: impl Into<String>) -> Error {
        Error::new(Kind::GateFailed, message)
    }

    /// A native library or device that is not there.
    pub fn runtime_missing(message: impl Into<String>) -> Error {
        Error::new(Kind::RuntimeMissing, message)
    }

    /// A broken invariant of kilnc itself.
    pub fn bug(message: impl Into<String>) -> Error {
        Error::new(Kind::Bug, message)
    }

    /// An operating system's refusal while `action` (“reading”, “writing”) was done to `path`.
    pub fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Error {
        Error::bad_input(format!("{action} {}: {error}", path.display()))
    }

    /// Adds where the error was met; the innermost place comes first.
    pub fn at(mut self, location: impl Into<String>) -> Error {
        self.0.locations.push(location.into());
        self
    }

    /// Adds something the reader can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hints.push(hint.into());
        self
    }

    /// Who has to act.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What was expected and what was found, on one line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where the error was met, innermost first.
    pub fn locations(&self) -> &[String] {
        &self.0.locations
    }

    /// What can be done, most useful first.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }

    /// The process's exit code for this error.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Bug => 1,
            Kind::BadInput | Kind::Unsupported => 2,
            Kind::GateFailed => 3,
            Kind::RuntimeMissing => 4,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.message)?;
        for location in &self.0.locations {
            write!(f, "\n  in {location}")?;
        }
        for (i, hint) in self.0.hints.iter().enumerate() {
            write!(f, "{}\nhint: {hint}", if i == 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind.name())
    }
}

impl std::error::Error for Error {}

/// A name that came from outside, made safe to print: control characters escaped, cut at 120 characters.
pub fn printable(name: &str) -> String {
    escaped(name, 120)
}

/// A text of ours in which a name from outside may stand: whatever moves the cursor is escaped, but for line feeds.
pub fn visible(text: &str) -> String {
    let hidden =
        |c: char| c.is_control() && c != '\n' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// Like [`printable`], for a sentence in which text from outside may stand: cut at 500 characters.
pub fn printable_sentence(sentence: &str) -> String {
    escaped(sentence, 500)
}

fn escaped(text: &str, longest: usize) -> String {
    let mut out = String::new();
    for c in text.chars().take(longest) {
        match c {
            '"' | '\'' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    if text.chars().count() > longest {
        out.push('…');
    }
    out
}

/// How much of two names is compared, in characters: the comparison takes memory for every pair of them.
const COMPARED: usize = 256;

/// How many names one is compared with.
const CANDIDATES: usize = 1 << 16;

fn distance(a: &str, b: &str) -> usize {
    let [a, b] =
        [a, b].map(|name| name.char_indices().nth(COMPARED).and_then(|(end, _)| name.get(..end)).unwrap_or(name));
    strsim::damerau_levenshtein(a, b)
}

/// `known`, the entries that are nearest to `name` first.
pub fn by_nearness<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut sorted: Vec<&str> = known.into_iter().collect();
    sorted.sort_by_cached_key(|candidate| distance(name, candidate));
    sorted
}

/// The entry of `known` that is nearest to `name`, if any is near enough to be what was meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = name.chars().take(COMPARED).count() / 3 + 1;
    known
        .into_iter()
        .take(CANDIDATES)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_prints_message_place_and_hint_apart() {
        let error = Error::bad_input("tensor `w` has shape [2], expected [3]")
            .at("model.safetensors")
            .hint("the files look like different models");
        assert_eq!(
            error.to_string(),
            "tensor `w` has shape [2], expected [3]\n  in model.safetensors\n\nhint: the files look like different models"
        );
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn names_from_outside_cannot_move_the_cursor_or_flood_the_screen() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert!(printable(&"x".repeat(1_000_000)).chars().count() <= 121);
        assert_eq!(visible("a\u{1b}[2J\r\u{202e}\nbé"), "a\\u{1b}[2J\\r\\u{202e}\nbé");
    }

    #[test]
    fn nearest_offers_only_what_is_near() {
        assert_eq!(nearest("robertta", ["bert", "roberta"]), Some("roberta"));
        assert_eq!(nearest("llama", ["bert", "roberta"]), None);
    }

    #[test]
    fn names_of_any_length_and_number_are_compared_in_bounded_memory() {
        let long = "x".repeat(100_000_000);
        assert_eq!(nearest(&long, ["bert", &long]), Some(&*long));
        assert_eq!(by_nearness(&long, ["roberta", "xxx"]), ["xxx", "roberta"]);
        assert_eq!(nearest("bert", std::iter::repeat_n("roberta", 100_000_000)), None);
    }
}
