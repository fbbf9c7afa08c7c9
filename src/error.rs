//! The one error type of kilnc.
//!
//! An error names the thing, what was expected and what was found. Where it was met ([`Error::at`]) and what can be
//! done about it ([`Error::hint`]) are separate fields, so that the command line can lay them out and `--json` can
//! report them. An error that the operating system or a library gave stays its source.

use std::fmt;
use std::io;
use std::path::Path;

/// The result of everything in kilnc that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act on an error; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, flag or recipe is wrong. Exit code 2.
    BadInput,
    /// The input is sound, but kilnc does not do this. Exit code 2.
    Unsupported,
    /// The build worked and an engine missed a gate. Exit code 3.
    GateFailed,
    /// A native library or a device is not there. Exit code 4.
    RuntimeMissing,
    /// The machine failed: its disk is full, permission is missing, memory or open files ran out. Exit code 5.
    MachineFailed,
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
            Kind::MachineFailed => "machine-failed",
            Kind::Bug => "bug",
        }
    }
}

/// An error: the message, its locations, and hints.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    locations: Vec<String>,
    hints: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), locations: Vec::new(), hints: Vec::new(), source: None }))
    }

    /// A file, flag or recipe is wrong.
    pub fn bad_input(message: impl Into<String>) -> Error {
        Error::new(Kind::BadInput, message)
    }

    /// Sound input that needs a feature which kilnc lacks.
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

    /// A disk, memory, permission or another means of the machine that was not there.
    pub fn machine_failed(message: impl Into<String>) -> Error {
        Error::new(Kind::MachineFailed, message)
    }

    /// An operating system's refusal while `action` (“reading”, “writing”) was done to `path`.
    pub fn io(action: &str, path: &Path, error: &io::Error) -> Error {
        Error::of_system(format!("{action} {}", path.display()), error)
    }

    /// An operating system's refusal of `what` (“standard output”): the machine's failure where [`is_machine_fault`]
    /// says so, otherwise bad input.
    pub fn of_system(what: impl fmt::Display, error: &io::Error) -> Error {
        let make = if is_machine_fault(error) { Error::machine_failed } else { Error::bad_input };
        make(format!("{what}: {error}")).because(error)
    }

    /// A library's refusal of its input, in its words: the machine's failure where they name one, and bad
    /// input else.
    pub fn of_library(
        what: impl fmt::Display,
        said: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        let make = if tells_of_machine_fault(said) { Error::machine_failed } else { Error::bad_input };
        let mut error = make(format!("{what}: {said}"));
        error.0.source = Some(source.into());
        error
    }

    /// Keeps the operating system's error as the source.
    pub fn because(self, error: &io::Error) -> Error {
        self.caused_by(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        })
    }

    /// Keeps the error of a library as this one's source.
    pub fn caused_by(mut self, error: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.0.source = Some(Box::new(error));
        self
    }

    /// Adds where the error was met; the innermost location comes first.
    pub fn at(mut self, location: impl Into<String>) -> Error {
        self.0.locations.push(location.into());
        self
    }

    /// Adds something the reader can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hints.push(hint.into());
        self
    }

    /// Adds which of the known names is meant, if one is near.
    pub fn hint_nearest<'a>(self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
        match nearest(name, known) {
            Some(near) => self.hint(format!("did you mean {near}?")),
            None => self,
        }
    }

    /// Adds which of the known names is meant, or another hint where none is near.
    pub fn hint_nearest_or<'a>(
        self,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
        otherwise: impl Into<String>,
    ) -> Error {
        let hints = self.hints().len();
        let error = self.hint_nearest(name, known);
        if error.hints().len() > hints { error } else { error.hint(otherwise) }
    }

    /// The same with another name for something that it speaks of.
    pub fn renamed(mut self, from: &str, to: &str) -> Error {
        let Inner { message, locations, hints, .. } = &mut *self.0;
        std::iter::once(message).chain(locations).chain(hints).for_each(|text| *text = text.replace(from, to));
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

    /// The message for shipped files: without the paths of this machine, which no other machine
    /// has and which would be others in another build.
    pub fn portable(&self) -> String {
        portable(&self.0.message, &self.0.kind.name().replace('-', " "))
    }

    /// The hints that hold on another machine, too.
    pub fn portable_hints(&self) -> impl Iterator<Item = &str> {
        self.0.hints.iter().map(String::as_str).filter(|hint| location(hint).is_none())
    }

    /// Where the error was met, innermost first.
    pub fn locations(&self) -> &[String] {
        &self.0.locations
    }

    /// The hints, most useful first.
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
            Kind::MachineFailed => 5,
        }
    }
}

