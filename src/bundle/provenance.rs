//! The provenance of a merged checkpoint: `kilnc.json`, beside the files that `transformers` reads.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{AdapterEntry, tree};
use crate::error::{Kind, Result};
use crate::json;

/// The name of the file.
pub const PROVENANCE: &str = "kilnc.json";

/// The version of its form.
pub const PROVENANCE_SCHEMA: &str = "kilnc.merged/1";

/// Where a merged checkpoint comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Provenance {
    /// [`PROVENANCE_SCHEMA`].
    pub schema: String,
    /// The version of kilnc that merged it.
    pub kilnc: String,
    /// The name of the base's folder.
    pub base: String,
    /// The class of `transformers` that loads it, where the base names one.
    pub architecture: Option<String>,
    /// The adapters that were merged into it, in order.
    pub adapters: Vec<AdapterEntry>,
    /// How the adapters became one, where they were not merged one after another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combined: Option<String>,
    /// Tensors of the base that the class does not have.
    pub dropped: Vec<String>,
    /// Every file but this one.
    pub files: Vec<String>,
}

/// Whether a folder is a merged checkpoint that kilnc wrote, and holds nothing else. Fails where it cannot be read.
pub fn is_merged(dir: &Path) -> Result<bool> {
    let read = json::read::<Provenance>(&dir.join(PROVENANCE)).and_then(|provenance| Ok((provenance, tree(dir)?)));
    match read {
        Err(e) if e.kind() == Kind::MachineFailed => Err(e),
        Err(_) => Ok(false),
        Ok((provenance, files)) => Ok(provenance.schema == PROVENANCE_SCHEMA
            && files.iter().all(|file| file == PROVENANCE || provenance.files.contains(file))),
    }
}
