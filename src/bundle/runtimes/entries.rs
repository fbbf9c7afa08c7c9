//! What a manifest says of the libraries of its bundle, and where they are in it.

use serde::{Deserialize, Serialize};

use crate::bundle::files::FileEntry;
use crate::runtime::{Platform, Runtime};

/// The folder of a bundle with the libraries that it brings, one folder for each platform.
pub const RUNTIMES: &str = "runtimes";

/// The native libraries that a bundle brings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BundledRuntimes {
    /// One entry for each wheel that they come from.
    pub libraries: Vec<LibraryEntry>,
    /// What was asked for and is not there, and what else has to be known, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl BundledRuntimes {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.libraries.is_empty() && self.notes.is_empty()
    }
}

/// What a bundle has of a wheel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LibraryEntry {
    /// Where it runs.
    pub platform: Platform,
    /// The engines that it is for.
    pub runtime: Runtime,
    /// The package's name on PyPI.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The wheel.
    pub wheel: FileEntry,
    /// The package's licence, as its metadata says.
    pub licence: Option<String>,
    /// The texts of licences and notices; paths in the bundle.
    pub notices: Vec<String>,
    /// The libraries; paths in the bundle.
    pub files: Vec<String>,
}

/// The folder of a platform's libraries in a bundle.
pub(super) fn folder(platform: Platform) -> String {
    format!("{RUNTIMES}/{platform}")
}