/// Whether an operating system's error is a fault of the machine, and not of the request: no space, quota,
/// memory, permission, open file or process left, a disk or a network that fails.
pub fn is_machine_fault(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge | K::WriteZero | K::OutOfMemory => true,
        K::PermissionDenied | K::ReadOnlyFilesystem | K::BrokenPipe => true,
        K::WouldBlock | K::ResourceBusy | K::Deadlock | K::TimedOut | K::StaleNetworkFileHandle => true,
        K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown | K::ConnectionReset | K::ConnectionAborted => true,
        _ => error.raw_os_error().is_some_and(|code| MACHINE_CODES.contains(&code)),
    }
}

/// Codes that Rust's standard library has no kind for: a disk that fails, open files, locks and buffers that ran out.
#[cfg(unix)]
const MACHINE_CODES: [i32; 6] = {
    use rustix::io::Errno;
    [
        Errno::IO.raw_os_error(),
        Errno::MFILE.raw_os_error(),
        Errno::NFILE.raw_os_error(),
        Errno::NOLCK.raw_os_error(),
        Errno::NOBUFS.raw_os_error(),
        Errno::NODEV.raw_os_error(),
    ]
};

/// `ERROR_TOO_MANY_OPEN_FILES`, `ERROR_CRC`, `ERROR_IO_DEVICE`, `ERROR_NO_SYSTEM_RESOURCES`.
#[cfg(not(unix))]
const MACHINE_CODES: [i32; 4] = [4, 23, 1117, 1450];

/// Words by which native libraries and their loader report a fault of the machine.
const MACHINE_WORDS: [&str; 11] = [
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "cannot allocate memory",
    "out of memory",
    "failed to map segment from shared object",
    "too many open files",
    "permission denied",
    "no space left on device",
    "resource temporarily unavailable",
    "pthread_create failed",
];

