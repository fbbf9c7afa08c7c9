//! Bundles: a folder with engines, tokenizer and a manifest that says what each file must be.

pub mod archive;
mod bom;
mod choose;
pub mod export;
mod manifest;
mod provenance;
pub mod runtimes;
pub mod signing;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;

use crate::checkpoint::json;
use crate::digest;
use crate::error::{Error, Result, printable};
use crate::runtime::{Classes, TextEncoder};

pub use bom::{BOM, bom};
pub use manifest::{
    Accuracy, AdapterEntry, BenchEntry, BenchedEngine, BenchedPoint, CalibrationEntry, EngineEntry, FileEntry,
    GateEntry, LicenceEntry, Manifest, PassEntry, PoolingEntry, PromptEntry, SCHEMA, Skipped, ZerosEntry,
};
pub use provenance::{PROVENANCE, PROVENANCE_SCHEMA, Provenance, is_merged};

/// The name of the manifest in a bundle.
pub const MANIFEST: &str = "manifest.json";

/// The name of the tokenizer in a bundle.
pub const TOKENIZER: &str = "tokenizer.json";

/// The folder of a bundle with what the Hub's layout has beside the model and its tokenizer.
pub const HUB: &str = "hub";

/// What helps where a file is not as the manifest says.
const DAMAGED: &str = "the bundle was changed or damaged after it was built; build or fetch it again";

/// A bundle on disk. Its manifest has been read; files are checked when they are used.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder.
    pub dir: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
}

/// Whether a folder looks like a bundle.
pub fn is_bundle(dir: &Path) -> bool {
    dir.join(MANIFEST).is_file()
}

impl Bundle {
    /// Opens a bundle and reads its manifest.
    pub fn open(dir: &Path) -> Result<Bundle> {
        archive::refuse(dir)?;
        if !is_bundle(dir) {
            return Err(Error::bad_input(format!("{} is no bundle: it has no {MANIFEST}", dir.display()))
                .hint("kilnc build makes one"));
        }
        let manifest = json::read_text(&dir.join(MANIFEST)).and_then(|text| Manifest::parse(&text));
        Ok(Bundle { dir: dir.to_owned(), manifest: manifest.map_err(|e| e.at(dir.display().to_string()))? })
    }

    /// What its classifier can answer, and how that is read.
    pub fn classes(&self) -> Classes {
        let Manifest { labels, reading, .. } = &self.manifest;
        Classes { labels: labels.clone(), reading: reading.unwrap_or_default() }
    }

    /// Its tokenizer, with the limits and the prompt of its model.
    pub fn encoder(&self) -> Result<TextEncoder> {
        let Manifest { max_length, mask, .. } = &self.manifest;
        let encoder = TextEncoder::open(&self.file(TOKENIZER)?, *max_length)?;
        Ok(encoder.with_prompt(self.prompt()).with_mask(mask.as_deref()))
    }

    /// What is put before every text.
    pub fn prompt(&self) -> Option<&str> {
        self.manifest.prompt.as_ref().map(|prompt| prompt.text.as_str())
    }

