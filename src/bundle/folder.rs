//! The folder of a bundle, held open from the first read to the last. A bundle that replaces it meanwhile is
//! another folder, of which nothing is read; and only bytes whose digest was checked are used.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::files::no_plain_file;
use super::{FileEntry, inside};
use crate::digest::Digester;
use crate::error::{Error, Result, is_machine_fault, printable};
use crate::presence;

/// Bytes of a file that are read at once.
const PIECE: usize = 1 << 18;

/// A folder that is held open.
#[derive(Debug)]
pub(super) struct Folder {
    /// The user's path of it.
    dir: PathBuf,
    /// Its descriptor, which stays valid when `dir` names another folder meanwhile.
    root: PathBuf,
    held: Option<File>,
    /// The files of which digests were taken, as they were then.
    taken: Mutex<BTreeMap<String, Stamp>>,
}

impl Folder {
    /// Opens a folder. A missing one is an error when a file in it is opened.
    pub fn hold(dir: &Path) -> Result<Folder> {
        let held = match File::open(dir) {
            Err(e) if is_machine_fault(&e) && cfg!(unix) => return Err(Error::io("reading", dir, &e)),
            opened => opened.ok().filter(|file| file.metadata().is_ok_and(|found| found.is_dir())),
        };
        let root = held.as_ref().and_then(by_descriptor).unwrap_or_else(|| dir.to_owned());
        Ok(Folder { root, held, ..Folder::unheld(dir) })
    }

    /// A folder that is found by its name, as long as that is its name.
    pub fn unheld(dir: &Path) -> Folder {
        Folder { dir: dir.to_owned(), root: dir.to_owned(), held: None, taken: Mutex::default() }
    }

    /// A path of the folder for this process and its children, as long as this lives.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads a file and takes its digest. `each` gets its bytes, piece by piece. Links are not followed, not those to
    /// folders either.
    pub fn read(&self, path: &str, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<FileEntry> {
        let relative = inside(path)?;
        let full = self.root.join(relative);
        let failed = |e: std::io::Error| Error::io("reading", &full, &e);
        for around in relative.ancestors().skip(1).filter(|around| !around.as_os_str().is_empty()) {
            let around = self.root.join(around);
            if !fs::symlink_metadata(&around).map_err(failed)?.is_dir() {
                return Err(no_plain_file(&around));
            }
        }
        let there = fs::symlink_metadata(&full).map_err(failed)?;
        if !there.is_file() {
            return Err(no_plain_file(&full));
        }
        let mut file = File::open(&full).map_err(failed)?;
        let before = Stamp::of(&file.metadata().map_err(failed)?);
        let (mut digester, mut piece, mut bytes) = (Digester::default(), vec![0; PIECE], 0);
        loop {
            let read = file.read(&mut piece).map_err(failed)?;
            let part = piece.get(..read).unwrap_or_default();
            if part.is_empty() {
                break;
            }
            digester.update(part);
            each(part)?;
            bytes += read as u64;
        }
        if before != Stamp::of(&there) || before != Stamp::of(&file.metadata().map_err(failed)?) {
            return Err(changing(path));
        }
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), before);
        Ok(FileEntry { path: path.to_owned(), bytes, sha256: digester.finish() })
    }

    /// Fails where a file has changed since its digest was taken; for those who have opened it by its name.
    pub fn check_unchanged(&self) -> Result<()> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, stamp) in taken.iter() {
            let full = self.root.join(path);
            let now = fs::symlink_metadata(&full).map_err(|e| Error::io("reading", &full, &e))?;
            if Stamp::of(&now) != *stamp {
                return Err(changing(path));
            }
        }
        Ok(())
    }

    /// Whether another folder has its name by now.
    pub fn was_replaced(&self) -> bool {
        let Some(held) = self.held.as_ref().and_then(|held| held.metadata().ok()) else { return false };
        match fs::metadata(&self.dir) {
            Ok(now) => !is_same(&held, &now),
            // A path that cannot be read may still be the held folder.
            Err(e) => presence::is_missing(&e),
        }
    }

    /// The same error with the folder's own name.
    pub fn named(&self, error: Error) -> Error {
        match self.root == self.dir {
            true => error,
            false => error.renamed(&self.root.display().to_string(), &self.dir.display().to_string()),
        }
    }
}