/// Whether a native library's message says that the machine failed.
pub fn tells_of_machine_fault(said: &str) -> bool {
    let said = said.to_lowercase();
    MACHINE_WORDS.iter().any(|words| said.contains(words))
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

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// A text without the paths of this machine: all of it, or the clauses before the first that names one, or `otherwise`.
pub fn portable(text: &str, otherwise: &str) -> String {
    let Some(at) = location(text) else { return text.to_owned() };
    let before = text.get(..at).unwrap_or_default();
    before.rfind(": ").and_then(|end| before.get(..end)).unwrap_or(otherwise).to_owned()
}

/// Where a text begins to name a path of this machine: a whole path, but for those that every system has.
fn location(text: &str) -> Option<usize> {
    const EVERYWHERE: [&str; 3] = ["/dev/", "/proc/", "/sys/"];
    let begins = |at: usize, c: char| {
        let (before, rest) = text.split_at(at);
        let first = before.chars().next_back().is_none_or(|b| !b.is_alphanumeric() && !"/.*_-".contains(b));
        let mut after = rest.chars().skip(1);
        match c {
            '/' => {
                let named = after.next().is_some_and(|a| a.is_alphanumeric() || "._~-".contains(a));
                first && named && !before.ends_with(":/") && !EVERYWHERE.iter().any(|known| rest.starts_with(known))
            }
            'A'..='Z' | 'a'..='z' => first && after.next() == Some(':') && after.next() == Some('\\'),
            _ => false,
        }
    };
    text.char_indices().find(|(at, c)| begins(*at, *c)).map(|(at, _)| at)
}

/// A name that came from outside, made safe to print: control characters escaped, cut at 120 characters.
pub fn printable(name: &str) -> String {
    escaped(name, 120)
}

/// A text of ours that may hold a name from outside: whatever moves the cursor is escaped, but for line feeds.
pub fn visible(text: &str) -> String {
    let hidden =
        |c: char| c.is_control() && c != '\n' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// Like [`printable`], for a sentence that may hold text from outside: cut at 500 characters.
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

/// The entry of `known` that is nearest to `name`, if any is near enough to be meant.
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
    fn an_error_prints_message_location_and_hint_on_lines() {
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
    #[cfg(target_os = "linux")]
    fn faults_of_the_machine_are_no_bad_input_and_keep_their_source() {
        let of = |code: i32| Error::io("reading", Path::new("x"), &io::Error::from_raw_os_error(code));
        // EPERM, EIO, EAGAIN, ENOMEM, EACCES, ENFILE, EMFILE, EFBIG, ENOSPC, EROFS, EDQUOT.
        for code in [1, 5, 11, 12, 13, 23, 24, 27, 28, 30, 122] {
            let error = of(code);
            assert_eq!((error.kind(), error.exit_code()), (Kind::MachineFailed, 5), "{error}");
            let source = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
            assert_eq!(source.raw_os_error(), Some(code));
        }
        // ENOENT, ENXIO, ENOTDIR, EISDIR, EINVAL, ENAMETOOLONG, ELOOP.
        for code in [2, 6, 20, 21, 22, 36, 40] {
            let error = of(code);
            assert_eq!((error.kind(), error.exit_code()), (Kind::BadInput, 2), "{error}");
            assert!(std::error::Error::source(&error).is_some());
        }
        let cut = Error::io("reading", Path::new("x"), &io::ErrorKind::UnexpectedEof.into());
        assert_eq!((cut.kind(), cut.message()), (Kind::BadInput, "reading x: unexpected end of file"));
        assert!(std::error::Error::source(&Error::bad_input("")).is_none());
        let refused = Error::of_library("a library", "no", "no, because");
        assert_eq!(std::error::Error::source(&refused).unwrap().to_string(), "no, because");
    }

    #[test]
    fn native_libraries_are_understood_where_the_machine_failed() {
        for said in [
            "bfc_arena.cc:376: Failed to allocate memory for requested buffer of size 1073741824",
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "libonnxruntime.so: cannot open shared object file: Too many open files",
            "libonnxruntime.so: failed to map segment from shared object",
        ] {
            assert!(tells_of_machine_fault(said), "{said}");
        }
        assert!(!tells_of_machine_fault("Load model from x.onnx failed: Protobuf parsing failed."));
    }

    #[test]
    fn portable_messages_name_no_path_of_this_machine() {
        let portable = |message: &str| Error::runtime_missing(message).portable();
        for (message, expected) in [
            (
                "ONNX Runtime is not found: searched for libonnxruntime.so* in /home/a b/x, /usr/lib",
                "ONNX Runtime is not found",
            ),
            ("ORT_DYLIB_PATH names no file: /opt/x.so", "ORT_DYLIB_PATH names no file"),
            (
                "ONNX Runtime does not load: An error occurred while loading `/opt/x`: short",
                "ONNX Runtime does not load",
            ),
            ("it is in C:\\Users\\a", "runtime missing"),
            ("/opt/x is no file", "runtime missing"),
            ("there is no device node /dev/nvidia0 or /dev/dxg", "there is no device node /dev/nvidia0 or /dev/dxg"),
            ("1/2 of a/b, and/or https://onnx.ai/x", "1/2 of a/b, and/or https://onnx.ai/x"),
        ] {
            assert_eq!(portable(message), expected);
        }
        let error = Error::runtime_missing("a").hint("get it with: pip install --target /home/a b").hint("or not");
        assert_eq!(error.portable_hints().collect::<Vec<_>>(), ["or not"]);
    }

    #[test]
    fn names_from_outside_cannot_move_the_cursor_or_flood_the_screen() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert!(printable(&"x".repeat(1_000_000)).chars().count() <= 121);
        assert_eq!(visible("a\u{1b}[2J\r\u{202e}\nbé"), "a\\u{1b}[2J\\r\\u{202e}\nbé");
    }

    #[test]
    fn nearest_offers_only_similar_names() {
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
