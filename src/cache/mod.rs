//! Outputs of build steps, cached by the content of their inputs.
//!
//! | path below the cache's folder | content |
//! |---|---|
//! | `entries/KEY/entry.json` | the inputs of the entry, and the digest of every other file in its folder |
//! | `work/NAME/`, `work/NAME.lock` | an entry that is being written, and its writer's lock |
//! | `damaged/KEY` | an entry that did not match its digests |
//!
//! An entry never changes. It is made beside its path and renamed; of two builds that make the same one, the first
//! wins. Nothing is synced to the disk: an entry that a power cut damages lacks its digest, and is made again.

mod entry;
mod key;
mod work;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::json;
use crate::places;

use entry::{ENTRY, Entry, Lost, VALUE};
use work::Work;

pub use entry::CachedEntry;
pub use key::Key;

/// Names another folder; `off` turns the cache off.
pub const CACHE: &str = "KILNC_CACHE";

/// The default limit of the cache, in bytes.
pub const LARGEST: u64 = 10_000_000_000;

/// A folder of cached outputs.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// The result of a lookup.
#[derive(Debug, PartialEq)]
pub enum Fetched<V> {
    /// The files are copied, and this is the value cached with them.
    Hit(V),
    /// There is none.
    Miss,
    /// There was one, which is not as it was written: for this reason. It has been set aside.
    Damaged(String),
    /// There may be one; the machine does not let it be read, for this reason.
    Unread(String),
}

/// The limits of pruning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Most bytes; the entries that were used last stay.
    pub bytes: Option<u64>,
    /// Longest time that an entry goes unused.
    pub age: Option<Duration>,
}

/// The removed entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// How many entries.
    pub entries: usize,
    /// Their length.
    pub bytes: u64,
    /// How many are left.
    pub left: usize,
    /// The length of those.
    pub bytes_left: u64,
}

/// The folder that the variable [`CACHE`] names, or the user's own; none where the cache is turned off.
pub fn folder() -> Option<PathBuf> {
    match std::env::var_os(CACHE) {
        Some(off) if off.is_empty() || off == "off" => None,
        Some(folder) => Some(folder.into()),
        None => Some(places::caches()?.join("kilnc")),
    }
}

