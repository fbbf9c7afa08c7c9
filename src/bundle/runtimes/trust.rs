//! Uses the bundled runtimes, where the user trusts the bundle.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rayon::prelude::*;

use super::folder;
use crate::bundle::{Bundle, DAMAGED, EngineEntry, tree};
use crate::error::{Error, Kind, Result, printable};
use crate::runtime::{self, Device, Platform, Runtime, library};

impl Bundle {
    /// Uses the bundle's native libraries for this machine, here and in children, and returns whether it
    /// holds any. They are programs with all the user's rights: the user has said to trust the bundle, or
    /// has verified who signed it.
    ///
    /// Fails where a file is not the one that the manifest lists, where one is missing, and where there is another.
    pub fn trust(&self) -> Result<bool> {
        let Some(platform) = Platform::here().filter(|platform| self.bundles_for(*platform)) else { return Ok(false) };
        self.check_libraries(platform)?;
        library::add_bundled(self.libraries(platform)?)?;
        Ok(true)
    }

    /// Like [`runtime::available`], and whether a plan is for the GPU that is there; the error also names the bundled
    /// library, where it is missing.
    pub fn available(&self, engine: &EngineEntry) -> Result<runtime::Available> {
        let found = runtime::available(engine.runtime).map_err(|e| self.explained(engine.runtime, e))?;
        fits(engine, 0)?;
        Ok(found)
    }

    /// Whether an engine runs on a device of this machine.
    pub fn available_on(&self, engine: &EngineEntry, device: Device) -> Result<()> {
        match device {
            Device::Cpu => self.available(engine).and_then(|_| device.check_for(engine.runtime)),
            Device::Cuda(number) => device.check_for(engine.runtime).and_then(|()| fits(engine, number)),
        }
    }

    /// The error of an engine that was not opened, with the bundled library for it.
    pub fn explained(&self, runtime: Runtime, error: Error) -> Error {
        let Some(note) = self.bundled(runtime).filter(|_| error.kind() == Kind::RuntimeMissing) else {
            return error;
        };
        let explained = Error::runtime_missing(format!("{}; {note}", error.message()));
        let explained = error.locations().iter().fold(explained, |explained, place| explained.at(place.as_str()));
        error.hints().iter().fold(explained, |explained, hint| explained.hint(hint.as_str()))
    }

    /// The note on unused libraries of the bundle.
    fn bundled(&self, runtime: Runtime) -> Option<String> {
        let platform = Platform::here()?;
        let entry =
            self.manifest.runtimes.libraries.iter().find(|it| it.platform == platform && it.runtime == runtime)?;
        let own = self.libraries(platform).ok();
        if library::bundled().iter().any(|used| Some(used) == own.as_ref()) {
            return None;
        }
        let flags = match self.signature() {
            Ok(Some(_)) => "--key FILE, which verifies who signed it, or --trust".to_owned(),
            Ok(None) => "--trust".to_owned(),
            // Whether it is signed is not known.
            Err(e) => format!("--trust ({})", e.message()),
        };
        Some(format!(
            "the bundle holds {} {}, which is used under {flags}",
            printable(&entry.package),
            printable(&entry.version)
        ))
    }

    /// The folder of the libraries for a platform, whole.
    fn libraries(&self, platform: Platform) -> Result<PathBuf> {
        let dir = self.folder.root().join(folder(platform));
        std::path::absolute(&dir).map_err(|e| Error::io("reading", &dir, &e))
    }

    fn bundles_for(&self, platform: Platform) -> bool {
        let prefix = folder(platform) + "/";
        self.manifest.files.iter().any(|file| file.path.starts_with(&prefix))
    }

    /// Checks the digests of a platform's libraries, and that no others lie among them: every file there is loaded by
    /// its name alone.
    fn check_libraries(&self, platform: Platform) -> Result<()> {
        let prefix = folder(platform) + "/";
        let here = self.dir.display().to_string();
        let there = tree(self.folder.root()).map_err(|e| self.named_error(e))?;
        let there: BTreeSet<String> = there.into_iter().filter(|path| path.starts_with(&prefix)).collect();
        let listed: BTreeSet<&str> = self.manifest.files.iter().map(|file| file.path.as_str()).collect();
        let listed = || listed.iter().filter(|path| path.starts_with(&prefix));
        if let Some(path) = listed().find(|path| !there.contains(**path)) {
            let missing = format!("`{}` is missing, and the manifest lists it", printable(path));
            return Err(Error::bad_input(missing).at(here).hint(DAMAGED));
        }
        if let Some(path) = there.iter().find(|path| !listed().any(|other| other == path)) {
            return Err(Error::bad_input(format!("the manifest does not list `{}`", printable(path))).at(here));
        }
        there.par_iter().try_for_each(|path| self.file(path).map(drop))
    }
}

/// Fails where a plan is for another GPU than that of this number.
fn fits(engine: &EngineEntry, gpu: u32) -> Result<()> {
    match engine.runtime.runs_plans() {
        true => runtime::gpu(gpu)?.check(&engine.target.parse()?, engine.compiled_on.as_ref()),
        false => Ok(()),
    }
}
