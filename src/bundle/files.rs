//! Digests of files and of whole folders.

use std::path::{Component, Path};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{Error, Result, printable};

/// A file by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name, or its path inside the bundle with `/`.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

/// The name of the manifest in a bundle.
pub const MANIFEST: &str = "manifest.json";

/// Length and SHA-256 of a file, under the name `path`. Links are not followed.
pub fn digest(full: &Path, path: &str) -> Result<FileEntry> {
    let failed = |e: std::io::Error| Error::io("reading", full, &e);
    if !std::fs::symlink_metadata(full).map_err(failed)?.is_file() {
        return Err(no_plain_file(full));
    }
    hash(full, path)
}

/// Like [`digest()`], for a source in the folder `dir`, which may be a link, as the Hub's cache has them. The entry has
/// its path in the folder, and not the folder's own path.
pub fn digest_source(full: &Path, dir: &Path) -> Result<FileEntry> {
    let within = full.strip_prefix(dir).ok().filter(|own| !own.as_os_str().is_empty());
    let own = within.or_else(|| full.file_name().map(Path::new)).unwrap_or(full);
    let names: Vec<_> = own.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
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

/// The paths of all files below a folder, with `/`, sorted. Fails where there is anything but plain files and folders.
pub(super) fn tree(dir: &Path) -> Result<Vec<String>> {
    fn walk(dir: &Path, prefix: &str, into: &mut Vec<String>) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("reading", dir, &e);
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().map_err(|name| {
                Error::bad_input(format!("the file name {} is not UTF-8", printable(&name.to_string_lossy())))
            })?;
            let path = format!("{prefix}{name}");
            match entry.file_type().map_err(failed)? {
                folder if folder.is_dir() => walk(&entry.path(), &format!("{path}/"), into)?,
                file if file.is_file() => into.push(path),
                _ => return Err(no_plain_file(&entry.path())),
            }
        }
        Ok(())
    }
    let mut paths = Vec::new();
    walk(dir, "", &mut paths)?;
    paths.sort();
    Ok(paths)
}

pub(super) fn no_plain_file(path: &Path) -> Error {
    Error::bad_input(format!("{} is no plain file", path.display()))
}

/// A path that stays inside the bundle.
pub(super) fn inside(path: &str) -> Result<&Path> {
    let relative = Path::new(path);
    match !path.is_empty() && relative.components().all(|part| matches!(part, Component::Normal(_))) {
        true => Ok(relative),
        false => Err(Error::bad_input(format!("`{}` leads out of the bundle", printable(path))).at(MANIFEST)),
    }
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
