//! A folder that an export fills, and what every layout says of a bundle.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::bundle::choose::preference;
use crate::bundle::runtimes::RUNTIMES;
use crate::bundle::{Bundle, EngineEntry};
use crate::error::{Error, Result, printable};
use crate::runtime::Runtime;
use crate::settings::PairPrompt;

/// The result of an export.
#[derive(Debug, Default, Serialize)]
pub struct Exported {
    /// The files, by their paths in the folder.
    pub files: Vec<String>,
    /// The engines that are among them.
    pub engines: Vec<String>,
    /// Notes: engines that are left out, with the reason.
    pub notes: Vec<String>,
}

/// A folder that is being filled.
pub(super) struct Folder<'a> {
    pub dir: &'a Path,
    pub exported: Exported,
}

impl<'a> Folder<'a> {
    pub fn new(dir: &'a Path) -> Folder<'a> {
        Folder { dir, exported: Exported::default() }
    }

    /// Makes the path of a file, with the folders around it.
    pub fn place(&mut self, path: &str) -> Result<PathBuf> {
        let to = self.dir.join(path);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io("writing to", parent, &e))?;
        }
        self.exported.files.push(path.to_owned());
        Ok(to)
    }

    /// Copies a file that the bundle's manifest lists.
    pub fn copy(&mut self, bundle: &Bundle, from: &str, path: &str) -> Result<()> {
        bundle.copy(from, &self.place(path)?)
    }

    /// A file to be written.
    pub fn create(&mut self, path: &str) -> Result<(PathBuf, File)> {
        let to = self.place(path)?;
        let file = File::create(&to).map_err(|e| Error::io("writing", &to, &e))?;
        Ok((to, file))
    }

    pub fn write(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let to = self.place(path)?;
        std::fs::write(&to, content).map_err(|e| Error::io("writing", &to, &e))
    }

    /// Copies an engine under another name, into a folder or, where that has no name, the layout's own. The files beside it keep their names, by which the engine refers to them.
    pub fn engine(&mut self, bundle: &Bundle, entry: &EngineEntry, folder: &str, name: &str) -> Result<()> {
        let component = entry.model()?;
        let at = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let beside = format!("{}_data", component.file);
        if bundle.manifest.files.iter().any(|file| file.path == beside) {
            let own = beside.rsplit('/').next().unwrap_or(&beside);
            self.copy(bundle, &beside, &at(own))?;
        }
        self.copy(bundle, &component.file, &at(name))?;
        self.exported.engines.push(entry.name.clone());
        Ok(())
    }

    pub fn done(mut self) -> Exported {
        self.exported.files.sort();
        self.exported
    }
}

/// The engines that one of these runtimes opens, and a note on each of the others.
pub(super) fn engines_for<'a>(
    bundle: &'a Bundle,
    runtimes: &[Runtime],
    notes: &mut Vec<String>,
) -> Vec<&'a EngineEntry> {
    let (fit, others): (Vec<_>, Vec<_>) =
        bundle.manifest.engines.iter().partition(|engine| runtimes.contains(&engine.runtime));
    let note = |engine: &&EngineEntry| format!("{} is left out: it is for {}", engine.name, engine.runtime);
    notes.extend(others.iter().map(note));
    fit
}

/// The engine of that name, which has to be for ONNX Runtime; the fastest on it, if none is named.
pub(super) fn ort_engine<'a>(
    bundle: &'a Bundle,
    name: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<&'a EngineEntry> {
    match name {
        Some(name) => chosen(bundle, name),
        None => best(bundle, notes),
    }
}

fn chosen<'a>(bundle: &'a Bundle, name: &str) -> Result<&'a EngineEntry> {
    let (engine, _) = bundle.choose(Some(name))?;
    match engine.runtime {
        Runtime::Ort => Ok(engine),
        other => Err(Error::unsupported(format!("{} is for {other}, not for ONNX Runtime", printable(name)))),
    }
}

fn best<'a>(bundle: &'a Bundle, notes: &mut Vec<String>) -> Result<&'a EngineEntry> {
    let mut engines = engines_for(bundle, &[Runtime::Ort], &mut Vec::new());
    engines.sort_by_key(|engine| preference(engine));
    let best = engines.first().copied().ok_or_else(|| none_fits(bundle))?;
    notes.push(format!("{} is the fastest of the bundle on ONNX Runtime", best.name));
    Ok(best)
}

/// A note on the native libraries of a bundle, which layouts for other programs cannot hold.
pub(super) fn without_libraries(bundle: &Bundle, notes: &mut Vec<String>) {
    if !bundle.manifest.runtimes.libraries.is_empty() {
        notes.push(format!("the libraries in {RUNTIMES}/ are left out: what reads this layout has its own"));
    }
}

/// A note on the prompt of a bundle, which other programs do not put before texts.
pub(super) fn without_prompt(bundle: &Bundle, notes: &mut Vec<String>) {
    if let Some(prompt) = bundle.prompt() {
        notes.push(format!("`{}` has to be put before every text: what reads this layout does not", printable(prompt)));
    }
    if let Some(PairPrompt { before, between, after }) = &bundle.manifest.pair_prompt {
        let text = printable(&format!("{before}QUERY{between}DOCUMENT{after}"));
        notes.push(format!("pairs have to be one text, `{text}`: what reads this layout does not make it"));
    }
}

/// Fails where there is no engine for ONNX Runtime.
pub(super) fn none_fits(bundle: &Bundle) -> Error {
    let names: Vec<_> = bundle.manifest.engines.iter().map(|engine| printable(&engine.name)).collect();
    Error::unsupported(format!("the bundle has no engine for ONNX Runtime; it has {}", names.join(", ")))
        .hint("build it with --target ort-cpu, too")
}
