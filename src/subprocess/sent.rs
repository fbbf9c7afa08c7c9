//! The messages between parent and child, as JSON.

use std::ffi::OsString;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Kind};

/// An error on its way from a child to its parent.
#[derive(Serialize, Deserialize)]
pub struct SentError {
    kind: String,
    message: String,
    locations: Vec<String>,
    hints: Vec<String>,
    /// The operating system's error number behind it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    os_error: Option<i32>,
}

impl From<&Error> for SentError {
    fn from(error: &Error) -> SentError {
        let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
        SentError {
            kind: error.kind().name().to_owned(),
            message: error.message().to_owned(),
            locations: error.locations().to_vec(),
            hints: error.hints().to_vec(),
            os_error: source.and_then(io::Error::raw_os_error),
        }
    }
}

impl From<SentError> for Error {
    fn from(sent: SentError) -> Error {
        let make = match sent.kind.as_str() {
            kind if kind == Kind::BadInput.name() => Error::bad_input,
            kind if kind == Kind::Unsupported.name() => Error::unsupported,
            kind if kind == Kind::RuntimeMissing.name() => Error::runtime_missing,
            kind if kind == Kind::GateFailed.name() => Error::gate_failed,
            kind if kind == Kind::MachineFailed.name() => Error::machine_failed,
            _ => Error::bug,
        };
        let error = sent.locations.into_iter().fold(make(sent.message), Error::at);
        let error = sent.hints.into_iter().fold(error, Error::hint);
        match sent.os_error {
            Some(code) => error.because(&io::Error::from_raw_os_error(code)),
            None => error,
        }
    }
}

/// The reply that a child writes on its standard output.
#[derive(Serialize, Deserialize)]
pub enum Reply<T> {
    /// It did the job.
    Done(T),
    /// It could not.
    Failed(SentError),
}

/// A path in a request. It arrives as it is, also where it is not UTF-8, which JSON texts have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentPath(PathBuf);

impl From<PathBuf> for SentPath {
    fn from(path: PathBuf) -> SentPath {
        SentPath(path)
    }
}

impl From<&Path> for SentPath {
    fn from(path: &Path) -> SentPath {
        SentPath(path.to_owned())
    }
}

impl From<SentPath> for PathBuf {
    fn from(path: SentPath) -> PathBuf {
        path.0
    }
}

impl Deref for SentPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Serialize for SentPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_os_str().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SentPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SentPath, D::Error> {
        OsString::deserialize(deserializer).map(|path| SentPath(path.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_arrives_as_it_left() {
        let full = io::Error::from_raw_os_error(28);
        for error in [
            Error::bad_input("a").at("b").hint("c"),
            Error::unsupported("a"),
            Error::gate_failed("a"),
            Error::runtime_missing("a").hint("b"),
            Error::bug("a"),
            Error::machine_failed("a").because(&full).at("b"),
        ] {
            let sent = serde_json::to_vec(&SentError::from(&error)).unwrap();
            let arrived: Error = serde_json::from_slice::<SentError>(&sent).unwrap().into();
            assert_eq!((arrived.kind(), arrived.to_string()), (error.kind(), error.to_string()));
            let code = |error: &Error| {
                let source = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
                source.raw_os_error()
            };
            assert_eq!(code(&arrived), code(&error));
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_path_arrives_as_it_left() {
        use std::os::unix::ffi::OsStrExt;
        let path = SentPath::from(Path::new(std::ffi::OsStr::from_bytes(b"/a\xff/b")));
        let sent = serde_json::to_vec(&path).unwrap();
        assert_eq!(serde_json::from_slice::<SentPath>(&sent).unwrap(), path);
    }
}
