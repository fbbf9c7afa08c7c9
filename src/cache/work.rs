//! Folders in which entries are made, and out of which they are removed.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};

/// How long a folder without a lock is left alone: its maker may be about to lock it.
const GRACE: Duration = Duration::from_secs(3600);

/// How the locks of folders end.
const LOCK: &str = "lock";

/// A folder that no other process touches. It is removed with its content.
pub(super) struct Work {
    dir: PathBuf,
    lock: PathBuf,
    _held: File,
}

impl Work {
    /// A new folder below `all`.
    pub fn claim(all: &Path) -> Result<Work> {
        let failed = |e: io::Error| Error::io("writing to", all, &e);
        fs::create_dir_all(all).map_err(failed)?;
        loop {
            let lock = all.join(format!("{}.{LOCK}", fresh_name()));
            let dir = lock.with_extension("");
            let held = match File::create_new(&lock) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(failed(e)),
            };
            // A sweeping process may have taken the new lock for one that was left behind. Where a file system has no
            // locks, nothing is swept.
            if matches!(held.try_lock(), Err(TryLockError::WouldBlock)) {
                continue;
            }
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(Work { dir, lock, _held: held }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Renames the folder to its path, which must be free.
    pub fn put(self, place: &Path) -> io::Result<()> {
        fs::rename(&self.dir, place)
    }
}

/// A name that never comes again: a sweeping process may still be at work on the last holder.
fn fresh_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{now:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Drop for Work {
    fn drop(&mut self) {
        // The next build sweeps the rest.
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_file(&self.lock);
    }
}

/// Removes the folders of builds that died.
pub(super) fn sweep(all: &Path) {
    let Ok(found) = fs::read_dir(all) else { return };
    for path in found.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_lock = path.extension() == Some(OsStr::new(LOCK));
        let lock = if is_lock { path.clone() } else { path.with_extension(LOCK) };
        let file = File::open(&lock);
        let left_over = match &file {
            // Locked until all is removed, lest its maker begins meanwhile.
            Ok(file) => file.try_lock().is_ok(),
            Err(_) => !is_young(&path),
        };
        if left_over {
            let _ = fs::remove_dir_all(lock.with_extension(""));
            let _ = fs::remove_file(&lock);
        }
    }
}

fn is_young(path: &Path) -> bool {
    let age = fs::metadata(path).and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
    age.is_none_or(|age| age < GRACE)
}