    /// A file that the manifest lists, after its digest has been checked.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let entry = self.manifest.files.iter().find(|entry| entry.path == path);
        let entry = entry.ok_or_else(|| {
            Error::bad_input(format!("the manifest does not list `{}`", printable(path)))
                .at(self.dir.display().to_string())
        })?;
        let full = self.dir.join(inside(&entry.path)?);
        let found = digest(&full, path)?;
        if found != *entry {
            return Err(self.changed(path));
        }
        Ok(full)
    }

    /// The file of an engine, after its digest and that of the weights beside it have been checked.
    pub fn engine(&self, entry: &EngineEntry) -> Result<PathBuf> {
        let beside = format!("{}_data", entry.file);
        if self.manifest.files.iter().any(|file| file.path == beside) {
            self.file(&beside)?;
        }
        self.file(&entry.file)
    }

    /// The digests of all files of the folder as they are now, by path. Links are refused.
    pub fn digests(&self) -> Result<Vec<FileEntry>> {
        digest_tree(&self.dir)
    }

    /// Checks every file that the manifest lists, and that there are no others. Gives their number.
    pub fn verify(&self) -> Result<usize> {
        self.check(&self.digests()?)
    }

    /// Checks that these are the files that the manifest lists, and no others. Gives their number.
    pub fn check(&self, found: &[FileEntry]) -> Result<usize> {
        let mut rest: BTreeMap<&str, &FileEntry> = found.iter().map(|file| (file.path.as_str(), file)).collect();
        for own in [MANIFEST, signing::SIGNATURE] {
            rest.remove(own);
        }
        let here = self.dir.display().to_string();
        for entry in &self.manifest.files {
            inside(&entry.path)?;
            match rest.remove(entry.path.as_str()) {
                Some(found) if found == entry => {}
                Some(_) => return Err(self.changed(&entry.path)),
                None => {
                    let missing = format!("`{}` is missing, and the manifest lists it", printable(&entry.path));
                    return Err(Error::bad_input(missing).at(here).hint(DAMAGED));
                }
            }
        }
        match rest.keys().next() {
            Some(path) => Err(Error::bad_input(format!("the manifest does not list `{}`", printable(path))).at(here)),
            None => Ok(self.manifest.files.len()),
        }
    }

    fn changed(&self, path: &str) -> Error {
        Error::bad_input(format!("`{}` is not the file that the manifest describes", printable(path)))
            .at(self.dir.display().to_string())
            .hint(DAMAGED)
    }

    /// The signature in the folder, where there is one.
    pub fn signature(&self) -> Option<PathBuf> {
        Some(self.dir.join(signing::SIGNATURE)).filter(|path| path.symlink_metadata().is_ok())
    }
}

/// A path that stays inside the bundle.
fn inside(path: &str) -> Result<&Path> {
    let relative = Path::new(path);
    match !path.is_empty() && relative.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(relative),
        false => Err(Error::bad_input(format!("`{}` leads out of the bundle", printable(path))).at(MANIFEST)),
    }
}

/// Length and SHA-256 of a file, under the name `path`. Links are not followed.
pub fn digest(full: &Path, path: &str) -> Result<FileEntry> {
    let failed = |e: std::io::Error| Error::io("reading", full, &e);
    if !std::fs::symlink_metadata(full).map_err(failed)?.is_file() {
        return Err(Error::bad_input(format!("{} is no plain file", full.display())));
    }
    hash(full, path)
}

/// Like [`digest()`], for a source in the folder `dir`, which may be a link, as the Hub's cache has them.
pub fn digest_source(full: &Path, dir: &Path) -> Result<FileEntry> {
    let parts = full.strip_prefix(dir).unwrap_or(full).components();
    let names: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    hash(full, &names.join("/"))
}

fn hash(full: &Path, path: &str) -> Result<FileEntry> {
    let (bytes, sha256) = digest::of_file(full)?;
    Ok(FileEntry { path: path.to_owned(), bytes, sha256 })
}

/// Digests of every file below a folder, by path.
pub fn digest_tree(dir: &Path) -> Result<Vec<FileEntry>> {
    tree(dir)?.par_iter().map(|path| digest(&dir.join(path), path)).collect()
}

/// The paths of all files below a folder, with `/`, sorted.
fn tree(dir: &Path) -> Result<Vec<String>> {
    fn walk(dir: &Path, prefix: &str, into: &mut Vec<String>) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("reading", dir, &e);
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().map_err(|name| {
                Error::bad_input(format!("the file name {} is not UTF-8", printable(&name.to_string_lossy())))
            })?;
            let path = format!("{prefix}{name}");
            match entry.file_type().map_err(failed)?.is_dir() {
                true => walk(&entry.path(), &format!("{path}/"), into)?,
                false => into.push(path),
            }
        }
        Ok(())
    }
    let mut paths = Vec::new();
    walk(dir, "", &mut paths)?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["../x", "/etc/passwd", "a/../../x", "", "."] {
            assert!(inside(path).is_err(), "{path}");
        }
        assert!(inside("engines/a..onnx").is_ok());
    }
}
