//! Bundles: a folder with engines, tokenizer and a manifest that says what each file must be.

mod manifest;
mod provenance;

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::checkpoint::json;
use crate::error::{Error, Result, printable};
use crate::precision::Precision;
use crate::runtime::{self, Classes, Runtime};

pub use manifest::{
    Accuracy, AdapterEntry, CalibrationEntry, EngineEntry, FileEntry, GateEntry, Manifest, PassEntry, SCHEMA, Skipped,
};
pub use provenance::{PROVENANCE, PROVENANCE_SCHEMA, Provenance, is_merged};

/// The name of the manifest in a bundle.
pub const MANIFEST: &str = "manifest.json";

/// The name of the tokenizer in a bundle.
pub const TOKENIZER: &str = "tokenizer.json";

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
            return Err(Error::bad_input(format!("`{}` is not the file that the manifest describes", printable(path)))
                .at(self.dir.display().to_string())
                .hint("the bundle was changed or damaged after it was built; build or fetch it again"));
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

    /// Checks every file that the manifest lists. Gives their number.
    pub fn verify(&self) -> Result<usize> {
        self.manifest.files.par_iter().try_for_each(|entry| self.file(&entry.path).map(drop))?;
        let listed = |path: &str| path == MANIFEST || self.manifest.files.iter().any(|entry| entry.path == path);
        match tree(&self.dir)?.into_iter().find(|path| !listed(path)) {
            Some(path) => Err(Error::bad_input(format!("the manifest does not list `{}`", printable(&path)))
                .at(self.dir.display().to_string())),
            None => Ok(self.manifest.files.len()),
        }
    }

    /// The engine of that name, or without a name the best one that can run here, with the reason for the choice.
    pub fn choose(&self, name: Option<&str>) -> Result<(&EngineEntry, String)> {
        let engines = &self.manifest.engines;
        if let Some(name) = name {
            let names = || engines.iter().map(|engine| engine.name.as_str());
            return match engines.iter().find(|engine| engine.name == name) {
                Some(engine) => Ok((engine, "as asked".to_owned())),
                None => {
                    let known = names().collect::<Vec<_>>().join(", ");
                    let error =
                        Error::bad_input(format!("the bundle has no engine `{}`; it has {known}", printable(name)));
                    Err(match crate::error::nearest(name, names()) {
                        Some(near) => error.hint(format!("did you mean {near}?")),
                        None => error,
                    })
                }
            };
        }
        let mut why_not = Vec::new();
        let mut order: Vec<&EngineEntry> = engines.iter().collect();
        order.sort_by_key(|engine| preference(engine.runtime, engine.precision));
        for engine in order {
            match runtime::available(engine.runtime) {
                Ok(_) if why_not.is_empty() => return Ok((engine, "the fastest of the bundle".to_owned())),
                Ok(_) => return Ok((engine, format!("the fastest that runs here; not {}", why_not.join("; ")))),
                Err(e) => why_not.push(format!("{}: {}", engine.name, e.message())),
            }
        }
        Err(Error::runtime_missing("none of the bundle's engines can run here").at(why_not.join("; ")))
    }
}

/// The order in which engines are tried: fastest first. A GPU goes before all else and tract after it; between the
/// runtimes for CPUs, the number format decides.
fn preference(runtime: Runtime, precision: Precision) -> (u8, u8, u8) {
    let (machine, library) = match runtime {
        Runtime::TensorRtRtx => (0, 0),
        Runtime::OpenVino => (1, 0),
        Runtime::Ort => (1, 1),
        Runtime::Tract => (2, 0),
    };
    let format = match precision {
        Precision::Int8 => 0,
        Precision::Int8Fast => 1,
        Precision::Int8Static => 2,
        Precision::Bf16 => 3,
        Precision::Int8Weights => 4,
        Precision::Int4 => 5,
        Precision::Fp16 => 6,
        Precision::Fp32 => 7,
    };
    (machine, format, library)
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

/// Like [`digest`], for a source in the folder `dir`, which may be a link, as the Hub's cache has them.
pub fn digest_source(full: &Path, dir: &Path) -> Result<FileEntry> {
    let parts = full.strip_prefix(dir).unwrap_or(full).components();
    let names: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    hash(full, &names.join("/"))
}

fn hash(full: &Path, path: &str) -> Result<FileEntry> {
    let failed = |e: std::io::Error| Error::io("reading", full, &e);
    let mut file = File::open(full).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
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
    fn an_engine_in_8_bits_goes_before_one_in_32_whatever_runs_it() {
        let order = |of: [(Runtime, Precision); 5]| {
            let mut sorted = of;
            sorted.sort_by_key(|(runtime, precision)| preference(*runtime, *precision));
            assert_eq!(sorted, of);
        };
        order([
            (Runtime::TensorRtRtx, Precision::Fp16),
            (Runtime::OpenVino, Precision::Int8),
            (Runtime::Ort, Precision::Int8),
            (Runtime::OpenVino, Precision::Fp32),
            (Runtime::Tract, Precision::Int8),
        ]);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["../x", "/etc/passwd", "a/../../x", "", "."] {
            assert!(inside(path).is_err(), "{path}");
        }
        assert!(inside("engines/a..onnx").is_ok());
    }

    #[test]
    fn digests_are_sha256() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("b/x"), "abc").unwrap();
        let entries = digest_tree(dir.path()).unwrap();
        assert_eq!((entries[0].path.as_str(), entries[0].bytes), ("b/x", 3));
        assert_eq!(entries[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
