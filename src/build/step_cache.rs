//! The step cache: a build repeats only the steps whose inputs have changed.
//!
//! An output is cached under all its inputs: this program, the processor, and those that the step names. A cache that
//! cannot be read or written costs time and a warning, never a build.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use half::slice::HalfFloatSliceExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bench::Machine;
use crate::cache::{self, Cache, Fetched, Key, Limits};
use crate::digest::{self, Digester};
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::presence;
use crate::runtime::{self, Elements, Named, Runtime};

/// The outputs of earlier builds.
pub(super) struct StepCache<'a> {
    cached: Option<Cached>,
    observer: &'a dyn Observer,
    stored: Cell<bool>,
}

struct Cached {
    cache: Cache,
    circumstances: Circumstances,
    /// Whether outputs are cached too: not after the cache has failed.
    writes: Cell<bool>,
}

/// The common inputs of all steps.
#[derive(Serialize)]
struct Circumstances {
    /// The digest of this program.
    program: String,
    /// Products are rounded as the processor's instructions do it.
    cpu: String,
    features: Vec<String>,
    /// Sums are cut into as many parts.
    threads: usize,
}

/// A thing to be made.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    /// Its kind, e.g. `engine`.
    pub kind: &'static str,
    /// Its name for people.
    pub name: &'a str,
    /// Where its files are to be.
    pub into: &'a Path,
}

impl<'a> StepCache<'a> {
    /// Opens the cache in a folder; without one, everything is made.
    pub fn open(dir: Option<&Path>, observer: &'a dyn Observer) -> StepCache<'a> {
        let cached = dir.and_then(|dir| match Cached::open(dir) {
            Ok(cached) => Some(cached),
            Err(e) => {
                observer.warn(&format!("the build goes on without a cache: {}", e.message()));
                None
            }
        });
        StepCache { cached, observer, stored: Cell::new(false) }
    }

    /// Whether outputs are cached.
    pub fn is_on(&self) -> bool {
        self.cached.is_some()
    }

    /// The result of `make`, with the files that it names, or the cached result for the same `from`. Says whether that
    /// was so.
    pub fn made<V, F>(
        &self,
        step: Step,
        from: impl FnOnce() -> Result<F>,
        make: impl FnOnce() -> Result<(V, Vec<PathBuf>)>,
    ) -> Result<(V, bool)>
    where
        V: Serialize + DeserializeOwned,
        F: Serialize,
    {
        let Some(cached) = &self.cached else { return Ok((make()?.0, false)) };
        let key = Key::new(step.kind, step.name, &(&cached.circumstances, from()?))?;
        match cached.cache.fetch(&key, step.into)? {
            Fetched::Hit(value) => return Ok((value, true)),
            Fetched::Miss => {}
            Fetched::Damaged(why) => self
                .observer
                .warn(&format!("damaged in the cache, and made again: {} of {} ({why})", step.kind, step.name)),
            Fetched::Unread(why) => {
                self.observer
                    .warn(&format!("made again, as the cache cannot be read: {} of {} ({why})", step.kind, step.name));
            }
        }
        let (value, files) = make()?;
        if cached.writes.get() {
            match cached.cache.store(&key, &value, &files) {
                Ok(()) => self.stored.set(true),
                Err(e) => {
                    cached.writes.set(false);
                    self.observer.warn(&format!("the build goes on without the cache: {}", e.message()));
                }
            }
        }
        Ok((value, false))
    }

    /// Removes the entries that were not used for longest, where the cache is over its limit.
    pub fn tidy(&self) {
        let Some(cached) = self.cached.as_ref().filter(|_| self.stored.get()) else { return };
        if let Err(e) = cached.cache.prune(Limits { bytes: Some(cache::LARGEST), age: None }) {
            self.observer.warn(&format!("the cache cannot be pruned: {}", e.message()));
        }
    }
}

impl Cached {
    fn open(dir: &Path) -> Result<Cached> {
        let program = std::env::current_exe().map_err(|e| Error::bug(format!("this program is not found: {e}")))?;
        let Machine { cpu, cpus, features, .. } = Machine::here();
        let circumstances = Circumstances { program: digest::of_file(&program)?.1, cpu, features, threads: cpus };
        Ok(Cached { cache: Cache::open(dir)?, circumstances, writes: Cell::new(true) })
    }
}

/// The note for a cached output.
pub(super) fn summary(before: bool) -> &'static str {
    if before { ", as it was made before" } else { "" }
}

/// A model's file, and the weights beside it where there are some.
pub(super) fn model_files(onnx: &Path) -> Result<Vec<PathBuf>> {
    let beside = onnx.with_extension("onnx_data");
    let beside = presence::has_file(&beside)?.then_some(beside);
    Ok(std::iter::once(onnx.to_owned()).chain(beside).collect())
}

/// The digests of a model's file and of the weights beside it.
pub(super) fn model_digests(onnx: &Path) -> Result<Vec<String>> {
    model_files(onnx)?.iter().map(|path| Ok(digest::of_file(path)?.1)).collect()
}

/// The engine that collects statistics.
pub(super) fn collected_with() -> Result<String> {
    match runtime::is_available(Runtime::Ort)? {
        true => runtime::available(Runtime::Ort).map(|found| found.to_string()),
        false => Ok(Runtime::Tract.to_string()),
    }
}

/// The cache key of inputs.
pub(super) fn inputs_digest(inputs: &[Named]) -> String {
    let mut all = Digester::default();
    for (name, tensor) in inputs.iter().flatten() {
        all.update(format!("{name} {:?}\n", tensor.shape).as_bytes());
        match &tensor.elements {
            Elements::I64(values) => all.update(bytemuck::cast_slice(values)),
            Elements::I32(values) => all.update(bytemuck::cast_slice(values)),
            Elements::F32(values) => all.update(bytemuck::cast_slice(values)),
            Elements::F16(values) => all.update(bytemuck::cast_slice(values.reinterpret_cast())),
            Elements::Bool(values) => all.update(bytemuck::cast_slice(values)),
        }
    }
    all.finish()
}
