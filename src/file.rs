//! Opens files: plain ones, and links to such, as the cache of the Hub has them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result, is_machine_fault};

/// Maps a file.
pub fn map(path: &Path) -> Result<Arc<Mmap>> {
    let file = open(path)?;
    // SAFETY: the mapping is read-only. Another process that cuts the file meanwhile would end this one with SIGBUS,
    // which loses nothing: outputs are staged and renamed last.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("mapping", path, &e))?;
    Ok(Arc::new(map))
}

/// Fails where the machine does not let kilnc read a folder: its files are not missing.
pub fn check_searchable(dir: &Path) -> Result<()> {
    match std::fs::metadata(dir.join(".")) {
        Err(e) if is_machine_fault(&e) => Err(Error::io("reading", dir, &e)),
        _ => Ok(()),
    }
}

/// Opens a file. Fails where it is no plain one: opening a pipe would wait for ever.
pub fn open(path: &Path) -> Result<File> {
    let failed = |e: std::io::Error| Error::io("reading", path, &e);
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::bad_input(format!("{} is no plain file", path.display())));
    }
    File::open(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn only_plain_files_are_opened() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [dir.path(), &pipe, Path::new("/dev/zero")] {
            let message = map(path).unwrap_err().message().to_owned();
            assert_eq!(message, format!("{} is no plain file", path.display()));
        }
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "abc").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(&map(&link).unwrap()[..], b"abc");
        assert!(map(&dir.path().join("none")).unwrap_err().message().starts_with("reading "));
    }
}