impl Cache {
    /// Opens a cache and makes its folder, which others cannot read or write, if there is none. Files that dead builds left
    /// behind is swept.
    pub fn open(dir: &Path) -> Result<Cache> {
        let cache = Cache { dir: dir.to_owned() };
        if !cache.entries().is_dir() {
            make_private(dir)?;
            fs::create_dir_all(cache.entries()).map_err(|e| Error::io("creating", &cache.entries(), &e))?;
        }
        work::sweep(&cache.work());
        Ok(cache)
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the files of an entry into the folder `into`, each checked while it is copied. Fails where they cannot be
    /// written there; a damaged cache is no error.
    pub fn fetch<V: DeserializeOwned>(&self, key: &Key, into: &Path) -> Result<Fetched<V>> {
        let dir = self.entries().join(&key.digest);
        if !dir.is_dir() {
            return Ok(Fetched::Miss);
        }
        // Another build may prune it while it is read, and make it again: a damaged entry is damaged a second time.
        let taken = match take(&dir, key, into) {
            Err(Lost::There(_)) if !dir.is_dir() => return Ok(Fetched::Miss),
            Err(Lost::There(_)) => take(&dir, key, into),
            taken => taken,
        };
        let why = match taken {
            Ok(value) => {
                // The time of use only serves pruning.
                let entry = fs::File::options().append(true).open(dir.join(ENTRY));
                let _ = entry.and_then(|file| file.set_modified(SystemTime::now()));
                return Ok(Fetched::Hit(value));
            }
            Err(Lost::Here(error)) => return Err(error),
            Err(Lost::Unread(why)) => return Ok(Fetched::Unread(why)),
            Err(Lost::There(_)) if !dir.is_dir() => return Ok(Fetched::Miss),
            Err(Lost::There(why)) => why,
        };
        let aside = self.dir.join("damaged");
        let place = aside.join(&key.digest);
        let _ = fs::remove_dir_all(&place);
        let moved = fs::create_dir_all(&aside).and_then(|()| fs::rename(&dir, &place));
        let how = if moved.is_ok() { "" } else { ", and cannot be set aside" };
        Ok(Fetched::Damaged(format!("{why}{how}")))
    }

    /// Keeps a value and files, under the names that they have. An entry that is there stays.
    pub fn store(&self, key: &Key, value: &impl Serialize, files: &[PathBuf]) -> Result<()> {
        let place = self.entries().join(&key.digest);
        if place.is_dir() {
            return Ok(());
        }
        let work = Work::claim(&self.work())?;
        let value = serde_json::to_vec(value).map_err(|e| Error::bug(format!("an entry of the cache: {e}")))?;
        let value_path = work.path(VALUE);
        fs::write(&value_path, value).map_err(|e| Error::io("writing", &value_path, &e))?;
        let mut entry = Entry::of(key);
        entry.add(&value_path, VALUE)?;
        for file in files {
            let name = json::file_name(file);
            let copy = work.path(&name);
            fs::copy(file, &copy).map_err(|e| Error::io("writing", &copy, &e))?;
            entry.add(&copy, &name)?;
        }
        entry.write(&work.path(ENTRY))?;
        match work.put(&place) {
            // Another build was faster; a third may have pruned its entry.
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
            Err(_) if place.is_dir() => Ok(()),
            done => done.map_err(|e| Error::io("writing", &place, &e)),
        }
    }

    /// All entries, those first that were used last. Fails where the machine does not let them be read.
    pub fn list(&self) -> Result<Vec<CachedEntry>> {
        let dir = self.entries();
        let found = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            found => found.map_err(|e| Error::io("reading", &dir, &e))?,
        };
        let mut cached = Vec::new();
        for entry in found {
            cached.extend(entry::cached(&entry.map_err(|e| Error::io("reading", &dir, &e))?.path())?);
        }
        cached.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.key.cmp(&b.key)));
        Ok(cached)
    }

    /// Removes the entries beyond the limits, and those that were set aside.
    pub fn prune(&self, limits: Limits) -> Result<Pruned> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut pruned = Pruned::default();
        for cached in self.list()? {
            let old = limits.age.is_some_and(|age| now.saturating_sub(cached.used) > age.as_secs());
            let beyond = limits.bytes.is_some_and(|most| pruned.bytes_left + cached.bytes > most);
            if !(old || beyond) {
                pruned.left += 1;
                pruned.bytes_left += cached.bytes;
            } else if self.remove(&cached.key)? {
                pruned.entries += 1;
                pruned.bytes += cached.bytes;
            }
        }
        let aside = self.dir.join("damaged");
        if aside.is_dir() {
            fs::remove_dir_all(&aside).map_err(|e| Error::io("removing", &aside, &e))?;
        }
        Ok(pruned)
    }

    /// Renames an entry before it is removed, so that no build finds half of it. Returns whether it was there.
    fn remove(&self, key: &str) -> Result<bool> {
        let (dir, work) = (self.entries().join(key), Work::claim(&self.work())?);
        match fs::rename(&dir, work.path("entry")) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("removing", &dir, &e)),
        }
    }

    fn entries(&self) -> PathBuf {
        self.dir.join("entries")
    }

    fn work(&self) -> PathBuf {
        self.dir.join("work")
    }
}

fn take<V: DeserializeOwned>(dir: &Path, key: &Key, into: &Path) -> std::result::Result<V, Lost> {
    let entry = Entry::read(&dir.join(ENTRY), key)?;
    let value = entry.value(dir)?;
    entry.copy(dir, into)?;
    serde_json::from_slice(&value).map_err(|e| Lost::There(format!("{VALUE}: {e}")))
}

/// Plans among the entries are native code, so no other user may put one there.
#[cfg(unix)]
fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::io("creating", dir, &e))
}

#[cfg(not(unix))]
fn make_private(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, &e))
}

#[cfg(test)]
mod tests;