fn changing(path: &str) -> Error {
    Error::bad_input(format!("`{}` changes while it is read", printable(path)))
        .hint("wait until it is written, and replace the bundle as a whole: kilnc build and unpack do")
}

/// The path by which Linux finds the file of a descriptor. None where it does not let children do so.
#[cfg(target_os = "linux")]
fn by_descriptor(held: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;

    use rustix::process::{DumpableBehavior, dumpable_behavior};
    let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd()));
    let found = fs::metadata(path.join(".")).ok()?;
    let open_to_children = dumpable_behavior().is_ok_and(|behavior| behavior == DumpableBehavior::Dumpable);
    Some(path).filter(|_| open_to_children && held.metadata().is_ok_and(|held| is_same(&held, &found)))
}

#[cfg(not(target_os = "linux"))]
fn by_descriptor(_held: &File) -> Option<PathBuf> {
    None
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    a.created().ok() == b.created().ok()
}

/// The metadata that distinguish two states of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    #[cfg(unix)]
    place: (u64, u64),
    /// When its content, name or rights changed last.
    #[cfg(unix)]
    changed: (i64, i64),
    modified: Option<std::time::SystemTime>,
    bytes: u64,
}

impl Stamp {
    fn of(file: &Metadata) -> Stamp {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Stamp {
            #[cfg(unix)]
            place: (file.dev(), file.ino()),
            #[cfg(unix)]
            changed: (file.ctime(), file.ctime_nsec()),
            modified: file.modified().ok(),
            bytes: file.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(content: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("engines")).unwrap();
        fs::write(dir.path().join("engines/x.onnx"), content).unwrap();
        dir
    }

    fn content(folder: &Folder) -> Result<String> {
        let mut all = Vec::new();
        folder.read("engines/x.onnx", |piece| {
            all.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(String::from_utf8(all).unwrap())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_folder_that_is_replaced_is_read_on() {
        let (place, other) = (tempfile::tempdir().unwrap(), folder("new"));
        let dir = place.path().join("b");
        fs::rename(folder("old").keep(), &dir).unwrap();
        let held = Folder::hold(&dir).unwrap();
        assert!(!held.was_replaced());
        fs::rename(&dir, place.path().join("aside")).unwrap();
        fs::rename(other.keep(), &dir).unwrap();
        assert_eq!(content(&held).unwrap(), "old");
        assert!(held.was_replaced());
        held.check_unchanged().unwrap();
        assert_eq!(content(&Folder::hold(&dir).unwrap()).unwrap(), "new");
        // Removed files are named with the user's path.
        fs::remove_dir_all(place.path().join("aside")).unwrap();
        let gone = held.named(content(&held).unwrap_err());
        assert!(gone.message().starts_with(&format!("reading {}/engines/x.onnx: ", dir.display())), "{gone}");
    }

    #[test]
    #[cfg(unix)]
    fn a_file_that_changes_after_its_digest_is_refused() {
        let dir = folder("old");
        let file = dir.path().join("engines/x.onnx");
        let held = Folder::hold(dir.path()).unwrap();
        content(&held).unwrap();
        held.check_unchanged().unwrap();
        // In place, and by another under its name.
        fs::write(&file, "new").unwrap();
        let said = held.check_unchanged().unwrap_err();
        assert_eq!(said.message(), "`engines/x.onnx` changes while it is read");
        content(&held).unwrap();
        fs::write(dir.path().join("y"), "new").unwrap();
        fs::rename(dir.path().join("y"), &file).unwrap();
        assert!(held.check_unchanged().is_err());
    }

    #[test]
    #[cfg(unix)]
    fn links_are_not_followed_wherever_they_are() {
        use std::os::unix::fs::symlink;
        let (dir, real) = (tempfile::tempdir().unwrap(), folder("x"));
        symlink(real.path().join("engines"), dir.path().join("engines")).unwrap();
        symlink(real.path().join("engines/x.onnx"), dir.path().join("y")).unwrap();
        let held = Folder::hold(dir.path()).unwrap();
        for (path, link) in [("engines/x.onnx", "engines"), ("y", "y")] {
            let said = held.named(held.read(path, |_| Ok(())).unwrap_err());
            assert_eq!(said.message(), format!("{} is no plain file", dir.path().join(link).display()));
        }
    }
}
