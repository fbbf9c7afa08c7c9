//! Bundles: a folder with engines, tokenizer and a manifest with each file's digest.

pub mod archive;
mod bom;
mod chat;
mod choose;
mod cyclonedx;
pub mod export;
mod files;
mod folder;
mod manifest;
mod provenance;
pub mod runtimes;
pub mod signing;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde::Deserialize;

use crate::error::{Error, Kind, Result, is_machine_fault, printable};
use crate::file::check_searchable;
use crate::json;
use crate::presence;
use crate::runtime::{Classes, TextEncoder};

use files::{inside, tree};
use folder::Folder;

pub use crate::eval::{Accuracy, Greedy};
pub use crate::front::hub::checkpoint::{GENERATION as GENERATION_CONFIG, GenerationConfig};
pub use bom::{BOM, bom};
pub use chat::chat_templates;
pub use files::{FileEntry, MANIFEST, digest, digest_source, digest_tree};
pub use manifest::{
    AdapterEntry, BenchEntry, BenchedEngine, BenchedPoint, CalibrationEntry, ComponentEntry, EngineEntry, GateEntry,
    LicenceEntry, Manifest, PassEntry, PoolingEntry, PromptEntry, SCHEMA, Skipped, StateEntry, ZerosEntry, batch,
};
pub use provenance::{PROVENANCE, PROVENANCE_SCHEMA, Provenance, is_merged};

/// The name of the tokenizer in a bundle.
pub const TOKENIZER: &str = "tokenizer.json";

/// The folder of a bundle with the other files of the Hub's layout, beside the model and its tokenizer.
pub const HUB: &str = "hub";

/// The hint where a file is not that of the manifest.
const DAMAGED: &str = "the bundle was changed or damaged after it was built; build or fetch it again";

/// A bundle on disk. Its manifest has been read; files are checked when they are used.
///
/// The folder is held open as long as this or a copy of it lives: a bundle that replaces it meanwhile is another one,
/// of which nothing is read.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The folder, as the user calls it.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    folder: Arc<Folder>,
}

/// Whether a folder looks like a bundle. Fails where it cannot be read.
pub fn is_bundle(dir: &Path) -> Result<bool> {
    presence::is_file(&dir.join(MANIFEST))
}

/// Whether a folder is a bundle and holds nothing else, so that another may replace it; it may be damaged. Fails where
/// it cannot be read.
pub fn is_replaceable(dir: &Path) -> Result<bool> {
    #[derive(Deserialize)]
    struct Form {
        schema: String,
        files: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        path: String,
    }
    let read = json::read::<Form>(&dir.join(MANIFEST)).and_then(|form| Ok((form, files::tree(dir)?)));
    match read {
        Err(e) if e.kind() == Kind::MachineFailed => Err(e),
        Err(_) => Ok(false),
        Ok((Form { schema, files }, found)) => {
            let listed: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
            let is_own = |path: &str| [MANIFEST, signing::SIGNATURE].contains(&path) || listed.contains(path);
            Ok(schema.starts_with("kilnc.bundle/") && found.iter().all(|path| is_own(path)))
        }
    }
}

/// How often a bundle is opened again that was replaced while it was read.
const TRIES: usize = 8;

impl Bundle {
    /// Opens a bundle and reads its manifest. Fails where the files of the folder are not those that it lists, by their
    /// names; their digests are checked when they are used.
    pub fn open(dir: &Path) -> Result<Bundle> {
        Bundle::used(dir, |bundle| Ok(bundle.clone()))
    }

    /// Opens a bundle and does `what` with it; and once more with its replacement, where that has failed because the
    /// bundle was replaced meanwhile.
    pub fn used<T>(dir: &Path, mut what: impl FnMut(&Bundle) -> Result<T>) -> Result<T> {
        archive::refuse(dir)?;
        for _ in 0..TRIES {
            let bundle = Bundle::read(dir)?;
            match bundle.check_names().and_then(|()| what(&bundle)) {
                Err(_) if bundle.folder.was_replaced() => {}
                done => return done,
            }
        }
        Err(Error::bad_input(format!("{} is replaced again and again while it is read", dir.display())))
    }

