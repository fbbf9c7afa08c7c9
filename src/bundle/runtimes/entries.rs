//! What a manifest says of the libraries of its bundle, and where they are in it.

use serde::{Deserialize, Serialize};

use crate::bundle::files::FileEntry;
use crate::runtime::{Platform, Runtime};

/// The folder of a bundle with its runtimes, one folder for each platform.
pub const RUNTIMES: &str = "runtimes";

/// The native libraries in a bundle.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BundledRuntimes {
    /// One entry for each wheel that they come from.
    pub libraries: Vec<LibraryEntry>,
    /// Notes: requested libraries that are missing, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl BundledRuntimes {
    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.libraries.is_empty() && self.notes.is_empty()
    }
}

/// The files of a wheel in a bundle.
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
    /// The package's licence, from its metadata.
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