    /// A bundle of that manifest, in a folder that is neither held open nor checked.
    pub fn of(dir: PathBuf, manifest: Manifest) -> Bundle {
        let folder = Arc::new(Folder::unheld(&dir));
        Bundle { dir, manifest, folder }
    }

    /// Reads the manifest of a bundle, and nothing else.
    pub fn read(dir: &Path) -> Result<Bundle> {
        archive::refuse(dir)?;
        check_searchable(dir)?;
        let folder = Folder::hold(dir)?;
        let path = folder.root().join(MANIFEST);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(files::no_plain_file(&dir.join(MANIFEST))),
            Err(e) if is_machine_fault(&e) => return Err(Error::io("reading", &dir.join(MANIFEST), &e)),
            Err(_) => {
                return Err(Error::bad_input(format!("{} is no bundle: it has no {MANIFEST}", dir.display()))
                    .hint("kilnc build makes one"));
            }
        }
        let manifest = json::read_text(&path).and_then(|text| Manifest::parse(&text));
        let manifest = manifest.map_err(|e| folder.named(e).at(dir.display().to_string()))?;
        Ok(Bundle { dir: dir.to_owned(), manifest, folder: Arc::new(folder) })
    }

    /// Fails where the folder holds other files than the manifest lists, or a link.
    fn check_names(&self) -> Result<()> {
        let names = files::tree(self.folder.root()).map_err(|e| self.named_error(e))?;
        self.compare(names.iter().map(|name| (name.as_str(), None)).collect()).map(drop)
    }

    /// Its classifier's labels and problem type.
    pub fn classes(&self) -> Classes {
        let Manifest { labels, problem_type, .. } = &self.manifest;
        Classes { labels: labels.clone(), problem_type: problem_type.unwrap_or_default() }
    }

    /// Its tokenizer, with the limits and the prompt of its model.
    pub fn encoder(&self) -> Result<TextEncoder> {
        let Manifest { max_length, mask, .. } = &self.manifest;
        let encoder = TextEncoder::open(&self.file(TOKENIZER)?, *max_length)?;
        let encoder = encoder.with_prompt(self.prompt()).with_pair_prompt(self.manifest.pair_prompt.as_ref());
        Ok(encoder.with_mask(mask.as_deref()))
    }

    /// The prompt before every text.
    pub fn prompt(&self) -> Option<&str> {
        self.manifest.prompt.as_ref().map(|prompt| prompt.text.as_str())
    }

    /// The text of a prompt by its name. Fails where there is none of that name, and names those that there are.
    pub fn prompt_named(&self, name: &str) -> Result<&str> {
        let prompts = || self.manifest.prompts.iter().chain(&self.manifest.prompt);
        if let Some(prompt) = prompts().find(|prompt| prompt.name == name) {
            return Ok(&prompt.text);
        }
        let error = Error::bad_input(format!("the model has no prompt `{}`", printable(name)));
        let names: Vec<String> = prompts().map(|prompt| printable(&prompt.name)).collect();
        Err(match names.is_empty() {
            true => error.hint("its checkpoint names no prompts, or leaves them out of its pooling"),
            false => error.hint(format!("it has: {}", names.join(", "))),
        })
    }

    /// A file that the manifest lists, after its digest has been checked. It is found there as long as the bundle is
    /// held open.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        self.pieces(path, |_| Ok(()))
    }

    /// The text of a file that the manifest lists.
    pub fn text(&self, path: &str) -> Result<String> {
        let mut bytes = Vec::new();
        self.pieces(path, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        String::from_utf8(bytes).map_err(|_| Error::bad_input("the file is not UTF-8").at(path.to_owned()))
    }

    /// The same; `each` gets the bytes before their digest is compared with the manifest's.
    pub fn pieces(&self, path: &str, each: impl FnMut(&[u8]) -> Result<()>) -> Result<PathBuf> {
        let entry = self.manifest.files.iter().find(|entry| entry.path == path);
        let entry = entry.ok_or_else(|| {
            Error::bad_input(format!("the manifest does not list `{}`", printable(path)))
                .at(self.dir.display().to_string())
        })?;
        let found = self.folder.read(path, each).map_err(|e| self.named_error(e))?;
        if found != *entry {
            return Err(self.changed(path));
        }
        Ok(self.folder.root().join(path))
    }

    /// Reads a file again whose digest was taken; `each` gets the bytes. Fails where it has changed.
    pub fn again(&self, file: &FileEntry, each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let found = self.folder.read(&file.path, each).map_err(|e| self.named_error(e))?;
        if found == *file { Ok(()) } else { Err(self.changed(&file.path)) }
    }

    /// Copies a file that the manifest lists. Fails where the copied bytes are not those of the manifest.
    pub fn copy(&self, path: &str, to: &Path) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("writing", to, &e);
        let mut copy = File::create(to).map_err(failed)?;
        self.pieces(path, |piece| copy.write_all(piece).map_err(failed)).map(drop)
    }

    /// The file of an engine of one component ([`Bundle::component`]).
    pub fn engine(&self, entry: &EngineEntry) -> Result<PathBuf> {
        self.component(entry, entry.model()?)
    }

    /// The file of a component of an engine, after its digest has been checked, and those of the files beside it that it
    /// may refer to: all but those of other engines.
    pub fn component(&self, entry: &EngineEntry, component: &ComponentEntry) -> Result<PathBuf> {
        let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        let others = || self.manifest.engines.iter().filter(|other| other.name != entry.name);
        let of_another = |path: &str| {
            let path = path.strip_suffix("_data").unwrap_or(path);
            others().any(|other| other.files().any(|file| file == path))
        };
        let beside = self.manifest.files.iter().filter(|file| folder(&file.path) == folder(&component.file));
        for file in beside.filter(|file| file.path != component.file && !of_another(&file.path)) {
            self.file(&file.path)?;
        }
        self.file(&component.file)
    }

    /// Fails where a file has changed since its digest was checked: for those who have opened it by its name since.
    pub fn check_unchanged(&self) -> Result<()> {
        self.folder.check_unchanged().map_err(|e| self.named_error(e))
    }

    /// An error in which the folder has the name that the user knows, and not that of its descriptor.
    pub fn named_error(&self, error: Error) -> Error {
        self.folder.named(error)
    }

    /// The digests of all files of the folder as they are now, by path. Links are refused.
    pub fn digests(&self) -> Result<Vec<FileEntry>> {
        let digest = |path: &String| self.folder.read(path, |_| Ok(()));
        let names = files::tree(self.folder.root());
        names.and_then(|names| names.par_iter().map(digest).collect()).map_err(|e| self.named_error(e))
    }

    /// Checks every file that the manifest lists, and that there are no others. Returns their number.
    pub fn verify(&self) -> Result<usize> {
        self.check(&self.digests()?)
    }

    /// Checks that these are the files that the manifest lists, and no others. Returns their number.
    pub fn check(&self, found: &[FileEntry]) -> Result<usize> {
        self.compare(found.iter().map(|file| (file.path.as_str(), Some(file))).collect())
    }

    /// Checks that there are the files that the manifest lists and no others, and that the digests match.
    fn compare(&self, mut rest: BTreeMap<&str, Option<&FileEntry>>) -> Result<usize> {
        for own in [MANIFEST, signing::SIGNATURE] {
            rest.remove(own);
        }
        let here = self.dir.display().to_string();
        for entry in &self.manifest.files {
            inside(&entry.path)?;
            match rest.remove(entry.path.as_str()) {
                Some(found) if found.is_none_or(|found| found == entry) => {}
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

    /// The signature in the folder, where there is one. Fails where it cannot be read.
    pub fn signature(&self) -> Result<Option<PathBuf>> {
        let path = self.folder.root().join(signing::SIGNATURE);
        match path.symlink_metadata() {
            Ok(_) => Ok(Some(path)),
            Err(e) if presence::is_missing(&e) => Ok(None),
            Err(e) => Err(self.named_error(Error::io("reading", &path, &e))),
        }
    }
}
